#!/bin/sh
# Make the files of secrets of compose.listener.yaml, for the users of its containers: run it as root. Existing ones are kept.
set -eu
umask 077
folder="$(dirname "$0")/secrets"
mkdir -p "$folder"
chmod 711 "$folder"
keep() { # NAME USER: the text comes on standard input
  [ -e "$folder/$1" ] || { cat >"$folder/$1" && chown "$2:$2" "$folder/$1"; }
}
password="$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
if [ ! -e "$folder/postgres_password" ]; then
  rm -f "$folder/pgpass"
  echo "$password" | keep postgres_password 999
  echo "*:*:*:*:$password" | keep pgpass 10001
fi
echo 4o3vfxtcmo7b:demo-webhook-secret-of-the-sandbox | keep webhook.keys 10001
