#!/usr/bin/env bash
# Starts a worker on this machine: start-worker.sh [--instance N] [options of `python -m worker`]
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" start worker "$@"
