"""The machine's state at any point of a recorded run, by replaying what the tokens write.

Nothing here asks the weights: it is what the sequence says, to lay beside what the heads read.
Every method takes the index of the last token that counts.
"""

import dataclasses

import numpy as np

from wasmjax.explore.record import Record
from wasmjax.explore.writes import Writes
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns

_MEMORY = {isa.KIND[f"mem{size}"]: size for size in (1, 2, 4, 8)}
_OUTPUT = {isa.KIND["out"]: 1, isa.KIND["err"]: 2}


@dataclasses.dataclass(frozen=True)
class Registers:
    """Running sums: instruction pointer, stack and frame pointer, call depth, int64 [N] each."""

    ip: np.ndarray
    sp: np.ndarray
    fp: np.ndarray
    depth: np.ndarray


class State:
    """Slots, memory, output and registers of a record."""

    def __init__(self, record: Record, emitted: np.ndarray) -> None:
        self.record = record
        position = {int(field): k for k, field in enumerate(emitted)}
        self._at = {name: position[c] for name, c in columns(WASM).items() if c in position}
        self._slots = Writes(record, self._find_slots)
        self._memory = Writes(record, self._find_bytes)
        self._output = Writes(record, self._find_output, unique=False)

    def seal(self) -> None:
        """Indexes what the record has gained."""
        for writes in (self._slots, self._memory, self._output):
            writes.seal()

    def fields(self, rows_NxE: np.ndarray, name: str, count: int, base: int = 256) -> np.ndarray:
        """A number of several digits, int64 [N] (uint64 of eight)."""
        kind = np.uint64 if count == 8 else np.int64
        out = np.zeros(len(rows_NxE), kind)
        for k in range(count):
            out += rows_NxE[:, self._at[f"{name}{k}"]].astype(kind) * kind(base**k)
        return out

    def column(self, rows_NxE: np.ndarray, name: str) -> np.ndarray:
        """One field, int16 [N]."""
        return rows_NxE[:, self._at[name]]

    def registers(self, start: int, stop: int) -> Registers:
        """After each of the tokens start..stop."""
        names = [*(f"ip{k}" for k in range(WASM.ip_digits)), "sp", "fp", "depth"]
        at = [self._at[name] for name in names]
        rows = self.record.rows(start, stop)[:, at]
        sums = self.record.sums_before(start)[at] + np.cumsum(rows, axis=0, dtype=np.int64)
        weights = WASM.digit ** np.arange(WASM.ip_digits)
        ip = sums[:, : WASM.ip_digits] @ weights
        return Registers(ip, *sums[:, WASM.ip_digits :].T)

    def slots(self, index: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Values (uint64) of slots and the tokens that wrote them; -1: none."""
        writer = self._slots.last(np.arange(first, first + count), index)
        rows = self.record.rows(0, self.record.tokens)[np.maximum(writer, 0)]
        return np.where(writer < 0, np.uint64(0), self.fields(rows, "v", 8)), writer

    def memory(self, index: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the byte space and the tokens that wrote them; -1: none."""
        addresses = np.arange(first, first + count)
        writer = self._memory.last(addresses, index)
        rows = self.record.rows(0, self.record.tokens)[np.maximum(writer, 0)]
        value = self.fields(rows, "v", 8)
        shift = np.clip(addresses - self.fields(rows, "a", 4), 0, 7).astype(np.uint64)
        byte = (value >> (np.uint64(8) * shift)).astype(np.uint8)
        return np.where(writer < 0, np.uint8(0), byte), writer

    def output(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All bytes of output so far: stream (1 or 2), byte, token."""
        stream, token = self._output.until(index)
        rows = self.record.rows(0, self.record.tokens)[token]
        return stream.astype(np.uint8), self.column(rows, "v0").astype(np.uint8), token

    # -- what tokens write ------------------------------------------------------------------

    def _find_slots(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.record.rows(start, stop)
        at = np.flatnonzero(self.column(rows, "kind") == isa.KIND["slot"])
        return self.fields(rows[at], "a", 2), at + start

    def _find_bytes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.record.rows(start, stop)
        size = np.zeros(len(rows), np.int64)
        for kind, width in _MEMORY.items():
            size[self.column(rows, "kind") == kind] = width
        token = np.repeat(np.arange(len(rows)), size)
        inside = np.arange(len(token)) - np.repeat(np.cumsum(size) - size, size)
        return self.fields(rows, "a", 4)[token] + inside, token + start

    def _find_output(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.record.rows(start, stop)
        stream = np.zeros(len(rows), np.int64)
        for kind, number in _OUTPUT.items():
            stream[self.column(rows, "kind") == kind] = number
        at = np.flatnonzero(stream)
        return stream[at], at + start
