"""The binary format: bytes -> ``Module``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from . import opcodes
from .code import NUMBER_TYPES, read_body, read_const_expr, read_element_expr, unknown_type
from .errors import (
    DecodeError,
    MalformedError,
    NotWasmError,
    TruncatedError,
    UnsupportedError,
    ValidationError,
)
from .reader import Reader
from .types import (
    Custom,
    Data,
    Element,
    Export,
    ExternKind,
    ExternType,
    Function,
    FuncType,
    Global,
    GlobalType,
    Import,
    Instr,
    Limits,
    MemoryType,
    Module,
    TableType,
    ValType,
)

__all__ = [
    "DecodeError",
    "MalformedError",
    "NotWasmError",
    "TruncatedError",
    "UnsupportedError",
    "ValidationError",
    "decode",
]

MAX_LOCALS = 50_000
"""The most parameters and locals of one function."""
MAX_MODULE_LOCALS = 4_000_000
"""The most locals of all functions together: a few bytes can declare thousands."""

_MAGIC = b"\0asm"
_VERSION = b"\x01\0\0\0"
_COMPONENT_VERSIONS = (b"\x0d\0\x01\0", b"\x0a\0\x01\0")

# Sections in the order in which they must come; custom sections (0) may stand anywhere.
_ORDER = {
    1: "type", 2: "import", 3: "function", 4: "table", 5: "memory", 6: "global", 7: "export",
    8: "start", 9: "element", 12: "data count", 10: "code", 11: "data",
}  # fmt: skip
_RANK = {section: rank for rank, section in enumerate(_ORDER)}
_TAG_SECTION = 13
_KINDS = (ExternKind.FUNC, ExternKind.TABLE, ExternKind.MEMORY, ExternKind.GLOBAL)
_TAG_KIND = 4

_T = TypeVar("_T")


def decode(data: bytes) -> Module:
    """The module that ``data`` encodes.

    Checks the binary format, and that only supported features are used; typing is checked by
    ``validate``. Raises ``NotWasmError``, ``TruncatedError``, ``MalformedError``,
    ``UnsupportedError`` or ``ValidationError``, all of them ``DecodeError``.
    """
    data = bytes(data)
    _check_preamble(data)
    sections, customs = _split(data)
    return _Decoder(sections, len(data)).module(customs)


def _check_preamble(data: bytes) -> None:
    if not data:
        raise NotWasmError("the file is empty")
    if data[:4] != _MAGIC[: len(data)]:
        raise NotWasmError("the first four bytes are not 00 61 73 6d", 0)
    if len(data) < 8:
        raise TruncatedError("the file ends within the preamble", len(data))
    if data[4:8] in _COMPONENT_VERSIONS:
        raise UnsupportedError(opcodes.COMPONENT_MODEL, "a component, not a module", 4)
    if data[4:8] != _VERSION:
        raise NotWasmError(f"version {int.from_bytes(data[4:8], 'little')} instead of 1", 4)


def _split(data: bytes) -> tuple[dict[int, Reader], tuple[Custom, ...]]:
    """Cut the file into a reader for each known section, and the custom sections."""
    r = Reader(data, 0, "", TruncatedError)
    r.pos = 8
    sections: dict[int, Reader] = {}
    customs: list[Custom] = []
    last = -1
    while not r.at_end():
        start = r.offset
        number = r.byte()
        name = "custom" if number == 0 else _ORDER.get(number)
        if number == _TAG_SECTION:
            raise UnsupportedError(opcodes.EXCEPTIONS, "a tag section", start)
        if name is None:
            raise MalformedError(f"unknown section {number}", start)
        size = r.u32()
        if size > len(data) - r.pos:
            raise TruncatedError(
                f"the {name} section has {size} bytes but {len(data) - r.pos} are left", start
            )
        section = Reader(b"", r.offset, f"the {name} section")
        section.data = r.take(size)
        if number == 0:
            customs.append(Custom(section.name(), section.data[section.pos :]))
            continue
        if number in sections:
            raise MalformedError(f"a second {name} section", start)
        if _RANK[number] < last:
            raise MalformedError(f"the {name} section is out of order", start)
        last = _RANK[number]
        sections[number] = section
    return sections, tuple(customs)


class _Decoder:
    """Decodes sections in turn; each may need what earlier ones declared."""

    def __init__(self, sections: dict[int, Reader], size: int) -> None:
        self.sections = sections
        self.size = size
        self.locals_left = MAX_MODULE_LOCALS

    def module(self, customs: tuple[Custom, ...]) -> Module:
        self.types = self.vector(1, _func_type)
        imports = self.vector(2, self.import_)
        self.imported_functions = sum(i.kind is ExternKind.FUNC for i in imports)
        type_indices = self.vector(3, self.type_index)
        tables = self.vector(4, _table_type)
        memories = self.vector(5, _memory_type)
        self.at_most_one(imports, tables, memories)
        globals_ = self.vector(6, _global)
        exports = self.vector(7, _export)
        start = self.single(8)
        elements = self.vector(9, _element)
        self.data_count = self.single(12)
        functions = self.functions(type_indices)
        data = self.vector(11, _data)
        if self.data_count is not None and self.data_count != len(data):
            raise MalformedError(
                f"the data count section says {self.data_count} segments, there are {len(data)}",
                self.offset(11),
            )
        return Module(
            types=self.types,
            imports=imports,
            functions=functions,
            table=tables[0] if tables else None,
            memory=memories[0] if memories else None,
            globals=globals_,
            exports=exports,
            start=start,
            elements=elements,
            data=data,
            customs=customs,
            function_names=_function_names(customs),
        )

    def offset(self, number: int) -> int:
        """Where a section's contents begin, or the end of the file if it is absent."""
        section = self.sections.get(number)
        return self.size if section is None else section.base

    def vector(self, number: int, item: Callable[[Reader], _T]) -> tuple[_T, ...]:
        """All items of a section that is a vector; none if it is absent."""
        r = self.sections.get(number)
        if r is None:
            return ()
        items = _vector(r, item)
        _finish(r)
        return items

    def single(self, number: int) -> int | None:
        """The number that is all of a section; ``None`` if it is absent."""
        r = self.sections.get(number)
        if r is None:
            return None
        value = r.u32()
        _finish(r)
        return value

    def type_index(self, r: Reader) -> int:
        start = r.offset
        index = r.u32()
        if index >= len(self.types):
            raise ValidationError(f"type {index} does not exist", start, r.where)
        return index

    def import_(self, r: Reader) -> Import:
        module = r.name()
        name = r.name()
        kind = _extern_kind(r)
        extern: ExternType
        if kind is ExternKind.FUNC:
            extern = self.types[self.type_index(r)]
        elif kind is ExternKind.TABLE:
            extern = _table_type(r)
        elif kind is ExternKind.MEMORY:
            extern = _memory_type(r)
        else:
            extern = _global_type(r)
        return Import(module, name, kind, extern)

    def at_most_one(
        self,
        imports: tuple[Import, ...],
        tables: tuple[TableType, ...],
        memories: tuple[MemoryType, ...],
    ) -> None:
        count = len(tables) + sum(i.kind is ExternKind.TABLE for i in imports)
        if count > 1:
            raise UnsupportedError(
                opcodes.REFERENCE_TYPES, f"{count} tables", self.offset(4 if tables else 2)
            )
        count = len(memories) + sum(i.kind is ExternKind.MEMORY for i in imports)
        if count > 1:
            raise UnsupportedError(
                opcodes.MULTI_MEMORY, f"{count} memories", self.offset(5 if memories else 2)
            )

    def functions(self, type_indices: tuple[int, ...]) -> tuple[Function, ...]:
        r = self.sections.get(10, Reader(b"\0", self.size, "the code section"))
        start = r.offset
        count = r.u32()
        if count != len(type_indices):
            raise MalformedError(
                f"the function section declares {len(type_indices)} functions, "
                f"the code section has {count}",
                start,
            )
        functions = tuple(
            [self.function(r, n, type_index) for n, type_index in enumerate(type_indices)]
        )
        _finish(r)
        return functions

    def function(self, section: Reader, number: int, type_index: int) -> Function:
        start = section.offset
        where = f"function {self.imported_functions + number}"
        size = section.u32()
        if size > len(section.data) - section.pos:
            raise MalformedError("the body goes beyond the code section", start, where)
        offset = section.offset
        r = Reader(section.take(size), offset, where)
        functype = self.types[type_index]
        locals_ = self.locals(r, len(functype.params))
        body = read_body(r, self.types, self.data_count is not None)
        return Function(type_index, functype, locals_, body, offset)

    def locals(self, r: Reader, params: int) -> tuple[ValType, ...]:
        result: list[ValType] = []
        for _ in range(r.u32()):
            start = r.offset
            count = r.u32()
            if params + len(result) + count > MAX_LOCALS:
                what = f"{params + len(result) + count} parameters and locals"
                limit = f"at most {MAX_LOCALS} in a function"
                raise UnsupportedError(limit, what, start, r.where)
            self.locals_left -= count
            if self.locals_left < 0:
                limit = f"at most {MAX_MODULE_LOCALS} in a module"
                raise UnsupportedError(limit, "too many locals", start, r.where)
            result += [_val_type(r)] * count
        return tuple(result)


