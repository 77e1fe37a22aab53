#!/usr/bin/env bash
# Stops what start-all.sh started, on this machine and on the others of conf/hosts:
#   stop-all.sh [--local]
# --local leaves the other machines alone. Stopping what does not run is no error. Nobody waits
# for tasks that run; stop-worker.sh does.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

stop_role() {
  local file instance
  for file in "$EXTERNAL_SPARK_PID_DIR/$1"-*.pid; do
    [[ -e $file ]] || continue
    instance=${file##*-}
    run_script external-spark-daemon.sh stop "$1" --instance "${instance%.pid}" --now &
  done
  wait
}

stop_others() {
  local host command plan
  plan=$(run_module common.hosts stop)
  while IFS=$'\t' read -r host command <&3; do
    [[ -z $host ]] || ssh -n -o BatchMode=yes "$host" "$command" || others_status=1
  done 3<<<"$plan"
}

others_status=0
# Without hosts there is nobody else, and a home that was never set up needs no environment.
if [[ ${1:-} != --local && -f $EXTERNAL_SPARK_CONF_DIR/hosts ]]; then stop_others; fi
for role in worker dispatcher redis; do stop_role "$role"; done
exit "$others_status"
