#!/usr/bin/env bash
# Makes all that the project needs on this machine; quick when it is there:
#   setup.sh [--test] [--spark VERSION]...
# --test adds what the tests need. Without --spark it installs Spark only where there is none.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/external-spark-config.sh"

SOURCES=$(dirname "$EXTERNAL_SPARK_SBIN")
VENV=$EXTERNAL_SPARK_HOME/venv
LOG=$EXTERNAL_SPARK_LOG_DIR/setup.log
DEFAULT_SPARK=4.3.0
MINIMUM_PYTHON=11
MINIMUM_JAVA=17
SHOWN_LOG_LINES=20

step() {
  echo "==> $1"
}

# logged <command>: what it prints matters only when it fails.
logged() {
  "$@" >>"$LOG" 2>&1 </dev/null || {
    tail -n "$SHOWN_LOG_LINES" "$LOG" >&2
    return 1
  }
}

may_install_packages() {
  [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null
}

# install_one_of <package>...: the first one that this Debian has.
install_one_of() {
  local package
  step "Installing a package of the system: $1"
  logged apt-get update || return 1
  for package in "$@"; do
    if apt-cache show "$package" >>"$LOG" 2>&1; then
      DEBIAN_FRONTEND=noninteractive logged apt-get install -y --no-install-recommends "$package"
      return
    fi
  done
  return 1
}

is_new_python() {
  "$1" -c "import sys; sys.exit(sys.version_info < (3, $MINIMUM_PYTHON))" >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if is_new_python "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

ensure_python() {
  if [[ -n ${PYTHON:-} ]]; then
    is_new_python "$PYTHON" ||
      die "$CONFIGURATION_EXIT" "PYTHON ($PYTHON) is not Python 3.$MINIMUM_PYTHON or newer"
    return
  fi
  if PYTHON=$(find_python); then return; fi
  if may_install_packages && install_one_of python3 && PYTHON=$(find_python); then return; fi
  die "$CONFIGURATION_EXIT" "Python 3.$MINIMUM_PYTHON or newer is needed. Install it \
(Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv) or set PYTHON to its path"
}

# java_major <java>: 17, 21, ...; nothing when there is none.
java_major() {
  "$1" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1 || true
}

ensure_java() {
  local java=${JAVA_HOME:+$JAVA_HOME/bin/}java found
  found=$(java_major "$java")
  [[ ${found:-0} -lt $MINIMUM_JAVA ]] || return 0
  if [[ -z ${JAVA_HOME:-} ]] && may_install_packages &&
    install_one_of openjdk-17-jre-headless openjdk-21-jre-headless; then return; fi
  die "$CONFIGURATION_EXIT" "Java $MINIMUM_JAVA or newer is needed, and '$java' is \
${found:-none}. Install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless) or set \
JAVA_HOME to it"
}

ensure_venv() {
  # An upgrade of the system's Python or an interrupted start leaves one that does not work.
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  local version
  version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    may_install_packages && install_one_of "python$version-venv" python3-venv ||
      die "$CONFIGURATION_EXIT" "$PYTHON lacks the module venv. Install it \
(Debian, Ubuntu: apt-get install python$version-venv)"
  fi
  step "Making the environment $VENV with Python $version"
  logged "$PYTHON" -m venv --clear "$VENV" || die 1 "The environment could not be made: see $LOG"
}

# Tests of volunteers behind NAT make networks of their own, and are skipped where they cannot:
# what is missing here ends nothing.
offer_networks() {
  local package
  may_install_packages || return 0
  # Each package by its command.
  for package in iproute2:ip nftables:nft; do
    command -v "${package#*:}" >/dev/null || install_one_of "${package%:*}" ||
      step "${package%:*} could not be installed: some tests will be skipped"
  done
}

# The stamp is what was installed: done again when the requirements or the place change. A link
# to the environment is no other place, and what the tests need is more than the rest.
ensure_project() {
  local extras=$1 stamp wanted
  stamp=$VENV/.installed$extras
  wanted=$(cat "$SOURCES/pyproject.toml" - <<<"$SOURCES $(realpath "$VENV")" | sha256sum)
  [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]] || return 0
  step "Installing the project and what it needs${extras:+, the tests too}"
  logged "$VENV/bin/python" -m pip install --disable-pip-version-check -e "$SOURCES$extras" ||
    die 1 "The project could not be installed: see $LOG"
  echo "$wanted" | tee "$VENV/.installed" >"$stamp"
}

ensure_spark() {
  local folder=$EXTERNAL_SPARK_HOME/spark/$1
  [[ ! -f $folder/.complete ]] || return 0
  step "Installing Spark $1 into $folder (some 400 MB: this takes a minute or more)"
  rm -rf "$folder"
  logged "$VENV/bin/python" -m pip install --disable-pip-version-check \
    --target "$folder" "pyspark==$1" || die 1 "Spark $1 could not be installed: see $LOG"
  touch "$folder/.complete"
}

extras=""
sparks=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --test) extras="[test]" ;;
    --spark)
      [[ -n ${2:-} ]] || die "$CONFIGURATION_EXIT" "--spark needs a version, such as $DEFAULT_SPARK"
      sparks+=("$2")
      shift
      ;;
    *) die "$CONFIGURATION_EXIT" "Usage: setup.sh [--test] [--spark VERSION]..." ;;
  esac
  shift
done

mkdir -p "$EXTERNAL_SPARK_HOME" "$EXTERNAL_SPARK_LOG_DIR"
# Two of these at once would undo each other's work.
exec 9>>"$LOG"
flock -n 9 || { step "Waiting for another setup.sh" && flock 9; }
: >"$LOG"
ensure_python
ensure_java
ensure_venv
ensure_project "$extras"
[[ -z $extras ]] || offer_networks
if [[ ${#sparks[@]} -eq 0 ]]; then
  status=0
  run_module common.install has-spark || status=$?
  [[ $status -ne $CONFIGURATION_EXIT ]] || exit "$status"
  [[ $status -eq 0 ]] || sparks=("$DEFAULT_SPARK")
fi
for version in "${sparks[@]}"; do ensure_spark "$version"; done
compgen -G "$EXTERNAL_SPARK_HOME/jars/spark-proxy-*.jar" >/dev/null || step "Building the shim"
run_module common.install conf
