#!/usr/bin/env bash
# Stops the embedded Redis, which serves this machine when redis.host is empty.
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" stop redis "$@"
