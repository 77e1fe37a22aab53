#!/usr/bin/env bash
# Compares the pool with Spark's own executors: benchmark.sh [--quick] [--json FILE]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"
run_script setup.sh --spark 4.3.0
PYTHONPATH=$(dirname "$EXTERNAL_SPARK_SBIN") \
  exec "$EXTERNAL_SPARK_HOME/venv/bin/python" -m tests.benchmarks.benchmark "$@"
