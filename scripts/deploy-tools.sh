#!/usr/bin/env bash
# The programs with which test/deploy tries the files of deploy/: Prometheus and promtool from Debian's package. Those
# that are not installed are unpacked in build/deploy-tools, so nothing is installed and no service starts.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=$PWD/build/deploy-tools
mkdir -p "$TOOLS"

have() { command -v "$1" >/dev/null || [ -x "$TOOLS/$1" ]; }

prometheus() {
  local dir
  dir=$(mktemp -d)
  (cd "$dir" && apt-get -o APT::Sandbox::User=root download -qq prometheus && dpkg-deb -x prometheus_*.deb .)
  cp "$dir/usr/bin/prometheus" "$dir/usr/bin/promtool" "$TOOLS"
  rm -r "$dir"
}

{ have prometheus && have promtool; } || prometheus
