"""Decoding and validating WebAssembly binaries."""

from __future__ import annotations

import re
import struct
import time

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmjax.wasm import decode as decode_module
from wasmjax.wasm import opcodes
from wasmjax.wasm.decode import (
    DecodeError,
    MalformedError,
    NotWasmError,
    TruncatedError,
    UnsupportedError,
    ValidationError,
    decode,
)
from wasmjax.wasm.opcodes import OPCODES, ImmediateKind, Opcode
from wasmjax.wasm.types import (
    Custom,
    Data,
    Element,
    Export,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Import,
    Instr,
    Limits,
    MemArg,
    MemoryType,
    TableType,
    ValType,
)
from wasmjax.wasm.validate import load_bytes, validate

PREAMBLE = b"\0asm\x01\0\0\0"
I32, I64, F32, F64 = ValType.I32, ValType.I64, ValType.F32, ValType.F64


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def leb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def vec(*items: bytes) -> bytes:
    return leb(len(items)) + b"".join(items)


def with_body(code: bytes, *, data_count: bool = False, locals_: bytes = b"\0") -> bytes:
    """A module with types () -> () and (i32) -> i32 and one function of the first."""
    body = locals_ + code
    return (
        PREAMBLE
        + section(1, vec(b"\x60\0\0", b"\x60\x01\x7f\x01\x7f"))
        + section(3, vec(b"\0"))
        + (section(12, b"\0") if data_count else b"")
        + section(10, vec(leb(len(body)) + body))
        + (section(11, b"\0") if data_count else b"")
    )


def body_of(data: bytes) -> tuple[Instr, ...]:
    return decode(data).functions[0].body


SAMPLE = wasm("""
(module $sample
  (type $pair (func (param i32 i64) (result i32)))
  (type (func (result i32 i64)))
  (import "env" "host" (func $host (type $pair)))
  (import "env" "counter" (global $counter (mut i64)))
  (import "env" "limit" (global $limit i64))
  (table 3 10 funcref)
  (memory 1 2)
  (global $half (mut f64) (f64.const 0.5))
  (global i32 (i32.const -5))
  (global i64 (global.get $limit))
  (export "work" (func $work))
  (export "memory" (memory 0))
  (export "table" (table 0))
  (export "counter" (global $counter))
  (start $start)
  (elem (i32.const 1) $host $work)
  (elem func $work $start)
  (elem funcref (ref.func $work) (ref.null func))
  (data (i32.const 8) "abc")
  (data "defg")
  (func $start)
  (func $work (type $pair) (local i32 i32) (local f32)
    block (type 1)
      loop i32.const 7 i64.const -1 br 1 end
      i32.const 1 i64.const 3
    end
    drop drop
    local.get 0
    if (result i32)
      i32.const 1000000
    else
      i32.const 2 i32.load offset=300
    end
    local.get 0 local.get 1 i32.const 0 call_indirect (type $pair) drop
    i32.const 0 i32.const 0 i32.const 0 memory.init 1
    data.drop 1
    block block block local.get 0 br_table 0 1 2 0 end end end))
""")


# --- what a module holds -------------------------------------------------------------------------


def test_every_section_is_decoded() -> None:
    m = load_bytes(SAMPLE)
    pair = FuncType((I32, I64), (I32,))
    assert m.types[:3] == (pair, FuncType((), (I32, I64)), FuncType((), ()))
    assert m.imports == (
        Import("env", "host", ExternKind.FUNC, pair),
        Import("env", "counter", ExternKind.GLOBAL, GlobalType(I64, True)),
        Import("env", "limit", ExternKind.GLOBAL, GlobalType(I64, False)),
    )
    assert m.table == TableType(ValType.FUNCREF, Limits(3, 10))
    assert m.memory == MemoryType(Limits(1, 2))
    half, minus_five, limit = m.globals
    assert (half.type, half.init[:2]) == (
        GlobalType(F64, True),
        ("f64.const", (struct.unpack("<Q", struct.pack("<d", 0.5))[0],)),
    )
    assert isinstance(half, Global)
    assert minus_five.init[:2] == ("i32.const", (2**32 - 5,))
    assert (limit.type.mutable, limit.init[:2]) == (False, ("global.get", (1,)))
    assert m.exports == (
        Export("work", ExternKind.FUNC, 2),
        Export("memory", ExternKind.MEMORY, 0),
        Export("table", ExternKind.TABLE, 0),
        Export("counter", ExternKind.GLOBAL, 0),
    )
    assert m.start == 1
    active, indices, expressions = m.elements
    assert active.offset is not None and active.offset[:2] == ("i32.const", (1,))
    assert active.init == (0, 2)
    assert indices == Element(None, (2, 1))
    assert expressions == Element(None, (2, None))
    first, second = m.data
    assert first.offset is not None and first.offset.immediates == (8,)
    assert first.init == b"abc"
    assert second == Data(None, b"defg")
    assert m.function_names == ((0, "host"), (1, "start"), (2, "work"))
    assert [c.name for c in m.customs] == ["name"]


