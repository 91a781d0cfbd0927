"""T1: an exact array read.

A sequence writes J addresses once each, in any order, among tokens that write nothing but carry an
address and a value all the same; then it reads. The answer is the value at the address.

Variants say what the address brings along: "free", nothing (embeddings are learned); "scalar", its
number; "parabola", its number and its square; "head", those of a writer's address, and of the
address that is asked for the number alone, which is all that the machine's heads have.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from wasmjax.circuit.language import Circuit, Vocabulary
from wasmjax.learn.model import Shape
from wasmjax.learn.tasks.base import CAUSES, Example, Task

Variant = Literal["free", "scalar", "parabola", "head"]
BOS, WRITE, READ, OTHER = range(4)


def vocabulary(addresses: int, values: int, asked: bool = False) -> tuple[Vocabulary, ...]:
    """`asked`: readers have a field of their own for the address."""
    return (
        Vocabulary("kind", 0, 4, False),
        Vocabulary("a", 0, addresses, False),
        Vocabulary("v", 0, values, True),
        *([Vocabulary("i", 0, addresses, False)] if asked else []),
    )


def circuit(
    addresses: int,
    values: int,
    embedded_square: bool,
    eps: float = 0.0,
    asked: bool = False,
) -> Circuit:
    """One head: key (2 a, -a^2 + eps t), query (a, 1) or (i, 1), value v."""
    c = Circuit(vocabulary(addresses, values, asked))
    address = c.number("a")
    square = (
        c.embed("a^2", "a", lambda a: a * a)
        if embedded_square
        else c.wire("a^2", c.reglu("a^2", address, address))
    )
    outsider = c.embed("outsider", "kind", lambda kind: float(kind != WRITE))
    space = c.parabola("array", address, square, outsider, 0, addresses - 1, eps)
    (value,) = c.read("read", space, c.number("i") if asked else address, [c.number("v")])
    c.emit("v", value)
    return c


def task(
    variant: Variant = "free",
    addresses: int = 64,
    values: int = 16,
    length: int = 256,
    reads: int = 32,
    width: int = 16,
    heads: int = 2,
    neurons: int = 16,
) -> Task:
    """The task.

    Args:
      addresses: J. values: different values. length: tokens before the reads, for training.
      reads: per sequence. width, heads, neurons: of the learner.
    """
    squares, apart = variant == "scalar", variant == "head"
    shape = Shape(
        vocabulary(addresses, values, apart),
        width,
        (0, heads) if squares else (heads,),
        (neurons, 0) if squares else (0,),
        (False, True) if squares else (True,),
        count_unit=0.0,  # order does not matter here
    )

    def sample(key: jax.Array, scale: int) -> Example:
        n = length * scale
        keys = jax.random.split(key, 5)
        place = 1 + jax.random.permutation(keys[0], n - 1)[:addresses]
        stored = jax.random.randint(keys[1], (addresses,), 0, values)
        kind = jnp.full(n, OTHER).at[0].set(BOS).at[place].set(WRITE)
        a = jax.random.randint(keys[2], (n,), 0, addresses).at[place].set(jnp.arange(addresses))
        v = jax.random.randint(keys[3], (n,), 0, values).at[place].set(stored)
        asked = jax.random.randint(keys[4], (reads,), 0, addresses)
        context = [kind, a.at[0].set(0), v.at[0].set(0)]
        none = jnp.zeros(reads, int)
        reading = [none + READ, asked, none]
        if apart:
            context, reading = [*context, jnp.zeros(n, int)], [none + READ, none, none, asked]
        return Example(
            jnp.concatenate([jnp.stack(context, -1), jnp.stack(reading, -1)]).astype(jnp.int32),
            stored[asked][:, None],
            jnp.ones((reads, 1)),
            jnp.ones((reads, 1), bool),
            jnp.zeros((reads, 0)),
            jnp.full(reads, CAUSES.index("output")),
            place[asked],
        )

    return Task(
        f"T1.{variant}",
        shape,
        ("v",),
        length,
        reads,
        sample,
        lambda: circuit(addresses, values, not squares, asked=apart),
        last_written,
        beta=32.0 * addresses**2,
    )


def last_written(tokens_LxF: jax.Array, reads: int) -> jax.Array:
    """The value of the last write of all, [reads, 1]."""
    kind, v = tokens_LxF[:, 0], tokens_LxF[:, 2]
    last = jnp.max(jnp.where(kind == WRITE, jnp.arange(len(kind)), 0))
    return jnp.full((reads, 1), v[last])
