#!/usr/bin/env bash
# Ends Ray on the workers of a cluster of your own machines; to be run on the head, before `ray down`, which ends Ray on
# the head alone:  ray exec clusters/local.yaml 'bash ~/ampsweep/clusters/stop_workers.sh'
set -uo pipefail
"$HOME/ampsweep-venv/bin/python" - <<'PYTHON' |
import os, yaml
config = yaml.safe_load(open(os.path.expanduser("~/ray_bootstrap_config.yaml")))
print(*(f"{config['auth']['ssh_user']}@{ip}" for ip in config["provider"]["worker_ips"]), sep="\n")
PYTHON
  while read -r machine; do  # host keys are not checked, as Ray itself checks none
    ssh -n -i ~/ray_bootstrap_key.pem -o ConnectTimeout=5 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
      -o LogLevel=ERROR "$machine" 'ampsweep-venv/bin/ray stop --force' || echo "$machine: not reached" >&2
  done