def test_function_bodies_are_flat_and_end_with_end() -> None:
    start, work = load_bytes(SAMPLE).functions
    assert start.locals == () and [i.name for i in start.body] == ["end"]
    assert work.type == FuncType((I32, I64), (I32,)) and work.type_index == 0
    assert work.locals == (I32, I32, F32)
    names = [i.name for i in work.body]
    assert names[:6] == ["block", "loop", "i32.const", "i64.const", "br", "end"]
    assert names[-1] == "end" and names.count("end") == 7
    assert work.body[0].immediates == (FuncType((), (I32, I64)),)
    assert work.body[1].immediates == (FuncType((), ()),)
    assert work.body[3].immediates == (2**64 - 1,)
    by_name = {i.name: i.immediates for i in work.body}
    assert by_name["if"] == (FuncType((), (I32,)),)
    assert by_name["i32.load"] == (MemArg(align=2, offset=300),)
    assert by_name["call_indirect"] == (0,)
    assert by_name["br_table"] == ((0, 1, 2), 0)
    assert by_name["memory.init"] == (1,)
    codes = {i.offset: SAMPLE[i.offset] for i in work.body}
    for i in work.body:
        op = OPCODES[i.name]
        assert codes[i.offset] == (opcodes.PREFIX if op.prefixed else op.code)
    assert work.offset < work.body[0].offset


def test_index_spaces_count_imports_first() -> None:
    m = decode(SAMPLE)
    assert m.all_function_types() == (m.types[0], FuncType((), ()), m.types[0])
    assert [t.type for t in m.all_global_types()] == [I64, I64, F64, I32, I64]
    assert len(m.imported(ExternKind.GLOBAL)) == 2
    assert m.table_type() == m.table and m.memory_type() == m.memory
    imported = decode(
        wasm('(module (import "a" "b" (table 1 funcref)) (import "c" "d" (memory 2)))')
    )
    assert imported.table is None and imported.memory is None
    assert imported.table_type() == TableType(ValType.FUNCREF, Limits(1, None))
    assert imported.memory_type() == MemoryType(Limits(2, None))
    assert decode(PREAMBLE).table_type() is None and decode(PREAMBLE).memory_type() is None


def test_modules_are_equal_and_hashable() -> None:
    assert decode(SAMPLE) == decode(SAMPLE)
    assert hash(decode(SAMPLE)) == hash(decode(SAMPLE))
    assert decode(SAMPLE) != decode(PREAMBLE)


def test_custom_sections_are_kept_and_may_stand_anywhere() -> None:
    custom = section(0, vec(*[bytes([c]) for c in b"note"]) + b"\xff\x00")
    m = decode(
        PREAMBLE + custom + section(1, vec(b"\x60\0\0")) + custom + section(3, b"\0") + custom
    )
    assert m.customs == (Custom("note", b"\xff\0"),) * 3


@pytest.mark.parametrize(
    "names",
    [
        b"\x01\x07\x02\x01\x01a\x00\x01b",  # not in ascending order
        b"\x01\x04\x01\x00\x01\xff",  # not UTF-8
        b"\x01\x7f\x01",  # cut off
        b"\x01\x05\x01\x00\x01a\x00",  # a byte too many
        b"\x00\x02\x01",
    ],
)
def test_a_broken_name_section_is_ignored(names: bytes) -> None:
    assert decode(PREAMBLE + section(0, b"\x04name" + names)).function_names == ()


