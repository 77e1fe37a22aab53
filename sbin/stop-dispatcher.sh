#!/usr/bin/env bash
# Stops a dispatcher on this machine: stop-dispatcher.sh [--instance N]
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" stop dispatcher "$@"
