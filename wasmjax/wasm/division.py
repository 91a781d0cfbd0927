"""Division by a constant, in a few steps instead of the runtime library's many.

n / d is n M / 2^p for a multiplier M near 2^p / d. With l = floor(log2 d), p = width + l makes M a
number of `width` bits, and what that costs is an error n e / (d 2^p), e = |M d - 2^p|, which must
not carry the quotient past the next integer: e n < 2^p will do, and e <= 2^l is enough. Of the two
neighbours of 2^p / d one has such an e, for their two e sum to d < 2^(l + 1). The upper one is used
where it will do; the lower one is too small, which taking n + 1 for n makes up for.

Signed, n is one bit shorter and the upper neighbour always does. Its products are floors, which for
a negative n are one less than the quotient.
"""

from __future__ import annotations

from dataclasses import dataclass

ZERO = -1
"""The operand that reads zero."""


@dataclass(frozen=True, slots=True)
class Step:
    """One machine operation on numbered places: 0 holds the dividend and in the end the result.

    Attributes:
      op: operation; to: where its result goes.
      a, b: operands. imm: what is added to B, so b=ZERO makes it the operand.
    """

    op: str
    to: int
    a: int = ZERO
    b: int = ZERO
    imm: int = 0


@dataclass(frozen=True, slots=True)
class Magic:
    """n / d = (n + increment) * multiplier >> shift, for unsigned n of the width it is made for."""

    multiplier: int
    shift: int
    increment: int


def unsigned_magic(divisor: int, width: int) -> Magic:
    """For a divisor of `width` bits that is no power of two."""
    log2 = divisor.bit_length() - 1
    shift = width + log2
    lower, rest = divmod(1 << shift, divisor)
    if divisor - rest <= 1 << log2:
        return Magic(lower + 1, shift, 0)
    return Magic(lower, shift, 1)


def signed_magic(divisor: int, width: int) -> Magic:
    """For a positive divisor below 2^(width - 1) that is no power of two; of a negative n, the
    formula gives the quotient minus 1."""
    shift = width + divisor.bit_length() - 1
    return Magic((1 << shift) // divisor + 1, shift, 0)


def by_constant(name: str, divisor: int) -> list[Step] | None:
    """The steps of an operator (`i32.rem_s`) whose divisor is a constant.

    Args:
      divisor: its bits, as an unsigned number.

    Returns:
      None if it may trap: for a zero divisor, and for a signed division by -1.
    """
    width = int(name[1:3])
    signed = name.endswith("_s")
    rest = name[4:7] == "rem"
    if signed and divisor >> (width - 1):
        divisor -= 1 << width
    size = abs(divisor)
    if divisor == 0 or (divisor == -1 and not rest):
        return None
    if size == 1:
        return [Step("move", 0)] if rest else []
    steps = _Steps(f"i{width}.", width)
    if size & (size - 1):
        (steps.signed if signed else steps.unsigned)(divisor, rest)
    elif signed:
        steps.signed_power(divisor, rest)
    elif rest:
        steps.add("and", 0, 0, imm=size - 1)
    else:
        steps.add("shr_u", 0, 0, imm=size.bit_length() - 1)
    return steps.out


class _Steps:
    """Collects steps on values of one width; `size` is the divisor without its sign."""

    def __init__(self, type_: str, width: int) -> None:
        self.type, self.width = type_, width
        self.out: list[Step] = []

    def add(self, op: str, to: int, a: int = ZERO, b: int = ZERO, imm: int = 0) -> None:
        self.out.append(Step(op if "." in op else self.type + op, to, a, b, imm))

    def unsigned(self, size: int, rest: bool) -> None:
        to = 1 if rest else 0
        if size >> (self.width - 1):  # the quotient is 0 or 1
            self.add("ge_u", to, 0, imm=size)
        else:
            magic = unsigned_magic(size, self.width)
            if self.width == 32:
                source = 0
                if magic.increment:
                    self.add("i64.add", to, 0, imm=1)
                    source = to
                self.add("i64.mul", to, source, imm=magic.multiplier)
                self.add("i64.shr_u", to, to, imm=magic.shift)
            else:
                self.high_product(magic, "shr_u")
                self.add("shr_u", to, 2, imm=magic.shift - 64)
        if rest:
            self.add("mul", 1, 1, imm=size)
            self.add("sub", 0, 0, 1)

    def signed(self, divisor: int, rest: bool) -> None:
        size = abs(divisor)
        magic = signed_magic(size, self.width)
        if self.width == 32:
            self.add("i64.extend32_s", 2, b=0)
            self.add("i64.mul", 2, 2, imm=magic.multiplier)
            self.add("i64.shr_s", 2, 2, imm=magic.shift)
        else:
            self.high_product(magic, "shr_s")
            self.add("shr_s", 2, 2, imm=magic.shift - 64)
        # Place 2 holds the floor; its upper half is of no account to 32-bit operations. Place 1
        # gets 1 or -1 for a negative dividend.
        if rest:
            self.add("shr_u", 1, 0, imm=self.width - 1)
            self.add("add", 1, 1, 2)
            self.add("mul", 1, 1, imm=size)
            self.add("sub", 0, 0, 1)
        elif divisor > 0:
            self.add("shr_u", 1, 0, imm=self.width - 1)
            self.add("add", 0, 1, 2)
        else:
            self.add("shr_s", 1, 0, imm=self.width - 1)
            self.add("sub", 0, 1, 2)

    def signed_power(self, divisor: int, rest: bool) -> None:
        size = abs(divisor)
        log2 = size.bit_length() - 1
        if log2 > 1:
            self.add("shr_s", 1, 0, imm=self.width - 1)
        # size - 1 for a negative dividend, else 0
        self.add("shr_u", 1, 1 if log2 > 1 else 0, imm=self.width - log2)
        self.add("add", 1, 1, 0)
        if rest:
            self.add("and", 1, 1, imm=(1 << self.width) - size)
            self.add("sub", 0, 0, 1)
        else:
            self.add("shr_s", 1 if divisor < 0 else 0, 1, imm=log2)
            if divisor < 0:
                self.add("sub", 0, ZERO, 1)

    def high_product(self, magic: Magic, shift: str) -> None:
        """Place 2: the upper 64 bits of place 0 times a 64-bit multiplier, schoolbook. With shift
        `shr_s` place 0 is signed. No sum overflows: each is an upper half plus at most
        2^32 * (2^32 - 1)."""
        upper, lower = magic.multiplier >> 32, magic.multiplier & 0xFFFF_FFFF
        self.add("i32.wrap_i64", 1, b=0)
        if magic.increment:
            self.add("add", 1, 1, imm=1)
        self.add(shift, 2, 0, imm=32)
        self.add("mul", 3, 1, imm=lower)
        self.add("shr_u", 3, 3, imm=32)
        self.add("mul", 4, 2, imm=lower)
        self.add("add", 3, 3, 4)
        self.add("mul", 1, 1, imm=upper)
        self.add("i32.wrap_i64", 4, b=3)
        self.add("add", 1, 1, 4)
        self.add("shr_u", 1, 1, imm=32)
        self.add(shift, 3, 3, imm=32)
        self.add("mul", 2, 2, imm=upper)
        self.add("add", 2, 2, 3)
        self.add("add", 2, 2, 1)
