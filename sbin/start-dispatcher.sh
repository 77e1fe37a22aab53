#!/usr/bin/env bash
# Starts a dispatcher on this machine:
#   start-dispatcher.sh [--instance N] [options of `python -m dispatcher`]
exec bash "$(dirname "${BASH_SOURCE[0]}")/external-spark-daemon.sh" start dispatcher "$@"
