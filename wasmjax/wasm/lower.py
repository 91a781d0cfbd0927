"""Lowering: a decoded module to the flat program and initial contents that a prompt holds.

    lowered = lower(load_bytes(data), args=["collatz", "27"])
    tokens = prompt(WASM, lowered.program)
    entry = lowered.exports["_start"]

The code depends on the module alone and is kept (`lower_code`); arguments, environment variables
and stdin are added by each `lower`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wasmjax.machine.config import WASM
from wasmjax.machine.program import Instruction, Program, Slot, TableEntry
from wasmjax.wasm import layout
from wasmjax.wasm.add import (
    NULL_ENTRY,
    TABLE_CHANGES,
    Counters,
    FunctionEntry,
    InstantiationError,
    add,
    function_entry,
    image_words,
    memory_limits,
    table_pages,
    table_size,
)
from wasmjax.wasm.errors import UnsupportedError
from wasmjax.wasm.link import FIRST_MEMORY, Linked, LinkError, Store, Unit, wasi_import
from wasmjax.wasm.scope import MemoryPlace, TablePlace
from wasmjax.wasm.types import ExternKind, FuncType, Import, Module, ValType

__all__ = [
    "FunctionEntry",
    "HostImport",
    "InstantiationError",
    "LinkError",
    "Lowered",
    "LoweredCode",
    "lower",
    "lower_code",
]

DEFAULT_CALL_DEPTH = 1024
"""Calls that may be active at once."""
DEFAULT_GROWTH = 256
"""Pages by which a memory may grow, unless its own maximum or `max_pages` say otherwise."""


@dataclass(frozen=True, slots=True)
class LoweredCode:
    """What depends on the module alone; see `Lowered` and `machine.program.Program`.

    Attributes:
      segments: passive data segments that the code refers to, slot -> bytes.
      memory_base: first page of the memory in the byte space.
      pages: initial size of the memory.
      max_pages: its declared maximum, if it has one.
    """

    instructions: tuple[Instruction, ...]
    globals: Mapping[int, int]
    memory: dict[int, int]
    table: dict[int, TableEntry]
    segments: Mapping[int, bytes]
    stack_base: int
    halt: int
    unsupported: tuple[str, ...]
    exports: Mapping[str, FunctionEntry]
    global_exports: Mapping[str, tuple[int, ValType]]
    start: FunctionEntry | None
    functions: tuple[FunctionEntry, ...]
    memory_base: int
    pages: int
    max_pages: int | None


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program with its inputs.

    A function that returns reaches the instruction `program.halt`, whose token carries the first
    result; further results lie in the slots after `program.stack_base`. A halt anywhere else is
    proc_exit and its token carries the exit code.

    Attributes:
      program: everything the prompt holds before the invocation.
      exports: exported functions by name.
      global_exports: exported globals by name: slot and type.
      start: the start function, to be invoked before anything else, if there is one.
      functions: every function by ascending entry, runtime library included.
      memory_base: first page of the memory in the byte space.
    """

    program: Program
    exports: Mapping[str, FunctionEntry]
    global_exports: Mapping[str, tuple[int, ValType]]
    start: FunctionEntry | None
    functions: tuple[FunctionEntry, ...]
    memory_base: int


HostImport = tuple[str, str, FuncType]
"""A function of the host that a module may import: module name, name, type."""


def lower(
    module: Module, hosts: tuple[HostImport, ...] = (), fuse: bool = False, **inputs: Any
) -> Lowered:
    """Lowers a valid module, with the inputs of one run.

    Args:
      module: the module (`validate.load_bytes`).
      hosts: functions of the host; a request for one has its position here as its number.
      fuse: let operators read locals, globals and constants in place, and write locals directly:
        fewer steps, whose notes in a trace name all the instructions that one of them is.
      inputs: keyword arguments of `bind`.

    Raises:
      LinkError: if an import is unknown, or of another type.
      InstantiationError: if a data or element segment is out of bounds.
      UnsupportedError: if the module exceeds a limit of the machine, or starts with more pages than
        `max_pages`.
      ValueError: if an argument is out of range or the input does not fit.
    """
    return bind(lower_code(module, hosts, fuse), **inputs)


