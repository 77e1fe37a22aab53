# Sourced by every script here: where this installation keeps its things.
# shellcheck shell=bash

EXTERNAL_SPARK_SBIN="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
EXTERNAL_SPARK_HOME=$(realpath -ms -- "${EXTERNAL_SPARK_HOME:-$(dirname "$EXTERNAL_SPARK_SBIN")}")
EXTERNAL_SPARK_CONF_DIR=$(realpath -ms -- "${EXTERNAL_SPARK_CONF_DIR:-$EXTERNAL_SPARK_HOME/conf}")
# Services are known by their pid file: it must have one name, by whatever way one comes to it.
EXTERNAL_SPARK_PID_DIR=$(realpath -m -- "${EXTERNAL_SPARK_PID_DIR:-$EXTERNAL_SPARK_HOME/tmp}")
EXTERNAL_SPARK_LOG_DIR=$(realpath -ms -- "${EXTERNAL_SPARK_LOG_DIR:-$EXTERNAL_SPARK_HOME/logs}")
export EXTERNAL_SPARK_HOME EXTERNAL_SPARK_CONF_DIR EXTERNAL_SPARK_PID_DIR EXTERNAL_SPARK_LOG_DIR

# As the services do: a configuration error.
CONFIGURATION_EXIT=2

# die <exit status> <sentence>
die() {
  echo "$2" >&2
  exit "$1"
}

# run_module <module> [arguments]
run_module() {
  bash "$EXTERNAL_SPARK_SBIN/external-spark-class.sh" "$@"
}

# run_script <script of this folder> [arguments]
run_script() {
  bash "$EXTERNAL_SPARK_SBIN/$1" "${@:2}"
}
