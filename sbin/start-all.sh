#!/usr/bin/env bash
# Starts the dispatchers and workers of conf/hosts and waits until they work together.
# Without conf/hosts: one dispatcher and two workers of one slot on this machine.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

# Each line of the plan: role, host, command.
start_role() {
  local role host command pid status=0 pids=()
  while IFS=$'\t' read -r role host command <&3; do
    if [[ $role != "$1" ]]; then
      continue
    elif [[ $host == localhost ]]; then
      # Without the exit, bash gives 1 for whatever status an eval in the background ends with.
      { eval "run_script $command" || exit; } &
    else
      # The token goes by standard input: a command line is for everyone to read.
      ssh -o BatchMode=yes "$host" "$command" <<<"$token" &
    fi
    pids+=($!)
  done 3<<<"$plan"
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  [[ $status -eq 0 ]] || die "$status" "Not everything was started; stop-all.sh stops the rest"
}

run_script setup.sh
plan=$(run_module common.hosts start)
token=$(run_module common.hosts token)
for role in redis dispatcher worker; do start_role "$role"; done
run_module common.ready