def bind(
    code: LoweredCode,
    *,
    args: Sequence[str] = (),
    environ: Sequence[str] = (),
    stdin: bytes = b"",
    clock: int = 0,
    seed: int = 0,
    call_depth: int = DEFAULT_CALL_DEPTH,
    max_pages: int | None = None,
) -> Lowered:
    """The part of `lower` that depends on the inputs of one run. Raises what it does.

    Args:
      args: the program's arguments, its own name first.
      environ: environment variables, as `NAME=value`.
      stdin: the bytes on standard input.
      clock: nanoseconds that its clocks show first; they advance when read, and by sleeping.
      seed: what its random numbers follow from.
      call_depth: active calls beyond which a call traps.
      max_pages: pages beyond which the memory cannot grow, whatever its own maximum; None:
        DEFAULT_GROWTH more than its initial size.
    """
    if not 1 <= call_depth < 65536:
        raise ValueError(f"call_depth must be in 1..65535, not {call_depth}")
    if max_pages is not None and not 0 <= max_pages <= WASM.memory_pages:
        raise ValueError(f"max_pages must be in 0..{WASM.memory_pages}, not {max_pages}")
    for name, value in (("clock", clock), ("seed", seed)):
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{name} must be in 0..{(1 << 64) - 1}, not {value}")
    inputs = layout.lay_out_inputs(args, environ, stdin, code.segments)
    # Some linkers reserve a stack of 16 MiB: what starts large must be able to grow, too.
    limits = [code.pages + DEFAULT_GROWTH if max_pages is None else max_pages, WASM.memory_pages]
    if code.pages > min(limits):
        what = f"a memory of {code.pages} pages, more than the {min(limits)} allowed"
        raise UnsupportedError("max_pages", what)
    if code.max_pages is not None:
        limits.append(code.max_pages)
    slots = {
        layout.LIMITS_SLOT: call_depth | layout.SLOT_LIMIT << 16,
        layout.MEMORY_PAGES_SLOT: code.memory_base + code.pages,
        layout.MEMORY_MAX_SLOT: min(code.memory_base + min(limits), WASM.memory_pages),
        layout.CLOCK_SLOT: clock,
        layout.RANDOM_SLOT: seed,
        **inputs.slots,
        **code.globals,
    }
    program = Program(
        instructions=code.instructions,
        slots=slots,
        memory=code.memory,
        table=code.table,
        inputs=inputs.data,
        stack_base=code.stack_base,
        halt=code.halt,
        unsupported=code.unsupported,
    )
    return Lowered(
        program, code.exports, code.global_exports, code.start, code.functions, code.memory_base
    )


@functools.lru_cache(maxsize=64)
def lower_code(
    module: Module, hosts: tuple[HostImport, ...] = (), fuse: bool = False
) -> LoweredCode:
    """The part of `lower` that depends on the module alone. Raises what `lower` does."""
    store = Store(layout.GLOBALS_BASE + len(module.globals), fuse)
    pages, max_pages = memory_limits(module)
    memory, table, before = FIRST_MEMORY, TablePlace(table_size(module)), Counters()
    slots, entries = {}, {}
    if _changes_table(module):
        # The table lies below the memory, which may grow.
        end = store.new_slot()
        memory = dataclasses.replace(memory, base=table_pages(table.size))
        table, before = TablePlace(table.size, 0, end), Counters(table=1)
        slots[end], entries[0] = memory.base, NULL_ENTRY
    own = None if module.memory is None else memory
    imports = [_supply(store, import_, hosts, own) for import_ in module.imports]
    unit = Unit(store, "", module, imports, layout.GLOBALS_BASE, own, table, pages)
    added = add(store, unit, before)
    stack_base = store.next_slot
    halt = Instruction("halt", b=Slot("abs", stack_base), note="halt")
    exports, global_exports = {}, {}
    for export in module.exports:
        if export.kind is ExternKind.FUNC:
            exports[export.name] = function_entry(unit.linked(export.index), export.name)
        elif export.kind is ExternKind.GLOBAL:
            type_ = module.all_global_types()[export.index].type
            global_exports[export.name] = unit.global_slot(export.index), type_
    start = None if module.start is None else function_entry(unit.linked(module.start))
    return LoweredCode(
        instructions=(*added.instructions, halt),
        globals=slots | added.globals,
        memory=image_words(added.writes),
        table=entries | added.table,
        segments=added.segments,
        stack_base=stack_base,
        halt=len(added.instructions),
        unsupported=tuple(store.unsupported),
        exports=exports,
        global_exports=global_exports,
        start=start,
        functions=tuple(function_entry(linked) for linked in added.functions),
        memory_base=memory.base,
        pages=pages,
        max_pages=max_pages,
    )


def _supply(
    store: Store, import_: Import, hosts: tuple[HostImport, ...], memory: MemoryPlace | None
) -> Linked:
    """The function that supplies an import. Raises LinkError."""
    for number, (module, name, type_) in enumerate(hosts):
        if (module, name) == (import_.module, import_.name):
            if import_.type != type_:
                raise LinkError(import_, "incompatible import type")
            return store.host(number, type_, f"{module}.{name}")
    return wasi_import(store, import_, memory)


def _changes_table(module: Module) -> bool:
    bodies = (function.body for function in module.functions)
    return any(instr.name in TABLE_CHANGES for body in bodies for instr in body)
