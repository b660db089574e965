"""What NumPy makes of the cases in a folder: reads cases.json and inputs.bin, writes results.json and results.bin.

Written from NumPy's documentation alone, in NumPy's own words, so that it can disagree with the library. Where docs/guide/OPS.md
differs from NumPy on purpose (saturating casts, gather of an index outside) the difference is spelled out here.
"""

import json
import sys

import numpy as np

DTYPES = {
    "bool": np.bool_, "u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i16": np.int16, "u32": np.uint32,
    "i32": np.int32, "u64": np.uint64, "i64": np.int64, "f32": np.float32, "f64": np.float64,
}


def is_float(dtype):
    return np.issubdtype(dtype, np.floating)


def sum_dtype(x):
    if is_float(x.dtype):
        return np.float64
    return np.int64 if np.issubdtype(x.dtype, np.signedinteger) else np.uint64


def cast(x, to):
    if to == np.bool_:
        return x != 0
    if is_float(to):
        return x.astype(to)
    info = np.iinfo(to)
    if is_float(x.dtype):
        wide = np.trunc(np.where(np.isnan(x), 0, x).astype(np.float64))
        out = np.clip(wide, -(2.0**63), 2.0**63 - 1024 if info.min < 0 else 2.0**64 - 2048)
        if info.min == 0:
            out = np.clip(out, 0, None).astype(np.uint64)
        else:
            out = out.astype(np.int64)
        out = np.clip(out, info.min, info.max).astype(to)
        out = np.where(wide >= float(info.max), np.array(info.max, to), out)
        return np.where(wide <= float(info.min), np.array(info.min, to), out)
    low = max(int(info.min), int(np.iinfo(x.dtype).min) if x.dtype != np.bool_ else 0)
    high = min(int(info.max), int(np.iinfo(x.dtype).max) if x.dtype != np.bool_ else 1)
    return (x if x.dtype == np.bool_ else np.clip(x, low, high)).astype(to)


def common(*arrays):
    """The rule of docs/guide/OPS.md; NumPy differs where an integer meets f32."""
    floats = [a.dtype for a in arrays if is_float(a.dtype)]
    if floats:
        return np.result_type(*floats)
    return np.result_type(*[a.dtype for a in arrays])


def op_copy(x):
    return x


def op_cast(x, dtype):
    return cast(x, DTYPES[dtype])


def op_reduce(x, fn, axes=None, keepdims=False):
    axis = tuple(axes) if axes is not None else None
    options = {"axis": axis, "keepdims": keepdims}
    if fn in ("sum", "prod"):
        return getattr(np, fn)(x, dtype=sum_dtype(x), **options)
    if fn in ("mean", "var"):
        return getattr(np, fn)(x, dtype=np.float64, **options)
    if fn in ("min", "max", "any", "all"):
        return getattr(np, fn)(x, **options)
    if fn == "count":
        return np.count_nonzero(x, **options)
    kept = [d for d in range(x.ndim) if axis is not None and d not in [a % x.ndim for a in axis]]
    order = kept + [d for d in range(x.ndim) if d not in kept]
    moved = np.transpose(x, order).reshape([x.shape[d] for d in kept] + [-1])
    out = getattr(np, fn)(moved, axis=-1)
    return out.reshape([x.shape[d] if d in kept else 1 for d in range(x.ndim)]) if keepdims else out


def op_scan(x, fn, axis=-1):
    if fn == "sum":
        return np.cumsum(x, axis=axis, dtype=sum_dtype(x))
    if fn == "prod":
        return np.cumprod(x, axis=axis, dtype=sum_dtype(x))
    return (np.minimum if fn == "min" else np.maximum).accumulate(x, axis=axis)


