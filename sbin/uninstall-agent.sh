#!/usr/bin/env bash
# Restores a Spark installation as it was before: uninstall-agent.sh [SPARK_HOME]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"
run_module common.cli uninstall "$@"
