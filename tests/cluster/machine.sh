#!/bin/bash
# The first process of a machine: gives it a name, /root, /tmp and /dev/shm of its own, and waits for SSH.
#   machine.sh NAME FOLDER KEPT...
# FOLDER has the machines' homes; KEPT are folders that all machines see, be they in /root or /tmp.
set -euo pipefail
name=$1 folder=$2
shift 2
hostname "$name"
mkdir -p "$folder/whole" /run/sshd
mount --rbind / "$folder/whole"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mount --bind "$folder/homes/$name" /root
for kept; do
  case $kept in
    /root/* | /tmp/*)
      mkdir -p "$kept"
      mount --bind "$folder/whole$kept" "$kept"
      ;;
  esac
done
ip link set lo up
exec /usr/sbin/sshd -D -e -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o UsePAM=no
