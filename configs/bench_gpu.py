# .venv/bin/python scripts/bench.py --config=configs/bench_gpu.py --out=bench
"""The benchmark suite on a GPU: many lanes; not measured yet."""

from bench_cpu import get_config as on_cpu
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """As on a CPU, with thousands of lanes, and few points of one lane."""
    config = on_cpu()
    config.one_lane = (("packed", "indexed", True, 20_000),)
    config.lanes = (512, 2048, 8192)
    config.jobs_per_lane = 2
    return config