def op_matmul(a, b, semiring="plus_times"):
    dtype = np.bool_ if semiring == "or_and" else common(a, b)
    a, b = (a != 0, b != 0) if semiring == "or_and" else (a.astype(dtype), b.astype(dtype))
    if semiring in ("plus_times", "or_and"):
        return np.matmul(a.astype(np.float64), b.astype(np.float64)) if is_float(dtype) else np.matmul(a, b)
    wide_a = a[None, :] if a.ndim == 1 else a
    wide_b = b[:, None] if b.ndim == 1 else b
    sums = wide_a[..., :, :, None] + wide_b[..., None, :, :]
    out = (np.min if semiring == "min_plus" else np.max)(sums, axis=-2)
    out = out[..., 0, :] if a.ndim == 1 else out
    return out[..., 0] if b.ndim == 1 else out


def op_quantile(x, q, axis=None):
    return np.quantile(x.astype(np.float64), q, axis=axis)


def ordering(x, descending):
    """Indices along the last axis: stable, NaN last either way."""
    if x.dtype == np.bool_:
        x = x.astype(np.uint8)
    if is_float(x.dtype):
        return np.argsort(-x if descending else x, axis=-1, kind="stable")
    return np.argsort(np.bitwise_not(x) if descending else x, axis=-1, kind="stable")


def op_topk(x, k, output, axis=-1, largest=True):
    moved = np.moveaxis(x, axis, -1)
    best = ordering(moved, largest)[..., :k]
    return np.moveaxis(best if output == "indices" else np.take_along_axis(moved, best, -1), -1, axis)


def op_sort(x, axis=-1, descending=False):
    if not descending:
        return np.sort(x, axis=axis, kind="stable")
    moved = np.moveaxis(x, axis, -1)
    return np.moveaxis(np.take_along_axis(moved, ordering(moved, True), -1), -1, axis)


