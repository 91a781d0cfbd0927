"""The machine's operations and the control columns each one switches on.

An instruction token carries its operation as one field; the embedding of that field *is* the
control word below. The circuit gates its units with these columns; it never sees a name.

Operands of every operation (see docs/tokens.md): A, B, C are slots named by the instruction
token (B also adds the immediate), D is the destination slot. Unary arithmetic reads A, moves and
sign extensions read B; the integer semantics are in `wasmjax.oracle`.
"""

# What a token writes to: the values of the field `kind`.
KINDS = (
    "none", "slot", "mem1", "mem2", "mem4", "mem8", "out", "err", "trap", "halt",
    "table", "host", "bos", "code", "input", "arith",
)  # fmt: skip
KIND = {name: index for index, name in enumerate(KINDS)}

# Kinds after which generation stops (the machine's end-of-sequence tokens).
STOP_KINDS = (KIND["trap"], KIND["halt"], KIND["host"])

# Standard trap messages of the WebAssembly specification's test suite; the index is the
# token's `code`. Codes from UNSUPPORTED_BASE on say "not yet supported: NAME".
TRAPS = (
    "",
    "unreachable",
    "integer divide by zero",
    "integer overflow",
    "out of bounds memory access",
    "undefined element",
    "uninitialized element",
    "indirect call type mismatch",
    "call stack exhausted",
    "invalid conversion to integer",
    "out of bounds table access",
)
TRAP = {name: index for index, name in enumerate(TRAPS)}
UNSUPPORTED_BASE = 32

# The `code` of a halt token: the invoked function returned, or the program called proc_exit.
RETURNED, EXITED = 0, 1

Control = dict[str, int]

_PASS = {"pass0": 1, "pass1": 1, "pass23": 1, "pass47": 1}
_SLOT = {"kind": KIND["slot"]}

# (source width in bytes, result width in bytes) -> the fill columns of a sign extension.
_SEXT_PASS = {
    1: {"pass0": 1},
    2: {"pass0": 1, "pass1": 1},
    4: {"pass0": 1, "pass1": 1, "pass23": 1},
}
_SEXT_FILL = {
    (1, 4): {"sext8": 1},
    (1, 8): {"sext8": 1, "sext8_hi": 1},
    (2, 4): {"sext16": 1},
    (2, 8): {"sext16": 1, "sext16_hi": 1},
    (4, 8): {"sext32_hi": 1},
}


def _compare(width: int, name: str) -> Control:
    """a ? b from D = sum 2^j g_j of a - b: a >= b iff D >= 255, a > b iff D >= 256."""
    relation, _, sign = name.partition("_")
    out: Control = {"sub_lo": 1, "sub_hi": 1} | _SLOT
    if sign == "s":
        out["sign32" if width == 32 else "sign64"] = 1
    out |= {
        "eq": {"ge_pos": 1, "gt_neg": 1},
        "ne": {"cmp_one": 1, "ge_neg": 1, "gt_pos": 1},
        "lt": {"cmp_one": 1, "ge_neg": 1},
        "ge": {"ge_pos": 1},
        "gt": {"gt_pos": 1},
        "le": {"cmp_one": 1, "gt_neg": 1},
    }[relation]
    return out


