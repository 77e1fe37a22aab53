#!/usr/bin/env bash
# Starts the embedded Redis, which serves this machine when redis.host is empty.
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" start redis "$@"
