"""Instructions: function bodies and constant expressions."""

from __future__ import annotations

from . import opcodes
from .errors import DecodeError, MalformedError, UnsupportedError, ValidationError
from .opcodes import ImmediateKind
from .reader import Reader
from .types import BlockType, FuncType, Instr, MemArg, ValType

NUMBER_TYPES = {0x7F: ValType.I32, 0x7E: ValType.I64, 0x7D: ValType.F32, 0x7C: ValType.F64}

_EMPTY_BLOCK = 0x40
_SHORT_BLOCKS = {_EMPTY_BLOCK: FuncType((), ())} | {
    byte: FuncType((), (valtype,)) for byte, valtype in NUMBER_TYPES.items()
}
_SHORT_BLOCK_IMMEDIATES = {byte: (blocktype,) for byte, blocktype in _SHORT_BLOCKS.items()}

_INDICES = frozenset(
    (ImmediateKind.LOCAL, ImmediateKind.GLOBAL, ImmediateKind.LABEL, ImmediateKind.FUNC)
)
# What the loop below does with a byte, ordered by how often it happens.
_PLAIN, _INDEX, _CONST, _MEMARG, _OPEN, _OTHER = range(6)


def _action(op: opcodes.Opcode) -> int:
    if op.name in ("else", "end"):
        return _OTHER
    if op.immediate is ImmediateKind.NONE:
        return _PLAIN
    if op.immediate in _INDICES:
        return _INDEX
    if op.immediate in (ImmediateKind.I32, ImmediateKind.I64):
        return _CONST
    if op.immediate is ImmediateKind.MEMARG:
        return _MEMARG
    return _OPEN if op.immediate is ImmediateKind.BLOCK else _OTHER


_ACTIONS: list[tuple[str, int]] = [("", _OTHER)] * 256
for _op in opcodes.BY_BYTE.values():
    _ACTIONS[_op.code] = (_op.name, _action(_op))

# One shared tuple for each small index, which nearly all are: less memory, less time.
_SMALL = [(n,) for n in range(128)]
_SMALL_CONST = {
    name: [(n if n < 64 else (n - 128) % 2**width,) for n in range(128)]
    for name, width in (("i32.const", 32), ("i64.const", 64))
}


def read_body(r: Reader, types: tuple[FuncType, ...], has_data_count: bool) -> tuple[Instr, ...]:
    """The instructions of a function, up to the end of ``r``, where its last ``end`` must be.

    Raises ``MalformedError`` for broken encodings and unmatched blocks, ``UnsupportedError`` for
    instructions outside ``opcodes.OPCODES`` and ``ValidationError`` for a block type that does not
    exist.
    """
    code = r.data
    base = r.base
    size = len(code)
    pos = r.pos
    body: list[Instr] = []
    append = body.append
    opened: list[str] = [""]
    while opened:
        if pos >= size:
            r.pos = pos
            raise r.ended()
        at = base + pos
        name, action = _ACTIONS[code[pos]]
        pos += 1
        if action == _PLAIN:
            append(Instr(name, (), at))
            continue
        # The byte after the opcode, when it is a whole LEB128 integer; 0x80 sends us the slow way.
        byte = code[pos] if pos < size else 0x80
        if action == _INDEX:
            if byte < 0x80:
                pos += 1
                append(Instr(name, _SMALL[byte], at))
            else:
                r.pos = pos
                append(Instr(name, (r.u32(),), at))
                pos = r.pos
        elif action == _CONST:
            if byte < 0x80:
                pos += 1
                append(Instr(name, _SMALL_CONST[name][byte], at))
            else:
                r.pos = pos
                width = 32 if name == "i32.const" else 64
                append(Instr(name, (r.signed(width) % 2**width,), at))
                pos = r.pos
        elif action == _MEMARG:
            r.pos = pos
            append(Instr(name, (_memarg(r, name),), at))
            pos = r.pos
        elif action == _OPEN:
            opened.append(name)
            if byte in _SHORT_BLOCK_IMMEDIATES:
                pos += 1
                append(Instr(name, _SHORT_BLOCK_IMMEDIATES[byte], at))
            else:
                r.pos = pos
                append(Instr(name, (_block_type(r, types),), at))
                pos = r.pos
        elif name == "end":
            append(Instr(name, (), at))
            opened.pop()
        else:
            r.pos = pos - 1
            instr = _read_rare(r, has_data_count)
            pos = r.pos
            append(instr)
            if instr.name == "else":
                if opened[-1] != "if":
                    raise r.malformed("else without an if", at)
                opened[-1] = "else"
    r.pos = pos
    if pos < size:
        raise r.malformed("bytes follow the last end of the function")
    return tuple(body)


