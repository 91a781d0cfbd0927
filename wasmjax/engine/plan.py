"""What one decode step computes, in order: the live part of a transformer on forms.

Everything here is derived from the weights (`Symbolic`) and from the rows that a cache asks for;
the plan says which forms are summed when, and which entries they make. It holds no device arrays.
"""

import dataclasses

from wasmjax.cache import Attention
from wasmjax.model.readout import Readout, readouts
from wasmjax.model.symbolic import ONE, Form, Neuron, Symbolic

Level = list[tuple[int, Form]]
"""Wires (entry, form) that do not need each other."""


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One layer of a decode step.

    Attributes:
      wires: sums that the projections need, by dependency level. rows: the projections.
      outputs: entries that attention makes.
      ffn_wires: sums that the neurons need. neurons: live neurons.
    """

    wires: list[Level]
    rows: list[Form]
    outputs: list[int]
    ffn_wires: list[Level]
    neurons: list[Neuron]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A decode step.

    Attributes:
      inputs: entries taken from the token (values and columns of its fields) and its count.
      layers: in order. final_wires: sums that the readouts need.
      readouts: one per emitted field, in field order.
    """

    inputs: list[int]
    layers: list[LayerPlan]
    final_wires: list[Level]
    readouts: list[Readout]

    def count_terms(self) -> int:
        """Weighted terms per step: the packed step's non-zeros."""
        forms: list[Form] = [readout.form for readout in self.readouts]
        levels = [*self.final_wires]
        for layer in self.layers:
            levels += [*layer.wires, *layer.ffn_wires]
            forms += layer.rows
            forms += [f for neuron in layer.neurons for f in (neuron.gate, neuron.value)]
        forms += [form for level in levels for _, form in level]
        return sum(terms(form) for form in forms)


def terms(form: Form) -> int:
    """Number of terms besides the constant."""
    return len(form) - (ONE in form)


def build_plan(symbolic: Symbolic, cache: Attention, generated_only: bool) -> Plan:
    """The step of a transformer with a cache.

    Args:
      generated_only: the step sees generated tokens only, whose never-emitted fields are 0.
    """
    planner = _Planner(symbolic, _known_entries(symbolic) if generated_only else {})
    return planner.build(cache)


class _Planner:
    def __init__(self, symbolic: Symbolic, known: dict[int, float]) -> None:
        self.symbolic, self.known = symbolic, known
        self.needed: set[int] = set()
        self.done: set[int] = set()

    def build(self, cache: Attention) -> Plan:
        symbolic = self.symbolic
        outs = [
            dataclasses.replace(readout, form=self.simplify(readout.form))
            for readout in readouts(symbolic)
        ]
        self.want(*(readout.form for readout in outs))
        count = range(len(symbolic.layers))
        rows = [
            [self.simplify(symbolic.projection(row)) for row in cache.rows(layer)]
            for layer in count
        ]
        neurons: list[list[Neuron]] = [[] for _ in count]
        for layer in reversed(count):
            neurons[layer] = [
                dataclasses.replace(n, gate=self.simplify(n.gate), value=self.simplify(n.value))
                for n in symbolic.layers[layer].neurons
                if n.entry in self.needed
            ]
            self.want(*(form for n in neurons[layer] for form in (n.gate, n.value)))
            self.want(*rows[layer])
        layers = []
        for layer in count:
            wires = self.levels(rows[layer])
            gates_and_values = [form for n in neurons[layer] for form in (n.gate, n.value)]
            ffn_wires = self.levels(gates_and_values)
            layers.append(
                LayerPlan(wires, rows[layer], cache.outputs(layer), ffn_wires, neurons[layer])
            )
        final = self.levels([readout.form for readout in outs])
        inputs = sorted(
            e for e in self.needed if symbolic.entries[e].kind in ("value", "column", "count")
        )
        return Plan(inputs, layers, final, outs)

    def simplify(self, form: Form) -> Form:
        """Replaces entries of never-emitted fields by their constant."""
        out: Form = {}
        for entry, weight in form.items():
            if entry in self.known:
                out[ONE] = out.get(ONE, 0.0) + weight * self.known[entry]
            else:
                out[entry] = out.get(entry, 0.0) + weight
        return {entry: weight for entry, weight in out.items() if weight}

    def want(self, *forms: Form) -> None:
        for form in forms:
            for entry in form:
                if entry != ONE and entry not in self.needed:
                    self.needed.add(entry)
                    if self.symbolic.entries[entry].kind == "wire":
                        self.want(self.simplify(self.symbolic.wires[entry]))

    def levels(self, forms: list[Form]) -> list[Level]:
        """Wires that `forms` need and that are not summed yet, by dependency level."""
        level_of: dict[int, int] = {}

        def visit(entry: int) -> int:
            if self.symbolic.entries[entry].kind != "wire" or entry in self.done:
                return -1
            if entry not in level_of:
                form = self.simplify(self.symbolic.wires[entry])
                level_of[entry] = 1 + max((visit(e) for e in form), default=-1)
            return level_of[entry]

        for form in forms:
            for entry in form:
                visit(entry)
        out: list[Level] = [[] for _ in range(max(level_of.values(), default=-1) + 1)]
        for entry, level in sorted(level_of.items()):
            out[level].append((entry, self.simplify(self.symbolic.wires[entry])))
        self.done |= set(level_of)
        return out


def _known_entries(symbolic: Symbolic) -> dict[int, float]:
    """Entries that are constant because their field is 0 in every generated token."""
    known: dict[int, float] = {}
    vocabulary = symbolic.weights.vocabulary
    for number, entry in enumerate(symbolic.entries):
        if entry.kind in ("value", "column") and not vocabulary[entry.index[0]].emitted:
            zero = -vocabulary[entry.index[0]].lo
            known[number] = 0.0 if entry.kind == "value" else entry.table[zero]
    return known