def test_function_names_follow_the_module_name() -> None:
    names = b"\x00\x02\x01m" + b"\x01\x07\x02\x00\x01a\x05\x01b"
    assert decode(PREAMBLE + section(0, b"\x04name" + names)).function_names == ((0, "a"), (5, "b"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i32.const 63", 63),
        ("i32.const 64", 64),
        ("i32.const -1", 2**32 - 1),
        ("i32.const -64", 2**32 - 64),
        ("i32.const -65", 2**32 - 65),
        ("i32.const 0x80000000", 2**31),
        ("i32.const 0x7fffffff", 2**31 - 1),
        ("i64.const -1", 2**64 - 1),
        ("i64.const 0x8000000000000000", 2**63),
        ("i64.const 0x7fffffffffffffff", 2**63 - 1),
        ("f32.const nan:0x200001", 0x7FA00001),
        ("f32.const -0", 0x80000000),
        ("f64.const -nan:0x4000000000001", 0xFFF4000000000001),
        ("f64.const 1", 0x3FF0000000000000),
    ],
)
def test_constants_are_bit_patterns(text: str, expected: int) -> None:
    assert load_bytes(wasm(f"(module (func {text} drop))")).functions[0].body[0].immediates == (
        expected,
    )


@given(st.integers(0, 2**64 - 1))
def test_any_constant(value: int) -> None:
    m = decode(wasm(f"(module (func i32.const {value % 2**32} i64.const {value} drop drop))"))
    assert [i.immediates for i in m.functions[0].body[:2]] == [(value % 2**32,), (value,)]


# --- opcodes -------------------------------------------------------------------------------------

IMMEDIATES: dict[ImmediateKind, tuple[str, tuple[object, ...]]] = {
    ImmediateKind.NONE: ("", ()),
    ImmediateKind.BLOCK: ("(type 1)", (FuncType((I32,), (I32, F64)),)),
    ImmediateKind.LABEL: ("0", (0,)),
    ImmediateKind.LABELS: ("0 0 0", ((0, 0), 0)),
    ImmediateKind.FUNC: ("1", (1,)),
    ImmediateKind.TYPE_TABLE: ("(type 1)", (1,)),
    ImmediateKind.LOCAL: ("200", (200,)),
    ImmediateKind.GLOBAL: ("0", (0,)),
    ImmediateKind.MEMARG: ("offset=4294967295 align=1", (MemArg(0, 2**32 - 1),)),
    ImmediateKind.MEMORY: ("", ()),
    ImmediateKind.BULK_MEMORY: ("", ()),
    ImmediateKind.BULK_MEMORY_MEMORY: ("", ()),
    ImmediateKind.DATA_MEMORY: ("1", (1,)),
    ImmediateKind.DATA: ("1", (1,)),
    ImmediateKind.ELEM_TABLE: ("1", (1,)),
    ImmediateKind.ELEM: ("1", (1,)),
    ImmediateKind.TABLE_TABLE: ("", ()),
    ImmediateKind.I32: ("-1000", (2**32 - 1000,)),
    ImmediateKind.I64: ("-1000", (2**64 - 1000,)),
    ImmediateKind.F32: ("1", (0x3F800000,)),
    ImmediateKind.F64: ("1", (0x3FF << 52,)),
}


@pytest.mark.parametrize("op", OPCODES.values(), ids=lambda op: op.name)
def test_every_opcode(op: Opcode) -> None:
    """The assembler, an independent judge, gives each name the bytes that we read as that name."""
    text, expected = IMMEDIATES[op.immediate]
    code = f"unreachable {op.name} {text} unreachable"
    if op.name == "else":
        code = "unreachable if nop else nop end"
    elif op.name == "end":
        code = "unreachable block nop end"
    elif op.immediate is ImmediateKind.BLOCK:
        rest = "unreachable else" if op.name == "if" else ""
        code = f"unreachable {op.name} {text} {rest} unreachable end unreachable"
    data = wasm(f"""(module
      (type (func)) (type (func (param i32) (result i32 f64)))
      (table 1 funcref) (memory 1) (global (mut i32) (i32.const 0))
      (elem func 0) (elem func 0) (data "") (data "")
      (func (type 0) (local {"i32 " * 201}) {code}) (func (type 0)))""")
    body = load_bytes(data).functions[0].body
    [instr] = [i for i in body if i.name == op.name and i.offset != body[0].offset][-1:] or [
        body[0]
    ]
    if op.name not in ("end", "unreachable"):
        assert instr == body[1 if op.name != "else" else 3]
    assert instr.immediates == expected
    encoding = leb(op.code) if op.prefixed else bytes([op.code])
    at = instr.offset + op.prefixed
    assert data[at : at + len(encoding)] == encoding
    assert not op.prefixed or data[instr.offset] == opcodes.PREFIX


