"""Lowering: a decoded module to the flat program and initial contents that a prompt holds.

    lowered = lower(load_bytes(data), args=["collatz", "27"])
    tokens = prompt(WASM, lowered.program)
    entry = lowered.exports["_start"]

The code depends on the module alone and is kept (`lower_code`); arguments, environment variables
and stdin are added by each `lower`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.program import Instruction, Program, Slot, TableEntry
from wasmjax.wasm import layout
from wasmjax.wasm.assemble import TABLE_SPACE, assemble
from wasmjax.wasm.errors import UnsupportedError
from wasmjax.wasm.frames import header_offset, number
from wasmjax.wasm.link import Linked, LinkError, Store, Unit, indirect_entry
from wasmjax.wasm.types import ConstExpr, ExternKind, FuncType, Module, ValType

__all__ = [
    "FunctionEntry",
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


class InstantiationError(RuntimeError):
    """The module's data or elements do not fit its memory or table; the message is the trap's."""


@dataclass(frozen=True, slots=True)
class FunctionEntry:
    """What an invocation needs to know of a function (see `machine.program.invocation`).

    Attributes:
      name: for messages.
      type: its type.
      entry: instruction index of its direct entry.
      header: slots between the frame's start and its header.
      frame_size: slots from the frame's start to the operand stack.
    """

    name: str
    type: FuncType
    entry: int
    header: int
    frame_size: int


@dataclass(frozen=True, slots=True)
class LoweredCode:
    """What depends on the module alone; see `Lowered` and `machine.program.Program`.

    Attributes:
      segments: passive data segments that the code refers to, slot -> bytes.
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
    """

    program: Program
    exports: Mapping[str, FunctionEntry]
    global_exports: Mapping[str, tuple[int, ValType]]
    start: FunctionEntry | None
    functions: tuple[FunctionEntry, ...]


def lower(
    module: Module,
    *,
    args: Sequence[str] = (),
    environ: Sequence[str] = (),
    stdin: bytes = b"",
    clock: int = 0,
    seed: int = 0,
    call_depth: int = DEFAULT_CALL_DEPTH,
    max_pages: int | None = None,
) -> Lowered:
    """Lowers a valid module, with the inputs of one run.

    Args:
      module: the module (`validate.load_bytes`).
      args: the program's arguments, its own name first.
      environ: environment variables, as `NAME=value`.
      stdin: the bytes on standard input.
      clock: nanoseconds that its clocks show first; they advance when read, and by sleeping.
      seed: what its random numbers follow from.
      call_depth: active calls beyond which a call traps.
      max_pages: pages beyond which the memory cannot grow, whatever its own maximum; None:
        DEFAULT_GROWTH more than its initial size.

    Raises:
      LinkError: if an import is unknown.
      InstantiationError: if a data or element segment is out of bounds.
      UnsupportedError: if the module exceeds a limit of the machine, or starts with more pages than
        `max_pages`.
      ValueError: if an argument is out of range or the input does not fit.
    """
    return bind(
        lower_code(module),
        args=args,
        environ=environ,
        stdin=stdin,
        clock=clock,
        seed=seed,
        call_depth=call_depth,
        max_pages=max_pages,
    )


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
    """The part of `lower` that depends on the inputs of one run. Takes and raises what it does."""
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
        layout.MEMORY_PAGES_SLOT: code.pages,
        layout.MEMORY_MAX_SLOT: min(limits),
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
    return Lowered(program, code.exports, code.global_exports, code.start, code.functions)


@functools.lru_cache(maxsize=64)
def lower_code(module: Module) -> LoweredCode:
    """The part of `lower` that depends on the module alone. Raises what `lower` does."""
    store = Store()
    unit = Unit(store, "", module)
    n_imported = len(module.imported(ExternKind.FUNC))
    for index in range(len(module.functions)):
        unit.linked(n_imported + index)
    elements = _elements(module, unit)
    pages, max_pages = _memory_limits(module)
    memory = _memory_image(module, pages)
    store.lower_all()
    instructions = sum(len(linked.code.drafts) for linked in store.functions) + 1  # and halt
    _limit("code size", f"{instructions} instructions", instructions, WASM.code_limit)
    first_segment = layout.GLOBALS_BASE + len(module.globals)
    stack_base = first_segment + len(store.segments)
    _limit(
        "global count",
        f"{len(module.globals)} globals and {len(store.segments)} passive data segments",
        stack_base - layout.GLOBALS_BASE,
        WASM.frame_limit - layout.GLOBALS_BASE,
    )

    size = max(elements) + 1 if elements else 0  # the sentinel comes last
    n_targets = sum(len(draft.table) for linked in store.functions for draft in linked.code.drafts)
    what = f"{size} table elements and {n_targets} br_table targets"
    _limit("table space", what, size + n_targets, TABLE_SPACE)
    assembled = assemble([linked.code for linked in store.functions], size)
    table = {index: _table_entry(store, value) for index, value in elements.items()}
    table |= {size + k: TableEntry(entry) for k, entry in enumerate(assembled.tables)}
    halt = Instruction("halt", b=Slot("abs", stack_base), note="halt")
    exports, global_exports = {}, {}
    for export in module.exports:
        if export.kind is ExternKind.FUNC:
            exports[export.name] = _entry(unit.linked(export.index), export.name)
        elif export.kind is ExternKind.GLOBAL:
            type_ = module.all_global_types()[export.index].type
            global_exports[export.name] = unit.global_slot(export.index), type_
    start = None if module.start is None else _entry(unit.linked(module.start))
    return LoweredCode(
        instructions=(*assembled.instructions, halt),
        globals={layout.GLOBALS_BASE + k: _constant(g.init) for k, g in enumerate(module.globals)},
        memory=memory,
        table=table,
        segments={first_segment + k: module.data[i].init for k, i in enumerate(store.segments)},
        stack_base=stack_base,
        halt=len(assembled.instructions),
        unsupported=tuple(store.unsupported),
        exports=exports,
        global_exports=global_exports,
        start=start,
        functions=tuple(_entry(linked) for linked in store.functions),
        pages=pages,
        max_pages=max_pages,
    )


def _entry(linked: Linked, name: str | None = None) -> FunctionEntry:
    type_ = linked.function.type
    return FunctionEntry(
        linked.name if name is None else name,
        type_,
        linked.entry.index(),
        header_offset(type_),
        linked.frame.size,
    )


def _constant(expression: ConstExpr) -> int:
    """A constant expression's value. Globals cannot be imported, so it is a number."""
    assert expression.name != "global.get"
    return number(expression.immediates)


