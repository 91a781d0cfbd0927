"""The instructions of the binary format: opcode -> name, kind of immediate, feature.

Supported ones are in ``OPCODES``; the bytes of proposals that this engine refuses are in
``REFUSED`` and ``REFUSED_PREFIXES``, so that a refusal can say what it refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ImmediateKind(Enum):
    """What ``Instr.immediates`` holds. Table and memory indices are always 0 and never held."""

    NONE = "()"
    BLOCK = "(block type: BlockType,)"
    LABEL = "(label depth,)"
    LABELS = "(label depths: tuple[int, ...], default label depth)"
    FUNC = "(function index,)"
    TYPE_TABLE = "(type index,), then a table index 0 in the binary"
    LOCAL = "(local index,)"
    GLOBAL = "(global index,)"
    MEMARG = "(MemArg,)"
    MEMORY = "(), after exactly one zero byte in the binary"
    BULK_MEMORY = "(), after a memory index 0 in the binary"
    BULK_MEMORY_MEMORY = "(), after two memory indices 0 in the binary"
    DATA_MEMORY = "(data index,), then a memory index 0 in the binary"
    DATA = "(data index,)"
    ELEM_TABLE = "(element index,), then a table index 0 in the binary"
    ELEM = "(element index,)"
    TABLE_TABLE = "(), after two table indices 0 in the binary"
    I32 = "(bit pattern, 0 <= n < 2**32,)"
    I64 = "(bit pattern, 0 <= n < 2**64,)"
    F32 = "(bit pattern of the float, 0 <= n < 2**32,)"
    F64 = "(bit pattern of the float, 0 <= n < 2**64,)"


MVP = "mvp"
SIGN_EXTENSION = "sign-extension"
SATURATING = "saturating-float-to-int"
BULK_MEMORY = "bulk-memory"
MULTI_VALUE = "multi-value"
MUTABLE_GLOBALS = "mutable-globals"
SUPPORTED_FEATURES = (
    MVP, SIGN_EXTENSION, SATURATING, BULK_MEMORY, MULTI_VALUE, MUTABLE_GLOBALS,
)  # fmt: skip
"""The last two add no instruction: they lift restrictions on types and on imports and exports."""

# Features that are refused; the values are what error messages call them.
REFERENCE_TYPES = "the reference types proposal"
EXTENDED_CONST = "extended constant expressions"
SIMD = "the SIMD proposal"
RELAXED_SIMD = "the relaxed SIMD proposal"
THREADS = "the threads proposal"
TAIL_CALLS = "the tail call proposal"
EXCEPTIONS = "the exception handling proposal"
GC = "the garbage collection proposal"
FUNCTION_REFERENCES = "the typed function references proposal"
MEMORY64 = "the memory64 proposal"
MULTI_MEMORY = "the multiple memories proposal"
STACK_SWITCHING = "the stack switching proposal"
WIDE_ARITHMETIC = "the wide arithmetic proposal"
MEMORY_CONTROL = "the memory control proposal"
CUSTOM_PAGE_SIZES = "the custom page sizes proposal"
COMPONENT_MODEL = "the component model"


@dataclass(frozen=True, slots=True)
class Opcode:
    """One supported instruction. ``code`` is its byte, or its number after the prefix 0xfc."""

    name: str
    code: int
    prefixed: bool
    immediate: ImmediateKind
    feature: str


PREFIX = 0xFC

_K = ImmediateKind

_CONTROL_AND_VARIABLES: tuple[tuple[int, str, ImmediateKind], ...] = (
    (0x00, "unreachable", _K.NONE),
    (0x01, "nop", _K.NONE),
    (0x02, "block", _K.BLOCK),
    (0x03, "loop", _K.BLOCK),
    (0x04, "if", _K.BLOCK),
    (0x05, "else", _K.NONE),
    (0x0B, "end", _K.NONE),
    (0x0C, "br", _K.LABEL),
    (0x0D, "br_if", _K.LABEL),
    (0x0E, "br_table", _K.LABELS),
    (0x0F, "return", _K.NONE),
    (0x10, "call", _K.FUNC),
    (0x11, "call_indirect", _K.TYPE_TABLE),
    (0x1A, "drop", _K.NONE),
    (0x1B, "select", _K.NONE),
    (0x20, "local.get", _K.LOCAL),
    (0x21, "local.set", _K.LOCAL),
    (0x22, "local.tee", _K.LOCAL),
    (0x23, "global.get", _K.GLOBAL),
    (0x24, "global.set", _K.GLOBAL),
    (0x3F, "memory.size", _K.MEMORY),
    (0x40, "memory.grow", _K.MEMORY),
    (0x41, "i32.const", _K.I32),
    (0x42, "i64.const", _K.I64),
    (0x43, "f32.const", _K.F32),
    (0x44, "f64.const", _K.F64),
)

# Runs of consecutive opcodes: (first, type prefix, names).
_INT_COMPARE = "eqz eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u"
_FLOAT_COMPARE = "eq ne lt gt le ge"
_INT_ARITHMETIC = (
    "clz ctz popcnt add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr"
)
_FLOAT_ARITHMETIC = "abs neg ceil floor trunc nearest sqrt add sub mul div min max copysign"
_MEMORY_ACCESS = (
    (0x28, "i32", "load"),
    (0x29, "i64", "load"),
    (0x2A, "f32", "load"),
    (0x2B, "f64", "load"),
    (0x2C, "i32", "load8_s load8_u load16_s load16_u"),
    (0x30, "i64", "load8_s load8_u load16_s load16_u load32_s load32_u"),
    (0x36, "i32", "store"),
    (0x37, "i64", "store"),
    (0x38, "f32", "store"),
    (0x39, "f64", "store"),
    (0x3A, "i32", "store8 store16"),
    (0x3C, "i64", "store8 store16 store32"),
)
_NUMERIC = (
    (0x45, "i32", _INT_COMPARE),
    (0x50, "i64", _INT_COMPARE),
    (0x5B, "f32", _FLOAT_COMPARE),
    (0x61, "f64", _FLOAT_COMPARE),
    (0x67, "i32", _INT_ARITHMETIC),
    (0x79, "i64", _INT_ARITHMETIC),
    (0x8B, "f32", _FLOAT_ARITHMETIC),
    (0x99, "f64", _FLOAT_ARITHMETIC),
    (0xA7, "i32", "wrap_i64 trunc_f32_s trunc_f32_u trunc_f64_s trunc_f64_u"),
    (0xAC, "i64", "extend_i32_s extend_i32_u trunc_f32_s trunc_f32_u trunc_f64_s trunc_f64_u"),
    (0xB2, "f32", "convert_i32_s convert_i32_u convert_i64_s convert_i64_u demote_f64"),
    (0xB7, "f64", "convert_i32_s convert_i32_u convert_i64_s convert_i64_u promote_f32"),
    (0xBC, "i32", "reinterpret_f32"),
    (0xBD, "i64", "reinterpret_f64"),
    (0xBE, "f32", "reinterpret_i32"),
    (0xBF, "f64", "reinterpret_i64"),
)
_SIGN_EXTENSION = (
    (0xC0, "i32", "extend8_s extend16_s"),
    (0xC2, "i64", "extend8_s extend16_s extend32_s"),
)
_SATURATING = (
    (0, "i32", "trunc_sat_f32_s trunc_sat_f32_u trunc_sat_f64_s trunc_sat_f64_u"),
    (4, "i64", "trunc_sat_f32_s trunc_sat_f32_u trunc_sat_f64_s trunc_sat_f64_u"),
)
_BULK: tuple[tuple[int, str, ImmediateKind], ...] = (
    (8, "memory.init", _K.DATA_MEMORY),
    (9, "data.drop", _K.DATA),
    (10, "memory.copy", _K.BULK_MEMORY_MEMORY),
    (11, "memory.fill", _K.BULK_MEMORY),
    (12, "table.init", _K.ELEM_TABLE),
    (13, "elem.drop", _K.ELEM),
    (14, "table.copy", _K.TABLE_TABLE),
)


def _all_opcodes() -> dict[str, Opcode]:
    ops = [Opcode(n, c, False, k, MVP) for c, n, k in _CONTROL_AND_VARIABLES]
    ops += [Opcode(n, c, True, k, BULK_MEMORY) for c, n, k in _BULK]
    for runs, prefixed, kind, feature in (
        (_MEMORY_ACCESS, False, _K.MEMARG, MVP),
        (_NUMERIC, False, _K.NONE, MVP),
        (_SIGN_EXTENSION, False, _K.NONE, SIGN_EXTENSION),
        (_SATURATING, True, _K.NONE, SATURATING),
    ):
        for first, type_name, names in runs:
            for code, name in enumerate(names.split(), first):
                ops.append(Opcode(f"{type_name}.{name}", code, prefixed, kind, feature))
    ops.sort(key=lambda op: (op.prefixed, op.code))
    return {op.name: op for op in ops}


OPCODES: dict[str, Opcode] = _all_opcodes()
"""Every supported instruction by name, in the order of opcodes."""

BY_BYTE: dict[int, Opcode] = {op.code: op for op in OPCODES.values() if not op.prefixed}
"""Supported instructions of one byte."""

BY_NUMBER: dict[int, Opcode] = {op.code: op for op in OPCODES.values() if op.prefixed}
"""Supported instructions of the prefix 0xfc, by the number that follows it."""

REFUSED: dict[int, tuple[str, str]] = {
    0x06: ("try", EXCEPTIONS),
    0x07: ("catch", EXCEPTIONS),
    0x08: ("throw", EXCEPTIONS),
    0x09: ("rethrow", EXCEPTIONS),
    0x0A: ("throw_ref", EXCEPTIONS),
    0x12: ("return_call", TAIL_CALLS),
    0x13: ("return_call_indirect", TAIL_CALLS),
    0x14: ("call_ref", FUNCTION_REFERENCES),
    0x15: ("return_call_ref", FUNCTION_REFERENCES),
    0x18: ("delegate", EXCEPTIONS),
    0x19: ("catch_all", EXCEPTIONS),
    0x1C: ("select with a type", REFERENCE_TYPES),
    0x1F: ("try_table", EXCEPTIONS),
    0x25: ("table.get", REFERENCE_TYPES),
    0x26: ("table.set", REFERENCE_TYPES),
    0xD0: ("ref.null", REFERENCE_TYPES),
    0xD1: ("ref.is_null", REFERENCE_TYPES),
    0xD2: ("ref.func", REFERENCE_TYPES),
    0xD3: ("ref.eq", GC),
    0xD4: ("ref.as_non_null", FUNCTION_REFERENCES),
    0xD5: ("br_on_null", FUNCTION_REFERENCES),
    0xD6: ("br_on_non_null", FUNCTION_REFERENCES),
    0xE0: ("cont.new", STACK_SWITCHING),
    0xE1: ("cont.bind", STACK_SWITCHING),
    0xE2: ("suspend", STACK_SWITCHING),
    0xE3: ("resume", STACK_SWITCHING),
    0xE4: ("resume_throw", STACK_SWITCHING),
    0xE5: ("resume_throw_ref", STACK_SWITCHING),
    0xE6: ("switch", STACK_SWITCHING),
}
"""One-byte opcodes of refused proposals: name and feature."""

REFUSED_NUMBERS: dict[int, tuple[str, str]] = {
    15: ("table.grow", REFERENCE_TYPES),
    16: ("table.size", REFERENCE_TYPES),
    17: ("table.fill", REFERENCE_TYPES),
    18: ("memory.discard", MEMORY_CONTROL),
    19: ("i64.add128", WIDE_ARITHMETIC),
    20: ("i64.sub128", WIDE_ARITHMETIC),
    21: ("i64.mul_wide_s", WIDE_ARITHMETIC),
    22: ("i64.mul_wide_u", WIDE_ARITHMETIC),
}
"""Refused instructions of the prefix 0xfc, by the number that follows it."""

REFUSED_PREFIXES: dict[int, str] = {0xFB: GC, 0xFD: SIMD, 0xFE: THREADS}
"""Prefix bytes that belong to refused proposals as a whole."""

FIRST_RELAXED_SIMD = 0x100
"""The first number after the prefix 0xfd that belongs to relaxed SIMD."""

EXTENDED_CONST_NAMES = frozenset(
    f"{t}.{op}" for t in ("i32", "i64") for op in ("add", "sub", "mul")
)

REFUSED_TYPES: dict[int, tuple[str, str]] = {
    0x7B: ("v128", SIMD),
    0x78: ("i8", GC),
    0x77: ("i16", GC),
    0x75: ("nocont", STACK_SWITCHING),
    0x74: ("noexn", EXCEPTIONS),
    0x73: ("nofunc", GC),
    0x72: ("noextern", GC),
    0x71: ("none", GC),
    0x70: ("funcref", REFERENCE_TYPES),
    0x6F: ("externref", REFERENCE_TYPES),
    0x6E: ("anyref", GC),
    0x6D: ("eqref", GC),
    0x6C: ("i31ref", GC),
    0x6B: ("structref", GC),
    0x6A: ("arrayref", GC),
    0x69: ("exnref", EXCEPTIONS),
    0x68: ("contref", STACK_SWITCHING),
    0x64: ("(ref ...)", FUNCTION_REFERENCES),
    0x63: ("(ref null ...)", FUNCTION_REFERENCES),
    0x5F: ("struct", GC),
    0x5E: ("array", GC),
    0x5D: ("cont", STACK_SWITCHING),
    0x50: ("sub", GC),
    0x4F: ("sub final", GC),
    0x4E: ("rec", GC),
}
"""Bytes that begin a type of a refused proposal: the type's name and the feature."""