def _integer(width: int) -> dict[str, Control]:
    hi = width == 64
    ops: dict[str, Control] = {}
    ops["add"] = {"add_lo": 1, "res_lo": 1} | ({"add_hi": 1, "res_hi": 1} if hi else {})
    ops["sub"] = {"sub_lo": 1, "res_lo": 1, "carry_in": 1} | (
        {"sub_hi": 1, "res_hi": 1} if hi else {}
    )
    for name in ("eq", "ne", "lt_s", "lt_u", "gt_s", "gt_u", "le_s", "le_u", "ge_s", "ge_u"):
        ops[name] = _compare(width, name)
    if width == 8:
        return {f"i8.{name}": ops[name] | _SLOT for name in ("add", "sub", "eq", "ne", "lt_u")}
    ops["mul"] = {"mul": 1, "res_lo": 1} | ({"res_hi": 1} if hi else {})
    ops["and"] = {"bit_and": 1}
    ops["or"] = {"bit_and": 1, "bit_xor": 1}
    ops["xor"] = {"bit_xor": 1}
    ops["shl"] = {"left": 1, f"shl{width}": 1}
    ops["shr_u"] = {"right": 1, f"shr{width}": 1}
    ops["shr_s"] = {"right": 1, f"shr{width}": 1, f"sar{width}": 1}
    ops["rotl"] = {"left": 1, f"rotl{width}": 1}
    ops["rotr"] = {"right": 1, f"rotr{width}": 1}
    ops["clz"] = {"clz": 1} | ({} if hi else {"clz32": 1})
    ops["ctz"] = {"ctz": 1} | ({"ctz64": 1} if hi else {})
    ops["popcnt"] = {"popcnt": 1}
    ops["extend8_s"] = _SEXT_PASS[1] | _SEXT_FILL[1, width // 8]
    ops["extend16_s"] = _SEXT_PASS[2] | _SEXT_FILL[2, width // 8]
    if hi:
        ops["extend32_s"] = _SEXT_PASS[4] | _SEXT_FILL[4, 8]
    return {f"i{width}.{name}": control | _SLOT for name, control in ops.items()}


def _load(size: int, result: int, signed: bool) -> Control:
    out: Control = {"mem": 1, "load": 1, "size_minus_1": size - 1} | _SLOT
    out |= {"load1": int(size >= 2), "load23": int(size >= 4), "load47": int(size == 8)}
    if signed and size < result:
        out |= {
            f"load_sign{size}": 1,
            "load_fill1": int(size == 1),
            "load_fill23": int(size <= 2 and result >= 4),
            "load_fill47": int(result == 8),
        }
    return out


def _memory() -> dict[str, Control]:
    ops: dict[str, Control] = {}
    for width in (32, 64):
        ops[f"i{width}.load"] = _load(width // 8, width // 8, False)
        for bits in (8, 16) if width == 32 else (8, 16, 32):
            for sign in ("s", "u"):
                ops[f"i{width}.load{bits}_{sign}"] = _load(bits // 8, width // 8, sign == "s")
    for size in (1, 2, 4, 8):
        ops[f"store{8 * size}"] = (
            {"mem": 1, "store": 1, "size_minus_1": size - 1} | _PASS | {"kind": KIND[f"mem{size}"]}
        )
    return ops


def _build() -> dict[str, Control]:
    ops: dict[str, Control] = {
        "move": _PASS | _SLOT,
        "select": _PASS | {"select": 1} | _SLOT,
        "i32.wrap_i64": _SEXT_PASS[4] | _SLOT,
        "jump": {},
        "br_if": {"branch": 1},
        "br_unless": {"branch_not": 1},
        "jump_table": {"table": 1},
        "call": _PASS | {"call": 1, "depth": 1} | _SLOT,
        "call_indirect": _PASS | {"call": 1, "depth": 1, "table": 1, "type_check": 1} | _SLOT,
        "return": {"ret": 1, "depth": -1},
        "return_value": _PASS | {"ret": 1, "depth": -1, "select": 2} | _SLOT,
        "trap": {"code": 1, "kind": KIND["trap"]},
        "halt": _PASS | {"code": 1, "kind": KIND["halt"]},
        "out": {"pass0": 1, "kind": KIND["out"]},
        "err": {"pass0": 1, "kind": KIND["err"]},
        "input": {"input": 1} | _SLOT,
    }
    for width in (8, 32, 64):
        ops |= _integer(width)
    ops |= _memory()
    ops["host"] = _PASS | {"kind": KIND["host"]}  # the value says which function is asked for
    return ops


OPS: dict[str, Control] = _build()
"""Operation name -> control columns (absent columns are zero)."""

CONTROLS: tuple[str, ...] = tuple(sorted({column for ops in OPS.values() for column in ops}))


def required_space(op: str) -> str | None:
    """The address space beyond "code" and "slots" that an operation reads or writes."""
    control = OPS[op]
    if control.get("mem"):
        return "memory"
    if control.get("table"):
        return "table"
    if control.get("input"):
        return "input"
    return None
