# .venv/bin/python scripts/bench.py --config=configs/bench_cpu.py --out=bench
"""The benchmark suite on a CPU: half an hour on two cores."""

import os

from ml_collections import ConfigDict

CORES = os.cpu_count() or 1


def get_config() -> ConfigDict:
    """What scripts/bench.py sweeps; `--config.repeats=5` and the like override it."""
    return ConfigDict(
        {
            "platform": "cpu",
            "workloads": (),  # names of examples/workloads/workloads.json; none: all
            "repeats": 3,  # measurements per point and round, after a warm-up
            "rounds": 2,  # processes that measure every point, one after the other
            "limits": True,  # what a step needs and what the device does
            "native": True,  # wasmtime, compiled
            # One lane: (engine, cache, fuse), and the most steps of a run.
            "one_lane": (
                ("packed", "indexed", False, 400_000),
                ("packed", "indexed", True, 400_000),
            ),
            # Steps in the modules' own functions, without and with fusion: counted, not timed.
            "count_steps": (False, True),
            # One lane, other engines: (engine, cache, dtype, workload, most steps).
            "yardsticks": (
                ("packed", "hull", None, "fib", 20_000),
                ("packed", "softmax", "float64", "fib", 200),
                ("dense", "softmax", "float64", "fib", 24),
            ),
            # Time per step near so many tokens: (cache, tokens).
            "lengths": (
                *(("indexed", 10**k) for k in (3, 4, 5, 6)),
                *(("hull", 10**k) for k in (3, 4, 5)),
                ("softmax", 1000),
                ("softmax", 3000),
            ),
            # Many lanes of all workloads mixed, in turn with the plain interpreter.
            "against_plain": (32, 128, 256, 512, 1024),
            # (devices, lanes in all), where there are so many.
            "devices": tuple((n, 256 * n) for n in range(1, CORES + 1)),
            # Whole jobs on so many lanes, with fusion.
            "lanes": (32, 128, 512),
            "jobs_per_lane": 3,
            # Commands to time on the same modules: name -> argv; {wasm} and {args} are filled in.
            "external": ConfigDict({}),
        }
    )
