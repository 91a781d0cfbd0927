"""A decoded WebAssembly module, in the terms of the WebAssembly specification.

Every value here is immutable and hashable. Only what the engine supports can be expressed: there is
at most one table and one memory, and so no index for them anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias


class ValType(Enum):
    """A value type; the value of a member is its name in the text format."""

    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"
    FUNCREF = "funcref"
    """The element type of a table. No operand, local or global has it."""


@dataclass(frozen=True, slots=True)
class FuncType:
    """A function type: what a function, or a block, takes and returns."""

    params: tuple[ValType, ...]
    results: tuple[ValType, ...]


BlockType: TypeAlias = FuncType
"""The type of a block, loop or if, already resolved from its type index or shorthand."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A size range, in elements for a table and in 64 KiB pages for a memory."""

    min: int
    max: int | None


@dataclass(frozen=True, slots=True)
class TableType:
    """A table of function references."""

    element: ValType
    limits: Limits


@dataclass(frozen=True, slots=True)
class MemoryType:
    """A linear memory."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class GlobalType:
    """A global variable's type and whether it may change."""

    type: ValType
    mutable: bool


class MemArg(NamedTuple):
    """The immediate of a load or store: log2 of the alignment hint, and the static offset."""

    align: int
    offset: int


Immediate: TypeAlias = int | tuple[int, ...] | MemArg | BlockType


class Instr(NamedTuple):
    """One instruction: its name, its immediates and the byte in the file where it begins.

    What ``immediates`` holds for each instruction is told by ``opcodes.ImmediateKind``.
    A named tuple, not a dataclass: a module has tens of thousands and frozen dataclasses are slow
    to make.
    """

    name: str
    immediates: tuple[Immediate, ...]
    offset: int


ConstExpr: TypeAlias = Instr
"""A constant expression: one ``t.const`` or ``global.get``; its ``end`` is not kept."""

ExternType: TypeAlias = FuncType | TableType | MemoryType | GlobalType


class ExternKind(Enum):
    """What an import or export is; the value of a member is its name in the text format."""

    FUNC = "func"
    TABLE = "table"
    MEMORY = "memory"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Import:
    """Something the host must supply, under a two-level name."""

    module: str
    name: str
    kind: ExternKind
    type: ExternType


@dataclass(frozen=True, slots=True)
class Export:
    """Something the module offers: ``index`` counts in the index space of ``kind``."""

    name: str
    kind: ExternKind
    index: int


@dataclass(frozen=True, slots=True)
class Global:
    """A global variable that the module defines."""

    type: GlobalType
    init: ConstExpr


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the module defines.

    ``locals`` are the declared ones, parameters not among them. ``body`` is flat: blocks begin with
    ``block``, ``loop`` or ``if`` and are closed by their ``end``; the last instruction is the
    ``end`` of the function itself. ``offset`` is where the body's bytes begin in the file.
    """

    type_index: int
    type: FuncType
    locals: tuple[ValType, ...]
    body: tuple[Instr, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Element:
    """An element segment: function indices, ``None`` for a null reference.

    Active (copied into the table at ``offset`` on instantiation) unless ``offset`` is ``None``,
    which makes it passive.
    """

    offset: ConstExpr | None
    init: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Data:
    """A data segment; active at ``offset`` in memory, or passive if that is ``None``."""

    offset: ConstExpr | None
    init: bytes


@dataclass(frozen=True, slots=True)
class Custom:
    """A custom section, uninterpreted."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Module:
    """A decoded module. Index spaces count imports first, then what the module defines.

    ``function_names`` comes from the name section, if there is a well-formed one: pairs of function
    index and name, in ascending order. The methods below are linear in the module's size.
    """

    types: tuple[FuncType, ...] = ()
    imports: tuple[Import, ...] = ()
    functions: tuple[Function, ...] = ()
    table: TableType | None = None
    memory: MemoryType | None = None
    globals: tuple[Global, ...] = ()
    exports: tuple[Export, ...] = ()
    start: int | None = None
    elements: tuple[Element, ...] = ()
    data: tuple[Data, ...] = ()
    customs: tuple[Custom, ...] = ()
    function_names: tuple[tuple[int, str], ...] = ()

    def imported(self, kind: ExternKind) -> tuple[Import, ...]:
        """The imports of one kind, in the order of their index space."""
        return tuple(i for i in self.imports if i.kind is kind)

    def all_function_types(self) -> tuple[FuncType, ...]:
        """The type of every function in the function index space."""
        imported = tuple(i.type for i in self.imports if isinstance(i.type, FuncType))
        return imported + tuple(f.type for f in self.functions)

    def all_global_types(self) -> tuple[GlobalType, ...]:
        """The type of every global in the global index space."""
        imported = tuple(i.type for i in self.imports if isinstance(i.type, GlobalType))
        return imported + tuple(g.type for g in self.globals)

    def table_type(self) -> TableType | None:
        """The type of the table, imported or defined, if there is one."""
        imported = (i.type for i in self.imports if isinstance(i.type, TableType))
        return next(imported, self.table)

    def memory_type(self) -> MemoryType | None:
        """The type of the memory, imported or defined, if there is one."""
        imported = (i.type for i in self.imports if isinstance(i.type, MemoryType))
        return next(imported, self.memory)
