#!/usr/bin/env bash
# Sets up what the tests need and runs them all: run-tests.sh [--quick] [options of pytest]
# --quick leaves out what starts a Spark driver or a whole pool.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

selection=()
if [[ ${1:-} == --quick ]]; then
  selection=(-m "not slow")
  shift
fi
run_script setup.sh --test --spark 4.3.0 --spark 3.5.9
cd "$(dirname "$EXTERNAL_SPARK_SBIN")"
python=$EXTERNAL_SPARK_HOME/venv/bin/python
"$python" -m ruff check
"$python" -m mypy
"$python" -m pytest "${selection[@]}" "$@"
