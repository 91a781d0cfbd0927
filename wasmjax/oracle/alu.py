"""Integer arithmetic of the machine, operation by operation, in Python integers.

Written from the WebAssembly semantics by operation *name*; the control columns of `isa.OPS`, which
the circuit obeys, play no part here, so a wrong column shows as a divergence.
"""

from collections.abc import Callable

Binary = Callable[[int, int], int]
Unary = Callable[[int], int]


def sign_extend(value: int, source: int, result: int) -> int:
    """The low `source` bits of `value` as a signed number, in `result` bits."""
    value &= (1 << source) - 1
    if value >> (source - 1):
        value |= (1 << result) - (1 << source)
    return value


def _binary(width: int) -> dict[str, Binary]:
    mask = (1 << width) - 1
    top = 1 << (width - 1)  # flipping the sign bit turns a signed order into an unsigned one
    turn = width - 1  # counts are taken modulo the width

    def shr_s(a: int, b: int) -> int:
        return ((((a & mask) ^ top) - top) >> (b & turn)) & mask

    def rotl(a: int, b: int) -> int:
        a, b = a & mask, b & turn
        return (a << b | a >> (width - b)) & mask

    return {
        "add": lambda a, b: (a + b) & mask,
        "sub": lambda a, b: (a - b) & mask,
        "mul": lambda a, b: (a * b) & mask,
        "and": lambda a, b: a & b & mask,
        "or": lambda a, b: (a | b) & mask,
        "xor": lambda a, b: (a ^ b) & mask,
        "shl": lambda a, b: (a << (b & turn)) & mask,
        "shr_u": lambda a, b: (a & mask) >> (b & turn),
        "shr_s": shr_s,
        "rotl": rotl,
        "rotr": lambda a, b: rotl(a, -b),
        "eq": lambda a, b: int((a ^ b) & mask == 0),
        "ne": lambda a, b: int((a ^ b) & mask != 0),
        "lt_u": lambda a, b: int((a & mask) < (b & mask)),
        "gt_u": lambda a, b: int((a & mask) > (b & mask)),
        "le_u": lambda a, b: int((a & mask) <= (b & mask)),
        "ge_u": lambda a, b: int((a & mask) >= (b & mask)),
        "lt_s": lambda a, b: int((a & mask) ^ top < (b & mask) ^ top),
        "gt_s": lambda a, b: int((a & mask) ^ top > (b & mask) ^ top),
        "le_s": lambda a, b: int((a & mask) ^ top <= (b & mask) ^ top),
        "ge_s": lambda a, b: int((a & mask) ^ top >= (b & mask) ^ top),
    }


def _count(width: int) -> dict[str, Unary]:
    mask = (1 << width) - 1

    def ctz(a: int) -> int:
        a &= mask
        return (a & -a).bit_length() - 1 if a else width

    return {
        "clz": lambda a: width - (a & mask).bit_length(),
        "ctz": ctz,
        "popcnt": lambda a: (a & mask).bit_count(),
    }


def _extend(source: int, result: int) -> Unary:
    return lambda b: sign_extend(b, source, result)


WIDTHS = (8, 32, 64)

BINARY: dict[str, Binary] = {
    f"i{width}.{name}": function for width in WIDTHS for name, function in _binary(width).items()
}
"""Operation -> result from A and B."""

COUNT: dict[str, Unary] = {
    f"i{width}.{name}": function for width in WIDTHS for name, function in _count(width).items()
}
"""Operation -> result from A alone."""

EXTEND: dict[str, Unary] = {
    f"i{width}.extend{bits}_s": _extend(bits, width)
    for width in WIDTHS
    for bits in (8, 16, 32)
    if bits < width
}
"""Operation -> result from B alone."""
