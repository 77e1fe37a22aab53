#!/usr/bin/env bash
# Stops a worker on this machine, when it has finished what it runs (worker.drain is the limit):
#   stop-worker.sh [--instance N] [--now]
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" stop worker "$@"
