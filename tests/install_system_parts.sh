#!/usr/bin/env bash
# Install what the tests need beside Python and cannot get from a package index: a browser that opens the payout report, strace,
# which shows in which order bytes reach the disk and the network, and tmux, in which a person's terminal is played. Does nothing
# where all are there. Without root, or where there is no apt, it says what is missing and leaves the tests that need it to say so.
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
command -v strace >/dev/null || missing+=(strace)
command -v tmux >/dev/null || missing+=(tmux)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing for some tests: ${missing[*]}; install them with your system's packages" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
