"""A run's tokens, all of them, kept compactly while the run goes on.

A `Tape` is a session that remembers what it was fed and what it generated; the `Record` behind it
can be read from other threads at any time.
"""

import threading
from collections.abc import Iterator

import numpy as np

from wasmjax.engine.decode import Engine, Session

BLOCK = 1 << 14
"""Tokens of a block: sums and indices are kept once for each."""


class Record:
    """A token sequence that grows at its end.

    Fed tokens keep every field, generated ones the emitted fields; both as int16.

    Args:
      engine: what knows the fields.

    Attributes:
      tokens, steps: how many there are, and how many of them were generated.
    """

    def __init__(self, engine: Engine) -> None:
        self._emitted = engine.emitted
        self._fields = len(engine.weights.vocabulary)
        self._rows = np.zeros((BLOCK, len(self._emitted)), np.int16)
        # Runs of tokens of one kind: where it begins, the step it begins with, the fed rows.
        self._parts: list[tuple[int, int, np.ndarray | None]] = []
        self._sums = [np.zeros(len(self._emitted), np.int64)]
        self._lock = threading.Lock()
        self.tokens = self.steps = 0

    def append(self, tokens_NxF: np.ndarray, generated: bool) -> None:
        """Takes further tokens, integers [n, F]."""
        n = len(tokens_NxF)
        if not n:
            return
        with self._lock:
            end = self.tokens + n
            if end > len(self._rows):
                grown = np.zeros(
                    (max(end, 2 * len(self._rows)), self._rows.shape[1]), self._rows.dtype
                )
                grown[: self.tokens] = self._rows[: self.tokens]
                self._rows = grown
            self._rows[self.tokens : end] = tokens_NxF[:, self._emitted]
            fed = None if generated else tokens_NxF.astype(np.int16)
            if fed is not None or not self._parts or self._parts[-1][2] is not None:
                self._parts.append((self.tokens, self.steps, fed))
            while len(self._sums) * BLOCK <= end:
                first = (len(self._sums) - 1) * BLOCK
                block = self._rows[first : first + BLOCK].sum(axis=0, dtype=np.int64)
                self._sums.append(self._sums[-1] + block)
            self.tokens = end
            self.steps += n if generated else 0

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The emitted fields of tokens start..stop, int16 [n, E]; not to be written to."""
        return self._rows[start : min(stop, self.tokens)]

    def full(self, indices_N: np.ndarray) -> np.ndarray:
        """All fields of tokens, int64 [N, F]."""
        indices_N = np.asarray(indices_N, np.int64)
        out = np.zeros((len(indices_N), self._fields), np.int64)
        out[:, self._emitted] = self._rows[indices_N]
        for begin, _, fed in [*self._parts]:
            if fed is not None:
                mine = np.flatnonzero((indices_N >= begin) & (indices_N < begin + len(fed)))
                if len(mine):
                    out[mine] = fed[indices_N[mine] - begin]
        return out

    def sums_before(self, index: int) -> np.ndarray:
        """Per emitted field the sum over all tokens before `index`, int64 [E]."""
        block = min(index // BLOCK, len(self._sums) - 1)
        return self._sums[block] + self._rows[block * BLOCK : index].sum(axis=0, dtype=np.int64)

    def index_of(self, step: int) -> int:
        """The token that step number `step` (from 0) generated.

        Raises:
          IndexError: if there is no such step yet.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"no step {step}: {self.steps} so far")
        for begin, first, fed in reversed([*self._parts]):
            if fed is None and first <= step:
                return begin + step - first
        raise AssertionError

    def parts(self) -> Iterator[tuple[int, int, int, bool]]:
        """Runs of tokens of one kind: (first token, first step, tokens, whether generated)."""
        parts = [*self._parts]
        ends = [begin for begin, _, _ in parts[1:]] + [self.tokens]
        for (begin, step, fed), end in zip(parts, ends, strict=True):
            yield begin, step, end - begin, fed is None


class Tape(Session):
    """A session that keeps a record of its whole token sequence."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.record = Record(engine)

    def feed(self, tokens_NxF: np.ndarray) -> None:
        super().feed(tokens_NxF)
        self.record.append(np.asarray(tokens_NxF), generated=False)

    def generate(self, max_steps: int, keep_all: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        for steps, tokens_NxF in super().generate(max_steps, keep_all=True):
            self.record.append(tokens_NxF, generated=True)
            yield steps, tokens_NxF
