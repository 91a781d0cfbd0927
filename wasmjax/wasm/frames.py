"""Frames: the slots of a call, and which of its locals must be zeroed.

From the frame pointer on: parameters (and results when it returns), the frame header that the
call writes, the other locals, the operand stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wasmjax.wasm.types import BlockType, Function, FuncType, Immediate


def header_offset(type_: FuncType) -> int:
    """The slot of the frame header, from the frame's start: above parameters and results."""
    return max(len(type_.params), len(type_.results))


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one function's values lie, as offsets from the frame pointer."""

    type: FuncType
    n_locals: int
    """Locals that are not parameters."""

    @property
    def header(self) -> int:
        return header_offset(self.type)

    @property
    def size(self) -> int:
        """Slots below the operand stack."""
        return self.header + 1 + self.n_locals

    def local(self, index: int) -> int:
        """The slot of local `index`, parameters counted first."""
        n_params = len(self.type.params)
        return index if index < n_params else self.header + 1 + index - n_params


_TERMINATORS = frozenset({"br", "br_table", "return", "unreachable"})


@dataclass(slots=True)
class _Block:
    kind: str  # "block", "loop", "if", "else"
    at_entry: int  # bit set of the locals that every path has written at its start
    at_end: int  # ... at its end, over the branches to it seen so far


def locals_to_zero(function: Function) -> list[int]:
    """Locals (not parameters) that may be read before they are written, in ascending order.

    One pass over the structured code with the set of locals that every path to here has written.
    A loop needs no second pass: the set only grows, so the paths back to its start add nothing.
    """
    everything = -1  # the set where no path leads
    n_params = len(function.type.params)
    written = (1 << n_params) - 1
    unwritten_reads = 0
    blocks = [_Block("block", written, everything)]
    for name, immediates, _ in function.body:
        if name == "local.get":
            unwritten_reads |= 1 << number(immediates) & ~written
        elif name in ("local.set", "local.tee"):
            written |= 1 << number(immediates)
        elif name in ("block", "loop", "if"):
            blocks.append(_Block(name, written, everything))
        elif name == "else":
            block = blocks[-1]
            block.kind = name
            block.at_end &= written
            written = block.at_entry
        elif name == "end":
            block = blocks.pop()
            written &= block.at_end
            if block.kind == "if":  # without an else
                written &= block.at_entry
        elif name in ("br", "br_if", "br_table"):
            for depth in _depths(immediates):
                if blocks[-1 - depth].kind != "loop":
                    blocks[-1 - depth].at_end &= written
        if name in _TERMINATORS:
            written = everything
    n_locals = n_params + len(function.locals)
    return [i for i in range(n_params, n_locals) if unwritten_reads >> i & 1]


def number(immediates: Sequence[Immediate], position: int = 0) -> int:
    """An immediate that is a number."""
    value = immediates[position]
    assert isinstance(value, int)
    return value


def block_type(immediates: Sequence[Immediate]) -> BlockType:
    """The immediate of block, loop and if."""
    (value,) = immediates
    assert isinstance(value, FuncType)
    return value


def labels(immediates: Sequence[Immediate]) -> tuple[int, ...]:
    """The label depths of br_table, the default last."""
    depths, default = immediates
    assert isinstance(depths, tuple) and isinstance(default, int)
    return (*(int(depth) for depth in depths if isinstance(depth, int)), default)


def _depths(immediates: Sequence[Immediate]) -> tuple[int, ...]:
    return labels(immediates) if len(immediates) == 2 else (number(immediates),)
