"""What each head does, derived from the weights: uniform, or an indexable read of a store.

A head is *indexable* if its keys and values depend on the token's own fields alone, its query's
second component is constant, and its keys lie on the parabola k2 = -(k1/2)^2 + eps t (members)
or far below it (outsiders); that is read off the sparsity pattern and verified numerically over
the fields that the key depends on. Everything else is refused here by name of the head, or, for
caches that compare scores, taken as a head with *any* integer keys.
"""

import dataclasses
import math

import numpy as np

from wasmjax.circuit.ranges import granularity
from wasmjax.model.own import OwnEvaluator, fields_of, is_own, sample_tokens
from wasmjax.model.symbolic import COUNT, Form, Row, Symbolic, constant
from wasmjax.model.units import Units


class CertificateError(ValueError):
    """A head that the indexed cache cannot execute exactly."""


@dataclasses.dataclass(frozen=True)
class Store:
    """One address space: all heads with the same keys.

    Attributes:
      key: row whose value is the address j. member: row that exceeds `-far / 2` on members only.
      lo, hi: bounds of member addresses seen on the key's fields.
      rewritable: whether the keys carry a recency term, so that addresses may be written again.
      columns: rows of the distinct values that are read.
      second: for keys that are on no parabola, the row of an integer k2 beside the integer k1 of
        `key`; every token is a member. None: k1 is 2 j and k2 is -j^2.
    """

    key: Row
    member: Row
    far: float
    lo: int
    hi: int
    rewritable: bool
    columns: tuple[Row, ...]
    second: Row | None = None


@dataclasses.dataclass(frozen=True)
class Read:
    """A group of heads with one query: at `query`, columns of a store into entries.

    `unit`: what its values are multiples of; 0 if that is not known (sums over tokens).
    `margin`: how far they stay from half-way between two integers.
    """

    layer: int
    store: int
    query: Row
    columns: tuple[int, ...]
    entries: tuple[int, ...]
    unit: float
    margin: float


@dataclasses.dataclass(frozen=True)
class Mean:
    """A component of a uniform head: `unit` times the mean of `value`, integers, into `entry`."""

    layer: int
    value: Row
    unit: float
    entry: int


@dataclasses.dataclass(frozen=True)
class Heads:
    """All live heads of a transformer as stores, reads and means."""

    stores: tuple[Store, ...]
    reads: tuple[Read, ...]
    means: tuple[Mean, ...]


def certify(symbolic: Symbolic, general: bool = False) -> Heads:
    """Classifies every head.

    Args:
      general: take heads that are not indexable, too, if their keys are integers (up to a factor).

    Raises:
      CertificateError: naming the layer and head that is neither uniform nor indexable.
    """
    means: list[Mean] = []
    reads: dict[tuple, list[tuple[Row, int]]] = {}
    heads_of: dict[tuple, tuple[int, int]] = {}
    for l, layer in enumerate(symbolic.layers):  # noqa: E741
        for (head, component), entry in layer.outputs.items():
            value = Row("v", l, head, component)
            if not any(layer.q[head]) or not any(layer.k[head]):
                unit = _unit(symbolic, value)
                row = dataclasses.replace(value, factor=1 / unit)
                means.append(Mean(l, row, unit, entry))
                continue
            key = (l, _frozen(*layer.q[head]), _frozen(*layer.k[head]))
            reads.setdefault(key, []).append((value, entry))
            heads_of[key] = (l, head)
    stores: list[_StoreBuilder] = []
    of_key: dict[tuple, list[int]] = {}
    out: list[Read] = []
    units = Units(symbolic)
    for key, values in reads.items():
        l, head = heads_of[key]  # noqa: E741
        query = _normalised_query(symbolic, units, l, head, general)
        numbers = of_key.setdefault(key[2], [])
        certified = stores[numbers[0]] if numbers else _keys(symbolic, units, l, head, general)
        found: dict[int, list[tuple[int, int]]] = {}
        for value, entry in values:
            form = symbolic.projection(value) if general else _own_form(symbolic, value)
            number = next((n for n in numbers if form in stores[n].forms), None)
            if number is None:
                # A value that a later layer reads may not exist yet where an earlier one does.
                number = next((n for n in numbers if stores[n].layer == l), None)
                if number is None:
                    number = len(stores)
                    numbers.append(number)
                    stores.append(certified.at(l, head))
                stores[number].add(value, form)
            found.setdefault(number, []).append((stores[number].forms.index(form), entry))
        for number, pairs in found.items():
            columns, entries = zip(*pairs, strict=True)
            form = symbolic.projection(query)
            unit, margin = units.form(form), units.tie_margin(form)
            out.append(Read(l, number, query, columns, entries, unit, margin))
    return Heads(tuple(store.build() for store in stores), tuple(out), tuple(means))


@dataclasses.dataclass
class _StoreBuilder:
    layer: int
    scale: float
    key: Row
    member: Row
    far: float
    lo: int
    hi: int
    rewritable: bool
    general: bool = False
    columns: list[Row] = dataclasses.field(default_factory=list)
    forms: list[Form] = dataclasses.field(default_factory=list)

    def at(self, layer: int, head: int) -> "_StoreBuilder":
        """The same keys, as a head of this layer computes them, without columns."""
        key = Row("k", layer, head, 0, 1 / ((1 if self.general else 2) * self.scale))
        member = Row("k", layer, head, 1, 1 / self.scale)
        return dataclasses.replace(self, layer=layer, key=key, member=member, columns=[], forms=[])

    def add(self, value: Row, form: Form) -> None:
        self.columns.append(value)
        self.forms.append(form)

    def build(self) -> Store:
        columns, second = tuple(self.columns), self.member if self.general else None
        return Store(
            self.key, self.member, self.far, self.lo, self.hi, self.rewritable, columns, second
        )


