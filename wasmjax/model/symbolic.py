"""What every residual coordinate is made of, read off the weights alone.

A transformer is executed once on *forms*: linear combinations of entries, an entry being a
constant, the token count, a token's field value, a non-linear embedding column, one output of a
head, or one neuron. Nothing here knows what the network computes.
"""

import dataclasses
from typing import Literal

import numpy as np

from wasmjax.circuit.weights import Weights
from wasmjax.model.pack import pack

Form = dict[int, float]
"""Entry number -> coefficient. Entry 0 is the constant 1."""

ONE, COUNT = 0, 1


@dataclasses.dataclass(frozen=True)
class Entry:
    """Something computed once per token.

    Attributes:
      kind: what it is; "wire" is a coordinate that several entries add up to.
      index: (field,) of a value or column; (layer, head, component); (layer, neuron);
        (coordinate, version).
      table: the column of an embedding table.
      own: whether it depends on the token's own fields alone.
    """

    kind: Literal["one", "count", "value", "column", "head", "neuron", "wire"]
    index: tuple[int, ...] = ()
    table: tuple[float, ...] = ()
    own: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a projection, w_q, w_k or w_v [layer, head, component], times a factor."""

    matrix: Literal["q", "k", "v"]
    layer: int
    head: int
    component: int
    factor: float = 1.0


@dataclasses.dataclass
class Neuron:
    """relu(gate) * value with both as forms; `entry` is its output."""

    index: int
    gate: Form
    value: Form
    entry: int


@dataclasses.dataclass
class Layer:
    """One layer on forms.

    Attributes:
      q, k, v: live head -> forms of its two components.
      outputs: (head, component) -> entry. neurons: live neurons.
    """

    q: dict[int, tuple[Form, Form]]
    k: dict[int, tuple[Form, Form]]
    v: dict[int, tuple[Form, Form]]
    outputs: dict[tuple[int, int], int]
    neurons: list[Neuron]


class Symbolic:
    """The transformer on forms.

    Attributes:
      entries: all entries; entries[i] for i in a Form.
      wires: form of each "wire" entry.
      layers: per layer, its projections and neurons as forms.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.entries: list[Entry] = [Entry("one"), Entry("count")]
        self.wires: dict[int, Form] = {}
        self.layers: list[Layer] = []
        self._wire_of: dict[tuple[int, tuple[tuple[int, float], ...]], int] = {}
        layers, _, width, _ = weights.shape
        self._residual: list[Form] = [{} for _ in range(width)]
        # Rows of what reads the residual stream, and (transposed) of what writes to it.
        self._reads = {
            n: pack(getattr(weights, n)) for n in ("w_q", "w_k", "w_v", "w_gate", "w_in")
        }
        self._writes = {n: pack(np.moveaxis(getattr(weights, n), 1, -1)) for n in ("w_o", "w_out")}
        self._embed()
        for layer in range(layers):
            self.layers.append(self._layer(layer))

    # -- reading ----------------------------------------------------------------------------

    def row(self, row_D: np.ndarray) -> Form:
        """The form of a weight row on the residual stream (in the end: the final one)."""
        return self._row(pack(row_D).row())

    def projection(self, row: Row) -> Form:
        """The form of a projection's row, as its layer reads the residual stream."""
        layer = self.layers[row.layer]
        heads = {"q": layer.q, "k": layer.k, "v": layer.v}[row.matrix]
        form = heads[row.head][row.component]
        return {entry: weight * row.factor for entry, weight in form.items()}

    def _row(self, terms: list[tuple[int, float]]) -> Form:
        out: Form = {}
        for c, weight in terms:
            add(out, self._read(c), weight)
        return out

    def _read(self, coordinate: int) -> Form:
        form = self._residual[coordinate]
        if sum(entry != ONE for entry in form) < 2:
            return form
        # Several entries: summed once, as the residual stream does, and then read as one.
        key = (coordinate, tuple(sorted(form.items())))
        if key not in self._wire_of:
            own = all(self.entries[e].own for e in form)
            entry = self._new(Entry("wire", (coordinate, len(self._wire_of)), own=own))
            self._wire_of[key] = entry
            self.wires[entry] = dict(form)
        return {self._wire_of[key]: 1.0}

    def _new(self, entry: Entry) -> int:
        self.entries.append(entry)
        return len(self.entries) - 1

    # -- execution --------------------------------------------------------------------------

    def _embed(self) -> None:
        values: dict[int, int] = {}
        for f, (field, table) in enumerate(
            zip(self.weights.vocabulary, self.weights.embedding, strict=True)
        ):
            number = field.lo + np.arange(field.size, dtype=np.float64)
            for c in np.flatnonzero(np.any(table != 0, axis=0)):
                column = table[:, c]
                form = self._residual[c]
                if np.all(column == column[0]):
                    add(form, {ONE: 1.0}, float(column[0]))
                    continue
                slope = (column[-1] - column[0]) / (field.size - 1)
                if np.array_equal(column, slope * number):
                    entry = values.setdefault(f, -1)
                    if entry < 0:
                        entry = values[f] = self._new(Entry("value", (f,)))
                    add(form, {entry: 1.0}, float(slope))
                else:
                    entry = self._new(Entry("column", (f,), tuple(column.tolist())))
                    add(form, {entry: 1.0}, 1.0)
        for c in np.flatnonzero(self.weights.position):
            add(self._residual[c], {COUNT: 1.0}, float(self.weights.position[c]))

    def _layer(self, layer: int) -> Layer:
        w_q, w_k, w_v = (self._reads[name] for name in ("w_q", "w_k", "w_v"))
        q: dict[int, tuple[Form, Form]] = {}
        k: dict[int, tuple[Form, Form]] = {}
        v: dict[int, tuple[Form, Form]] = {}
        outputs: dict[tuple[int, int], int] = {}
        writes: list[tuple[int, int, float]] = []
        for head in range(w_q.shape[1]):
            targets = [self._writes["w_o"].row(layer, head, c) for c in range(2)]
            used = [c for c in range(2) if targets[c] and w_v.row(layer, head, c)]
            if not used:
                continue
            for forms, matrix in ((q, w_q), (k, w_k), (v, w_v)):
                first, second = (self._row(matrix.row(layer, head, c)) for c in range(2))
                forms[head] = first, second
            for component in used:
                entry = self._new(Entry("head", (layer, head, component), own=False))
                outputs[head, component] = entry
                writes += [(c, entry, weight) for c, weight in targets[component]]
        for c, entry, weight in writes:
            add(self._residual[c], {entry: 1.0}, weight)
        return Layer(q, k, v, outputs, self._neurons(layer))

    def _neurons(self, layer: int) -> list[Neuron]:
        w_gate, w_in = self._reads["w_gate"], self._reads["w_in"]
        neurons: list[Neuron] = []
        writes: list[tuple[int, Form, float]] = []
        for index in range(w_gate.shape[1]):
            targets = self._writes["w_out"].row(layer, index)
            if not targets:
                continue
            gate = self._row(w_gate.row(layer, index))
            if all(entry == ONE for entry in gate):
                # A constant gate makes the neuron linear: no neuron is needed for it.
                scale = max(gate.get(ONE, 0.0), 0.0)
                form = self._stale_or_row(w_in.row(layer, index))
                writes += [(c, form, scale * weight) for c, weight in targets]
                continue
            value = self._row(w_in.row(layer, index))
            own = all(self.entries[e].own for e in (*gate, *value)) and COUNT not in value
            entry = self._new(Entry("neuron", (layer, index), own=own and COUNT not in gate))
            neurons.append(Neuron(index, gate, value, entry))
            writes += [(c, {entry: 1.0}, weight) for c, weight in targets]
        for c, form, weight in writes:
            add(self._residual[c], form, weight)
        return neurons

    def _stale_or_row(self, terms: list[tuple[int, float]]) -> Form:
        """A linear neuron's value; a plain copy of one coordinate stays a sum of its entries,
        so that subtracting a stale coordinate leaves exactly nothing."""
        if len(terms) == 1:
            ((c, factor),) = terms
            return {e: weight * factor for e, weight in self._residual[c].items()}
        return self._row(terms)


def add(form: Form, other: Form, weight: float) -> None:
    """form += weight * other; terms that cancel disappear."""
    for entry, coefficient in other.items():
        value = form.get(entry, 0.0) + weight * coefficient
        if value:
            form[entry] = value
        else:
            form.pop(entry, None)


def constant(form: Form) -> float | None:
    """The value of a constant form, else None."""
    if all(entry == ONE for entry in form):
        return form.get(ONE, 0.0)
    return None


def depends_on_sums(symbolic: Symbolic, form: Form) -> bool:
    """Whether a form holds a mean of a uniform head (inexact), not counting what reads round."""
    neurons = {neuron.entry: neuron for layer in symbolic.layers for neuron in layer.neurons}
    seen: set[int] = set()
    stack = list(form)
    while stack:
        number = stack.pop()
        if number in seen:
            continue
        seen.add(number)
        entry = symbolic.entries[number]
        if entry.kind == "wire":
            stack += symbolic.wires[number]
        elif entry.kind == "neuron":
            stack += [*neurons[number].gate, *neurons[number].value]
        elif entry.kind == "head":
            layer, head, _ = entry.index
            forms = symbolic.layers[layer]
            if not any(forms.q[head]) or not any(forms.k[head]):
                return True
    return False