def _vector(r: Reader, item: Callable[[Reader], _T]) -> tuple[_T, ...]:
    # Every item takes at least a byte, so a false count ends with the section, not with memory.
    return tuple([item(r) for _ in range(r.u32())])


def _finish(r: Reader) -> None:
    if not r.at_end():
        raise MalformedError(f"{len(r.data) - r.pos} bytes are left over", r.offset, r.where)


def _val_type(r: Reader) -> ValType:
    start = r.offset
    byte = r.byte()
    valtype = NUMBER_TYPES.get(byte)
    if valtype is None:
        raise unknown_type(byte, "value type", start, r)
    return valtype


def _func_type(r: Reader) -> FuncType:
    start = r.offset
    byte = r.byte()
    if byte != 0x60:
        raise unknown_type(byte, "type", start, r)
    return FuncType(_vector(r, _val_type), _vector(r, _val_type))


def _limits(r: Reader, flags_refused: dict[int, str]) -> Limits:
    start = r.offset
    flags = r.byte()
    for bit, feature in flags_refused.items():
        if flags < 0x80 and flags & bit:
            raise UnsupportedError(feature, f"limits of kind {flags:#04x}", start, r.where)
    if flags > 1:
        raise r.malformed(f"unknown kind of limits {flags:#04x}", start)
    minimum = r.u32()
    return Limits(minimum, r.u32() if flags else None)


