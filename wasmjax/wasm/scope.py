"""What a function body refers to by index: the seam between lowering a body and linking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wasmjax.wasm.assemble import Label
from wasmjax.wasm.types import FuncType


@dataclass(frozen=True, slots=True)
class Callee:
    """What a caller knows of a function: its type, slots below its operand stack, its entry."""

    type: FuncType
    frame_size: int
    entry: Label


@dataclass(frozen=True, slots=True)
class MemoryPlace:
    """Where a memory lies in the machine's byte space.

    Attributes:
      base: its first page. end_slot: the slot that holds the page after its last one.
      max_slot: the slot that holds where it may grow to.
    """

    base: int
    end_slot: int
    max_slot: int


@dataclass(frozen=True, slots=True)
class TablePlace:
    """Where a table lies.

    Attributes:
      size: number of elements.
      address: where its elements lie in the byte space, four bytes each: 0, or 1 + an index of the
        table space. None: it never changes, and lies in the table space itself, from index 0 on.
      end_slot: the slot that holds the page after its last byte.
    """

    size: int
    address: int | None = None
    end_slot: int = 0


class Scope(Protocol):
    """What a body refers to.

    A function that is a single machine step is named by a string. A segment's slot says where its
    bytes are; active segments, which are empty once the module runs, have none.
    """

    def function(self, index: int) -> Callee | str: ...
    def library(self, name: str) -> Callee: ...
    def table_library(self, name: str) -> Callee: ...
    def type_at(self, index: int) -> FuncType: ...
    def type_id(self, type_: FuncType) -> int: ...
    def global_slot(self, index: int) -> int: ...
    def segment_slot(self, index: int) -> int | None: ...
    def element_slot(self, index: int) -> int | None: ...
    def memory(self) -> MemoryPlace: ...
    def table(self) -> TablePlace: ...
    def unsupported_code(self, name: str) -> int: ...