def read_const_expr(r: Reader) -> Instr:
    """A constant expression: one ``t.const`` or ``global.get``, then ``end``.

    Raises ``UnsupportedError`` for any longer expression and for references, ``ValidationError``
    for an expression that is not constant.
    """
    start = r.offset
    instr = _read_any(r)
    if instr.name in opcodes.EXTENDED_CONST_NAMES:
        raise _refused(opcodes.EXTENDED_CONST, f"{instr.name} in an initial value", start, r)
    if instr.name != "global.get" and not instr.name.endswith(".const"):
        raise ValidationError(f"{instr.name} in a constant expression", start, r.where)
    following = r.offset
    if r.byte() != 0x0B:
        what = "an initial value of more than one instruction"
        raise _refused(opcodes.EXTENDED_CONST, what, following, r)
    return instr


def read_element_expr(r: Reader) -> int | None:
    """An item of an element segment given as an expression: a function index or ``None`` (null)."""
    start = r.offset
    byte = r.byte()
    item: int | None
    if byte == 0xD2:
        item = r.u32()
    elif byte == 0xD0:
        if (heap := r.byte()) != 0x70:
            name, feature = opcodes.REFUSED_TYPES.get(heap, ("a type index", opcodes.GC))
            raise _refused(feature, f"a null reference of {name}", start, r)
        item = None
    elif byte == 0x23:
        raise _refused(opcodes.REFERENCE_TYPES, "global.get in an element segment", start, r)
    else:
        r.pos -= 1
        instr = _read_any(r)
        raise ValidationError(f"{instr.name} in an element segment", start, r.where)
    following = r.offset
    if r.byte() != 0x0B:
        what = "an element expression of more than one instruction"
        raise _refused(opcodes.EXTENDED_CONST, what, following, r)
    return item


def _read_any(r: Reader) -> Instr:
    """One instruction of any kind but a block, outside of a function."""
    start = r.offset
    op = opcodes.BY_BYTE.get(r.byte())
    if op is not None:
        if op.immediate is ImmediateKind.NONE:
            return Instr(op.name, (), start)
        if op.immediate in _INDICES:
            return Instr(op.name, (r.u32(),), start)
        if op.immediate is ImmediateKind.I32:
            return Instr(op.name, (r.signed(32) % 2**32,), start)
        if op.immediate is ImmediateKind.I64:
            return Instr(op.name, (r.signed(64) % 2**64,), start)
        if op.immediate is ImmediateKind.MEMARG:
            return Instr(op.name, (_memarg(r, op.name),), start)
        if op.immediate is ImmediateKind.BLOCK:
            raise ValidationError(f"{op.name} in a constant expression", start, r.where)
    r.pos -= 1
    return _read_rare(r, has_data_count=True)


