#!/usr/bin/env bash
# Hooks a Spark installation, so that its jobs run on the pool: install-agent.sh [SPARK_HOME]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"
run_module common.cli install "$@"
