#!/usr/bin/env bash
# Shows it all on this machine: sets up, starts a pool of its own, runs Spark's example for Pi
# on it, says which worker ran how much, and stops what it started.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"
run_script setup.sh --spark 4.3.0
run_module common.quickstart "$EXTERNAL_SPARK_HOME/spark/4.3.0/pyspark"
