"""Prints, as JSON, the GB/s of CuPy for the rows of bench/gpu.ts, or {} where there is no CuPy. Bytes as counted there."""

import json
import sys
import time

try:
    import cupy as cp
except ImportError:
    print("{}")
    sys.exit(0)

count = (int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 30) // 4
x = cp.full(count, 1.5, dtype=cp.float32)
y = cp.empty_like(x)
z = cp.empty_like(x)


@cp.fuse()
def chain(a, k):
    return cp.sqrt(cp.abs(a * k + 1)) - cp.minimum(a, k) * 0.5 + cp.maximum(a - k, 0) / 3


def gbps(passes, run):
    best = None
    for _ in range(9):
        cp.cuda.Device().synchronize()
        started = time.perf_counter()
        run()
        cp.cuda.Device().synchronize()
        seconds = time.perf_counter() - started
        best = seconds if best is None else min(best, seconds)
    return passes * 4 * count / best / 1e9


def copied():
    cp.multiply(x, cp.float32(2), out=y)
    z[...] = y


print(
    json.dumps(
        {
            "map, one operation": gbps(2, lambda: cp.multiply(x, cp.float32(2), out=y)),
            "map, eight operations": gbps(2, lambda: chain(x, cp.float32(2))),
            "map and copy": gbps(4, copied),
            "compare: nothing changes": gbps(2, lambda: bool((x == y).all())),
            "reduce, sum of all": gbps(1, lambda: float(x.sum(dtype=cp.float64))),
        }
    )
)
