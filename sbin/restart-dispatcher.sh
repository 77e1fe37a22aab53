#!/usr/bin/env bash
# Restarts a dispatcher on this machine: restart-dispatcher.sh [--instance N] [options]
# Without options it keeps those that it runs with.
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" restart dispatcher "$@"
