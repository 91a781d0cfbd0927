# .venv/bin/python scripts/learn.py --config=configs/learn_cpu.py --out=learn_cpu
"""The learnability suite on a CPU: what docs/learnability.md reports.

About five hours of one core, 1 GB. Arms can run side by side, to one folder (`--only`). Every
task has one budget for all of its arms.
"""

from ml_collections import ConfigDict

SIGMAS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0)
# Noise on every entry, and on the entries that are not zero.
BOTH = (False, True)

T1_16 = {"addresses": 16, "length": 48, "reads": 16}
T5_ARMS = ("random_softmax", "random_changed", "random_end", "random_signals")
BASELINES = ("baseline_copy_last", "baseline_lstm", "baseline_standard", "baseline_wide")
T3_ARMS = (
    "random_softmax",
    "random_hard",
    "random_entmax",
    "random_changed",
    "random_end",
    "random_signals",
    "given_embeddings",
    "half_attention_constructed",
    "half_feed_forward_constructed",
)


def get_config() -> ConfigDict:
    """What scripts/learn.py runs."""
    return ConfigDict(
        {
            "seed": 0,
            "budget": {"steps": 10_000, "batch": 8, "seeds": 10, "learning_rate": 1e-2},
            "evaluation": {
                "chunk": 500,
                "looks": 8,
                "screen": 4096,
                "confirm": 1_000_000,
                "total": 1_000_000,
                "scales": (1, 2, 4, 8),
            },
            "tasks": {
                # 64 addresses, 256 tokens before the reads.
                "T1_parabola": {},
                # As features the machine itself has: for the head that is put back.
                "T1_head": {"arms": ("random_softmax",)},
                "T1_free": {
                    "arms": (
                        "random_softmax",
                        "random_hard",
                        "random_entmax",
                        "parabola_softmax",
                        "half_keys_constructed",
                        "half_values_constructed",
                    )
                },
                "T1_scalar": {},
                # 16 instructions with jumps and branches, 64 steps.
                "T3": {"arms": T3_ARMS},
                # Other models; fewer steps and reads, so that a negative of theirs says little.
                "T1_free_baselines": {
                    **_baselines("T1_free"),
                    "arms": ("baseline_copy_last", "baseline_lstm", "baseline_wide"),
                },
                # With 16 addresses also the standard transformer, which takes hours for 64.
                "T1_free_16_baselines": {
                    **_baselines("T1_free", confirm=100_000),
                    "options": T1_16,
                },
                "T3_baselines": _baselines("T3"),
                "T7_T1": _basin("T1_free"),
                "T7_T3": _basin("T3"),
                # Smaller steps and more of them, beginning softer.
                "T7_T1_gentle": {
                    **_basin("T1_free", steps=6000, learning_rate=3e-6),
                    "sigmas": SIGMAS[1:4],
                    "anneal": (1 / 32, 1.0),
                },
                # The same with 16 addresses: what a lookup tolerates falls with their square.
                "T7_T1_16": {
                    **_basin("T1_free", steps=600),
                    "options": T1_16,
                },
                "T7_T3_8": {
                    **_basin("T3", steps=600),
                    "sigmas": SIGMAS[1:5],
                    "wired": (False,),
                    "options": {"places": 8, "steps": 24},
                },
                "T2_mixture": {
                    "arms": ("random_softmax", "random_entmax", "parabola_softmax"),
                    "budget": {"steps": 2000},
                },
                "T4_add_ffn": _t4(),
                "T4_and_ffn": _t4(),
                "T4_or_ffn": _t4(),
                "T4_xor_ffn": _t4(),
                "T4_shl_ffn": _t4(),
                "T4_lt_ffn": _t4(),
                "T4_add_table": {**_t4(1000), "arms": ("random",)},
                "T4_and_table": {
                    **_t4(1000),
                    "arms": ("random", "embeddings_constructed", "embeddings_random"),
                },
                "T6": _machine(800),
                "T5": {"arms": T5_ARMS, **_machine(800)},
            },
        }
    )


def _t4(steps: int = 5000) -> dict:
    # Judged on all inputs.
    return {
        "arms": ("random", "embeddings_constructed"),
        "budget": {"steps": steps, "batch": 4},
        "evaluation": {"total": 0},
    }


def _baselines(task: str, **evaluation: int) -> dict:
    return {
        "task": task,
        "arms": BASELINES,
        "budget": {"steps": 1500, "learning_rate": 3e-3},
        "evaluation": {"total": 0, **evaluation},
    }


def _basin(task: str, **more: float) -> dict:
    """T7: a small learning rate, as a large one leaves the basin by itself."""
    return {
        "task": task,
        "sigmas": SIGMAS,
        "wired": BOTH,
        "budget": {"steps": 1000, "learning_rate": 1e-4, **more},
        "evaluation": {"total": 0, "confirm": 100_000},
    }


def _machine(steps: int) -> dict:
    """A small machine: 1,000 held-out programs decide."""
    return {
        "budget": {"steps": steps, "batch": 4},
        "evaluation": {"confirm": 48_000, "total": 0, "scales": (1, 4), "screen": 2048},
    }
