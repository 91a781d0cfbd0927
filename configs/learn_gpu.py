# .venv/bin/python scripts/learn.py --config=configs/learn_gpu.py --out=learn_gpu
"""The learnability suite on a GPU: longer sequences, more addresses, wider budgets.

Not run yet; a test builds and trains it cut down. T5_small is the one-byte machine with arithmetic,
whose prompts carry the 256 tokens of its table.
"""

from ml_collections import ConfigDict

SIGMAS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
BOTH = (False, True)
T1 = {"addresses": 256, "length": 1024, "reads": 64, "width": 32, "heads": 4}
T3 = {"places": 64, "steps": 256, "width": 32}


def get_config() -> ConfigDict:
    """What scripts/learn.py runs."""
    return ConfigDict(
        {
            "seed": 0,
            "budget": {"steps": 40_000, "batch": 32, "seeds": 20, "learning_rate": 1e-2},
            "evaluation": {
                "chunk": 1000,
                "looks": 32,
                "screen": 16_384,
                "confirm": 1_000_000,
                "total": 1_000_000,
                "scales": (1, 2, 4, 8),
            },
            "tasks": {
                "T1_parabola": {"options": T1},
                "T1_head": {"options": T1},
                "T1_free": {"options": T1},
                "T1_scalar": {"options": T1},
                "T2_mixture": {"options": {"length": 512}},
                "T3": {"options": T3},
                **{
                    f"T4_{unit}_{form}": {"budget": {"steps": 20_000}}
                    for unit, form in (
                        *((unit, "ffn") for unit in ("add", "and", "or", "xor", "shl", "lt")),
                        *((unit, "table") for unit in ("add", "and", "or", "xor")),
                    )
                },
                "T5": _machine(20_000),
                "T5_small": {"task": "T5", "options": {"config": "small"}, **_machine(20_000, 8)},
                "T6": _machine(20_000),
                "T7_T1": _basin("T1_free", T1),
                "T7_T3": _basin("T3", T3),
                "T7_T5": {**_basin("T5", {}), **_machine(5000, learning_rate=1e-4)},
            },
        }
    )


def _machine(steps: int, batch: int = 32, **more: float) -> dict:
    """A small machine: about 1,000 held-out programs decide."""
    return {
        "budget": {"steps": steps, "batch": batch, **more},
        "evaluation": {"confirm": 48_000, "scales": (1, 4), "screen": 8192},
    }


def _basin(task: str, options: dict) -> dict:
    """T7, with a small learning rate."""
    return {
        "task": task,
        "options": options,
        "sigmas": SIGMAS,
        "wired": BOTH,
        "budget": {"steps": 5000, "learning_rate": 1e-4},
        "evaluation": {"confirm": 100_000},
    }
