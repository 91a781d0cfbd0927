# .venv/bin/python scripts/learn.py --config=configs/learn_cpu.py --out=learn_cpu
"""The learnability suite on a CPU: what docs/learnability.md reports.

About 70 minutes and 2 GB on two cores. Every task has one budget for all of its arms.
"""

from ml_collections import ConfigDict

SIGMAS = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


def get_config() -> ConfigDict:
    """What scripts/learn.py runs."""
    return ConfigDict(
        {
            "seed": 0,
            "budget": {"steps": 12000, "batch": 8, "seeds": 10, "learning_rate": 1e-2},
            "evaluation": {
                "chunk": 500,
                "looks": 8,
                "screen": 4096,
                "confirm": 1_000_000,
                "scales": (1, 2, 4, 8),
            },
            "tasks": {
                # 64 addresses, 256 tokens before the reads.
                "T1_free": {},
                "T1_scalar": {},
                "T1_parabola": {},
                # 16 instructions with jumps and branches, 64 steps.
                "T3": {"budget": {"steps": 6000}},
                "T7_T1": {
                    "task": "T1_free",
                    "sigmas": SIGMAS,
                    "budget": {"steps": 1000, "learning_rate": 1e-3},
                },
                "T7_T3": {
                    "task": "T3",
                    "sigmas": SIGMAS,
                    "budget": {"steps": 1000, "learning_rate": 1e-3},
                },
                "T2": {"budget": {"steps": 3000}},
                "T4_add_ffn": _t4(),
                "T4_and_ffn": _t4(),
                "T4_or_ffn": _t4(),
                "T4_xor_ffn": _t4(),
                "T4_shl_ffn": _t4(),
                "T4_lt_ffn": _t4(),
                "T4_add_table": _t4(),
                "T4_and_table": _t4(),
                "T6": _machine(1000),
                "T5": _machine(1000),
                "T7_T5": {
                    "task": "T5",
                    "sigmas": (1e-4, 1e-3, 1e-2, 0.1, 1.0),
                    **_machine(400, learning_rate=1e-3),
                },
            },
        }
    )


def _t4() -> dict:
    return {"budget": {"steps": 1000, "batch": 4}}


def _machine(steps: int, **more: float) -> dict:
    """A small machine: 1,000 held-out programs decide."""
    return {
        "budget": {"steps": steps, "batch": 4, **more},
        "evaluation": {"confirm": 48_000, "scales": (1, 4), "screen": 2048},
    }
