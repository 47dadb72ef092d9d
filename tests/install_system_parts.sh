#!/usr/bin/env bash
# Install what the tests need beside Python and cannot get from a package index: a browser that opens the payout report, strace,
# which shows in which order bytes reach the disk and the network, tmux, in which a person's terminal is played, nginx, which stands
# before a listener, PostgreSQL, and pgbouncer, which stands before that, Prometheus, whose promtool checks metrics and alerts, and
# systemd, whose systemd-analyze checks units; with --soak also haproxy and caddy, with --fleet only what `make demo-fleet` needs. Does nothing where all are there. Without
# root, or where there is no apt, it says what is missing and leaves it to those who need it to say so.
set -euo pipefail

missing=()
wanted=(strace tmux nginx pgbouncer)
case "${1:-}" in
  --soak) wanted+=(haproxy caddy) ;;
  --fleet) wanted=(nginx) ;;
esac
if [ "${1:-}" != --fleet ]; then
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
  command -v promtool >/dev/null || missing+=(prometheus)
  command -v systemd-analyze >/dev/null || missing+=(systemd)
fi
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || missing+=(postgresql)
for each in "${wanted[@]}"; do
  command -v "$each" >/dev/null || [ -x "/usr/sbin/$each" ] || missing+=("$each")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]}; install them with your system's packages" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if [ ! -e /usr/sbin/policy-rc.d ]; then # proxies are there to be started by the tests, not as services of this machine
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