def _elements(module: Module, unit: Unit) -> dict[int, Linked | str]:
    """Table elements: functions, or the trap that a call of this element is. One more than the
    table has, for indices beyond it."""
    type_ = module.table_type()
    if type_ is None:
        return {}
    size = type_.limits.min
    _limit("table size", f"a table of {size} elements", size, WASM.table_limit)
    elements: dict[int, Linked | str] = dict.fromkeys(range(size), "uninitialized element")
    elements[size] = "undefined element"
    for segment in module.elements:
        if segment.offset is None:
            continue
        offset = _constant(segment.offset)
        if offset + len(segment.init) > size:
            raise InstantiationError("out of bounds table access")
        for index, function in enumerate(segment.init, offset):
            if function is None:
                elements[index] = "uninitialized element"
            else:
                elements[index] = linked = unit.linked(function)
                indirect_entry(linked)
    return elements


def _table_entry(store: Store, element: Linked | str) -> TableEntry:
    if isinstance(element, str):
        return TableEntry(0, 0, isa.TRAP[element])
    return TableEntry(
        indirect_entry(element).index(),
        store.type_id(element.function.type),
        isa.TRAP["indirect call type mismatch"],
    )


def _memory_limits(module: Module) -> tuple[int, int | None]:
    type_ = module.memory_type()
    if type_ is None:
        return 0, 0
    pages = type_.limits.min
    _limit("memory size", f"a memory of {pages} pages", pages, WASM.memory_pages)
    return pages, type_.limits.max


def _limit(name: str, what: str, count: int, most: int) -> None:
    """Refuses a module that exceeds a limit of the machine."""
    if count > most:
        raise UnsupportedError(name, f"{what}, more than the machine's {most}")


def _memory_image(module: Module, pages: int) -> dict[int, int]:
    """Non-zero 8-byte words of the active data segments, by byte address."""
    segments = [(_constant(s.offset), s.init) for s in module.data if s.offset is not None]
    end = max((offset + len(data) for offset, data in segments), default=0)
    if end > pages * layout.PAGE:
        raise InstantiationError("out of bounds memory access")
    image = bytearray(-(-end // 8) * 8)
    for offset, data in segments:
        image[offset : offset + len(data)] = data
    words = np.frombuffer(image, "<u8")
    return {8 * int(index): int(words[index]) for index in np.flatnonzero(words)}
