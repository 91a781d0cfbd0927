"""T2: the latest of several writes to an address.

Like T1, but addresses are written again and again. How often a token writes decides the regime: a
sparse sequence has few writes far away, a dense one many that must not be confused. Training
mixes regimes, evaluation takes them apart (Flip-Flop Language Modelling, Liu et al. 2023).
"""

import jax
import jax.numpy as jnp

from wasmjax.learn.model import Shape
from wasmjax.learn.tasks.base import CAUSES, Example, Task
from wasmjax.learn.tasks.t1_indexed_read import (
    BOS,
    OTHER,
    READ,
    WRITE,
    circuit,
    last_written,
    vocabulary,
)

REGIMES = {"mixture": None, "sparse": 0.1, "middle": 0.5, "dense": 0.9}


def task(
    regime: str = "mixture",
    addresses: int = 16,
    values: int = 16,
    length: int = 128,
    reads: int = 32,
    width: int = 16,
    heads: int = 2,
    eps_log2: int = -12,
) -> Task:
    """The task.

    Args:
      regime: which part of tokens write ("mixture": one of the others, at random per sequence).
      eps_log2: the construction's recency weight; eps times the longest length must stay below 1/2.
    """
    shape = Shape(
        vocabulary(addresses, values), width, (heads,), (0,), (True,), count_unit=1 / length
    )

    def sample(key: jax.Array, scale: int) -> Example:
        n = length * scale
        keys = jax.random.split(key, 6)
        part = REGIMES[regime]
        rate = jax.random.choice(keys[0], jnp.array([0.1, 0.5, 0.9])) if part is None else part
        writes = (jax.random.uniform(keys[1], (n,)) < rate).at[0].set(False).at[1].set(True)
        a = jax.random.randint(keys[2], (n,), 0, addresses).at[0].set(0)
        v = jax.random.randint(keys[3], (n,), 0, values).at[0].set(0)
        kind = jnp.where(writes, WRITE, OTHER).at[0].set(BOS)
        # Where each address was written last; reads ask only for written ones.
        index = jnp.where(writes, jnp.arange(n), -1)
        last = jnp.max(jnp.where(a[:, None] == jnp.arange(addresses), index[:, None], -1), axis=0)
        asked = jax.random.categorical(keys[4], jnp.where(last >= 0, 0.0, -jnp.inf), shape=(reads,))
        reading = jnp.stack([jnp.full(reads, READ), asked, jnp.zeros(reads, int)], -1)
        return Example(
            jnp.concatenate([jnp.stack([kind, a, v], -1), reading]).astype(jnp.int32),
            v[last[asked]][:, None],
            jnp.ones((reads, 1)),
            jnp.ones((reads, 1), bool),
            jnp.zeros((reads, 0)),
            jnp.full(reads, CAUSES.index("output")),
            last[asked],
        )

    return Task(
        f"T2.{regime}",
        shape,
        ("v",),
        length,
        reads,
        sample,
        lambda: circuit(addresses, values, True, 2.0**eps_log2),
        last_written,
        gap=32.0 * 2.0**-eps_log2,
        # Between the temperature for addresses and the one for single tokens.
        beta=32.0 * addresses**2 * 2.0 ** (-eps_log2 / 2),
    )
