# .venv/bin/python scripts/bench.py --config=configs/bench_gpu.py --out=bench
"""The benchmark suite on GPUs: one table in ten minutes; not measured yet."""

from bench_cpu import get_config as on_cpu
from ml_collections import ConfigDict


def get_config(platform: str = "gpu") -> ConfigDict:
    """As on a CPU, with thousands of lanes, and few points of one lane."""
    config = on_cpu()
    config.platform, config.rounds = platform, 1
    config.workloads = ("sha256", "quicksort", "queens", "dijkstra", "xoshiro", "n_body")
    config.one_lane = (("packed", "indexed", True, 5_000),)
    config.count_steps = ()
    config.yardsticks = ()
    config.lengths = ()
    config.against_plain = (512, 2048, 8192)
    config.devices = tuple((n, 2048 * n) for n in (1, 2, 4, 8))
    config.lanes = (2048,)
    config.jobs_per_lane = 2
    return config