def test_the_number_of_opcodes() -> None:
    features = [op.feature for op in OPCODES.values()]
    assert {f: features.count(f) for f in features} == {
        opcodes.MVP: 172,
        opcodes.SIGN_EXTENSION: 5,
        opcodes.SATURATING: 8,
        opcodes.BULK_MEMORY: 7,
    }


@pytest.mark.parametrize("byte", [b for b in range(256) if b not in opcodes.BY_BYTE])
def test_every_other_byte_is_refused_and_by_name_if_it_has_one(byte: int) -> None:
    if byte == opcodes.PREFIX:
        return
    data = with_body(bytes([0x00, byte, 0x01, 0x01, 0x01, 0x0B]))
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert f"{byte:#04x}" in str(caught.value)
    assert "in function 0" in str(caught.value)
    assert caught.value.offset is not None and data[caught.value.offset] == byte
    named = byte in opcodes.REFUSED or byte in opcodes.REFUSED_PREFIXES
    assert isinstance(caught.value, UnsupportedError if named else MalformedError)
    if isinstance(caught.value, UnsupportedError):
        assert caught.value.feature in str(caught.value)
    else:
        with pytest.raises(ValidationError):
            validate(data)


@pytest.mark.parametrize("number", [*range(15, 30), 200, 2**32 - 1])
def test_other_numbers_after_the_prefix_are_refused(number: int) -> None:
    with pytest.raises(DecodeError, match=f"opcode 0xfc {number:#04x}") as caught:
        decode(with_body(b"\x00\xfc" + leb(number) + b"\x0b"))
    named = number in opcodes.REFUSED_NUMBERS
    assert isinstance(caught.value, UnsupportedError if named else MalformedError)


def test_the_number_after_the_prefix_may_be_padded() -> None:
    assert body_of(with_body(b"\x00\xfc\x80\x80\x80\x80\x00\x0b"))[1].name == "i32.trunc_sat_f32_s"


