#!/usr/bin/env bash
# Checks the format of the native code (.clang-format) and that its comments keep to 110 columns. `--write` rewrites the format.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(find kernels.cu src/kernels/native test/native scripts -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.cpp' | sort)
if [ "${1:-}" = --write ]; then
  node_modules/.bin/clang-format -i --style=file "${files[@]}"
else
  node_modules/.bin/clang-format --dry-run --Werror --style=file "${files[@]}"
fi
if grep -nE '^ *//.{109,}' "${files[@]}" | awk -F: '{ line = $0; sub(/^[^:]*:[^:]*:/, "", line); if (length(line) > 110) { print; bad = 1 } } END { exit !bad }'; then
  echo "lint-native: the comments above are longer than 110 columns" >&2
  exit 1
fi
