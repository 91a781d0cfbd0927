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


class Scope(Protocol):
    """What a body refers to.

    A function that is a single machine step is named by a string. A segment's slot says where its
    bytes are; active segments, which are empty once the module runs, have none.
    """

    def function(self, index: int) -> Callee | str: ...
    def library(self, name: str) -> Callee: ...
    def type_at(self, index: int) -> FuncType: ...
    def type_id(self, type_: FuncType) -> int: ...
    def global_slot(self, index: int) -> int: ...
    def segment_slot(self, index: int) -> int | None: ...
    def table_size(self) -> int: ...
    def unsupported_code(self, name: str) -> int: ...