def _read_rare(r: Reader, has_data_count: bool) -> Instr:
    """One instruction of a kind that is rare in code, or the error for an unknown one."""
    start = r.offset
    byte = r.byte()
    if byte == opcodes.PREFIX:
        number = r.u32()
        op = opcodes.BY_NUMBER.get(number)
        if op is None:
            raise _unknown_number(number, start, r)
    else:
        op = opcodes.BY_BYTE.get(byte)
        if op is None:
            raise _unknown_byte(byte, start, r)
    name = op.name
    kind = op.immediate
    if kind is ImmediateKind.NONE:
        return Instr(name, (), start)
    if kind is ImmediateKind.LABELS:
        count = r.u32()
        if count > len(r.data) - r.pos:
            raise r.malformed("br_table has more labels than bytes follow", start)
        labels = tuple([r.u32() for _ in range(count)])
        return Instr(name, (labels, r.u32()), start)
    if kind is ImmediateKind.F32:
        return Instr(name, (int.from_bytes(r.take(4), "little"),), start)
    if kind is ImmediateKind.F64:
        return Instr(name, (int.from_bytes(r.take(8), "little"),), start)
    if kind is ImmediateKind.TYPE_TABLE or kind is ImmediateKind.ELEM_TABLE:
        index = r.u32()
        _table_zero(r, name)
        return Instr(name, (index,), start)
    if kind is ImmediateKind.ELEM:
        return Instr(name, (r.u32(),), start)
    if kind is ImmediateKind.TABLE_TABLE:
        _table_zero(r, name)
        _table_zero(r, name)
        return Instr(name, (), start)
    if kind is ImmediateKind.MEMORY:
        # A reserved byte, not yet an index, in the version of the format where these appeared.
        if r.data[r.pos : r.pos + 1] >= b"\x80":
            raise r.malformed(f"a zero byte must follow {name}")
        _memory_zero(r, name)
        return Instr(name, (), start)
    if kind is ImmediateKind.BULK_MEMORY:
        _memory_zero(r, name)
        return Instr(name, (), start)
    if kind is ImmediateKind.BULK_MEMORY_MEMORY:
        _memory_zero(r, name)
        _memory_zero(r, name)
        return Instr(name, (), start)
    assert kind is ImmediateKind.DATA or kind is ImmediateKind.DATA_MEMORY, kind
    index = r.u32()
    if kind is ImmediateKind.DATA_MEMORY:
        _memory_zero(r, name)
    if not has_data_count:
        raise r.malformed(f"{name} needs a data count section, and there is none", start)
    return Instr(name, (index,), start)


def _memarg(r: Reader, name: str) -> MemArg:
    start = r.offset
    align = r.u32()
    if align >= 64:
        if align < 128:
            raise _refused(opcodes.MULTI_MEMORY, f"{name} with a memory index", start, r)
        raise r.malformed(f"the alignment of {name} is 2**{align}", start)
    return MemArg(align, r.u32())


def _block_type(r: Reader, types: tuple[FuncType, ...]) -> BlockType:
    start = r.offset
    first = r.data[r.pos] if r.pos < len(r.data) else 0
    if first < 0x80 and first & 0x40:  # one byte, negative: not a type index
        raise unknown_type(first, "block type", start, r)
    index = r.signed(33)
    if index < 0:
        raise r.malformed("a block type is a negative number", start)
    if index >= len(types):
        raise ValidationError(f"type {index} does not exist", start, r.where)
    return types[index]


def _table_zero(r: Reader, name: str) -> None:
    # Linkers write this index padded to 5 bytes, so any encoding of 0 will do.
    start = r.offset
    if r.u32():
        raise _refused(opcodes.REFERENCE_TYPES, f"{name} on a second table", start, r)


def _memory_zero(r: Reader, name: str) -> None:
    start = r.offset
    if r.u32():
        raise _refused(opcodes.MULTI_MEMORY, f"{name} on a second memory", start, r)


def unknown_type(byte: int, role: str, offset: int, r: Reader) -> DecodeError:
    """The error for a byte that begins no type we know, in the role of e.g. a value type."""
    if byte in opcodes.REFUSED_TYPES:
        name, feature = opcodes.REFUSED_TYPES[byte]
        return _refused(feature, f"{role} {name}", offset, r)
    return r.malformed(f"unknown {role} {byte:#04x}", offset)


def _unknown_byte(byte: int, offset: int, r: Reader) -> DecodeError:
    if byte in opcodes.REFUSED:
        name, feature = opcodes.REFUSED[byte]
        return _refused(feature, f"{name}, opcode {byte:#04x}", offset, r)
    if byte in opcodes.REFUSED_PREFIXES:
        number = r.u32()
        feature = opcodes.REFUSED_PREFIXES[byte]
        if feature == opcodes.SIMD and number >= opcodes.FIRST_RELAXED_SIMD:
            feature = opcodes.RELAXED_SIMD
        return _refused(feature, f"opcode {byte:#04x} {number:#04x}", offset, r)
    return MalformedError(f"unknown opcode {byte:#04x}", offset, r.where)


def _unknown_number(number: int, offset: int, r: Reader) -> DecodeError:
    if number in opcodes.REFUSED_NUMBERS:
        name, feature = opcodes.REFUSED_NUMBERS[number]
        return _refused(feature, f"{name}, opcode 0xfc {number:#04x}", offset, r)
    return MalformedError(f"unknown opcode 0xfc {number:#04x}", offset, r.where)


def _refused(feature: str, what: str, offset: int, r: Reader) -> UnsupportedError:
    return UnsupportedError(feature, what, offset, r.where)
