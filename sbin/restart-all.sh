#!/usr/bin/env bash
# Stops and starts the dispatchers and workers of conf/hosts.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

run_script stop-all.sh
run_script start-all.sh
