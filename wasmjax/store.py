"""Several modules in one store: one token sequence, imports and exports, functions of the host.

    store = vm.store()
    store.define("env", "log", store.function(["i32"], [], print))
    library = store.instantiate(wasmjax.load("library.wasm"))
    store.register("library", library)
    store.instantiate(wasmjax.load("program.wasm")).call("main")

Instantiating a module appends tokens: its code after the code so far, its memory and table in pages
of the byte space that nothing has, its globals in slots of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from wasmjax.engine.decode import Engine, Session
from wasmjax.host import HostFunction
from wasmjax.instance import Instance, Run, Trap
from wasmjax.machine.config import WASM
from wasmjax.machine.program import (
    Instruction,
    Program,
    Slot,
    TableEntry,
    prompt_addition,
    prompt_code,
)
from wasmjax.machine.tokens import token
from wasmjax.wasm import layout, link, runtime
from wasmjax.wasm.add import (
    NULL_ENTRY,
    Counters,
    FunctionEntry,
    InstantiationError,
    add,
    function_entry,
    limit,
    memory_limits,
    table_pages,
    table_size,
)
from wasmjax.wasm.errors import UnsupportedError
from wasmjax.wasm.link import GlobalPlace, Linked, LinkError, Unit, wasi_import
from wasmjax.wasm.lower import DEFAULT_CALL_DEPTH, DEFAULT_GROWTH, Lowered
from wasmjax.wasm.scope import MemoryPlace, TablePlace
from wasmjax.wasm.types import (
    ExternKind,
    GlobalType,
    Import,
    MemoryType,
    Module,
    TableType,
    ValType,
)

_STACK_BASE = WASM.frame_limit - 23
"""First slot of the operand stack: instructions can name slots up to the frame limit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """A memory of a store. maximum: as its type says, or None."""

    place: MemoryPlace
    maximum: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A table of a store. maximum: as its type says, or None."""

    place: TablePlace
    maximum: int | None


External = Linked | GlobalPlace | Memory | Table
"""A function, global, memory or table of a store."""


class Store:
    """Instances of modules that may share what they export.

    Args:
      engine: what runs them.
      version: "2.0": segments are written one after the other, and an instantiation that fails
        leaves what was written; "1.0": all bounds are checked before.
      call_depth: calls that may be active at once.
      growth: pages by which memories may grow whose maximum is not said.
      fuse: lower with operand fusion (`wasmjax.wasm.lower.lower`).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        version: Literal["1.0", "2.0"] = "2.0",
        call_depth: int = DEFAULT_CALL_DEPTH,
        growth: int = DEFAULT_GROWTH,
        fuse: bool = False,
    ) -> None:
        if not 1 <= call_depth < 65536:
            raise ValueError(f"call_depth must be in 1..65535, not {call_depth}")
        self.engine, self._partial, self._growth = engine, version == "2.0", growth
        self.session = Session(engine)
        self.linker = link.Store(fuse=fuse)
        self._defined: dict[tuple[str, str], External] = {}
        self.hosts: list[HostFunction] = []
        halt = Instruction("halt", b=Slot("abs", _STACK_BASE), note="halt")
        slots = {
            layout.LIMITS_SLOT: call_depth | layout.SLOT_LIMIT << 16,
            **{slot: 0 for slot in range(1, len(layout.HIDDEN_GLOBALS))},
        }
        # Instruction 0 is where every invocation returns to; index 0 of the table space is null.
        first = Program((halt,), {}, {}, {0: NULL_ENTRY}, b"", _STACK_BASE, 0)
        self._counters = Counters(1, 1)
        self._pages = 0
        self._inputs = 0
        self._pending: list[np.ndarray] = [
            prompt_code(WASM, first),
        ]
        self._add(slots=slots)

    # -- what modules can import ----------------------------------------------------------

    def register(self, name: str, instance: StoreInstance) -> None:
        """Makes an instance's exports importable under a module name."""
        for export, external in instance.exports.items():
            self._defined[name, export] = external

    def define(self, module: str, name: str, external: External) -> None:
        """Makes something importable."""
        self._defined[module, name] = external

    def function(
        self, params: Sequence[str], results: Sequence[str], function: Callable[..., Any]
    ) -> Linked:
        """A function of the host: see `HostFunction`. It must not call into the store."""
        host = HostFunction(params, results, function)
        self.hosts.append(host)
        linked = self.linker.host(len(self.hosts) - 1, host.type, host.name)
        added = add(self.linker, Unit(self.linker, "", Module(), ()), self._counters)
        self._add(added.instructions, added.table)
        self._counters = added.after
        return linked

    def global_(self, type_: str, bits: int, mutable: bool = False) -> GlobalPlace:
        """A global of the host."""
        slot = self.linker.new_slot()
        self._add(slots={slot: bits})
        value = None if mutable else bits
        return GlobalPlace(slot, GlobalType(ValType(type_), mutable), value)

    def memory(self, minimum: int, maximum: int | None = None) -> Memory:
        """A memory of the host, in pages.

        Raises:
          UnsupportedError: if the machine has no room for it.
        """
        most = minimum + self._growth if maximum is None else maximum
        base = self._take_pages(minimum, most)
        room = self._pages - base
        place = MemoryPlace(base, self.linker.new_slot(), self.linker.new_slot())
        slots = {place.end_slot: base + minimum, place.max_slot: base + min(most, room)}
        self._add(slots=slots)
        return Memory(place, maximum)

    def table(self, size: int, maximum: int | None = None) -> Table:
        """A table of the host. Raises what `memory` does."""
        pages = table_pages(size)
        base = self._take_pages(pages, pages)
        place = TablePlace(size, base * layout.PAGE, self.linker.new_slot())
        slots = {place.end_slot: base + pages}
        self._add(slots=slots)
        return Table(place, maximum)

    # -- instances ------------------------------------------------------------------------

    def instantiate(self, module: Module, max_steps: int | None = None) -> StoreInstance:
        """Adds an instance of a module, and runs its start function for at most `max_steps`.

        Raises:
          LinkError: if an import is unknown or of another type.
          InstantiationError: if a segment is out of bounds.
          UnsupportedError: if the store would exceed a limit of the machine.
          Trap, Exit, OutOfSteps: if the start function ends so.
          EngineError: at a limit of the machine.
        """
        found = [self._supply(import_) for import_ in module.imports]
        memory = next((item for item in found if isinstance(item, Memory)), None)
        table = next((item for item in found if isinstance(item, Table)), None)
        if module.table is not None:  # below the memory, which keeps pages to grow
            table = self.table(table_size(module), module.table.limits.max)
        if module.memory is not None:
            minimum, maximum = memory_limits(module)
            memory = self.memory(minimum, maximum)
            pages = minimum
        else:
            pages = 0 if memory is None else self.pages(memory)
        imports: list[link.External] = []
        for import_, item in zip(module.imports, found, strict=True):
            if item is None:
                place = None if memory is None else memory.place
                imports.append(wasi_import(self.linker, import_, place))
            else:
                imports.append(item.place if isinstance(item, Memory | Table) else item)
        first_slot = self.linker.next_slot
        self.linker.next_slot += len(module.globals)
        what = f"{self.linker.next_slot} globals, memories and segments in the store"
        limit("global count", what, self.linker.next_slot, _STACK_BASE)
        unit = Unit(
            self.linker,
            "",
            module,
            imports,
            first_slot,
            None if memory is None else memory.place,
            None if table is None else table.place,
            pages,
        )
        added = add(self.linker, unit, self._counters, self._partial)
        slots = dict(added.globals)
        inputs = b""
        for slot, segment in added.segments.items():
            slots[slot] = (self._inputs + len(inputs)) << 32 | len(segment)
            inputs += segment
        self._add(added.instructions, added.table, added.writes, slots, inputs)
        self._counters = added.after
        if added.error is not None:
            raise InstantiationError(added.error)
        exports: dict[str, External] = {}
        for export in module.exports:
            exports[export.name] = self._exported(unit, export.kind, export.index, memory, table)
        instance = StoreInstance(self, exports, memory)
        if module.start is not None:
            StoreRun(instance, function_entry(unit.linked(module.start)), ()).value(max_steps)
        return instance

    def pages(self, memory: Memory) -> int:
        """Current size of a memory, in pages."""
        end = StoreInstance(self, {}, None).slots(memory.place.end_slot, 1)[0]
        return end - memory.place.base

    # -- inside ---------------------------------------------------------------------------

    def take_pending(self) -> np.ndarray:
        """Tokens that were not fed yet, int32 [n, F]; they count as fed now."""
        tokens = np.concatenate([token(WASM)[None][:0], *self._pending])
        self._pending = []
        return tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the sequence so far, and of what was not fed yet."""
        return self.session.tokens + sum(map(len, self._pending))

    @property
    def has_pending(self) -> bool:
        """Whether there are tokens that were not fed yet."""
        return bool(self._pending)

    def _take_pages(self, minimum: int, most: int) -> int:
        """Pages of the byte space: `minimum`, and room to grow to `most` if there is."""
        base, left = self._pages, WASM.memory_pages - self._pages
        if minimum > left:
            what = f"a memory or table of {minimum} pages in a store that has {left} left"
            raise UnsupportedError("memory size", what)
        # Not all that is left: another module may come.
        self._pages += max(minimum, min(most, left - left // 8))
        return base

    def _add(
        self,
        instructions: Sequence[Instruction] = (),
        table: dict[int, TableEntry] | None = None,
        writes: Iterable[tuple[int, bytes]] = (),
        slots: dict[int, int] | None = None,
        inputs: bytes = b"",
    ) -> None:
        """Appends to the program: see `machine.program.prompt_addition`."""
        tokens = prompt_addition(
            WASM,
            first=self._counters.instructions,
            instructions=instructions,
            table=table or {},
            writes=writes,
            slots=slots or {},
            first_input=self._inputs,
            inputs=inputs,
        )
        self._pending.append(tokens)
        self._inputs += len(inputs)

    def _supply(self, import_: Import) -> External | None:
        """What an import is supplied with; None: WASI.

        Raises:
          LinkError: if there is nothing, or something of another type.
        """
        external = self._defined.get((import_.module, import_.name))
        if external is None:
            if import_.module in runtime.WASI_MODULES:
                return None
            raise LinkError(import_)
        if not self._matches(external, import_.type):
            raise LinkError(import_, "incompatible import type")
        return external

    def _matches(self, external: External, type_: object) -> bool:
        if isinstance(external, Linked):
            return type_ == external.function.type
        if isinstance(external, GlobalPlace):
            return type_ == external.type
        if isinstance(external, Table):
            if not isinstance(type_, TableType):
                return False
            size = external.place.size
        else:
            if not isinstance(type_, MemoryType):
                return False
            size = self.pages(external)
        wanted = type_.limits
        if size < wanted.min:
            return False
        most = external.maximum
        return wanted.max is None or (most is not None and most <= wanted.max)

    def _exported(
        self, unit: Unit, kind: ExternKind, index: int, memory: Memory | None, table: Table | None
    ) -> External:
        if kind is ExternKind.FUNC:
            return unit.linked(index)
        if kind is ExternKind.GLOBAL:
            return unit.global_place(index)
        external = memory if kind is ExternKind.MEMORY else table
        assert external is not None
        return external


class StoreInstance(Instance):
    """An instance in a store. Its methods are those of `Instance`.

    Attributes:
      exports: what it exports, by name.
    """

    def __init__(self, store: Store, exports: dict[str, External], memory: Memory | None) -> None:
        self.store, self.exports, self._memory = store, exports, memory
        self.engine, self.session, self.hosts = store.engine, store.session, store.hosts
        program = Program((), {}, {}, {}, b"", _STACK_BASE, 0)
        functions = {
            name: function_entry(external, name)
            for name, external in exports.items()
            if isinstance(external, Linked)
        }
        globals_ = {
            name: (external.slot, external.type.type)
            for name, external in exports.items()
            if isinstance(external, GlobalPlace)
        }
        base = 0 if memory is None else memory.place.base
        self.lowered = Lowered(program, functions, globals_, None, (), base)

    def _unfed(self) -> np.ndarray:
        return self.store.take_pending()

    @property
    def memory_pages(self) -> int:
        """Current size of the memory in 64-KiB pages."""
        return 0 if self._memory is None else self.store.pages(self._memory)

    def global_bits(self, name: str) -> int:
        """The bits of an exported global. Raises KeyError if there is no such global."""
        external = self.exports[name]
        if not isinstance(external, GlobalPlace):
            raise KeyError(f"the module exports no global {name!r}")
        return self.slots(external.slot, 1)[0]

    def _run(self, entry: FunctionEntry, args: Sequence[int]) -> Run:
        return StoreRun(self, entry, args)

    def _flush(self) -> None:
        if self.store.has_pending:
            self._nothing()


class StoreRun(Run):
    """One invocation in a store."""

    instance: StoreInstance

    @property
    def unsupported(self) -> tuple[str, ...]:
        return tuple(self.instance.store.linker.unsupported)


__all__ = ["Memory", "Store", "StoreInstance", "Table", "Trap"]
