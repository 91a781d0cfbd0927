"""Linking: which functions a program consists of, and what their indices mean.

A program is a module and the functions of the runtime library that it reaches. All of them share
the module's memory, one space of instructions and one numbering of function types.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.wasm import layout, runtime
from wasmjax.wasm.assemble import Code, Draft, Label
from wasmjax.wasm.body import BodyLowering
from wasmjax.wasm.frames import Frame
from wasmjax.wasm.scope import Callee
from wasmjax.wasm.types import ExternKind, Function, FuncType, Import, Module

_CODE_LIMIT = 255 - isa.UNSUPPORTED_BASE


class LinkError(ValueError):
    """The module imports something that nobody supplies, or not with that type.

    Attributes:
      name: the import, as `module.name`.
    """

    def __init__(self, import_: Import, reason: str = "unknown import"):
        self.name = f"{import_.module}.{import_.name}"
        super().__init__(f"{reason}: {self.name} ({import_.kind.value})")


@dataclass(slots=True)
class Linked:
    """A function of the program.

    Attributes:
      name: for traces.
      frame: its frame; without locals if the frame is too large and the body only traps.
      code: its instructions, once `Store.lower_all` has run.
      entry: where a direct call goes.
      indirect: where call_indirect goes; another label only if the frame has locals.
    """

    name: str
    unit: Unit
    function: Function
    frame: Frame
    code: Code = field(default_factory=Code)
    entry: Label = field(default_factory=Label)
    indirect: Label | None = None

    @property
    def callee(self) -> Callee:
        return Callee(self.function.type, self.frame.size, self.entry)


class Unit:
    """A module of the program: what its indices mean (`scope.Scope`).

    Raises:
      LinkError: if an import cannot be supplied.
    """

    def __init__(self, store: Store, name: str, module: Module):
        self.name = name
        self.module = module
        self._store = store
        # for traces: a module without a name section still has the names of its exports
        exports = (export for export in module.exports if export.kind is ExternKind.FUNC)
        self._names = {export.index: export.name for export in exports}
        self._names |= dict(module.function_names)
        self._table = module.table_type()
        self._functions: list[Callee | Linked | str] = []
        self._globals: list[int] = []
        for import_ in module.imports:
            self._supply(import_)
        self._n_imported_functions = len(self._functions)
        self._globals += range(layout.GLOBALS_BASE, layout.GLOBALS_BASE + len(module.globals))

    def _supply(self, import_: Import) -> None:
        is_library = self.name in runtime.LIBRARIES
        if is_library and import_.module == runtime.PSEUDO_MODULE:
            if import_.kind is ExternKind.FUNC:
                self._functions.append(runtime.PRIMITIVES.get(import_.name, import_.name))
            elif import_.kind is ExternKind.GLOBAL:
                self._globals.append(layout.hidden_slot(import_.name))
            return
        if import_.kind is not ExternKind.FUNC or import_.module not in runtime.WASI_MODULES:
            raise LinkError(import_)
        index = runtime.library("wasi").functions.get(import_.name)
        if index is None:
            raise LinkError(import_)
        linked = self._store.unit("wasi").linked(index)
        if linked.function.type != import_.type:
            raise LinkError(import_, "incompatible import type")
        self._functions.append(linked)

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
        return self._store.linked(self, self.module.functions[position], position, name)

    def function(self, index: int) -> Callee | str:
        if index < self._n_imported_functions:
            name = self._functions[index]
            if isinstance(name, str):
                return self.library(name) if runtime.find(name) else name
        return self.linked(index).callee

    def library(self, name: str) -> Callee:
        library = runtime.find(name)
        assert library is not None, name
        return self._store.unit(library.name).linked(library.functions[name]).callee

    def type_at(self, index: int) -> FuncType:
        return self.module.types[index]

    def type_id(self, type_: FuncType) -> int:
        return self._store.type_id(type_)

    def global_slot(self, index: int) -> int:
        return self._globals[index]

    def segment_slot(self, index: int) -> int | None:
        if self.module.data[index].offset is not None:
            return None
        first = layout.GLOBALS_BASE + len(self.module.globals)
        return first + self._store.segment(index)

    def table_size(self) -> int:
        return self._table.limits.min if self._table else 0

    def unsupported_code(self, name: str) -> int:
        return self._store.unsupported_code(name)


class Store:
    """The functions of a program under construction.

    Attributes:
      functions: all functions found so far, in the order of their code.
      segments: passive data segments that the code refers to, by their index in the module.
      unsupported: names behind the trap codes from `isa.UNSUPPORTED_BASE` on.
    """

    def __init__(self) -> None:
        self.functions: list[Linked] = []
        self.segments: list[int] = []
        self.unsupported: list[str] = []
        self._units: dict[str, Unit] = {}
        self._by_place: dict[tuple[str, int], Linked] = {}
        self._type_ids: dict[FuncType, int] = {}

    def unit(self, name: str) -> Unit:
        """A library as a part of this program."""
        if name not in self._units:
            self._units[name] = Unit(self, name, runtime.library(name).module)
        return self._units[name]

    def linked(self, unit: Unit, function: Function, position: int, name: str) -> Linked:
        """The function at a position among a unit's own."""
        place = unit.name, position
        linked = self._by_place.get(place)
        if linked is None:
            frame = Frame(function.type, len(function.locals))
            if frame.size > WASM.frame_limit:
                frame = Frame(function.type, 0)
            linked = Linked(name, unit, function, frame)
            self._by_place[place] = linked
            self.functions.append(linked)
        return linked

    def type_id(self, type_: FuncType) -> int:
        """Equal types have equal ids, which start at 1."""
        return self._type_ids.setdefault(type_, len(self._type_ids) + 1)

    def segment(self, index: int) -> int:
        """The position in `segments` of a passive data segment."""
        if index not in self.segments:
            self.segments.append(index)
        return self.segments.index(index)

    def unsupported_code(self, name: str) -> int:
        """The trap code that says `name` is not yet supported."""
        if name not in self.unsupported:
            if len(self.unsupported) == _CODE_LIMIT:
                self.unsupported.append("something else")
            if len(self.unsupported) > _CODE_LIMIT:
                return isa.UNSUPPORTED_BASE + _CODE_LIMIT
            self.unsupported.append(name)
        return isa.UNSUPPORTED_BASE + self.unsupported.index(name)

    def lower_all(self) -> None:
        """Lowers every function, those found on the way included."""
        for linked in self.functions:  # grows
            self._lower(linked)

    def _lower(self, linked: Linked) -> None:
        frame, code = linked.frame, linked.code
        slots = linked.frame.header + 1 + len(linked.function.locals)
        if slots <= WASM.frame_limit:
            if linked.indirect is not None and linked.indirect is not linked.entry:
                code.bind(linked.indirect)
                code.emit(Draft("jump", dsp=frame.n_locals, note=f"{linked.name}: locals"))
            code.bind(linked.entry)
            BodyLowering(linked.function, frame, linked.unit, code).run()
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


def indirect_entry(linked: Linked) -> Label:
    """The label that call_indirect goes to. To be asked before the function is lowered."""
    if linked.indirect is None:
        linked.indirect = Label() if linked.frame.n_locals else linked.entry
    return linked.indirect
