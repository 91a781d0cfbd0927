# .venv/bin/python scripts/bench.py --config=configs/bench_tpu.py --out=bench
"""The benchmark suite on a TPU slice: what it is on a GPU; not measured yet."""

from bench_gpu import get_config as on_gpu
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """As on a GPU."""
    return on_gpu("tpu")