def _table_type(r: Reader) -> TableType:
    start = r.offset
    byte = r.byte()
    if byte == 0x40:
        what = "a table with an initial value"
        raise UnsupportedError(opcodes.FUNCTION_REFERENCES, what, start, r.where)
    if byte != 0x70:
        raise unknown_type(byte, "table element type", start, r)
    return TableType(ValType.FUNCREF, _limits(r, {4: opcodes.MEMORY64, 2: opcodes.THREADS}))


def _memory_type(r: Reader) -> MemoryType:
    refused = {4: opcodes.MEMORY64, 2: opcodes.THREADS, 8: opcodes.CUSTOM_PAGE_SIZES}
    return MemoryType(_limits(r, refused))


def _global_type(r: Reader) -> GlobalType:
    valtype = _val_type(r)
    start = r.offset
    mutable = r.byte()
    if mutable > 1:
        raise r.malformed(f"mutability {mutable:#04x} is neither 0 nor 1", start)
    return GlobalType(valtype, bool(mutable))


def _global(r: Reader) -> Global:
    return Global(_global_type(r), read_const_expr(r))


def _extern_kind(r: Reader) -> ExternKind:
    start = r.offset
    byte = r.byte()
    if byte == _TAG_KIND:
        raise UnsupportedError(opcodes.EXCEPTIONS, "a tag", start, r.where)
    if byte >= len(_KINDS):
        raise r.malformed(f"unknown kind of import or export {byte:#04x}", start)
    return _KINDS[byte]


def _export(r: Reader) -> Export:
    name = r.name()
    return Export(name, _extern_kind(r), r.u32())


def _element(r: Reader) -> Element:
    start = r.offset
    flags = r.u32()
    if flags > 7:
        raise r.malformed(f"unknown kind of element segment {flags}", start)
    passive, explicit, expressions = flags & 1, flags & 2, flags & 4
    offset: Instr | None = None
    if passive and explicit:
        what = "a declarative element segment"
        raise UnsupportedError(opcodes.REFERENCE_TYPES, what, start, r.where)
    if not passive:
        table = r.u32() if explicit else 0
        if table:
            what = f"an element segment for table {table}"
            raise UnsupportedError(opcodes.REFERENCE_TYPES, what, start, r.where)
        offset = read_const_expr(r)
    if passive or explicit:
        kind_at = r.offset
        kind = r.byte()
        if expressions and kind != 0x70:
            raise unknown_type(kind, "element type", kind_at, r)
        if not expressions and kind != 0:
            raise r.malformed(f"unknown element kind {kind:#04x}", kind_at)
    items: tuple[int | None, ...]
    items = _vector(r, read_element_expr) if expressions else _vector(r, Reader.u32)
    return Element(offset, items)


def _data(r: Reader) -> Data:
    start = r.offset
    flags = r.u32()
    if flags > 2:
        raise r.malformed(f"unknown kind of data segment {flags}", start)
    if flags == 2 and (memory := r.u32()):
        what = f"a data segment for memory {memory}"
        raise UnsupportedError(opcodes.MULTI_MEMORY, what, start, r.where)
    offset = None if flags == 1 else read_const_expr(r)
    return Data(offset, r.take(r.u32()))


def _function_names(customs: tuple[Custom, ...]) -> tuple[tuple[int, str], ...]:
    """The function names of the first name section; none if it is broken, as the spec demands."""
    section = next((c for c in customs if c.name == "name"), None)
    if section is None:
        return ()
    r = Reader(section.data, 0, "")
    try:
        while not r.at_end():
            number = r.byte()
            names = Reader(r.take(r.u32()), 0, "")
            if number == 1:
                return _name_map(names)
    except DecodeError:
        pass
    return ()


def _name_map(r: Reader) -> tuple[tuple[int, str], ...]:
    pairs: list[tuple[int, str]] = []
    for _ in range(r.u32()):
        index = r.u32()
        if pairs and index <= pairs[-1][0]:
            raise r.malformed("names are out of order")
        pairs.append((index, r.name()))
    _finish(r)
    return tuple(pairs)
