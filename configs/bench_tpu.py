# .venv/bin/python scripts/bench.py --config=configs/bench_tpu.py --out=bench
"""The benchmark suite on a TPU slice: what it is on a GPU; not measured yet."""

from bench_gpu import get_config

__all__ = ["get_config"]
