#!/usr/bin/env bash
# Starts and stops one service on this machine, in the background:
#   external-spark-daemon.sh start|stop|restart|status <service> [--instance N] [options]
# The service is redis, dispatcher or worker; the options are those of its module.
# A restart without options keeps those that the running service was started with.
# A worker that is stopped finishes what it runs first; stop --now does not wait for that.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

# A busy machine with two cores needs some seconds to import Python and to build the shim.
START_TIMEOUT_S=120
# A worker gives its executor JVMs about 15 s to end, beside what its ready file names.
STOP_TIMEOUT_S=20
POLL_S=0.1
SHOWN_LOG_LINES=20

usage="Usage: external-spark-daemon.sh start|stop|restart|status <service> [--instance N] [options]"
[[ $# -ge 2 ]] || die "$CONFIGURATION_EXIT" "$usage"
action=$1
service=$2
shift 2
instance=1
if [[ ${1:-} == --instance ]]; then
  [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "$CONFIGURATION_EXIT" "--instance needs a number from 1 up"
  instance=$2
  shift 2
fi
stop_signal=TERM
if [[ $action == stop && ${1:-} == --now ]]; then
  stop_signal=INT
  shift
fi
options=("$@")

case $service in
  redis) module=common.redis_server ;;
  dispatcher | worker) module=$service ;;
  *) die "$CONFIGURATION_EXIT" "There is no service '$service': redis, dispatcher or worker" ;;
esac
name=$service-$instance
pid_file=$EXTERNAL_SPARK_PID_DIR/$name.pid
ready_file=$EXTERNAL_SPARK_PID_DIR/$name.ready
# Read before anything is stopped: a service on its way out removes this file first.
id=$(sed -nE 's/.*"id": *"([A-Za-z0-9][A-Za-z0-9._-]*)".*/\1/p' "$ready_file" 2>/dev/null || true)
farewell_s=$(sed -nE 's/.*"farewell_s": *([0-9]+).*/\1/p' "$ready_file" 2>/dev/null || true)
log_file=$EXTERNAL_SPARK_LOG_DIR/$name.log
out_file=$EXTERNAL_SPARK_LOG_DIR/$name.out

recorded_pid() {
  [[ -f $pid_file ]] && grep -xE '[0-9]+' "$pid_file"
}

# The service and whatever it started carry its pid file's name in their environment: the
# numbers may have gone to other processes since a crash or a reboot.
mark=EXTERNAL_SPARK_PID_FILE=$pid_file

is_running() {
  local pid
  pid=$(recorded_pid) && grep -qszxF -- "$mark" "/proc/$pid/environ"
}

# The executor JVMs of a service that was killed, or the service itself.
kill_remains() {
  local pid
  grep -lszxF -- "$mark" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do
    kill -KILL "$pid" 2>/dev/null || true
  done || true
}

# wait_until <seconds> <command>: fails when it does not come true in time.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep "$POLL_S"
  done
}

# A zombie counts as gone: in a container nobody may collect it.
is_gone() {
  ! grep -qs '^State:[[:space:]]*[^Z[:space:]]' "/proc/$1/status"
}

ready_or_gone() {
  [[ -s $ready_file ]] || is_gone "$1"
}

# A service that ended by itself leaves nothing; one that was killed leaves all of this.
clear_traces() {
  local executors=$EXTERNAL_SPARK_HOME/tmp/executors
  kill_remains
  rm -f "$ready_file"
  [[ -z $id ]] || rm -rf "${executors:?}/$id" "${executors:?}/$id.lock"
  rmdir "$executors" 2>/dev/null || true
}

# The end of what the service wrote; a configuration error is one sentence and needs no log.
show_failure() {
  tail -n "$SHOWN_LOG_LINES" "$out_file" >&2
  if [[ $1 -ne $CONFIGURATION_EXIT ]]; then
    if [[ -s $log_file ]]; then tail -n "$SHOWN_LOG_LINES" "$log_file" >&2; fi
    echo "$name: see $log_file and $out_file" >&2
  fi
}

spawn() {
  # Of two starts at once, the second one finds the first one's number in the file.
  exec 9>>"$pid_file"
  flock 9
  if is_running; then die 1 "$name is already running (pid $(recorded_pid)): stop it first"; fi
  clear_traces
  # A session of its own: it outlives this terminal.
  env "$mark" setsid bash "$EXTERNAL_SPARK_SBIN/external-spark-class.sh" "$module" "${options[@]}" \
    --log-file "$log_file" --ready-file "$ready_file" </dev/null >"$out_file" 2>&1 9>&- &
  echo $! >"$pid_file"
  # Until the process carries the mark, another start would take the file for a stale one.
  until is_running || is_gone $!; do sleep "$POLL_S"; done
  exec 9>&-
}

start() {
  mkdir -p "$EXTERNAL_SPARK_PID_DIR" "$EXTERNAL_SPARK_LOG_DIR"
  spawn
  local pid=$! status=1
  if wait_until "$START_TIMEOUT_S" ready_or_gone "$pid" && ! is_gone "$pid"; then
    echo "$name: started (pid $pid)"
    return
  fi
  if is_gone "$pid"; then
    wait "$pid" || status=$?
    echo "$name: did not start" >&2
  else
    echo "$name: did not answer within $START_TIMEOUT_S s and was ended" >&2
  fi
  clear_traces
  rm -f "$pid_file"
  show_failure "$status"
  [[ $status -eq $CONFIGURATION_EXIT ]] || status=1
  exit "$status"
}

stop() {
  local pid limit=$STOP_TIMEOUT_S
  if ! is_running; then
    echo "$name: was not running"
  else
    pid=$(recorded_pid)
    [[ $stop_signal == INT ]] || limit=$((limit + ${farewell_s:-0}))
    kill "-$stop_signal" "$pid"
    if wait_until "$limit" is_gone "$pid"; then
      echo "$name: stopped"
    else
      echo "$name: did not stop within $limit s and was killed"
    fi
  fi
  clear_traces
  rm -f "$pid_file"
}

keep_options() {
  local words
  mapfile -d '' -t words <"/proc/$(recorded_pid)/cmdline"
  # python -m <module> ... --log-file <file> --ready-file <file>
  options=("${words[@]:3:${#words[@]}-7}")
}

restart() {
  if [[ ${#options[@]} -eq 0 ]] && is_running; then keep_options; fi
  stop
  start
}

status() {
  if is_running; then
    echo "$name: running (pid $(recorded_pid))"
  else
    echo "$name: not running"
    exit 1
  fi
}

case $action in
  start | stop | restart | status) "$action" ;;
  *) die "$CONFIGURATION_EXIT" "$usage" ;;
esac
