"""Adding a module to a program: its code, its entries of the table space, its initial contents.

Everything has absolute addresses, so that modules can be added one after the other to a program
that runs already (`wasmjax.store`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.program import Instruction, TableEntry
from wasmjax.wasm import layout
from wasmjax.wasm.assemble import TABLE_SPACE, assemble
from wasmjax.wasm.errors import UnsupportedError
from wasmjax.wasm.frames import header_offset
from wasmjax.wasm.link import Linked, Store, Unit, indirect_entry
from wasmjax.wasm.scope import TablePlace
from wasmjax.wasm.types import ExternKind, FuncType, Module

TABLE_CHANGES = frozenset({"table.init", "table.copy", "elem.drop"})
"""Operators that need a table in bytes."""

ELEMENT = 4
"""Bytes of a table element in the byte space."""

NULL_ENTRY = TableEntry(0, 0, isa.TRAP["uninitialized element"])
"""What index 0 of the table space is where tables are in bytes: the null reference."""


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
class Counters:
    """What a program has used up: instructions, and entries of the table space."""

    instructions: int = 0
    table: int = 0


@dataclass(frozen=True, slots=True)
class Added:
    """What a module adds to a program.

    Attributes:
      instructions: from index `before.instructions` on.
      table: entries of the table space. globals: slots of its own globals -> initial values.
      writes: initial contents of the byte space: (address, bytes), later ones over earlier ones.
      segments: passive segments that the code refers to, slot -> bytes.
      functions: those whose code was added. after: what is used up now.
      error: why the writes are not complete, if they are not.
    """

    instructions: tuple[Instruction, ...]
    table: dict[int, TableEntry]
    globals: dict[int, int]
    writes: tuple[tuple[int, bytes], ...]
    segments: dict[int, bytes]
    functions: tuple[Linked, ...]
    after: Counters
    error: str | None = None


def add(store: Store, unit: Unit, before: Counters, partial: bool = False) -> Added:
    """Lowers a unit and what it reaches.

    Args:
      before: what the program has used up.
      partial: a segment that is out of bounds is no error yet, but ends the initial writes
        (`Added.error`), as in WebAssembly 2.0; elements come before data.

    Raises:
      InstantiationError: if a segment is out of bounds, unless `partial`.
      UnsupportedError: if the program would exceed a limit of the machine.
    """
    module, table = unit.module, unit.table()
    n_imported = len(module.imported(ExternKind.FUNC))
    for index in range(len(module.functions)):
        unit.linked(n_imported + index)
    elements, error = _elements(unit, table)
    passive = _passive_elements(unit)
    functions = store.lower_all()
    total = before.instructions + sum(len(linked.code.drafts) for linked in functions) + 1
    limit("code size", f"{total} instructions", total, WASM.code_limit)
    slots = store.next_slot - layout.GLOBALS_BASE
    what = f"{slots} globals and passive segments"
    limit("global count", what, slots, WASM.frame_limit - layout.GLOBALS_BASE)

    entries: dict[int, TableEntry] = {}
    first = before.table
    assembled_at = first
    references: dict[int, tuple[int, Linked]] = {}
    if table.address is None:
        assembled_at = max(elements, default=first - 1) + 1  # the sentinel comes last
    else:
        every = itertools.chain(elements.values(), *passive.values())
        for linked in (element for element in every if isinstance(element, Linked)):
            if id(linked) not in references:
                references[id(linked)] = assembled_at, linked
                assembled_at += 1
    n_targets = sum(len(draft.table) for linked in functions for draft in linked.code.drafts)
    what = f"{assembled_at} table elements and {n_targets} br_table targets"
    limit("table space", what, assembled_at + n_targets, TABLE_SPACE)
    assembled = assemble([linked.code for linked in functions], assembled_at, before.instructions)
    if table.address is None:
        entries |= {index: _table_entry(store, value) for index, value in elements.items()}
    entries |= {index: _table_entry(store, linked) for index, linked in references.values()}
    entries |= {assembled_at + k: TableEntry(entry) for k, entry in enumerate(assembled.tables)}

    writes = []
    if table.address is not None:
        for index, value in elements.items():
            writes.append((table.address + ELEMENT * index, _reference(references, value)))
    if error is None:
        data, error = _data(unit)
        writes += data
    if error is not None and not partial:
        raise InstantiationError(error)
    segments = {slot: module.data[index].init for index, slot in unit.segments.items()}
    for index, slot in unit.element_segments.items():
        if table.address is None:  # no table that they could get into
            segments[slot] = bytes(ELEMENT * len(passive[index]))
        else:
            segments[slot] = b"".join(_reference(references, value) for value in passive[index])
    return Added(
        instructions=assembled.instructions,
        table=entries,
        globals={
            place.slot: unit.constant(global_.init)
            for place, global_ in zip(unit.own_globals, module.globals, strict=True)
        },
        writes=tuple(writes),
        segments=segments,
        functions=tuple(functions),
        after=Counters(
            before.instructions + len(assembled.instructions),
            assembled_at + len(assembled.tables),
        ),
        error=error,
    )


def function_entry(linked: Linked, name: str | None = None) -> FunctionEntry:
    """A function as an invocation sees it; it must have been lowered."""
    type_ = linked.function.type
    return FunctionEntry(
        linked.name if name is None else name,
        type_,
        linked.entry.index(),
        header_offset(type_),
        linked.frame.size,
    )


def image_words(writes: tuple[tuple[int, bytes], ...]) -> dict[int, int]:
    """Non-zero 8-byte words of fresh memory after writes, by byte address."""
    words: dict[int, int] = {}
    for address, data in writes:
        start = address // 8 * 8
        end = -(-(address + len(data)) // 8) * 8
        image = bytearray(end - start)
        for word in (start, end - 8):
            if end > start and word in words:
                image[word - start : word - start + 8] = words[word].to_bytes(8, "little")
        image[address - start : address - start + len(data)] = data
        values = np.frombuffer(image, "<u8")
        for k, value in enumerate(values.tolist()):
            if value:
                words[start + 8 * k] = value
            else:
                words.pop(start + 8 * k, None)
    return dict(sorted(words.items()))


def memory_limits(module: Module) -> tuple[int, int | None]:
    """Initial and greatest size of a module's own memory, in pages; (0, 0): it has none."""
    if module.memory is None:
        return 0, 0
    pages = module.memory.limits.min
    limit("memory size", f"a memory of {pages} pages", pages, WASM.memory_pages)
    return pages, module.memory.limits.max


