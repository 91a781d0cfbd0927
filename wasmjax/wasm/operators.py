"""WebAssembly operators that are one machine operation each, and those not supported yet."""

from __future__ import annotations

from dataclasses import dataclass

from wasmjax.machine import isa
from wasmjax.wasm.opcodes import OPCODES
from wasmjax.wasm.types import Instr, MemArg


@dataclass(frozen=True, slots=True)
class Access:
    """A load or store: its machine operation and how many bytes it touches."""

    op: str
    size: int


_COMPARISONS = ("eq", "ne", "lt_s", "lt_u", "gt_s", "gt_u", "le_s", "le_u", "ge_s", "ge_u")
_ARITHMETIC = ("add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr")
_INTEGERS = ("i32", "i64")

BINARY = frozenset(f"{t}.{name}" for t in _INTEGERS for name in _COMPARISONS + _ARITHMETIC)
"""Operators with operands A and B, under the machine's own names."""

COUNTS = frozenset(f"{t}.{name}" for t in _INTEGERS for name in ("clz", "ctz", "popcnt"))
"""Operators with operand A."""

EXTENSIONS: dict[str, str] = {
    **{f"{t}.extend{bits}_s": f"{t}.extend{bits}_s" for t in _INTEGERS for bits in (8, 16)},
    "i64.extend32_s": "i64.extend32_s",
    "i64.extend_i32_s": "i64.extend32_s",
    "i32.wrap_i64": "i32.wrap_i64",
}
"""Operators with operand B -> machine operation."""

NO_STEP = frozenset(
    {
        "nop",
        "i64.extend_i32_u",  # bytes 4..7 of an i32's slot are zero already
        "i32.reinterpret_f32",
        "i64.reinterpret_f64",
        "f32.reinterpret_i32",
        "f64.reinterpret_i64",
    }
)
"""Operators that leave the stack's slots as they are."""

CONSTANTS = frozenset({"i32.const", "i64.const", "f32.const", "f64.const"})

DIVISIONS = frozenset(
    f"{t}.{name}" for t in _INTEGERS for name in ("div_s", "div_u", "rem_s", "rem_u")
)
"""Operators that a constant divisor turns into a few steps (`division`)."""

_FLOATS = ("f32", "f64")
_FLOAT_ROUTINES = (
    "add", "mul", "div", "sqrt", "min", "max", "ceil", "floor", "trunc", "nearest",
    "eq", "ne", "lt", "gt", "le", "ge",
)  # fmt: skip

SIGN_CHANGES = frozenset(f"{t}.{name}" for t in _FLOATS for name in ("abs", "neg", "copysign"))
"""Operators that work on the sign bit alone."""

SUBTRACTIONS = {f"{t}.sub": f"{t}.add" for t in _FLOATS}
"""Operators that are another one with the sign of the second operand changed."""

CONVERSIONS = frozenset(
    name
    for name in OPCODES
    if "trunc_" in name or ".convert_" in name or name in ("f64.promote_f32", "f32.demote_f64")
)
"""Operators between floats and integers, and between the floats."""

LIBRARY = (
    DIVISIONS
    | {"memory.grow", "memory.copy", "memory.fill"}
    | {f"{t}.{name}" for t in _FLOATS for name in _FLOAT_ROUTINES}
    | CONVERSIONS
)
"""Operators that are calls of the runtime library's function of the same name."""


def _loads() -> dict[str, Access]:
    out = {"f32.load": Access("i32.load", 4), "f64.load": Access("i64.load", 8)}
    for name in isa.OPS:
        if ".load" in name:
            bits = name.partition(".load")[2].partition("_")[0] or name[1:3]
            out[name] = Access(name, int(bits) // 8)
    return out


def _stores() -> dict[str, Access]:
    out = {}
    for name in OPCODES:
        if ".store" in name:
            bits = int(name.partition(".store")[2] or name[1:3])
            out[name] = Access(f"store{bits}", bits // 8)
    return out


LOADS: dict[str, Access] = _loads()
STORES: dict[str, Access] = _stores()

_OTHERS = frozenset(
    {
        "unreachable", "block", "loop", "if", "else", "end", "br", "br_if", "br_table", "return",
        "call", "call_indirect", "drop", "select", "local.get", "local.set", "local.tee",
        "global.get", "global.set", "memory.size", "memory.init", "data.drop",
        "table.init", "table.copy", "elem.drop",
        "i32.eqz", "i64.eqz",
    }
)  # fmt: skip

UNSUPPORTED = (
    frozenset(OPCODES)
    - BINARY
    - COUNTS
    - EXTENSIONS.keys()
    - NO_STEP
    - CONSTANTS
    - LIBRARY
    - SIGN_CHANGES
    - SUBTRACTIONS.keys()
    - LOADS.keys()
    - STORES.keys()
    - _OTHERS
)
"""Operators that trap as not yet supported when they are reached."""


def describe(instr: Instr) -> str:
    """The instruction as a trace shows it."""
    words = [instr.name]
    for immediate in instr.immediates:
        if isinstance(immediate, MemArg):
            words += [f"offset={immediate.offset}"] if immediate.offset else []
        elif isinstance(immediate, int):
            width = int(instr.name[1:3]) if instr.name in ("i32.const", "i64.const") else 0
            negative = width and immediate >> (width - 1)
            words.append(str(immediate - (1 << width) if negative else immediate))
        elif isinstance(immediate, tuple):
            words += [str(depth) for depth in immediate]
    return " ".join(words)
