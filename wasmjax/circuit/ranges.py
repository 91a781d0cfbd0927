"""Integer range analysis: what each signal can hold, and whether a dtype holds it exactly."""

import dataclasses
import math
from collections.abc import Iterable


class RangeError(ValueError):
    """A circuit whose exactness cannot be proven."""


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format: integers up to 2^bits are exact, unit roundoff is 2^-bits."""

    name: str
    bits: int

    @property
    def exact(self) -> float:
        return 2.0**self.bits

    @property
    def roundoff(self) -> float:
        return 2.0**-self.bits


FORMATS = {
    fmt.name: fmt
    for fmt in (
        Format("float64", 53),
        Format("float32", 24),
        Format("tf32", 11),
        Format("bfloat16", 8),
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a signal.

    Attributes:
      lo, hi: inclusive bounds of its ideal value.
      step: a power of two of which every ideal value is an integer multiple.
      bound: largest magnitude of any partial sum while it is computed.
      roundings: 0 for exact signals; else how many roundings lie behind it, each at most
        roundoff * bound (running sums: mean times count).
    """

    lo: float
    hi: float
    step: float = 1.0
    bound: float = 0.0
    roundings: int = 0

    def __post_init__(self) -> None:
        if self.lo > self.hi:
            raise RangeError(f"empty range {self.lo}..{self.hi}")
        object.__setattr__(self, "bound", max(self.bound, abs(self.lo), abs(self.hi)))

    def error(self, fmt: Format) -> float:
        """Largest distance between the ideal value and the held one."""
        return self.roundings * fmt.roundoff * self.bound

    def exact(self, fmt: Format) -> bool:
        """Whether every order of summation gives the ideal value in this format."""
        return self.roundings == 0 and self.bound / self.step <= fmt.exact


Terms = Iterable[tuple[float, Range]]


def granularity(x: float) -> float:
    """The largest power of two that divides `x` (infinite for 0)."""
    if x == 0:
        return math.inf
    numerator, denominator = float(x).as_integer_ratio()
    return (numerator & -numerator) / denominator


def affine(const: float, terms: Terms) -> Range:
    """Range of const + sum w_i x_i."""
    lo = hi = const
    # Any partial sum, in any order, lies between the sum of all negative and of all positive parts.
    above, below = max(const, 0.0), max(-const, 0.0)
    step = granularity(const)
    roundings = count = 0
    for weight, term in terms:
        low, high = sorted((weight * term.lo, weight * term.hi))
        lo, hi = lo + low, hi + high
        above, below = above + max(high, 0.0), below + max(-low, 0.0)
        step = min(step, granularity(weight) * term.step)
        roundings = max(roundings, term.roundings)
        count += 1
    bound = max(above, below)
    if step is math.inf:
        step = 1.0
    # A sum with an inexact term may round once per addition.
    return Range(lo, hi, step, bound, roundings + count if roundings else 0)


def relu_product(gate: Range, value: Range) -> Range:
    """Range of relu(gate) * value.

    Raises:
      RangeError: if an inexact signal is used as a gate.
    """
    if gate.roundings:
        raise RangeError("an inexact signal may not be a gate")
    top, bottom = max(gate.hi, 0.0), max(gate.lo, 0.0)
    ends = [g * v for g in (top, bottom) for v in (value.lo, value.hi)]
    return Range(min(ends), max(ends), gate.step * value.step, top * value.bound, value.roundings)


def tie_margin(const: float, terms: Terms) -> float:
    """Distance between the values of an affine query and the nearest half integer."""
    step = min((granularity(w) * term.step for w, term in terms), default=math.inf)
    if step >= 1:
        return abs(const % 1 - 0.5)
    shift = (0.5 - const) % step
    return min(shift, step - shift)
