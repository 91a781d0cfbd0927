# .venv/bin/python scripts/bench.py --config=configs/bench_cpu.py --out=bench
"""The benchmark suite on a CPU."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What scripts/bench.py sweeps; `--config.repeats=5` and the like override it."""
    return ConfigDict(
        {
            "workloads": (),  # names of examples/workloads/workloads.json; none: all
            "repeats": 3,  # measurements per point, after a warm-up
            # One lane: (engine, cache, fuse), and the most steps of a run. For the other caches
            # see scripts/bench_caches.py; ("packed", "hull", True, 20_000) works here, too.
            "one_lane": (
                ("packed", "indexed", False, 400_000),
                ("packed", "indexed", True, 400_000),
            ),
            # Many lanes: all workloads mixed, so many lanes, with fusion.
            "lanes": (32, 128, 256, 512),
            "jobs_per_lane": 3,
            "native": True,  # wasmtime, compiled
            # Commands to time on the same modules: name -> argv; {wasm} and {args} are filled in.
            "external": ConfigDict({}),
        }
    )
