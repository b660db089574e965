#!/usr/bin/env bash
# Makes .gpu/: everything that a CUDA machine without Node and without a network needs to run MMSB and its conformance suite.
#   node.xz      the node binary of this machine, stripped
#   app.tar.xz   dist/, production node_modules, and the conformance suite compiled to JavaScript
#   run.sh       unpacks both and runs node with the given arguments
#   all.sh       on the GPU machine, from the repository: builds, tests, checks and measures everything
# The native library is not included; build it on the machine (`make native`, with nvcc and g++).
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

echo "app: compiling the conformance suite and the bench, packing production modules"
npx tsc test/conformance/main.ts test/conformance/risk.ts bench/gpu.ts --target es2023 --module nodenext --moduleResolution nodenext --skipLibCheck --types node \
  --strict --noUncheckedIndexedAccess --exactOptionalPropertyTypes --rootDir . --outDir "$stage/app" ||
  { echo "gpu-bundle: the conformance suite does not compile" >&2; exit 1; }
mkdir -p "$stage/app/node_modules/vega-datasets/data"  # the risk example's prices
cp -r node_modules/vega-datasets/{package.json,build} "$stage/app/node_modules/vega-datasets/"
cp node_modules/vega-datasets/data/stocks.csv "$stage/app/node_modules/vega-datasets/data/"
cp -r dist package.json bin "$stage/app/"
npm ls --omit=dev --all --parseable 2>/dev/null | tail -n +2 | sort -u | while read -r path; do
  [ -d "$path" ] && echo "${path#"$PWD"/}"
done | tar -cf - --exclude='better-sqlite3/deps' --exclude='better-sqlite3/src' --exclude='better-sqlite3/build/Release/obj*' \
  --exclude='*.map' --exclude='*.md' -T - | tar -xf - -C "$stage/app"
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
cat >.gpu/all.sh <<'ALL'
#!/usr/bin/env bash
# Runs everything that needs a GPU, on a machine with nvcc, g++ and make, without Node or network. Call it from any folder:
#   .gpu/all.sh [folder for results, default bench/results]
# Prints the result of each step; exits with status 1 if one fails. Bench rows go to FOLDER/gpu.jsonl.
set -uo pipefail
cd "$(dirname "$0")/.."
results=$(mkdir -p "${1:-bench/results}" && cd "${1:-bench/results}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
step() {
  local name=$1
  shift
  local begun=$SECONDS
  if "$@" >"$work/out" 2>&1; then
    echo "ok - $name ($((SECONDS - begun)) s)"
  else
    failed=1
    echo "not ok - $name ($((SECONDS - begun)) s)"
    tail -n 40 "$work/out" | sed 's/^/# /'
  fi
  grep -E '^# |skipped|ERROR SUMMARY|failed' "$work/out" | head -n 10 || true
}
on_device() { MMSB_TEST_BACKEND=cuda "$@"; }
same_digests() {
  local program=build/native/core_test
  MMSB_TEST_BACKEND=cpu $program digests 1 >"$work/cpu" && MMSB_TEST_BACKEND=cuda $program digests 1 >"$work/cuda" &&
    diff "$work/cpu" "$work/cuda"
}
sanitize() {
  MMSB_TEST_BACKEND=cuda MMSB_TEST_SCALE=10 compute-sanitizer --tool "$1" --error-exitcode 9 build/native/core_test &&
    compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all .gpu/run.sh test/conformance/main.js cuda 3 1,33,257
}
bench() {
  nvcc -O2 scripts/gpu-copy.cu -o "$work/copy" || return 1
  MMSB_COPY_GBPS=$("$work/copy") || return 1
  MMSB_CUPY=$(python3 scripts/gpu-cupy.py 2>/dev/null) || MMSB_CUPY={}
  export MMSB_COPY_GBPS MMSB_CUPY
  echo "# a copy on the device: $MMSB_COPY_GBPS GB/s; CuPy: $MMSB_CUPY"
  .gpu/run.sh bench/gpu.js | tee -a "$results/gpu.jsonl" | sed -E 's/.*"name":"([^"]*)".*"mmsb":([0-9.]*).*"ratio":([0-9.a-z]*).*/# \1: \2 GB\/s, \3 of a copy/'
}

step "build" make native build/native/core_test
step "core on the device" on_device build/native/core_test
step "core: digests, ranges and log of the CPU" same_digests
step "conformance" .gpu/run.sh test/conformance/main.js cuda
step "risk example: digests of the CPU" .gpu/run.sh test/conformance/risk.js
for tool in memcheck racecheck; do
  if command -v compute-sanitizer >/dev/null; then step "compute-sanitizer $tool" sanitize $tool
  else echo "ok - compute-sanitizer $tool # skipped: not installed"; fi
done
step "bench" bench
exit $failed
ALL
chmod +x .gpu/run.sh .gpu/all.sh
du -h .gpu/*