def table_size(module: Module) -> int:
    """Elements of a module's own table."""
    if module.table is None:
        return 0
    size = module.table.limits.min
    limit("table size", f"a table of {size} elements", size, WASM.table_limit)
    return size


def table_pages(size: int) -> int:
    """Pages that a table of so many elements takes in the byte space."""
    return max(1, -(-size * ELEMENT // layout.PAGE))


def limit(name: str, what: str, count: int, most: int) -> None:
    """Refuses a module that exceeds a limit of the machine."""
    if count > most:
        raise UnsupportedError(name, f"{what}, more than the machine's {most}")


def _elements(unit: Unit, table: TablePlace) -> tuple[dict[int, Linked | str], str | None]:
    """Table elements: functions, or the trap that a call of this element is; and what is wrong.

    A table in the table space has one more than its size, for indices beyond it."""
    size, elements = table.size, dict[int, Linked | str]()
    if unit.module.table_type() is None:
        return {}, None
    if table.address is None:
        elements = dict.fromkeys(range(size), "uninitialized element")
        elements[size] = "undefined element"
    for segment in unit.module.elements:
        if segment.offset is None:
            continue
        offset = unit.constant(segment.offset)
        if offset + len(segment.init) > size:
            return elements, "out of bounds table access"
        for index, function in enumerate(segment.init, offset):
            elements[index] = _element(unit, function)
    return elements, None


def _passive_elements(unit: Unit) -> dict[int, list[Linked | str]]:
    """Elements of passive segments, by index."""
    return {
        index: [_element(unit, function) for function in segment.init]
        for index, segment in enumerate(unit.module.elements)
        if segment.offset is None
    }


def _element(unit: Unit, function: int | None) -> Linked | str:
    if function is None:
        return "uninitialized element"
    linked = unit.linked(function)
    indirect_entry(unit.store, linked)
    return linked


def _table_entry(store: Store, element: Linked | str) -> TableEntry:
    if isinstance(element, str):
        return TableEntry(0, 0, isa.TRAP[element])
    return TableEntry(
        indirect_entry(store, element).index(),
        store.type_id(element.function.type),
        isa.TRAP["indirect call type mismatch"],
    )


def _reference(references: Mapping[int, tuple[int, Linked]], element: Linked | str) -> bytes:
    """A table element in the byte space."""
    index = 0 if isinstance(element, str) else references[id(element)][0]
    return index.to_bytes(ELEMENT, "little")


def _data(unit: Unit) -> tuple[list[tuple[int, bytes]], str | None]:
    """Active data segments, as writes of the byte space; and what is wrong."""
    segments = [
        (unit.constant(segment.offset), segment.init)
        for segment in unit.module.data
        if segment.offset is not None
    ]
    if not segments:
        return [], None
    place = unit.memory()
    start, end = place.base * layout.PAGE, unit.initial_pages * layout.PAGE
    writes: list[tuple[int, bytes]] = []
    for offset, data in segments:
        if offset + len(data) > end:
            return writes, "out of bounds memory access"
        writes.append((start + offset, data))
    return writes, None