def _own_form(symbolic: Symbolic, value: Row) -> Form:
    form = symbolic.projection(value)
    if not is_own(symbolic, form):
        name = _name(value.layer, value.head)
        raise CertificateError(f"{name}: its values depend on other tokens")
    return form


def _name(layer: int, head: int) -> str:
    return f"layer {layer} head {head}"


def _frozen(*forms: Form) -> tuple:
    return tuple(tuple(sorted(form.items())) for form in forms)


def _normalised_query(
    symbolic: Symbolic, units: Units, layer: int, head: int, general: bool
) -> Row:
    scale = constant(symbolic.layers[layer].q[head][1])
    if not scale or scale < 0:
        raise CertificateError(
            f"{_name(layer, head)}: the second query component is not a positive constant"
        )
    query = Row("q", layer, head, 0, 1 / scale)
    if not general and not units.tie_margin(symbolic.projection(query)) > 0:
        raise CertificateError(f"{_name(layer, head)}: its query can tie between two addresses")
    return query


def _keys(symbolic: Symbolic, units: Units, layer: int, head: int, general: bool) -> _StoreBuilder:
    try:
        return _certify_keys(symbolic, layer, head)
    except CertificateError:
        if not general:
            raise
    return _integer_keys(symbolic, units, layer, head)


def _integer_keys(symbolic: Symbolic, units: Units, layer: int, head: int) -> _StoreBuilder:
    """Keys that are integers when divided by their unit, a recency term apart."""
    k1, k2 = symbolic.layers[layer].k[head]
    eps = k2.get(COUNT, 0.0)
    static = {entry: weight for entry, weight in k2.items() if entry != COUNT}
    unit = min(units.form(k1), units.form(static))
    recent = 0 < eps * 2.0**25 <= unit
    if not recent:
        unit = min(unit, units.form(k2))
    if not 2.0**-40 <= unit < math.inf:
        raise CertificateError(f"{_name(layer, head)}: its keys are no multiples of a power of two")
    key, second = (Row("k", layer, head, c, 1 / unit) for c in (0, 1))
    return _StoreBuilder(layer, unit, key, second, math.inf, 0, 0, True, True)


def _certify_keys(symbolic: Symbolic, layer: int, head: int) -> _StoreBuilder:
    name = _name(layer, head)
    k1, k2 = symbolic.layers[layer].k[head]
    eps = k2.get(COUNT, 0.0)
    static = {entry: weight for entry, weight in k2.items() if entry != COUNT}
    if not (is_own(symbolic, k1) and is_own(symbolic, static)):
        raise CertificateError(f"{name}: its keys depend on other tokens")
    if eps < 0:
        raise CertificateError(f"{name}: its keys prefer older tokens")
    tokens = sample_tokens(symbolic, fields_of(symbolic, (k1, static)))
    values = OwnEvaluator(symbolic, tokens)
    x, y = values.form(k1), values.form(static)
    scale = _key_scale(x, y, name)
    j = x / (2 * scale)
    offset = y / scale + j * j
    # Members lie on the parabola; outsiders so far below it that none can win.
    reach = np.abs(j).max() + 1
    member = np.abs(offset) <= 2.0**-40 * (reach * reach)
    far = -float((y[~member] / scale).max(initial=-np.inf))
    if not member.any():
        raise CertificateError(f"{name}: no token is a member of its address space")
    if (j[member] != np.rint(j[member])).any():
        raise CertificateError(f"{name}: an address is not an integer")
    if far < 4 * reach * reach:
        raise CertificateError(f"{name}: keys off the parabola k2 = -(k1/2)^2")
    if eps / scale > 2.0**-10:
        raise CertificateError(f"{name}: the recency term outweighs a distance of 1")
    return _StoreBuilder(
        layer,
        scale,
        Row("k", layer, head, 0, 1 / (2 * scale)),
        Row("k", layer, head, 1, 1 / scale),
        min(far, 2.0**100),
        int(j[member].min()),
        int(j[member].max()),
        eps > 0,
    )


def _key_scale(x: np.ndarray, y: np.ndarray, name: str) -> float:
    """r with k1 = 2 j r and k2 = -j^2 r on the members (the keys nearest to the origin)."""
    candidates = np.flatnonzero((x != 0) & (y < 0))
    if not candidates.size:
        raise CertificateError(f"{name}: keys off the parabola k2 = -(k1/2)^2")
    # On the parabola k1^2 / (-4 k2) = r; below it the quotient is smaller.
    return float((x[candidates] ** 2 / (-4 * y[candidates])).max())


def _unit(symbolic: Symbolic, value: Row) -> float:
    """The power of two that all values of a uniform head are multiples of.

    Running sums are kept as integers, in these units.
    """
    name = _name(value.layer, value.head)
    form = symbolic.projection(value)
    if not is_own(symbolic, form):
        raise CertificateError(f"{name}: a uniform head's values depend on other tokens")
    tokens = sample_tokens(symbolic, fields_of(symbolic, (form,)), random=64)
    sampled = OwnEvaluator(symbolic, tokens).form(form)
    unit = min((granularity(x) for x in np.unique(sampled)), default=1.0)
    if unit < 2.0**-20:
        raise CertificateError(f"{name}: a uniform head's values are no multiples of 2^-20")
    return min(unit, 1.0)
