#!/bin/sh
# Make the files of secrets of compose.listener.yaml, for the users of its containers: run it as root. Existing ones are kept.
set -eu
umask 077
folder="$(dirname "$0")/secrets"
mkdir -p "$folder/listener"
chmod 711 "$folder" "$folder/listener"
random() {
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}
keep() { # NAME USER: the text comes on standard input
  [ -e "$folder/$1" ] || { cat >"$folder/$1" && chown "$2:$2" "$folder/$1"; }
}
if [ ! -e "$folder/postgres_password" ]; then
  password="$(random)"
  rm -f "$folder/listener/pgpass"
  echo "$password" | keep postgres_password 999
  echo "*:*:*:*:$password" | keep listener/pgpass 10001
fi
echo "4o3vfxtcmo7b:$(random)" | keep listener/webhook.keys 10001