# --- what is refused by name ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("(func (result v128) i32.const 1 i32x4.splat)", opcodes.SIMD),
        ("(func (drop (i32x4.splat (i32.const 1))))", opcodes.SIMD),
        ("(func (param v128) local.get 0 local.get 0 local.get 0 i32x4.add drop)", opcodes.SIMD),
        (
            "(func unreachable i8x16.relaxed_swizzle drop)",
            opcodes.RELAXED_SIMD,
        ),
        ("(memory 1 2 shared)", opcodes.THREADS),
        ("(memory 1) (func i32.const 0 i32.atomic.load drop)", opcodes.THREADS),
        ("(func return_call 0)", opcodes.TAIL_CALLS),
        ("(table 1 funcref) (func i32.const 0 return_call_indirect)", opcodes.TAIL_CALLS),
        ("(tag) (func throw 0)", opcodes.EXCEPTIONS),
        ('(import "a" "b" (tag))', opcodes.EXCEPTIONS),
        ("(func try_table end)", opcodes.EXCEPTIONS),
        ("(type (struct))", opcodes.GC),
        ("(type (array i32))", opcodes.GC),
        ("(rec (type (func)) (type (func)))", opcodes.GC),
        ("(func i32.const 1 ref.i31 drop)", opcodes.GC),
        ("(func (param (ref func)))", opcodes.FUNCTION_REFERENCES),
        ("(func unreachable ref.as_non_null)", opcodes.FUNCTION_REFERENCES),
        ("(type $t (func)) (func unreachable call_ref $t)", opcodes.FUNCTION_REFERENCES),
        ("(memory i64 1)", opcodes.MEMORY64),
        ("(table i64 1 funcref)", opcodes.MEMORY64),
        ("(memory 1) (memory 1)", opcodes.MULTI_MEMORY),
        ('(import "a" "b" (memory 1)) (memory 1)', opcodes.MULTI_MEMORY),
        ("(memory 1 (pagesize 1))", opcodes.CUSTOM_PAGE_SIZES),
        ("(func unreachable i64.add128)", opcodes.WIDE_ARITHMETIC),
        ("(type $f (func)) (type (cont $f))", opcodes.STACK_SWITCHING),
        ("(func (param externref))", opcodes.REFERENCE_TYPES),
        ("(func (result funcref) unreachable)", opcodes.REFERENCE_TYPES),
        ("(func (local funcref))", opcodes.REFERENCE_TYPES),
        ("(func ref.null func drop)", opcodes.REFERENCE_TYPES),
        ("(func $f ref.func $f drop) (elem declare func $f)", opcodes.REFERENCE_TYPES),
        ("(func unreachable ref.is_null drop)", opcodes.REFERENCE_TYPES),
        ("(func unreachable select (result i32) drop)", opcodes.REFERENCE_TYPES),
        ("(func unreachable block (result externref) unreachable end drop)",
         opcodes.REFERENCE_TYPES),
        ("(global funcref (ref.null func))", opcodes.REFERENCE_TYPES),
        ("(table 1 externref)", opcodes.REFERENCE_TYPES),
        ("(table 1 funcref) (table 1 funcref)", opcodes.REFERENCE_TYPES),
        ('(import "a" "b" (table 1 funcref)) (table 1 funcref)', opcodes.REFERENCE_TYPES),
        ("(table 1 funcref) (func i32.const 0 table.get 0 drop)", opcodes.REFERENCE_TYPES),
        ("(table 1 funcref) (func unreachable table.set 0)", opcodes.REFERENCE_TYPES),
        ("(table 1 funcref) (func unreachable table.grow 0 drop)", opcodes.REFERENCE_TYPES),
        ("(table 1 funcref) (func table.size 0 drop)", opcodes.REFERENCE_TYPES),
        ("(table 1 funcref) (func unreachable table.fill 0)", opcodes.REFERENCE_TYPES),
        ("(elem externref (ref.null extern))", opcodes.REFERENCE_TYPES),
        ("(elem declare func)", opcodes.REFERENCE_TYPES),
        ("(global i32 (i32.add (i32.const 1) (i32.const 2)))", opcodes.EXTENDED_CONST),
        ("(global i64 (i64.mul (i64.const 1) (i64.const 2)))", opcodes.EXTENDED_CONST),
        ("(memory 1) (data (offset (i32.sub (i32.const 1) (i32.const 1))) \"\")",
         opcodes.EXTENDED_CONST),
    ],
)  # fmt: skip
def test_other_proposals_are_refused_by_name(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^unsupported: .*{feature}") as caught:
        load_bytes(wasm(f"(module {text})"))
    assert caught.value.feature == feature
    assert caught.value.offset is not None


def test_tables_with_initial_values_and_components_are_refused_by_name() -> None:
    table = vec(b"\x40\x00\x70\x00\x01\xd0\x70\x0b")
    with pytest.raises(UnsupportedError, match=opcodes.FUNCTION_REFERENCES):
        decode(PREAMBLE + section(4, table))
    with pytest.raises(UnsupportedError, match=opcodes.COMPONENT_MODEL):
        decode(b"\0asm\x0d\0\x01\0")


@pytest.mark.parametrize(
    "code",
    [
        b"\x00\x28\x42\x01\x00\x1a\x0b",  # i32.load with a memory index
        b"\x3f\x01\x1a\x0b",  # memory.size 1
        b"\x00\xfc\x0b\x01\x0b",  # memory.fill 1
        b"\x00\xfc\x0a\x00\x01\x0b",  # memory.copy 0 1
    ],
)
def test_memory_indices_are_refused_by_name(code: bytes) -> None:
    with pytest.raises(UnsupportedError, match=opcodes.MULTI_MEMORY):
        decode(with_body(code))


@pytest.mark.parametrize(
    "code",
    [
        b"\x00\x11\x00\x01\x0b",  # call_indirect
        b"\x00\xfc\x0c\x00\x01\x0b",  # table.init
        b"\x00\xfc\x0e\x00\x01\x0b",  # table.copy
        b"\x00\xfc\x0e\x81\x00\x00\x0b",
    ],
)
def test_table_indices_are_refused_by_name(code: bytes) -> None:
    with pytest.raises(UnsupportedError, match=opcodes.REFERENCE_TYPES):
        decode(with_body(code))


def test_a_padded_table_index_is_accepted() -> None:
    code = b"\x00\x11\x80\x80\x80\x80\x00\x80\x80\x80\x80\x00\x0b"
    assert body_of(with_body(code))[1][:2] == ("call_indirect", (0,))
    code = b"\x00\xfc\x0a\x80\x00\x80\x00\x0b"
    assert body_of(with_body(code))[1][:2] == ("memory.copy", ())


def test_locals_are_limited_before_they_take_memory() -> None:
    many = vec(leb(50_000) + b"\x7f")
    assert len(decode(with_body(b"\x0b", locals_=many)).functions[0].locals) == 50_000
    for runs in (
        vec(leb(50_001) + b"\x7f"),
        vec(leb(2**32 - 1) + b"\x7e"),
        vec(*[b"\x20\x7f"] * 1600),
    ):
        with pytest.raises(UnsupportedError, match="at most 50000 in a function"):
            decode(with_body(b"\x0b", locals_=runs))
    body = vec(leb(40_000) + b"\x7f") + b"\x0b"
    bomb = (
        PREAMBLE
        + section(1, vec(b"\x60\0\0"))
        + section(3, vec(*[b"\0"] * 2000))
        + section(10, vec(*[leb(len(body)) + body] * 2000))
    )
    with pytest.raises(UnsupportedError, match=f"at most {decode_module.MAX_MODULE_LOCALS}"):
        decode(bomb)


# --- broken inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"(module)", b"hello", b"\0asm\x02\0\0\0"])
def test_what_is_not_webassembly(data: bytes) -> None:
    with pytest.raises(NotWasmError, match=r"^not a WebAssembly module: "):
        decode(data)


def test_truncated_everywhere() -> None:
    """Cut at each byte: refused, except where the cut leaves a module that is valid by itself."""
    accepted = 0
    for length in range(len(SAMPLE)):
        try:
            load_bytes(SAMPLE[:length])
        except NotWasmError:
            assert length == 0
        except TruncatedError as error:
            assert re.fullmatch(r"truncated: [^\n]+", str(error))
        except (MalformedError, ValidationError):
            assert length in _section_starts(SAMPLE)
        else:
            accepted += 1
            assert length in _section_starts(SAMPLE)
    assert accepted == 4  # after the preamble, the types, the imports; before the names


def _section_starts(data: bytes) -> set[int]:
    starts, pos = set(), 8
    while pos < len(data):
        starts.add(pos)
        size = shift = 0
        while True:
            pos += 1
            size |= (data[pos] & 0x7F) << shift
            shift += 7
            if data[pos] < 0x80:
                break
        pos += 1 + size
    return starts


TYPE = section(1, vec(b"\x60\0\0"))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (section(15, b""), MalformedError, "unknown section 15, at byte 0x8"),
        (TYPE + TYPE, MalformedError, "a second type section, at byte 0xe"),
        (section(3, b"\0") + TYPE, MalformedError, "the type section is out of order, at byte 0xb"),
        (section(10, b"\0") + section(12, b"\0"), MalformedError, "data count section is out of"),
        (section(12, b"\0") + section(9, b"\0"), MalformedError, "element section is out of order"),
        (b"\x01\x05\x00", TruncatedError, "type section has 5 bytes but 1 are left"),
        (b"\x01", TruncatedError, "the file ends unexpectedly, at byte 0x9"),
        (b"\x01\x80", TruncatedError, "the file ends unexpectedly, at byte 0xa"),
        (section(1, b"\0\0"), MalformedError, "1 bytes are left over, at byte 0xb in the type sec"),
        (section(1, b"\x02\x60\0\0"), MalformedError, "the type section ends unexpectedly"),
        (section(1, vec(b"\x61\0\0")), MalformedError, "unknown type 0x61, at byte 0xb"),
        (section(1, vec(b"\x60\x01\x7a\0")), MalformedError, "unknown value type 0x7a"),
        (section(1, b"\x80\x80\x80\x80\x80\x00"), MalformedError, "encoded too long"),
        (section(1, b"\x80\x80\x80\x80\x10"), MalformedError, "bits beyond the 32nd"),
        (section(2, b"\x01\x01\xff\x00\x00\x00"), MalformedError, "a name is not UTF-8"),
        (section(2, b"\x01\x03\xed\xa0\x80\x00\x00\x00"), MalformedError, "a name is not UTF-8"),
        (section(2, vec(b"\0\0\x07")), MalformedError, "unknown kind of import or export 0x07"),
        (section(2, vec(b"\0\0\0\0")), ValidationError, "type 0 does not exist"),
        (TYPE + section(3, vec(b"\x01")), ValidationError, "type 1 does not exist, at byte"),
        (TYPE + section(3, vec(b"\0")), MalformedError, "declares 1 functions, the code section"),
        (section(10, vec(b"\x02\0\x0b")), MalformedError, "declares 0 functions, the code section"),
        (section(4, vec(b"\x70\x09\0")), MalformedError, "unknown kind of limits 0x09"),
        (section(5, vec(b"\x10\0")), MalformedError, "unknown kind of limits 0x10"),
        (section(5, vec(b"\x81\0\0")), MalformedError, "unknown kind of limits 0x81"),
        (section(6, vec(b"\x7f\x02\x41\0\x0b")), MalformedError, "mutability 0x02"),
        (section(6, vec(b"\x7f\0\x41\0")), MalformedError, "global section ends unexpectedly"),
        (section(6, vec(b"\x7f\0\x0b")), ValidationError, "end in a constant expression"),
        (section(6, vec(b"\x7f\0\x3f\0\x0b")), ValidationError, "memory.size in a constant expr"),
        (section(6, vec(b"\x7f\0\x02\x40\x0b")), ValidationError, "block in a constant expression"),
        (section(6, vec(b"\x7f\0\xff\x0b")), MalformedError, "unknown opcode 0xff"),
        (section(7, vec(b"\0\x05\0")), MalformedError, "unknown kind of import or export 0x05"),
        (section(8, b"\0\0"), MalformedError, "1 bytes are left over"),
        (section(9, vec(b"\x08")), MalformedError, "unknown kind of element segment 8"),
        (section(9, vec(b"\x01\x01\0")), MalformedError, "unknown element kind 0x01"),
        (
            section(9, vec(b"\x05\x70\x01\x41\0\x0b")),
            ValidationError,
            "i32.const in an element seg",
        ),
        (section(9, vec(b"\x05\x7f\x00")), MalformedError, "unknown element type 0x7f"),
        (section(11, vec(b"\x03")), MalformedError, "unknown kind of data segment 3"),
        (section(11, vec(b"\x01\x05a")), MalformedError, "the data section ends unexpectedly"),
        (section(12, b"\x01"), MalformedError, "data count section says 1 segments, there are 0"),
        (section(0, b""), MalformedError, "the custom section ends unexpectedly"),
        (section(0, b"\x02a"), MalformedError, "the custom section ends unexpectedly"),
        (section(0, b"\x01\x80"), MalformedError, "a name is not UTF-8"),
    ],
)
def test_broken_sections(data: bytes, error: type[DecodeError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        decode(PREAMBLE + data)
    assert type(caught.value) is error
    with pytest.raises(ValidationError):
        validate(PREAMBLE + data)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "function 0 ends unexpectedly"),
        (b"\x01", "function 0 ends unexpectedly"),
        (b"\x02\x40\x0b", "function 0 ends unexpectedly"),
        (b"\x0b\x01\x0b", "bytes follow the last end of the function, at byte 0x1d"),
        (b"\x05\x0b", "else without an if"),
        (b"\x02\x40\x05\x0b\x0b", "else without an if"),
        (b"\x41\0\x04\x40\x05\x05\x0b\x0b", "else without an if"),
        (b"\x41", "function 0 ends unexpectedly"),
        (b"\x43\0\0\0", "function 0 ends unexpectedly"),
        (b"\x41\x80\x80\x80\x80\x80\x00\x1a\x0b", "an integer of 32 bits is encoded too long"),
        (b"\x41\xff\xff\xff\xff\x0f\x1a\x0b", "a signed integer does not fit 32 bits"),
        (b"\x41\x80\x80\x80\x80\x70\x1a\x0b", "a signed integer does not fit 32 bits"),
        (b"\x42" + b"\x80" * 10 + b"\x00\x1a\x0b", "an integer of 64 bits is encoded too long"),
        (b"\x42" + b"\xff" * 9 + b"\x7e\x1a\x0b", "a signed integer does not fit 64 bits"),
        (b"\x00\x0e\xff\xff\xff\xff\x0f\x00\x0b", "br_table has more labels than bytes follow"),
        (b"\x00\x28\x80\x01\x00\x1a\x0b", "the alignment of i32.load is 2**128"),
        (b"\x3f\x80\x00\x1a\x0b", "a zero byte must follow memory.size"),
        (b"\x02\x60\x0b\x0b", "unknown block type 0x60"),
        (b"\x02\xff\x7f\x0b\x0b", "a block type is a negative number"),
        (b"\x02\x80\x80\x80\x80\x20\x0b\x0b", "a signed integer does not fit 33 bits"),
        (b"\x00\xfc\x08\x00\x00\x0b", "memory.init needs a data count section"),
        (b"\xfc\x09\x00\x0b", "data.drop needs a data count section"),
        (b"\x27\x0b", "unknown opcode 0x27"),
    ],
)
def test_broken_code(code: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=re.escape(message)):
        decode(with_body(code))
    with pytest.raises(ValidationError):
        validate(with_body(code))


