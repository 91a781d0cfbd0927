"""Arithmetic and logic on bytes; every unit adds into the same result lanes.

A unit is switched on by control columns; with them off it contributes exactly zero.
"""

from wasmjax.circuit.language import ZERO, Affine, total
from wasmjax.machine.spaces import Tables
from wasmjax.machine.state import Lanes, Step


def add_to(lanes: Lanes, k: int, signal: Affine) -> None:
    lanes[k] = lanes[k] + signal


def pass_columns(k: int) -> str:
    """Name of the lane group that byte k belongs to."""
    return "0" if k == 0 else "1" if k == 1 else "23" if k < 4 else "47"


def moves(step: Step, lanes: Lanes, blocked: Affine) -> None:
    """Operand B to the result; select puts A there. `blocked` (a memory trap) stops it."""
    c = step.circuit
    for k, byte in enumerate(step.b.byte):
        gate = step.flag(f"pass{pass_columns(k)}")
        if gate.terms:
            add_to(lanes, k, c.reglu(f"pass {k}", gate - blocked, byte))
    if step.has("select"):
        choose = step.flag("select") + condition(step) - 1
        for k, (x, y) in enumerate(zip(step.a.byte, step.b.byte, strict=True)):
            add_to(lanes, k, c.reglu(f"select {k}", choose, x - y))


def condition(step: Step) -> Affine:
    """1 if operand C's low 32 bits are not zero."""
    c = step.circuit
    cached = next((w for w in c.wires if w.name == "condition"), None)
    if cached is not None:
        return Affine({cached: 1.0})
    x = total(step.c)
    return c.wire("condition", c.step("condition", x, 1), (0, 1), "a step function")


def sign_extension(step: Step, lanes: Lanes) -> None:
    """Fills upper bytes with the sign of byte 0, 1 or 3 of operand B."""
    c, n = step.circuit, len(lanes)
    fills = {
        "sext8": (0, range(1, 4)),
        "sext8_hi": (0, range(4, n)),
        "sext16": (1, range(2, 4)),
        "sext16_hi": (1, range(4, n)),
        "sext32_hi": (3, range(4, n)),
    }
    for name, (source, filled) in fills.items():
        if step.has(name):
            sign = c.wire(
                name,
                c.step(name, step.b.byte[source], 128, step.flag(name)),
                (0, 1),
                "a step function",
            )
            # One neuron spreads the sign over the filled lanes.
            spread = c.reglu(f"{name} fill", sign, 255)
            for k in filled:
                add_to(lanes, k, spread)


def add_subtract_multiply(step: Step, tables: Tables, lanes: Lanes) -> None:
    """Sums with carry look-ahead, and all comparisons from the same digits.

    S_k = a_k + b_k, a_k + 255 - b_k or the multiplier's column k; the digit
    g_k = [S_k >= 255] + [S_k >= 256] comes from the table; the carry into byte k is
    [carry_in + sum_{j<k} 2^j g_j >= 2^k].
    """
    if not step.has("add_lo", "sub_lo", "mul"):
        return
    c, n = step.circuit, len(lanes)
    products, corrections = _multiplier(step, tables, n)
    sums, digits = [], []
    for k in range(n):
        half = "lo" if k < 4 else "hi"
        x, y = step.a.byte[k], step.b.byte[k]
        part = corrections[k]
        if step.has(f"add_{half}"):
            part = part + c.reglu(f"sum {k}", step.flag(f"add_{half}"), x + y)
        if step.has(f"sub_{half}"):
            part = part + c.reglu(f"difference {k}", step.flag(f"sub_{half}"), x - y + 255)
        sums.append(c.wire(f"S{k}", part) + products[k])
        (digit,) = tables.lookup(
            f"carry digit {k}",
            sums[k] - 14,
            {"carry digit": lambda j: 0 if j < 241 else 1 if j == 241 else 2},
        )
        digits.append(digit)
    for k in range(n):
        half = "lo" if k < 4 else "hi"
        add_to(lanes, k, c.reglu(f"result {k}", step.flag(f"res_{half}"), sums[k]))
    below = step.flag("carry_in")
    add_to(lanes, 0, below)
    for k in range(1, n + 1):
        below = below + 2 ** (k - 1) * digits[k - 1]
        carry = c.step(f"carry {k}", below, 2**k, step.flag("res_lo" if k <= 4 else "res_hi"))
        add_to(lanes, k - 1, -256 * carry)
        if k == 4 and n > 4:  # a 32-bit carry does not enter byte 4
            carry = c.step("carry 4 up", below, 16, step.flag("res_hi"))
        if k < n:
            add_to(lanes, k, carry)
    _compare(step, digits, lanes)


