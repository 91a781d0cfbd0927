"""The suite: tasks by name, the arms of each, and the order in which they run."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wasmjax.learn import baselines
from wasmjax.learn.arms import Arm
from wasmjax.learn.tasks import (
    t1_indexed_read,
    t2_latest_write,
    t3_instruction_pointer,
    t4_arithmetic,
    t5_vm_step,
)
from wasmjax.learn.tasks.base import Task
from wasmjax.machine.config import SMALL

ATTENTION = ("softmax", "hard", "entmax")

SHARP = (0.25, 1.0)
"""Inverse temperatures of arms whose lookups are constructed and stay so."""

WARM = (1 / 512, 1 / 512)
"""Inverse temperatures of arms whose lookups only start from the construction: soft enough that
gradients reach all keys."""

# The address side of T1 that "scalar", "parabola" and "head" are given.
_GIVEN = ("embedding.kind", "embedding.[ai]")


def build(name: str, options: Mapping[str, Any]) -> Task:
    """A task by its name ("T1.free", "T4.add.ffn", "T5", ...).

    Args:
      options: keyword arguments of the task's module.

    Raises:
      ValueError: if there is no such task.
    """
    first, *rest = name.split(".")
    kinds: dict[str, Callable[..., Callable[..., Task]]] = {
        "T1": lambda variant: functools.partial(t1_indexed_read.task, variant),
        "T2": lambda regime="mixture": functools.partial(t2_latest_write.task, regime),
        "T3": lambda: t3_instruction_pointer.task,
        "T4": lambda unit, form: functools.partial(t4_arithmetic.task, unit, form),
        "T5": lambda: t5_vm_step.task,
        "T6": lambda: functools.partial(t5_vm_step.task, name="T6"),
    }
    if first not in kinds:
        raise ValueError(f"there is no task {name}")
    chosen = dict(options)
    if chosen.get("config") == "small":
        chosen["config"] = SMALL
    try:
        return kinds[first](*rest)(**chosen)
    except TypeError as error:
        raise ValueError(f"task {name}: {error}") from None


def arms(name: str) -> dict[str, Arm]:
    """All arms of a task by name, those that start at random first."""
    first = name.split(".")[0]
    made = {
        "T1": _t1,
        "T2": _t2,
        "T3": _t3,
        "T4": _t4,
        "T5": _t5,
        "T6": _t6,
    }[first](name)
    return {arm.name: arm for arm in made}


def noise(sigma: float, wired: bool = False, anneal: tuple[float, float] = SHARP) -> Arm:
    """T7: the construction with relative noise, then training."""
    name = f"{'wired' if wired else 'sigma'}_{sigma:g}"
    return Arm(name, constructed=("*",), sigma=sigma, wired=wired, anneal=anneal)


def _t1(name: str) -> Iterator[Arm]:
    given = () if name.endswith("free") else _GIVEN
    for kind in ATTENTION:
        yield Arm(f"random_{kind}", given, given, attention=kind)
    if name.endswith("free"):
        keys = (*_GIVEN, "blocks.*.w_q", "blocks.*.w_k")
        for kind in ATTENTION:
            yield Arm(f"parabola_{kind}", keys, attention=kind, anneal=WARM)
        yield Arm("half_keys_constructed", keys, keys, anneal=SHARP)
        rest = ("embedding.v", "blocks.*.w_v", "blocks.*.w_o", "unembedding.*", "sharpness.*")
        yield Arm("half_values_constructed", rest, rest)
        yield from _baselines()


def _t2(name: str) -> Iterator[Arm]:
    yield Arm("random_softmax")
    yield Arm("random_entmax", attention="entmax")
    keys = (*_GIVEN, "position", "blocks.*.w_q", "blocks.*.w_k")
    yield Arm("parabola_softmax", keys, anneal=WARM)
    yield from _baselines()


def _t3(name: str) -> Iterator[Arm]:
    for kind in ATTENTION:
        yield Arm(f"random_{kind}", attention=kind)
    for supervision in ("changed", "end", "signals"):
        yield Arm(f"random_{supervision}", supervision=supervision)
    given = ("embedding.*", "position", "unembedding.*", "sharpness.*")
    heads = tuple(f"blocks.*.{w}" for w in ("w_q", "w_k", "w_v", "w_o"))
    blocks = tuple(f"blocks.*.{w}" for w in ("w_gate", "w_in", "w_out"))
    yield Arm("given_embeddings", given, given)
    yield Arm("half_attention_constructed", given + heads, given + heads, anneal=SHARP)
    yield Arm("half_feed_forward_constructed", given + blocks, given + blocks)
    yield from _baselines()


def _t4(name: str) -> Iterator[Arm]:
    yield Arm("random")
    embedded = ("embedding.*",)
    yield Arm("embeddings_constructed", embedded, embedded, anneal=SHARP)
    rest = ("blocks.*", "unembedding.*", "sharpness.*")
    yield Arm("embeddings_random", rest, rest, anneal=SHARP)


def _t5(name: str) -> Iterator[Arm]:
    yield Arm("random_softmax")
    yield Arm("random_changed", supervision="changed")
    yield Arm("random_end", supervision="end")
    yield Arm("random_signals", supervision="signals")
    yield from _baselines()


PARTS = {
    "fetch_heads": ("blocks.1.w_q", "blocks.1.w_k", "blocks.1.w_v", "blocks.1.w_o"),
    "ffn_last": ("blocks.3.w_gate", "blocks.3.w_in", "blocks.3.w_out"),
    "unembedding": ("unembedding.*", "sharpness.*"),
}
"""T6: named parts of the small machine: the heads that fetch the instruction (layer 1), the
feed-forward block that decides branches (layer 3), the unembedding."""

_EVERYTHING = (
    "embedding.*",
    "position",
    *(
        f"blocks.{layer}.{name}"
        for layer in range(4)
        for name in ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_in", "w_out")
    ),
    "unembedding.*",
    "sharpness.*",
)


def _t6(name: str) -> Iterator[Arm]:
    for part, patterns in PARTS.items():
        others = tuple(p for p in _EVERYTHING if p not in patterns)
        # Heads that must be found begin soft; the others keep their lookups sharp.
        anneal = (1 / 512, 1.0) if part == "fetch_heads" else SHARP
        yield Arm(f"new_{part}", others, others, anneal=anneal)
        yield Arm(f"only_{part}", patterns, patterns)


def _baselines() -> Iterator[Arm]:
    for name in baselines.NAMES:
        yield Arm(f"baseline_{name}", baseline=name)


def resized(task: Task, name: str) -> Task:
    """The same task under another name (T7 runs those of T1, T3 and T5; budgets go by name)."""
    return dataclasses.replace(task, name=name)
