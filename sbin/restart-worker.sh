#!/usr/bin/env bash
# Restarts a worker on this machine: restart-worker.sh [--instance N] [options]
# Without options it keeps those that it runs with.
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" restart worker "$@"
