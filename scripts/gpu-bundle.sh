#!/usr/bin/env bash
# Makes .gpu/: what a CUDA machine without Node and without a network needs to run MMSB and its conformance suite.
#   node.xz      the node binary of this machine, stripped
#   app.tar.xz   dist/, production node_modules, and the conformance suite compiled to JavaScript
#   run.sh       unpacks both and runs what it is told with them
# The native library is not in it: build that on the machine itself with `make native`.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p .gpu

echo "node: stripping and packing"
cp "$(node -p process.execPath)" "$stage/node"
chmod u+w "$stage/node"
strip "$stage/node"
[ .gpu/node.xz -nt "$(node -p process.execPath)" ] || xz -T0 -6 -c "$stage/node" >.gpu/node.xz

echo "app: compiling the conformance suite, packing production modules"
npx tsc test/conformance/main.ts --target es2023 --module nodenext --moduleResolution nodenext --skipLibCheck --types node \
  --strict --noUncheckedIndexedAccess --exactOptionalPropertyTypes --rootDir . --outDir "$stage/app" ||
  { echo "gpu-bundle: the conformance suite does not compile" >&2; exit 1; }
cp -r dist package.json bin "$stage/app/"
npm ls --omit=dev --all --parseable 2>/dev/null | tail -n +2 | sort -u | while read -r path; do
  [ -d "$path" ] && echo "${path#"$PWD"/}"
done | tar -cf - --exclude='better-sqlite3/deps' --exclude='better-sqlite3/src' --exclude='better-sqlite3/build/Release/obj*' \
  --exclude='koffi/src' --exclude='koffi/vendor' --exclude='*.map' --exclude='*.md' -T - | tar -xf - -C "$stage/app"
tar -C "$stage" -cf - app | xz -T0 -6 >.gpu/app.tar.xz

cat >.gpu/run.sh <<'RUN'
#!/usr/bin/env bash
# Unpacks the bundle beside itself and runs node with the given arguments, in the unpacked app:
#   make native && .gpu/run.sh test/conformance/main.js cuda
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
to=${MMSB_BUNDLE_DIR:-/tmp/mmsb-bundle}
if [ ! -x "$to/node" ] || [ "$here/app.tar.xz" -nt "$to/app" ]; then
  mkdir -p "$to"
  xz -dc "$here/node.xz" >"$to/node" && chmod +x "$to/node"
  tar -C "$to" -xJf "$here/app.tar.xz" && touch "$to/app"
fi
export MMSB_LIBRARY=${MMSB_LIBRARY:-$(cd "$here/.." && pwd)/build/libmmsb.so}
cd "$to/app"
exec "$to/node" "$@"
RUN
chmod +x .gpu/run.sh
du -h .gpu/*
