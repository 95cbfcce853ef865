#!/bin/sh
# Puts prometheus and promtool into the folder $1: links to those on PATH, or Debian's package, unpacked as any user.
set -eu
into=$(cd "$1" && pwd)
found() { command -v prometheus && command -v promtool; }
if found >/dev/null; then
  for name in prometheus promtool; do ln -sf "$(command -v "$name")" "$into/$name"; done
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial"
# Lists and locks of one's own: those of the system are root's, and may be empty.
apt() {
  apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" -o Dir::Etc::AptConf="$work/none" \
    -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 "$@" >"$work/log" 2>&1
}
if ! { command -v apt-get dpkg-deb >/dev/null && apt update && cd "$work" && apt download prometheus \
  && dpkg-deb -x prometheus_*.deb "$work/root"; }; then
  [ ! -f "$work/log" ] || tail -n 3 "$work/log" >&2
  echo "Prometheus 2 or 3 is needed: prometheus and promtool on PATH (Debian, Ubuntu: apt-get install prometheus)" >&2
  exit 1
fi
cp "$work/root/usr/bin/prometheus" "$work/root/usr/bin/promtool" "$into/"
