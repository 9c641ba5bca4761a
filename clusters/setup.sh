#!/usr/bin/env bash
# Sets up a node, head or worker, of a cluster that `ray up` starts; run again, it changes nothing.
# A virtual environment that is there already is used as it is: remove it to have it made anew from the lock.
set -euo pipefail
project=$(dirname "$(dirname "$(realpath "$0")")")
venv=$HOME/ampsweep-venv

chmod 700 ~/.ray
chmod 600 ~/.ray/auth_token  # Ray writes it readable by all

if [ -e "$venv.unfinished" ] || [ ! -e "$venv" ]; then
  touch "$venv.unfinished"
  if ! python3.12 -c 'import ensurepip' 2>/dev/null; then  # of the system's Python, venv is a package of its own
    apt="sudo LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600"
    # A machine that has just booted updates itself, and of its locks apt waits for dpkg's alone.
    until said=$($apt update 2>&1 && $apt install -y python3.12-venv 2>&1); do
      [[ $said == *" lock"* && $SECONDS -lt 900 ]] || { echo "$said" >&2; exit 1; }
      sleep 10
    done
  fi
  python3.12 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --require-hashes --requirement "$project/clusters/requirements.lock"
  "$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable "$project"
  rm "$venv.unfinished"
fi

# What `ray up` runs on a node reads ~/.bashrc, and Ray's processes and jobs inherit from that.
grep -q 'ampsweep-venv/bin' ~/.bashrc 2>/dev/null ||
  echo 'export PATH="$HOME/ampsweep-venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0' >>~/.bashrc
