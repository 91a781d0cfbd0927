"""Arms: where training starts, what it may change, how it attends and what it is told."""

import dataclasses
import fnmatch
from typing import Any

import jax
import jax.numpy as jnp

from wasmjax.learn.model import Params, random_params
from wasmjax.learn.tasks.base import Reference, Task

SUPERVISION = ("tokens", "changed", "end", "signals")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
      name: unique within a task.
      constructed: patterns of parameters that start from the construction; the others at random.
      frozen: patterns of those among them that stay there.
      sigma: relative noise on what starts from the construction.
      wired: noise leaves zeros zero, and they cannot change: which weights there are is known.
      attention: "softmax", "hard" (straight-through) or "entmax", in the layers that look up.
      anneal: inverse temperature at the start and at the end of training, in units of the task's
        `beta`; a start of 0 means 1.
      supervision: "tokens": every judged token; "changed": fields that are not the usual ones
        weigh 100 times as much; "end": only the last token of a sequence; "signals": every token
        and the task's named signals.
      baseline: another model in place of the transformer (`baselines.MODELS`); "": none.

    A pattern matches a parameter's path: "embedding.a", "blocks.1.w_q", "unembedding.v", "*".
    """

    name: str
    constructed: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    sigma: float = 0.0
    wired: bool = False
    attention: str = "softmax"
    anneal: tuple[float, float] = (0.0, 1 / 512)
    supervision: str = "tokens"
    baseline: str = ""

    def __post_init__(self) -> None:
        if self.supervision not in SUPERVISION:
            raise ValueError(f"unknown supervision: {self.supervision}")
        if self.attention not in ("softmax", "hard", "entmax"):
            raise ValueError(f"unknown attention: {self.attention}")


def path_of(path: tuple[Any, ...]) -> str:
    """A parameter's path as text: "blocks.0.w_q"."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def matches(path: tuple[Any, ...], patterns: tuple[str, ...]) -> bool:
    return _any(path_of(path), patterns)


def start(key: jax.Array, task: Task, arm: Arm, reference: Reference) -> Params:
    """Parameters before the first step."""
    random_key, noise_key = jax.random.split(key)
    fresh = random_params(random_key, task.shape)

    def choose(path: tuple[Any, ...], drawn: jax.Array, built: jax.Array) -> jax.Array:
        if not matches(path, arm.constructed):
            return drawn
        quiet = matches(path, (*arm.frozen, "sharpness.*", "probe")) or not built.size
        if not arm.sigma or quiet:
            return built
        leaf = jax.random.fold_in(noise_key, _number(path_of(path)))
        size = jnp.abs(built) if arm.wired else sizes(built)
        return built + arm.sigma * size * jax.random.normal(leaf, built.shape)

    params = jax.tree_util.tree_map_with_path(choose, fresh, reference.params)
    # Features that are given get coordinates of their own: what else tokens bring starts beside.
    taken = _taken(reference, arm.constructed)
    for name, table in params["embedding"].items():
        if not _any(f"embedding.{name}", arm.constructed):
            params["embedding"][name] = jnp.where(taken, 0.0, table)
    if not _any("position", arm.constructed):
        params["position"] = jnp.where(taken, 0.0, params["position"])
    return params


def _taken(reference: Reference, patterns: tuple[str, ...]) -> jax.Array:
    """Residual coordinates that the embeddings among `patterns` use, bool [D]."""
    taken = jnp.zeros(reference.params["position"].shape, bool)
    for name, table in reference.params["embedding"].items():
        if _any(f"embedding.{name}", patterns):
            taken = taken | table.any(0)
    return taken


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def sizes(x: jax.Array) -> jax.Array:
    """What noise is relative to: an entry's own size; for zeros, the others' median size.

    Zeros are disturbed as well, so the sparsity pattern is no hint.
    """
    size = jnp.abs(x)
    median = jnp.nan_to_num(jnp.nanmedian(jnp.where(size > 0, size, jnp.nan)))
    return jnp.where(size > 0, size, median)


def trainable(params: Params, arm: Arm, reference: Reference) -> Params:
    """True where a parameter may change: bool arrays that broadcast against the parameters.

    Besides what the arm freezes: the coordinates of frozen embeddings, which no other field may
    write (a lookup at a sharp temperature would not survive it); and the output temperature, as
    lowering it is the quickest way down from a bad start, and no way back.
    """
    frozen = ("sharpness.*", *arm.frozen)
    taken = jnp.zeros(1, bool) if arm.baseline else _taken(reference, arm.frozen)

    def mask(path: tuple[Any, ...], built: jax.Array) -> jax.Array:
        name = path_of(path)
        if _any(name, frozen):
            return jnp.zeros((), bool)
        if arm.wired and _any(name, arm.constructed):
            return built != 0
        shared = not arm.baseline and (name == "position" or name.startswith("embedding."))
        return ~taken if shared else jnp.ones((), bool)

    return jax.tree_util.tree_map_with_path(mask, params if arm.baseline else reference.params)


def _number(name: str) -> int:
    """A number for a name, the same in every process."""
    out = 0
    for letter in name.encode():
        out = (out * 257 + letter) % (2**31 - 1)
    return out
