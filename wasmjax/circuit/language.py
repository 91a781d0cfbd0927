"""The circuit language: signals over the fields of a token, and what may be done with them.

A circuit is written with six verbs. `embed` reads a function of a token field; `reglu` is one
feed-forward neuron; `read` asks an address space (a head group); `running_sum` is a uniform
head times the token count; `wire` gives a sum its own residual coordinate; `emit` drives an
output field. Sums with constant weights are free: they are part of the consumer's weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from wasmjax.circuit import ranges
from wasmjax.circuit.ranges import Range, RangeError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """One field of a token as the network sees it: `size` entries, entry i meaning lo + i."""

    name: str
    lo: int
    size: int
    emitted: bool


@dataclasses.dataclass(eq=False)
class Term:
    """Something the network computes: an embedded feature, a neuron or one output of a head."""

    name: str
    range: Range


@dataclasses.dataclass(eq=False)
class Embedded(Term):
    """A function of one field: `table[i]` for vocabulary entry i."""

    field: int
    table: tuple[float, ...]


@dataclasses.dataclass(eq=False)
class Neuron(Term):
    """relu(gate) * value."""

    gate: Affine
    value: Affine
    is_sum: bool = False


@dataclasses.dataclass(eq=False)
class HeadOutput(Term):
    """What a head group returns for its value number `index`."""

    group: HeadGroup
    index: int


@dataclasses.dataclass(eq=False)
class Wire(Term):
    """A residual coordinate that holds a sum of other terms.

    `accumulated` bounds every partial sum while it is written; `declared` is the reason why its
    range is narrower than interval arithmetic says.
    """

    definition: Affine
    accumulated: float
    declared: str = ""


@dataclasses.dataclass(eq=False)
class Constant(Term):
    """The constant-1 feature, or the token count (the positional feature)."""


@dataclasses.dataclass(eq=False)
class HeadGroup:
    """Heads with one query and one key; `space` None: uniform attention."""

    name: str
    space: Space | None
    query: Affine | None
    values: list[Affine]


@dataclasses.dataclass(eq=False)
class Space:
    """An address space: the two key components and the proven reach of its addresses.

    Attributes:
      key1: 2 j. key2: -j^2 + eps t, far below for tokens that are no members.
      lo, hi: bounds of member addresses.
      eps: recency weight; 0 if every address is written once.
      far: how far below its parabola the key of an outsider lies.
    """

    name: str
    key1: Affine
    key2: Affine
    lo: int
    hi: int
    eps: float
    far: float


class Affine:
    """const + sum of weighted terms. Supports + - and multiplication by numbers."""

    __slots__ = ("const", "terms")

    def __init__(self, terms: Mapping[Term, float] | None = None, const: float = 0.0) -> None:
        self.terms = {t: w for t, w in (terms or {}).items() if w != 0}
        self.const = float(const)

    def __add__(self, other: Affine | float) -> Affine:
        if not isinstance(other, Affine):
            return Affine(self.terms, self.const + other)
        terms = dict(self.terms)
        for term, weight in other.terms.items():
            terms[term] = terms.get(term, 0.0) + weight
        return Affine(terms, self.const + other.const)

    __radd__ = __add__

    def __mul__(self, k: float) -> Affine:
        return Affine({t: w * k for t, w in self.terms.items()}, self.const * k)

    __rmul__ = __mul__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | float) -> Affine:
        return self + (-other)

    def __rsub__(self, other: float) -> Affine:
        return -self + other

    @property
    def range(self) -> Range:
        return ranges.affine(self.const, self.weighted_ranges())

    def weighted_ranges(self) -> list[tuple[float, Range]]:
        return [(w, t.range) for t, w in self.terms.items()]


ZERO = Affine()


def total(signals: Iterable[Affine]) -> Affine:
    """Sum of signals."""
    out = ZERO
    for signal in signals:
        out = out + signal
    return out


class Circuit:
    """A circuit under construction over `vocabulary`; see the module's docstring.

    Args:
      prune: leave out neurons that can never be active, instead of refusing them as mistakes.

    Attributes:
      neurons, groups, wires: what has been built, in order.
      outputs: field name -> signal.
      max_count: most tokens a sequence may have (the range of the count).
    """

    def __init__(
        self, vocabulary: Sequence[Vocabulary], max_count: int = 2**24, prune: bool = False
    ) -> None:
        self.vocabulary, self._prune = tuple(vocabulary), prune
        self._field = {field.name: k for k, field in enumerate(self.vocabulary)}
        self.embedded: list[Embedded] = []
        self.neurons: list[Neuron] = []
        self.groups: list[HeadGroup] = []
        self.wires: list[Wire] = []
        self.outputs: dict[str, Affine] = {}
        self.one = Constant("one", Range(1, 1))
        self.count = Constant("count", Range(1, max_count))
        self._numbers: dict[str, Affine] = {}

    # -- inputs ---------------------------------------------------------------------------

    def embed(self, name: str, field: str, function: Callable[[int], float]) -> Affine:
        """The feature function(value) of a field."""
        index = self._field[field]
        spec = self.vocabulary[index]
        table = tuple(float(function(spec.lo + i)) for i in range(spec.size))
        step = min((ranges.granularity(x) for x in table), default=1.0)
        reach = Range(min(table), max(table), min(step, 1.0))
        term = Embedded(name, reach, index, table)
        self.embedded.append(term)
        return Affine({term: 1.0})

    def number(self, field: str) -> Affine:
        """A field's value as a number (one feature however often it is asked for)."""
        if field not in self._numbers:
            self._numbers[field] = self.embed(field, field, lambda value: value)
        return self._numbers[field]

    # -- feed-forward ---------------------------------------------------------------------

    def reglu(self, name: str, gate: Affine, value: Affine | float = 1.0) -> Affine:
        """relu(gate) * value, one neuron."""
        if not isinstance(value, Affine):
            value = Affine(const=value)
        if self._prune and (gate.range.hi <= 0 or not (value.terms or value.const)):
            return ZERO
        try:
            reach = ranges.relu_product(gate.range, value.range)
        except RangeError as error:
            raise RangeError(f"neuron {name}: {error}") from None
        if gate.range.hi <= 0:
            raise RangeError(f"neuron {name} can never be active")
        neuron = Neuron(name, reach, gate, value)
        self.neurons.append(neuron)
        return Affine({neuron: 1.0})

    def step(self, name: str, x: Affine, threshold: float, when: Affine | None = None) -> Affine:
        """1 if x >= threshold (and `when` is 1), else 0, for integer x: two neurons."""
        if when is not None:
            x = x - max(1.0, x.range.hi - threshold + 1) * (1 - when)
        above = self.reglu(f"{name}+", x - (threshold - 1))
        if x.range.hi <= threshold:
            return above
        return above - self.reglu(f"{name}-", x - threshold)

    def wire(
        self,
        name: str,
        definition: Affine,
        declared: tuple[float, float] | None = None,
        because: str = "",
    ) -> Affine:
        """A residual coordinate of its own for a sum.

        `declared` narrows the range beyond interval arithmetic (correlated sums); `because`
        says why, and the checked mode verifies it on every token (`evaluate`).
        """
        flat = _expand(definition)
        reach = flat.range
        accumulated = reach.bound
        if declared is not None:
            if not because:
                raise RangeError(f"wire {name}: a declared range needs its reason")
            lo, hi = max(declared[0], reach.lo), min(declared[1], reach.hi)
            reach = dataclasses.replace(reach, lo=lo, hi=hi)
        reach = dataclasses.replace(reach, bound=0.0)
        wire = Wire(name, reach, flat, accumulated, because)
        self.wires.append(wire)
        return Affine({wire: 1.0})

    # -- attention ------------------------------------------------------------------------

    def parabola(
        self,
        name: str,
        address: Affine,
        square: Affine,
        outsider: Affine,
        lo: int,
        hi: int,
        eps: float = 0.0,
    ) -> Space:
        """An address space with keys (2j, -j^2 + eps t).

        Args:
          address: j of the token. square: j^2 (also for the BOS token's j = lo).
          outsider: 1 on tokens that are no members, else 0.
          lo, hi: bounds of member addresses.
        """
        # Outsiders must score below every member for every query in reach.
        far = 2.0 ** (4 + 2 * max(abs(lo), abs(hi), 1).bit_length())
        key2 = -square - far * outsider + eps * Affine({self.count: 1.0})
        return Space(name, 2 * address, key2, lo, hi, eps, far)

    def read(
        self, name: str, space: Space, query: Affine, values: Sequence[Affine]
    ) -> list[Affine]:
        """Values of the member nearest to `query`, the latest among equals (one head group)."""
        group = HeadGroup(name, space, query, list(values))
        self.groups.append(group)
        return [
            Affine({HeadOutput(f"{name}.{i}", value.range, group, i): 1.0})
            for i, value in enumerate(values)
        ]

    def running_sum(
        self, name: str, values: Mapping[str, Affine], bounds: Mapping[str, tuple[int, int]]
    ) -> dict[str, Affine]:
        """Sums of `values` over all tokens so far: uniform heads times the token count.

        `bounds` are the declared ranges of the sums. The results are inexact (two roundings):
        they may feed queries, emitted fields and neuron values, never a gate.
        """
        group = HeadGroup(name, None, None, list(values.values()))
        self.groups.append(group)
        out = {}
        for index, (key, value) in enumerate(values.items()):
            mean = HeadOutput(f"{name}.{key}", value.range, group, index)
            lo, hi = bounds[key]
            neuron = Neuron(
                f"{name}.{key}",
                Range(lo, hi, 1.0, roundings=3),
                Affine({self.count: 1.0}),
                Affine({mean: 1.0}),
                is_sum=True,
            )
            self.neurons.append(neuron)
            out[key] = Affine({neuron: 1.0})
        return out

    # -- outputs --------------------------------------------------------------------------

    def emit(self, field: str, signal: Affine) -> None:
        """Drives an output field: the token holds the integer nearest to `signal`."""
        if not self.vocabulary[self._field[field]].emitted:
            raise ValueError(f"field {field} is never emitted")
        if field in self.outputs:
            raise ValueError(f"field {field} is emitted twice")
        self.outputs[field] = signal


def _expand(signal: Affine) -> Affine:
    """Replaces wires by their definitions (exact: definitions are linear)."""
    out = Affine(const=signal.const)
    for term, weight in signal.terms.items():
        if isinstance(term, Wire):
            out = out + weight * term.definition
        else:
            out = out + Affine({term: weight})
    return out