def test_a_body_beyond_its_section_and_a_missing_block_type() -> None:
    data = PREAMBLE + TYPE + section(3, vec(b"\0")) + section(10, vec(b"\x05\0\x0b"))
    with pytest.raises(MalformedError, match="the body goes beyond the code section"):
        decode(data)
    with pytest.raises(ValidationError, match="type 2 does not exist, at byte 0x1d in function 0"):
        decode(with_body(b"\x02\x02\x0b\x0b"))


def test_data_instructions_with_a_data_count_section() -> None:
    body = body_of(with_body(b"\x00\xfc\x08\x05\x00\xfc\x09\x06\x0b", data_count=True))
    assert [i[:2] for i in body[1:3]] == [("memory.init", (5,)), ("data.drop", (6,))]


# --- validation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(func (result i32) i64.const 1)", "type mismatch: expected i32, found i64, at byte 0x"),
        ("(func i32.add)", "type mismatch"),
        ("(func local.get 3 drop)", "unknown local 3"),
        ("(func call 7)", "unknown function 7"),
        ("(func br 4)", "unknown label"),
        ("(func i32.const 0 i32.load drop)", "unknown memory 0"),
        ("(memory 1) (func i32.const 0 i32.load align=8 drop)", "alignment must not be larger"),
        ("(memory 2 1)", "minimum must not be greater than maximum"),
        ("(memory 65537)", "memory size"),
        ('(func (export "a")) (func (export "a"))', "duplicate export name"),
        ("(func (param i32)) (start 0)", "invalid start function type"),
        ("(global i32 (i32.const 0)) (global i32 (global.get 0))", "constant expression required"),
        ("(global i32 (i64.const 0))", "type mismatch"),
        ("(global i32 (i32.const 0)) (func i32.const 0 global.set 0)", "global is immutable"),
    ],
)
def test_invalid_modules(text: str, message: str) -> None:
    data = wasm(f"(module {text})")
    decode(data)
    with pytest.raises(ValidationError, match=message) as caught:
        load_bytes(data)
    assert str(caught.value).startswith("invalid: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [
    "(func (param v128))", "(memory i64 1)", "(memory 1) (memory 1)", "(memory 1 1 shared)",
    "(func return_call 0)", "(tag)", "(type (struct))", "(func (param (ref func)))",
])  # fmt: skip
def test_the_validator_alone_refuses_what_can_be_switched_off(text: str) -> None:
    with pytest.raises(ValidationError):
        validate(wasm(f"(module {text})"))


