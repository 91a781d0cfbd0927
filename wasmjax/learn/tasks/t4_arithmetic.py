"""T4: the arithmetic units on bytes.

A token holds two bytes and a carry; the answer is a byte and a carry. "ffn": one token, no
attention, so everything must be done by feed-forward blocks on what the embeddings bring. "table":
the 256 rows of an arithmetic table come first, and heads may look things up there, as the machine
does.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.circuit.language import Affine, Circuit, Vocabulary, total
from wasmjax.learn.model import Shape
from wasmjax.learn.tasks.base import CAUSES, Example, Task

UNITS = ("add", "and", "or", "xor", "shl", "lt")
"""Add with carry, the three bitwise ones, shift left by b mod 8, unsigned less-than."""

ROW, ASK = range(2)


def answer(unit: str, a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(byte, carry) of a unit; arrays of integers."""
    if unit == "add":
        total = a + b + c
        return total & 255, total >> 8
    value = {
        "and": lambda: a & b,
        "or": lambda: a | b,
        "xor": lambda: a ^ b,
        "shl": lambda: (a << (b & 7)) & 255,
        "lt": lambda: (a < b).astype(a.dtype),
    }[unit]()
    return value, jnp.zeros_like(value)


def vocabulary() -> tuple[Vocabulary, ...]:
    return (
        Vocabulary("kind", 0, 2, False),
        Vocabulary("a", 0, 256, False),
        Vocabulary("b", 0, 256, False),
        Vocabulary("c", 0, 2, False),
        Vocabulary("value", 0, 256, True),
        Vocabulary("carry", 0, 3, True),  # 2 never occurs: two points determine no parabola
    )


def _bit(k: int) -> Callable[[int], float]:
    return lambda value: float(value >> k & 1)


def _shifts_by(s: int) -> Callable[[int], float]:
    return lambda value: float(value & 7 == s)


def _bits(c: Circuit, field: str) -> list[Affine]:
    return [c.embed(f"{field} bit {k}", field, _bit(k)) for k in range(8)]


def circuit(unit: str, table: bool = False) -> Circuit:
    """The reference. Bits are features of the embedding, as the machine's nibbles are."""
    c = Circuit(vocabulary())
    a, b = c.number("a"), c.number("b")
    value, carry = Affine(), Affine()
    if unit == "add":
        summed = a + b + c.number("c")
        carry = c.step("carry", summed, 256)
        value = summed - 256 * carry
        if table:  # the carry from the table: row S - 255, which clips at both ends
            (carry,) = _table(c, "carry", summed - 255, lambda j: float(j >= 1))
            value = summed - 256 * carry
    elif unit == "lt":
        value = c.step("a < b", b - a, 1)
    elif unit == "shl":
        x, shift = (
            _bits(c, "a"),
            [c.embed(f"shift {s}", "b", _shifts_by(s)) for s in range(8)],
        )
        value = total(
            2**k * c.reglu(f"{k - s} to {k}", shift[s] + x[k - s] - 1)
            for k, s in itertools.product(range(8), repeat=2)
            if s <= k
        )
    else:
        if table:
            high = [c.embed(f"{f} high", f, lambda v: v >> 4) for f in "ab"]
            low = [x - 16 * h for x, h in zip((a, b), high, strict=True)]
            both = lambda j: float((j >> 4) & (j & 15))  # noqa: E731
            (upper,) = _table(c, "high", 16 * high[0] + high[1], both)
            (lower,) = _table(c, "low", 16 * low[0] + low[1], both)
            conjunction = 16 * upper + lower
        else:
            x, y = _bits(c, "a"), _bits(c, "b")
            conjunction = total(
                2**k * c.reglu(f"and {k}", p + q - 1)
                for k, (p, q) in enumerate(zip(x, y, strict=True))
            )
        value = {"and": conjunction, "or": a + b - conjunction, "xor": a + b - 2 * conjunction}[
            unit
        ]
    c.emit("value", c.wire("value", value))
    c.emit("carry", carry)
    return c


def _table(c: Circuit, name: str, query: Affine, function: Callable[[int], float]) -> list[Affine]:
    """A lookup among the rows, whose number is in the field a."""
    key = "row"
    address = c.embed(f"{name} {key}", "a", float)
    square = c.embed(f"{name} {key}^2", "a", lambda a: a * a)
    outsider = c.embed(f"{name} outsider", "kind", lambda kind: float(kind != ROW))
    space = c.parabola(f"{name} table", address, square, outsider, 0, 255)
    feature = c.embed(f"{name} of row", "a", function)
    return c.read(name, space, query, [feature])


def task(
    unit: str, form: str = "ffn", width: int = 48, neurons: int = 64, questions: int = 64
) -> Task:
    """The task: `unit` of UNITS, `form` "ffn" or "table".

    Args:
      questions: per sequence; with a table they share its rows.
    """
    table = form == "table"
    if table and unit not in ("add", "and", "or", "xor"):
        raise ValueError(f"there is no construction with a table for {unit}")
    shape = Shape(
        vocabulary(),
        width,
        (4,) if table else (0,),
        (neurons,),
        (table,),
        count_unit=0.0,
    )

    def sample(key: jax.Array, scale: int) -> Example:
        del scale  # there is no length to extrapolate to
        keys = jax.random.split(key, 3)
        a, b = (jax.random.randint(k, (questions,), 0, 256) for k in keys[:2])
        c = jax.random.bernoulli(keys[2], 0.5, (questions,)).astype(int)
        return example(unit, a, b, c, table)

    return Task(
        f"T4.{unit}.{form}",
        shape,
        ("value", "carry"),
        256 if table else 0,
        questions,
        sample,
        lambda: circuit(unit, table),
        # The first byte.
        lambda tokens_LxF, n: jnp.stack([tokens_LxF[-n:, 1], jnp.zeros(n, int)], -1),
        beta=32.0 * 256**2 if table else 1.0,
    )


def example(unit: str, a: jax.Array, b: jax.Array, c: jax.Array, table: bool) -> Example:
    """One sequence of questions."""
    n = len(a)
    value, carry = answer(unit, a, b, c)
    zero = jnp.zeros(n, int)
    tokens = jnp.stack([zero + ASK, a, b, c, zero, zero], -1)
    if table:
        empty = jnp.zeros(256, int)
        rows = jnp.stack([empty + ROW, jnp.arange(256), empty, empty, empty, empty], -1)
        tokens = jnp.concatenate([rows, tokens])
    carries = {
        "add": a + b + c >= 256,
        "lt": a < b,
    }.get(unit, jnp.zeros(n, bool))
    return Example(
        tokens.astype(jnp.int32),
        jnp.stack([value, carry], -1),
        jnp.ones((n, 2)),
        jnp.stack([value != a, carry != 0], -1),
        jnp.zeros((n, 0)),
        jnp.where(carries, CAUSES.index("carry"), CAUSES.index("output")),
        jnp.full(n, -1),
    )


def every_input(unit: str, form: str, questions: int = 64) -> list[Example]:
    """All 131,072 inputs (pairs of bytes, with and without carry) in batches of sequences."""
    a, b, c = (
        x.ravel().reshape(-1, questions)
        for x in np.meshgrid(np.arange(256), np.arange(256), np.arange(2), indexing="ij")
    )
    make = jax.vmap(lambda a, b, c: example(unit, a, b, c, form == "table"))
    return [make(*(jnp.asarray(x[k : k + 256]) for x in (a, b, c))) for k in range(0, len(a), 256)]
