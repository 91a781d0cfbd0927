# .venv/bin/python scripts/learn.py --config=configs/learn_smoke.py --out=learn
"""The learnability suite in small: T1 and T3, and a T7 curve. Under 5 minutes on two cores."""

from ml_collections import ConfigDict

T1 = {"addresses": 16, "length": 48, "reads": 16}
T3 = {"places": 8, "steps": 24}


def get_config() -> ConfigDict:
    """What scripts/learn.py runs; `--config.budget.steps=50` and the like override it."""
    return ConfigDict(
        {
            "seed": 0,
            "budget": {"steps": 1000, "batch": 8, "seeds": 10, "learning_rate": 1e-2},
            "evaluation": {
                "chunk": 250,
                "looks": 8,
                "screen": 2048,
                "confirm": 20_000,
                "scales": (1, 2, 4, 8),
            },
            "tasks": {
                "T1_free": {"options": T1, "arms": ("random_softmax", "parabola_softmax")},
                "T3": {"options": T3, "arms": ("random_softmax",)},
                "T7_T1": {
                    "task": "T1_free",
                    "options": T1,
                    "sigmas": (1e-4, 3e-4, 1e-3, 1e-2, 0.1, 1.0),
                    "budget": {"steps": 600, "learning_rate": 1e-4},
                },
            },
        }
    )