def _compare(step: Step, digits: list[Affine], lanes: Lanes) -> None:
    """a >= b iff D >= 2^n - 1 and a > b iff D >= 2^n, for D = sum 2^j g_j of a - b."""
    c, n = step.circuit, len(lanes)
    d = total(2**j * g for j, g in enumerate(digits))
    for name, lane in (("sign32", 3), ("sign64", 7)):
        if step.has(name):
            # Signed order: a set sign bit counts against a number.
            for who, byte, weight in (("a", step.a.byte, -1), ("b", step.b.byte, 1)):
                sign = c.step(f"{name} {who}", byte[lane], 128, step.flag(name))
                d = d + weight * 2 ** (n + 1) * sign
    add_to(lanes, 0, step.flag("cmp_one"))
    for name, threshold in (("ge", 2**n - 1), ("gt", 2**n)):
        for suffix, weight in (("pos", 1), ("neg", -1)):
            column = f"{name}_{suffix}"
            if step.has(column):
                add_to(lanes, 0, weight * c.step(column, d, threshold, step.flag(column)))


def _multiplier(step: Step, tables: Tables, n: int) -> tuple[list[Affine], list[Affine]]:
    """Columns d_k of the product and corrections -256 h_k + h_{k-1}, h_k = floor(d_k / 256).

    Each byte product is split by one lookup, so a column stays below 4096.
    """
    if not step.has("mul"):
        return [ZERO] * n, [ZERO] * n
    c = step.circuit
    column = [ZERO] * n
    off = 255 * (1 - step.flag("mul"))
    for i in range(n):
        for j in range(n - i):
            product = c.reglu(f"product {i},{j}", step.a.byte[i] - off, step.b.byte[j])
            high = tables.divide(f"product {i},{j} high", product, 8)
            column[i + j] = column[i + j] + product - 256 * high
            if i + j + 1 < n:
                column[i + j + 1] = column[i + j + 1] + high
    corrections = [ZERO] * n
    for k in range(n):
        column[k] = c.wire(
            f"column {k}", column[k], (0, 255 * (2 * k + 1)), f"{2 * k + 1} bytes are added"
        )
        high = total(
            c.step(f"column {k} >= {256 * t}", column[k], 256 * t) for t in range(1, 2 * k + 1)
        )
        corrections[k] = corrections[k] - 256 * high
        if k + 1 < n:
            corrections[k + 1] = corrections[k + 1] + high
    return column, corrections


def bitwise(step: Step, tables: Tables, lanes: Lanes) -> None:
    """and, or, xor from the and of nibbles: or = a + b - and, xor = a + b - 2 and."""
    if not step.has("bit_and", "bit_xor"):
        return
    c = step.circuit
    for k in range(len(lanes)):
        x, y, xh, yh = step.a.byte[k], step.b.byte[k], step.a.high[k], step.b.high[k]
        both = {"and": lambda j: (j >> 4) & (j & 15)}
        (high,) = tables.lookup(f"and {k} high", 16 * xh + yh, both)
        (low,) = tables.lookup(f"and {k} low", 16 * (x - 16 * xh) + (y - 16 * yh), both)
        conjunction = 16 * high + low
        add_to(lanes, k, c.reglu(f"and {k}", step.flag("bit_and"), conjunction))
        add_to(lanes, k, c.reglu(f"xor {k}", step.flag("bit_xor"), x + y - 2 * conjunction))


def counts(step: Step, tables: Tables, lanes: Lanes) -> None:
    """clz, ctz, popcnt: per byte from the table, combined by gates."""
    if not step.has("clz", "ctz", "popcnt"):
        return
    c, n = step.circuit, len(lanes)
    functions = {
        "ones": lambda j: j.bit_count(),
        "leading": lambda j: 8 - j.bit_length(),
        "trailing": lambda j: 8 if j == 0 else (j & -j).bit_length() - 1,
        "non-zero": lambda j: float(j > 0),
    }
    rows = [tables.lookup(f"count {k}", step.a.byte[k], functions) for k in range(n)]
    ones, leading, trailing, filled = zip(*rows, strict=True)
    add_to(lanes, 0, c.reglu("popcnt", step.flag("popcnt"), total(ones)))
    for k in range(n):
        above, below = total(filled[k + 1 :]), total(filled[:k])
        add_to(lanes, 0, c.reglu(f"clz {k}", step.flag("clz") - above, leading[k]))
        here = step.flag("ctz" if k < 4 else "ctz64")
        if here.terms:
            add_to(lanes, 0, c.reglu(f"ctz {k}", here - below, trailing[k]))
    add_to(lanes, 0, -32 * step.flag("clz32"))
