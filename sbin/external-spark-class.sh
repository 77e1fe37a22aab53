#!/usr/bin/env bash
# Runs a Python module of the project in the project's own environment:
#   external-spark-class.sh <module> [arguments]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

python="$EXTERNAL_SPARK_HOME/venv/bin/python"
[[ -x $python ]] || die "$CONFIGURATION_EXIT" \
  "There is no environment in $EXTERNAL_SPARK_HOME/venv. Run: bash $EXTERNAL_SPARK_SBIN/setup.sh"
exec "$python" -m "$@"
