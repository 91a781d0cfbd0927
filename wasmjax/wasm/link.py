"""Linking: which functions a program consists of, and what their indices mean.

A program is a module and the functions of the runtime library that it reaches. All of them share
the module's memory, one space of instructions and one numbering of function types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.program import NOWHERE, Slot
from wasmjax.wasm import fuse, layout, runtime
from wasmjax.wasm.assemble import Code, Draft, Label
from wasmjax.wasm.body import BodyLowering
from wasmjax.wasm.frames import Frame, number
from wasmjax.wasm.operands import FusedLowering
from wasmjax.wasm.scope import Callee, MemoryPlace, TablePlace
from wasmjax.wasm.types import (
    ConstExpr,
    ExternKind,
    Function,
    FuncType,
    GlobalType,
    Import,
    Module,
)

FIRST_MEMORY = MemoryPlace(0, layout.MEMORY_PAGES_SLOT, layout.MEMORY_MAX_SLOT)
"""The memory of a program that has one."""

_CODE_LIMIT = 255 - isa.UNSUPPORTED_BASE


class LinkError(ValueError):
    """The module imports something that nobody supplies, or not with that type.

    Attributes:
      name: the import, as `module.name`.
    """

    def __init__(self, import_: Import, reason: str = "unknown import"):
        self.name = f"{import_.module}.{import_.name}"
        super().__init__(f"{reason}: {self.name} ({import_.kind.value})")


@dataclass(slots=True, eq=False)
class Linked:
    """A function of the program.

    Attributes:
      name: for traces.
      frame: its frame; without locals if the frame is too large and the body only traps.
      code: its instructions, once `Store.lower_all` has run.
      entry: where a direct call goes.
      indirect: where call_indirect goes; another label only if the frame has locals.
      unit: what its body refers to; None: its code is complete.
    """

    name: str
    unit: Unit | None
    function: Function
    frame: Frame
    code: Code = field(default_factory=Code)
    entry: Label = field(default_factory=Label)
    indirect: Label | None = None

    @property
    def callee(self) -> Callee:
        return Callee(self.function.type, self.frame.size, self.entry)


@dataclass(frozen=True, slots=True)
class GlobalPlace:
    """Where a global lies.

    Attributes:
      slot: its slot. type: its type. value: its bits, if it is immutable and has been initialised.
    """

    slot: int
    type: GlobalType
    value: int | None = None


External = Linked | str | GlobalPlace | MemoryPlace | TablePlace
"""What an import is supplied with; a function that is a single machine step is a string."""


class Unit:
    """An instance of a module: what its indices mean (`scope.Scope`).

    Args:
      store: the program it belongs to. name: of a runtime module; "" for others.
      module: the module. imports: what its imports are supplied with, in order.
      first_slot: slot of its first own global.
      memory, table: its own, if it defines them. pages: size of its memory as it is added.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        module: Module,
        imports: Sequence[External],
        first_slot: int = layout.GLOBALS_BASE,
        memory: MemoryPlace | None = None,
        table: TablePlace | None = None,
        pages: int = 0,
    ):
        self.name = name
        self.module = module
        self.store = store
        # for traces: a module without a name section still has the names of its exports
        exports = (export for export in module.exports if export.kind is ExternKind.FUNC)
        self._names = {export.index: export.name for export in exports}
        self._names |= dict(module.function_names)
        self._functions = [item for item in imports if isinstance(item, Linked | str)]
        self._globals = [item for item in imports if isinstance(item, GlobalPlace)]
        self._memory = next((item for item in imports if isinstance(item, MemoryPlace)), memory)
        self._table = next((item for item in imports if isinstance(item, TablePlace)), table)
        self._n_imported_functions = len(self._functions)
        self.initial_pages = pages
        self._n_imported_globals = len(self._globals)
        for slot, global_ in enumerate(module.globals, first_slot):
            value = None if global_.type.mutable else self.constant(global_.init)
            self._globals.append(GlobalPlace(slot, global_.type, value))
        self._segment_slots: dict[int, int] = {}
        self._element_slots: dict[int, int] = {}

    def constant(self, expression: ConstExpr) -> int:
        """A constant expression's value. Globals it gets are imported, hence known."""
        if expression.name != "global.get":
            return number(expression.immediates)
        value = self._globals[number(expression.immediates)].value
        assert value is not None, "an imported global of a constant expression is immutable"
        return value

    def linked(self, index: int) -> Linked:
        """A function that is code, by its index; it becomes part of the program."""
        if index < self._n_imported_functions:
            function = self._functions[index]
            assert isinstance(function, Linked)
            return function
        position = index - self._n_imported_functions
        name = self._names.get(index, f"func {index}")
        if self.name:
            name = f"{self.name}: {name}"
        return self.store.linked(self, self.module.functions[position], position, name)

    def function(self, index: int) -> Callee | str:
        if index < self._n_imported_functions:
            name = self._functions[index]
            if isinstance(name, str):
                return self.library(name) if runtime.find(name) else name
        return self.linked(index).callee

    def library(self, name: str) -> Callee:
        library = runtime.find(name)
        assert library is not None, name
        unit = self.store.library(library.name, self._memory)
        return unit.linked(library.functions[name]).callee

    def table_library(self, name: str) -> Callee:
        library, table = runtime.find(name), self.table()
        assert library is not None and table.address is not None, name
        # A table in bytes is the memory that the routine works on.
        region = MemoryPlace(table.address // layout.PAGE, table.end_slot, table.end_slot)
        return self.store.library(library.name, region).linked(library.functions[name]).callee

    def type_at(self, index: int) -> FuncType:
        return self.module.types[index]

    def type_id(self, type_: FuncType) -> int:
        return self.store.type_id(type_)

    def global_slot(self, index: int) -> int:
        return self._globals[index].slot

    def global_place(self, index: int) -> GlobalPlace:
        return self._globals[index]

    def segment_slot(self, index: int) -> int | None:
        if self.module.data[index].offset is not None:
            return None
        if index not in self._segment_slots:
            self._segment_slots[index] = self.store.new_slot()
        return self._segment_slots[index]

    def element_slot(self, index: int) -> int | None:
        if self.module.elements[index].offset is not None:
            return None
        if index not in self._element_slots:
            self._element_slots[index] = self.store.new_slot()
        return self._element_slots[index]

    @property
    def element_segments(self) -> dict[int, int]:
        """Passive element segments that the code refers to: index -> slot."""
        return self._element_slots

    @property
    def own_globals(self) -> list[GlobalPlace]:
        """The globals it defines."""
        return self._globals[self._n_imported_globals :]

    @property
    def segments(self) -> dict[int, int]:
        """Passive data segments that the code refers to: index -> slot."""
        return self._segment_slots

    def memory(self) -> MemoryPlace:
        assert self._memory is not None, "valid code without a memory does not ask for it"
        return self._memory

    def table(self) -> TablePlace:
        return TablePlace(0) if self._table is None else self._table

    def unsupported_code(self, name: str) -> int:
        return self.store.unsupported_code(name)


class Store:
    """The functions of a program under construction, and the slots it uses.

    Args:
      next_slot: the first slot that nothing has yet.
      fuse: lower with operand fusion.

    Attributes:
      functions: all functions found so far, in the order of their code.
      unsupported: names behind the trap codes from `isa.UNSUPPORTED_BASE` on.
      next_slot: see above.
    """

    def __init__(self, next_slot: int = layout.GLOBALS_BASE, fuse: bool = False) -> None:
        self._lowering = FusedLowering if fuse else BodyLowering
        self.functions: list[Linked] = []
        self.unsupported: list[str] = []
        self.next_slot = next_slot
        self._n_lowered = 0
        self._libraries: dict[tuple[str, MemoryPlace | None], Unit] = {}
        self._by_place: dict[tuple[int, int], Linked] = {}
        self._units: list[Unit] = []  # keeps their ids their own
        self._type_ids: dict[FuncType, int] = {}

    def library(self, name: str, memory: MemoryPlace | None) -> Unit:
        """A runtime module as a part of this program, working on a memory."""
        module = runtime.library(name).module
        uses_memory = any(import_.kind is ExternKind.MEMORY for import_ in module.imports)
        key = name, memory if uses_memory else None
        if key not in self._libraries:
            imports = [_pseudo(import_, memory) for import_ in module.imports]
            self._libraries[key] = Unit(self, name, module, imports)
        return self._libraries[key]

    def new_slot(self) -> int:
        """A slot of its own."""
        self.next_slot += 1
        return self.next_slot - 1

    def linked(self, unit: Unit, function: Function, position: int, name: str) -> Linked:
        """The function at a position among a unit's own."""
        place = id(unit), position
        linked = self._by_place.get(place)
        if linked is None:
            self._units.append(unit)
            frame = Frame(function.type, len(function.locals))
            if frame.size > WASM.frame_limit:
                frame = Frame(function.type, 0)
            linked = Linked(name, unit, function, frame)
            self._by_place[place] = linked
            self.functions.append(linked)
        return linked

    def host(self, number: int, type_: FuncType, name: str) -> Linked:
        """A function of the host: asks for it, and returns when its results are in the frame."""
        frame = Frame(type_, 0)
        linked = Linked(name, None, Function(0, type_, (), (), 0), frame)
        linked.indirect = linked.entry
        linked.code.bind(linked.entry)
        linked.code.emit(Draft("host", b=NOWHERE, imm=number, note=name))
        dsp = len(type_.results) - frame.size
        header = Slot("fp", frame.header)
        linked.code.emit(Draft("return", b=header, dsp=dsp, note="return"))
        self.functions.append(linked)
        return linked

    def type_id(self, type_: FuncType) -> int:
        """Equal types have equal ids, which start at 1."""
        return self._type_ids.setdefault(type_, len(self._type_ids) + 1)

    def unsupported_code(self, name: str) -> int:
        """The trap code that says `name` is not yet supported."""
        if name not in self.unsupported:
            if len(self.unsupported) == _CODE_LIMIT:
                self.unsupported.append("something else")
            if len(self.unsupported) > _CODE_LIMIT:
                return isa.UNSUPPORTED_BASE + _CODE_LIMIT
            self.unsupported.append(name)
        return isa.UNSUPPORTED_BASE + self.unsupported.index(name)

    def lowered(self, linked: Linked) -> bool:
        """Whether a function's code is complete."""
        return linked in self.functions[: self._n_lowered]

    def lower_all(self) -> list[Linked]:
        """Lowers every function that has not been, those found on the way included."""
        first = self._n_lowered
        while self._n_lowered < len(self.functions):
            self._n_lowered += 1
            self._lower(self.functions[self._n_lowered - 1])
        return self.functions[first:]

    def _lower(self, linked: Linked) -> None:
        if linked.unit is None:
            return
        frame, code = linked.frame, linked.code
        slots = linked.frame.header + 1 + len(linked.function.locals)
        if slots <= WASM.frame_limit:
            if linked.indirect is not None and linked.indirect is not linked.entry:
                code.bind(linked.indirect)
                code.emit(Draft("jump", dsp=frame.n_locals, note=f"{linked.name}: locals"))
            if linked.unit.name in runtime.COMPILED:
                linked.code = _fused(linked, linked.unit)
                return
            code.bind(linked.entry)
            self._lowering(linked.function, frame, linked.unit, code).run()
            if code.reach() <= WASM.frame_limit:
                return
            slots = code.reach()
        trap = self.unsupported_code(f"frame of {slots} slots")
        linked.code = code = Code()
        for label in (linked.entry, linked.indirect):
            if label is not None:
                label.alias = None
                code.bind(label)
        code.emit(Draft("trap", aux=trap, note=linked.name))


_TEMPLATES: dict[tuple[str, int], tuple[Code, Label]] = {}
"""Code and entries of fused functions, which refer to nothing of the program they are in."""


def _fused(linked: Linked, unit: Unit) -> Code:
    """The code of a compiled runtime module's function."""
    key = unit.name, linked.function.offset
    if key not in _TEMPLATES:
        code, entry = Code(), Label()
        code.bind(entry)
        BodyLowering(linked.function, linked.frame, unit, code).run()
        _TEMPLATES[key] = fuse.fuse(code, linked.frame, entry), entry
    return fuse.copy(*_TEMPLATES[key], linked.entry)


def indirect_entry(store: Store, linked: Linked) -> Label:
    """The label that call_indirect goes to."""
    if linked.indirect is None:
        linked.indirect = Label() if linked.frame.n_locals else linked.entry
        if linked.indirect is not linked.entry and store.lowered(linked):
            store.functions.append(_doorway(linked, linked.indirect))
    return linked.indirect


def _doorway(linked: Linked, label: Label) -> Linked:
    """Code that makes room for the locals of a function that has been lowered already."""
    door = Linked(f"{linked.name}: locals", None, linked.function, linked.frame, entry=label)
    door.code.bind(label)
    door.code.emit(Draft("jump", dsp=linked.frame.n_locals, after=linked.entry, note=door.name))
    return door


def _pseudo(import_: Import, memory: MemoryPlace | None) -> External:
    """What supplies a runtime module's import, for a program's memory."""
    if import_.kind is ExternKind.FUNC:
        return runtime.PRIMITIVES.get(import_.name, import_.name)
    if import_.kind is ExternKind.GLOBAL:
        if memory is not None and import_.name in ("memory_pages", "memory_max"):
            slot = memory.end_slot if import_.name == "memory_pages" else memory.max_slot
        else:
            slot = layout.hidden_slot(import_.name)
        assert isinstance(import_.type, GlobalType)
        return GlobalPlace(slot, import_.type)
    assert memory is not None
    return memory


def wasi_import(store: Store, import_: Import, memory: MemoryPlace | None) -> Linked:
    """The function that supplies an import of WASI.

    Raises:
      LinkError: if it is no function of WASI, or of another type.
    """
    if import_.kind is not ExternKind.FUNC or import_.module not in runtime.WASI_MODULES:
        raise LinkError(import_)
    index = runtime.library("wasi").functions.get(import_.name)
    if index is None:
        raise LinkError(import_)
    # Without a memory of its own a module's pointers mean nothing: every access is out of bounds.
    linked = store.library("wasi", memory or FIRST_MEMORY).linked(index)
    if linked.function.type != import_.type:
        raise LinkError(import_, "incompatible import type")
    return linked
