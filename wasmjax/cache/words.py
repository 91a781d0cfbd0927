"""Rows of small numbers, packed into words: a word is gathered once for all the columns in it.

Columns take as many bits as their values need, and columns that are read together share words.

Shapes: N rows or values, C columns, W words of a row, B lanes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Column:
    """How a column lies in a row's words: `value - bias` in `bits` bits from `shift` on.

    With 32 bits it is the float32 itself. A flag says whether the row was ever written; the
    column's value is then the row's address.
    """

    word: int
    shift: int
    bits: int
    bias: int
    flag: bool = False


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the columns of a store lie in its words.

    Attributes:
      columns: one each. words: words of a row. dtype: of a word, unsigned.
      proven: per column, whether every token's value is known to fit.
    """

    columns: tuple[Column, ...]
    words: int
    dtype: np.dtype
    proven: tuple[bool, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.words * self.dtype.itemsize

    def pack(self, data_NxC: np.ndarray) -> np.ndarray:
        """Words [N, W] of rows given by column values, float64.

        Raises:
          ValueError: if a value does not fit.
        """
        out = np.zeros((len(data_NxC), self.words), np.uint32)
        for column, values_N in zip(self.columns, data_NxC.T, strict=True):
            if column.flag:
                bits_N = np.ones(len(values_N), np.uint32)
            elif column.bits == 32:
                single_N = values_N.astype(np.float32)
                bits_N, exact = single_N.view(np.uint32), np.array_equal(single_N, values_N)
            else:
                whole_N = values_N - column.bias
                exact = bool(((whole_N >= 0) & (whole_N < 1 << column.bits)).all())
                bits_N = whole_N.astype(np.uint32) if exact else np.zeros(0, np.uint32)
                exact = exact and np.array_equal(bits_N, whole_N)
            if not column.flag and not exact:
                raise ValueError("a value of the prompt does not fit the cache's types")
            out[:, column.word] |= bits_N << np.uint32(column.shift)
        return out.astype(self.dtype)

    def unpack(self, words_NxW: np.ndarray, rows_N: np.ndarray, lo: int) -> np.ndarray:
        """Column values [N, C], float64, of rows number `rows_N` of a store that begins at `lo`."""
        out = np.zeros((len(words_NxW), len(self.columns)))
        for c, column in enumerate(self.columns):
            raw_N = words_NxW[:, column.word].astype(np.uint32) >> np.uint32(column.shift)
            if column.bits == 32:
                out[:, c] = raw_N.view(np.float32)
                continue
            value_N = raw_N.astype(np.int64) & ((1 << column.bits) - 1)
            if column.flag:
                out[:, c] = np.where(value_N, rows_N + lo, lo)
            else:
                out[:, c] = value_N + column.bias
        return out


def pack_columns(
    samples_of_C: Sequence[np.ndarray | None],
    proven: Sequence[bool],
    together: Sequence[Sequence[int]] = (),
) -> Packing:
    """The packing for columns of which these are samples; None: a flag.

    Args:
      proven: per column, whether its samples are all values there are.
      together: columns that are read together; they share words where there is room.
    """
    sizes = [
        (1, 0) if samples is None else _bits(samples, known)
        for samples, known in zip(samples_of_C, proven, strict=True)
    ]
    total = sum(bits for bits, _ in sizes)
    width = 8 if total <= 8 else 16 if total <= 16 else 32
    used: list[int] = []  # bits of every word
    columns: dict[int, Column] = {}
    groups = [*sorted(together, key=len, reverse=True), *([c] for c in range(len(sizes)))]
    for group in groups:
        left = sorted({*group} - {*columns}, key=lambda c: (-sizes[c][0], c))
        whole = sum(sizes[c][0] for c in left)
        word = next((w for w, n in enumerate(used) if n + whole <= width), len(used))
        for c in left:
            bits, bias = sizes[c]
            if word < len(used) and used[word] + bits > width:
                word = next((w for w, n in enumerate(used) if n + bits <= width), len(used))
            if word == len(used):
                used.append(0)
            columns[c] = Column(word, used[word], bits, bias, samples_of_C[c] is None)
            used[word] += bits
    in_order = tuple(columns[c] for c in range(len(sizes)))
    return Packing(in_order, len(used), np.dtype(f"u{width // 8}"), tuple(proven))


def _bits(samples: np.ndarray, known: bool) -> tuple[int, int]:
    """The fewest bits that hold samples, and the bias. 32 bits: float32.

    Where the samples may not be all, there is room to spare: 8 or 16 bits.
    """
    low, high = samples.min(), samples.max()
    if (samples == np.rint(samples)).all() and abs(low) < 2**15 and high - low < 2**16:
        bias = 0 if 0 <= low and high < (256 if high - low < 256 else 2**16) else int(low)
        bits = max(1, int(high - bias).bit_length())
        return (bits if known else 8 if bits <= 8 else 16), bias
    return 32, 0


@dataclasses.dataclass(frozen=True)
class Unpack:
    """Values that come out of gathered words in the same way.

    Attributes:
      word: the word that each lies in. column: how; all are flags, or floats, or neither.
    """

    word: np.ndarray
    column: Sequence[Column]

    def __call__(
        self, words_WxB: jax.Array, row_NxB: jax.Array | None = None, lo: int = 0
    ) -> jax.Array:
        """Values, float32 [N, B].

        Args:
          row_NxB, lo: rows that the words come from, and the address of row 0: what flags mean.
        """
        words = words_WxB.at[self.word].get(mode="promise_in_bounds")
        first = self.column[0]
        if first.bits == 32 and not first.flag:
            return jax.lax.bitcast_convert_type(words, jnp.float32)
        raw = words >> self._upright([c.shift for c in self.column], jnp.uint32)
        raw &= self._upright([(1 << c.bits) - 1 for c in self.column], jnp.uint32)
        raw = raw.astype(jnp.int32)
        if row_NxB is not None:
            return jnp.where(raw > 0, row_NxB + lo, lo).astype(jnp.float32)
        bias = [c.bias for c in self.column]
        return (raw + self._upright(bias, jnp.int32) if any(bias) else raw).astype(jnp.float32)

    @staticmethod
    def _upright(values: Sequence[int], dtype: Any) -> jax.Array:
        return jnp.asarray(np.array(values)[:, None], dtype)
