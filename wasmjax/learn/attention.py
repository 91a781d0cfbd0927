"""Ways to turn scores into attention weights, with the gradients that training needs.

All take scores [..., L] (already times the inverse temperature), masked ones -inf, and return
weights [..., L] that are non-negative and sum to 1.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Kind = Literal["softmax", "hard", "entmax"]

# 8 units in the last place of a float32.
_ROUNDINGS = 2.0**-21


def softmax(score: jax.Array) -> jax.Array:
    """The usual one."""
    return jax.nn.softmax(score, axis=-1)


def argmax(score: jax.Array) -> jax.Array:
    """All weight on the largest score; ties share it, so that a zero query still averages.

    A tie is what a few roundings cannot tell apart: XLA may compute scores once for the maximum and
    again, rounded otherwise, for the comparison. Under equality no key might then be the best.
    """
    top = score.max(axis=-1, keepdims=True)
    best = (score >= top - _ROUNDINGS * jnp.abs(top)).astype(score.dtype)
    return best / jnp.maximum(1, best.sum(axis=-1, keepdims=True))


def hard(score: jax.Array) -> jax.Array:
    """`argmax` forwards, the gradient of `softmax` backwards (straight-through)."""
    soft = softmax(score)
    return soft + jax.lax.stop_gradient(argmax(score) - soft)


@jax.custom_vjp
def entmax(score: jax.Array) -> jax.Array:
    """1.5-entmax (Peters et al. 2019): relu(score / 2 - tau)^2, exactly 0 for most keys.

    tau is found without sorting: sum relu(z - tau)^2 - 1 is convex and falls, so Newton's method
    from max z - 1 rises to the root without passing it.
    """
    z = (score - score.max(axis=-1, keepdims=True)) / 2

    def newton(_: int, tau: jax.Array) -> jax.Array:
        rest = jnp.maximum(z - tau, 0)
        return tau + (jnp.square(rest).sum(-1, keepdims=True) - 1) / (
            2 * rest.sum(-1, keepdims=True)
        )

    start = jnp.full_like(z[..., :1], -1.0)
    # Each step doubles the digits; the start is off by a factor sqrt(L) at most.
    tau = jax.lax.fori_loop(0, 10, newton, start)
    weight = jnp.square(jnp.maximum(z - tau, 0))
    return weight / weight.sum(axis=-1, keepdims=True)


def _entmax_forward(score: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight = entmax(score)
    return weight, weight


def _entmax_backward(weight: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    root = jnp.sqrt(weight)
    mean = (root * cotangent).sum(-1, keepdims=True) / root.sum(-1, keepdims=True)
    return (root * (cotangent - mean),)


entmax.defvjp(_entmax_forward, _entmax_backward)

KINDS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": softmax,
    "hard": hard,
    "entmax": entmax,
    "argmax": argmax,
}
