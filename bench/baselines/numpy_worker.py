"""NumPy as a baseline, in a process of its own, on one thread: reads one JSON line per command, answers with one.

{"case": NAME, "make": CODE, "run": CODE, "flip": CODE}  prepares a case     -> {"ok": true} or {"error": TEXT}
{"time": NAME}                       runs it once, after `flip`, untimed    -> {"ns": N}  of the processor's time
{"info": true}                                                              -> {"version", "blas"}

`make` fills a dictionary of arrays with a fixed seed; `run` is the work, timed; `flip` touches the inputs, so that they lie in the
caches as they do when a page was just written.
"""

import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    os.environ[name] = "1"

import json
import sys
import time

import numpy as np

cases = {}


def prepare(command):
    state = {"np": np, "rng": np.random.default_rng(1), "windows": np.lib.stride_tricks.sliding_window_view}
    exec(command["make"], state)
    cases[command["case"]] = (state, compile(command["run"], command["case"], "exec"), compile(command["flip"], "flip", "exec"))
    return {"ok": True}


def measure(name):
    state, run, flip = cases[name]
    exec(flip, state)
    started = time.process_time_ns()
    exec(run, state)
    return {"ns": time.process_time_ns() - started}


def blas():
    with open("/proc/self/maps", encoding="utf-8") as maps:
        files = {line.split("/")[-1].strip() for line in maps if "blas" in line}
    return ", ".join(sorted(files)) or "none"


def answer(command):
    if "case" in command:
        return prepare(command)
    if "time" in command:
        return measure(command["time"])
    np.ones((2, 2)) @ np.ones((2, 2))
    return {"version": np.__version__, "blas": blas()}


for line in sys.stdin:
    try:
        result = answer(json.loads(line))
    except Exception as error:  # whatever it is, the row says so
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
