"""What the arms are compared with: other models on the same tokens, steps and batches.

"lstm": one LSTM (Flax). "standard": two pre-norm blocks with head_dim 32 and no positions but
causality (Flax). "wide": the learner of the arms without the 2-dimensional restriction: the same
width and layers, heads as wide as the residual stream. "copy_last" has no parameters
(`Task.copy_last`).

Shapes as in `model`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from wasmjax.learn.model import Output, Shape, forward, random_params
from wasmjax.learn.tasks.base import Task

Apply = Callable[[Any, jax.Array, jax.Array | float, int], Output]


class _Tokens(nnx.Module):
    """Sum of field embeddings, [B, L, D]."""

    def __init__(self, shape: Shape, width: int, rngs: nnx.Rngs) -> None:
        self.lows = nnx.static(tuple(field.lo for field in shape.vocabulary))
        self.tables = nnx.List(
            [nnx.Embed(field.size, width, rngs=rngs) for field in shape.vocabulary]
        )

    def __call__(self, tokens_BxLxF: jax.Array) -> jax.Array:
        parts = [
            table(tokens_BxLxF[..., f] - lo)
            for f, (table, lo) in enumerate(zip(self.tables, self.lows, strict=True))
        ]
        return jnp.sum(jnp.stack(parts), axis=0)


class _Heads(nnx.Module):
    """Logits per emitted field."""

    def __init__(self, shape: Shape, width: int, rngs: nnx.Rngs) -> None:
        self.by_name = nnx.Dict(
            {
                field.name: nnx.Linear(width, field.size, rngs=rngs)
                for field in shape.vocabulary
                if field.emitted
            }
        )

    def __call__(self, x: jax.Array) -> Output:
        logits = {name: head(x) for name, head in self.by_name.items()}
        return Output(logits, jnp.zeros((*x.shape[:2], 0)))


class LSTM(nnx.Module):
    """Embedding, one LSTM layer, heads."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs, width: int = 64) -> None:
        self.tokens = _Tokens(shape, width, rngs)
        self.cell = nnx.RNN(nnx.OptimizedLSTMCell(width, width, rngs=rngs))
        self.heads = _Heads(shape, width, rngs)

    def __call__(self, tokens_BxLxF: jax.Array, tail: int) -> Output:
        x = self.cell(self.tokens(tokens_BxLxF))
        return self.heads(x[:, x.shape[1] - tail :])


class _Block(nnx.Module):
    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.before = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.between = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, tail: int) -> jax.Array:
        normed = self.before(x)
        length = x.shape[1]
        rows = slice(length - tail, length)
        mask = jnp.arange(length) <= jnp.arange(length)[rows, None]
        x = x[:, rows] + self.attention(normed[:, rows], normed, mask=mask[None, None])
        return x + self.down(jax.nn.gelu(self.up(self.between(x))))


class Standard(nnx.Module):
    """Embedding, two pre-norm blocks of two heads with head_dim 32, heads."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs, width: int = 64) -> None:
        self.tokens = _Tokens(shape, width, rngs)
        self.first = _Block(width, width // 32, rngs)
        self.second = _Block(width, width // 32, rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.heads = _Heads(shape, width, rngs)

    def __call__(self, tokens_BxLxF: jax.Array, tail: int) -> Output:
        x = self.tokens(tokens_BxLxF)
        x = self.first(x, x.shape[1])
        return self.heads(self.norm(self.second(x, tail)))


MODELS: dict[str, type] = {"lstm": LSTM, "standard": Standard}
NAMES = (*MODELS, "wide", "copy_last")


def build(name: str, task: Task) -> tuple[Callable[[jax.Array], Any], Apply]:
    """(key -> parameters, parameters and tokens -> output) of a baseline.

    Raises:
      ValueError: if there is no such baseline.
    """
    shape = task.shape
    if name == "copy_last":
        # A parameter for the form's sake: seeds are an axis of it.
        return lambda _: {"none": jnp.zeros(1)}, functools.partial(_copy_last, task)
    if name == "wide":
        wide = dataclasses.replace(
            shape, head_dim=shape.width, heads=tuple(min(1, h) for h in shape.heads)
        )
        scale = shape.width**-0.5

        def apply_wide(params: Any, tokens: jax.Array, _: jax.Array | float, tail: int) -> Output:
            return forward(params, tokens, wide, "softmax", scale, tail)

        return lambda key: random_params(key, wide), apply_wide
    if name not in MODELS:
        raise ValueError(f"unknown baseline: {name}")
    kind = MODELS[name]

    def split(key: jax.Array | int) -> Any:
        return nnx.split(kind(shape, nnx.Rngs(key)), nnx.Param, ...)

    def init(key: jax.Array) -> Any:
        return nnx.to_pure_dict(split(key)[1])

    def apply(params: Any, tokens: jax.Array, _: jax.Array | float, tail: int) -> Output:
        # Made inside the trace, for what is no parameter (counters of random numbers).
        graph, state, rest = split(0)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state, rest)(tokens, tail)

    return init, apply


def _copy_last(
    task: Task, params: Any, tokens_BxLxF: jax.Array, _: jax.Array | float, tail: int
) -> Output:
    del params
    said_BxTxE = jax.vmap(lambda tokens: task.copy_last(tokens, tail))(tokens_BxLxF)
    sizes = {field.name: field.size for field in task.shape.vocabulary}
    logits = {
        name: jax.nn.one_hot(said_BxTxE[..., e], sizes[name]) for e, name in enumerate(task.judged)
    }
    return Output(logits, jnp.zeros((*said_BxTxE.shape[:2], 0)))