# --- any bytes -----------------------------------------------------------------------------------


def _outcome(data: bytes) -> str:
    try:
        decode(data)
    except DecodeError as error:
        assert "\n" not in str(error)
        return type(error).__name__
    return "decoded"


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    data = bytearray(SAMPLE)
    interesting = st.one_of(st.sampled_from([0, 1, 2, 0x40, 0x7F, 0x80, 0xFF]), st.integers(0, 255))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["set", "insert", "delete", "flip"])):
            case "set":
                data[at] = draw(interesting)
            case "insert":
                data.insert(at, draw(interesting))
            case "delete":
                del data[at]
            case _:
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@settings(max_examples=500, deadline=1000)
@given(mutations())
def test_mutated_modules_give_a_module_or_a_decode_error(data: bytes) -> None:
    """And what the binary format forbids in our eyes, wasmtime refuses too."""
    if _outcome(data) not in ("decoded", "UnsupportedError"):
        with pytest.raises(ValidationError):
            validate(data)


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=200), st.sampled_from([b"", PREAMBLE, PREAMBLE + TYPE]))
def test_random_bytes_give_a_module_or_a_decode_error(data: bytes, before: bytes) -> None:
    _outcome(before + data)


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=60))
def test_random_code_gives_a_module_or_a_decode_error(code: bytes) -> None:
    _outcome(with_body(code + b"\x0b", data_count=True))


def test_a_large_module_is_decoded_in_well_under_a_second() -> None:
    body = b"\x20\0\x41\xe4\0\x6a\x28\x02\x04\x04\x40\x0b" * 8000
    data = with_body(body + b"\x0b", locals_=b"\x01\x01\x7f")
    start = time.process_time()
    assert len(body_of(data)) == 8000 * 6 + 1
    assert time.process_time() - start < 1
