#!/usr/bin/env bash
# Stops a worker on this machine: stop-worker.sh [--instance N]
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" stop worker "$@"