def op_conv(x, kernel, boundary="zero"):
    dtype = common(x, kernel)
    wide = np.float64 if is_float(dtype) else dtype
    lead = x.ndim - kernel.ndim
    if x.size == 0:
        return x.astype(dtype)
    padded = x.astype(dtype).astype(wide)
    for axis, taps in enumerate(kernel.shape, lead):
        # Not np.pad, whose wrap was wrong before NumPy 1.25 where the padding is longer than the axis.
        places = np.arange(taps // 2 * -1, x.shape[axis] + taps - 1 - taps // 2)
        outside = (places < 0) | (places >= x.shape[axis])
        clipped = np.clip(places, 0, x.shape[axis] - 1)
        padded = np.take(padded, places % x.shape[axis] if boundary == "wrap" else clipped, axis=axis)
        if boundary == "zero":
            padded[(slice(None),) * axis + (outside,)] = 0
    axes = tuple(range(lead, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=axes)
    last = tuple(range(-kernel.ndim, 0))
    if dtype == np.bool_:
        return np.any(windows & kernel.astype(bool), axis=last)
    return np.sum(windows * kernel.astype(dtype).astype(wide), axis=last, dtype=wide)


def op_window(x, fn, size, axis=-1):
    moved = np.moveaxis(x, axis, 0)
    if fn in ("min", "max"):
        fold = lambda part: getattr(np, fn)(part, axis=0)  # noqa: E731
    elif fn == "mean":
        fold = lambda part: np.mean(part, axis=0, dtype=np.float64)  # noqa: E731
    else:
        fold = lambda part: np.sum(part, axis=0, dtype=sum_dtype(x))  # noqa: E731
    if x.size == 0:
        return x
    out = np.stack([fold(moved[max(0, i + 1 - size) : i + 1]) for i in range(moved.shape[0])])
    return np.moveaxis(out, 0, axis)


def op_gather(x, indices, axis=0):
    size = x.shape[axis]
    places = indices.astype(object)
    places = np.where(places < 0, places + size, places)
    inside = ((places >= 0) & (places < size)).astype(bool)
    shape = x.shape[: axis % x.ndim] + indices.shape + x.shape[axis % x.ndim + 1 :]
    if size == 0 or indices.size == 0:
        return np.full(shape, np.nan if is_float(x.dtype) else 0).astype(x.dtype)
    taken = np.take(x, np.where(inside, places, 0).astype(np.int64), axis=axis)
    mask = inside.reshape((1,) * (axis % x.ndim) + indices.shape + (1,) * (x.ndim - 1 - axis % x.ndim))
    return np.where(mask, taken, np.array(np.nan if is_float(x.dtype) else 0).astype(x.dtype)).astype(x.dtype)


def op_scatter(x, indices, values, axis=0, merge="set"):
    axis %= x.ndim
    size = x.shape[axis]
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    values = np.broadcast_to(cast(values, x.dtype.type).reshape(() if values.size == 1 else shape), shape)
    values = np.moveaxis(values.reshape(x.shape[:axis] + (indices.size,) + x.shape[axis + 1 :]), axis, 0)
    out = np.moveaxis(x.copy(), axis, 0)
    names = {"add": "add", "min": "minimum", "max": "maximum", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
    for place, index in enumerate(indices.reshape(-1).tolist()):
        index = index + size if index < 0 else index
        if not 0 <= index < size:
            continue
        out[index] = values[place] if merge == "set" else getattr(np, names[merge])(out[index], values[place])
    return np.moveaxis(out, 0, axis)


def op_bincount(x, length):
    flat = x.reshape(-1)
    inside = flat[(flat >= 0) & (flat < length)] if flat.size else flat
    return np.bincount(inside.astype(np.int64), minlength=length)[:length] if inside.size else np.zeros(length, np.int64)


def op_histogram(x, bins, range):
    return np.histogram(x.astype(np.float64), bins=bins, range=tuple(range))[0]


def op_transpose(x, axes=None):
    return np.transpose(x, axes)


def op_reshape(x, shape):
    return np.reshape(x, shape)


def op_slice(x, start=(), stop=(), step=()):
    at = lambda bounds, axis: bounds[axis] if axis < len(bounds) else None  # noqa: E731
    return x[tuple(slice(at(start, d), at(stop, d), at(step, d)) for d in range(x.ndim))]


def op_flip(x, axes=None):
    return np.flip(x, axis=tuple(axes) if axes else None)


def op_concat(axis=0, **parts):
    dtype = common(*parts.values())
    return np.concatenate([part.astype(dtype) for part in parts.values()], axis=axis)


def op_distance(queries, vectors, metric):
    dtype = common(queries, vectors)
    q = queries.astype(dtype).astype(np.float64)
    v = vectors.astype(dtype).astype(np.float64)
    if metric == "dot":
        return q @ v.T
    if metric == "l2":
        return np.sqrt(np.sum((q[..., None, :] - v) ** 2, axis=-1))
    return 1 - (q @ v.T) / (np.linalg.norm(q, axis=-1)[..., None] * np.linalg.norm(v, axis=-1))


def op_map(expr, numpy, **names):
    return eval(numpy, {"np": np}, names)


def main(folder):
    with open(f"{folder}/cases.json") as file:
        cases = json.load(file)
    with open(f"{folder}/inputs.bin", "rb") as file:
        data = file.read()
    shapes, blobs = [], []
    for case in cases:
        pages = {
            name: np.frombuffer(data, DTYPES[page["dtype"]], int(np.prod(page["shape"])), page["at"]).reshape(page["shape"])
            for name, page in case["inputs"].items()
        }
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(globals()["op_" + case["op"]](**pages, **case["parameters"]))
                out = np.ascontiguousarray(cast(result, DTYPES[case["dtype"]]))
        except Exception as error:
            raise RuntimeError(f"{case}") from error
        shapes.append(list(result.shape))
        blob = out.tobytes()
        blobs.append(blob + bytes(-len(blob) % 8))
    with open(f"{folder}/results.json", "w") as file:
        json.dump({"numpy": np.__version__, "shapes": shapes}, file)
    with open(f"{folder}/results.bin", "wb") as file:
        file.write(b"".join(blobs))


main(sys.argv[1])
