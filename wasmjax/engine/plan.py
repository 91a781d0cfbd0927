"""What one decode step computes, in order: the live part of a certified transformer.

Everything here is derived from the weights (`Symbolic`, `Heads`); the plan says which forms are
summed when, and which entries they make. It holds no arrays of a device.
"""

import dataclasses

import numpy as np

from wasmjax.engine.heads import Heads
from wasmjax.engine.own import is_own
from wasmjax.engine.readout import Readout, readouts
from wasmjax.engine.symbolic import ONE, Form, Neuron, Symbolic


@dataclasses.dataclass(frozen=True)
class Insert:
    """A store that the current token may write: positions of its rows in the layer's rows."""

    store: int
    key: Form
    member: Form
    columns: tuple[Form, ...]


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One layer of a decode step.

    Attributes:
      wires: sums needed by the attention, in levels (a level only needs earlier ones).
      means: (form, entry) of running sums; inserts; reads (indices into Heads.reads).
      ffn_wires: sums needed by the neurons, in levels. neurons: live neurons.
    """

    wires: list[list[tuple[int, Form]]]
    means: list[tuple[Form, int]]
    inserts: list[Insert]
    reads: list[int]
    ffn_wires: list[list[tuple[int, Form]]]
    neurons: list[Neuron]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A decode step.

    Attributes:
      inputs: entries taken from the token: ("value" or "column" of an emitted field) or count.
      layers: in order. final_wires: sums needed by the readouts and the write guards.
      readouts: one per emitted field, in field order.
      guards: member forms of stores that generated tokens must not write.
    """

    inputs: list[int]
    layers: list[LayerPlan]
    final_wires: list[list[tuple[int, Form]]]
    readouts: list[Readout]
    guards: list[tuple[int, Form]]

    def count_terms(self) -> int:
        """Weighted terms per step, the packed step's non-zeros."""
        forms: list[Form] = [readout.form for readout in self.readouts]
        forms += [form for _, form in self.guards]
        for level in self.final_wires:
            forms += [form for _, form in level]
        for layer in self.layers:
            for levels in (layer.wires, layer.ffn_wires):
                forms += [form for level in levels for _, form in level]
            forms += [form for form, _ in layer.means]
            for insert in layer.inserts:
                forms += [insert.key, insert.member, *insert.columns]
            forms += [f for neuron in layer.neurons for f in (neuron.gate, neuron.value)]
        return sum(sum(entry != ONE for entry in form) for form in forms)


def build_plan(symbolic: Symbolic, heads: Heads) -> Plan:
    """The decode step of generated tokens, whose never-emitted fields are 0."""
    return _Planner(symbolic, heads).build()


class _Planner:
    def __init__(self, symbolic: Symbolic, heads: Heads) -> None:
        self.symbolic, self.heads = symbolic, heads
        self.known = _known_entries(symbolic)
        self.needed: set[int] = set()

    def simplify(self, form: Form) -> Form:
        """Replaces entries of never-emitted fields by their constant."""
        out: Form = {}
        for entry, weight in form.items():
            if entry in self.known:
                out[ONE] = out.get(ONE, 0.0) + weight * self.known[entry]
            else:
                out[entry] = out.get(entry, 0.0) + weight
        return {entry: weight for entry, weight in out.items() if weight}

    def build(self) -> Plan:
        symbolic, heads = self.symbolic, self.heads
        outs = [
            dataclasses.replace(readout, form=self.simplify(readout.form))
            for readout in readouts(symbolic)
        ]
        guards = [
            (number, self.simplify(store.member))
            for number, store in enumerate(heads.stores)
            if not store.rewritable
        ]
        self.want(*(readout.form for readout in outs), *(form for _, form in guards))
        reads_at: dict[int, list[int]] = {}
        neurons_at: dict[int, list[Neuron]] = {}
        first_read: dict[int, int] = {}
        for l in reversed(range(len(symbolic.layers))):  # noqa: E741
            live = [n for n in symbolic.layers[l].neurons if n.entry in self.needed]
            neurons_at[l] = [
                dataclasses.replace(n, gate=self.simplify(n.gate), value=self.simplify(n.value))
                for n in live
            ]
            self.want(*(f for n in neurons_at[l] for f in (n.gate, n.value)))
            reads_at[l] = []
            for number, read in enumerate(heads.reads):
                if read.layer == l and any(entry in self.needed for entry in read.entries):
                    reads_at[l].append(number)
                    first_read[read.store] = l
                    store = heads.stores[read.store]
                    forms = (store.key, store.member, *store.columns)
                    if store.rewritable:
                        self.want(*map(self.simplify, forms))
                    self.want(read.query)
            for mean in heads.means:
                if mean.layer == l and mean.entry in self.needed:
                    self.want(self.simplify(mean.value))
        done: set[int] = set()
        layers = []
        for l in range(len(symbolic.layers)):  # noqa: E741
            inserts = [
                Insert(
                    number,
                    self.simplify(store.key),
                    self.simplify(store.member),
                    tuple(map(self.simplify, store.columns)),
                )
                for number, store in enumerate(heads.stores)
                if store.rewritable and first_read.get(number) == l
            ]
            means = [
                (self.simplify(mean.value), mean.entry)
                for mean in heads.means
                if mean.layer == l and mean.entry in self.needed
            ]
            forms = [heads.reads[number].query for number in reads_at[l]]
            forms += [form for form, _ in means]
            for insert in inserts:
                forms += [insert.key, insert.member, *insert.columns]
            wires = self.levels(forms, done)
            neurons = neurons_at[l]
            ffn_wires = self.levels([f for n in neurons for f in (n.gate, n.value)], done)
            layers.append(LayerPlan(wires, means, inserts, reads_at[l], ffn_wires, neurons))
        final = self.levels([r.form for r in outs] + [form for _, form in guards], done)
        inputs = sorted(
            e for e in self.needed if symbolic.entries[e].kind in ("value", "column", "count")
        )
        return Plan(inputs, layers, final, outs, guards)

    def want(self, *forms: Form) -> None:
        for form in forms:
            for entry in form:
                if entry != ONE and entry not in self.needed:
                    self.needed.add(entry)
                    if self.symbolic.entries[entry].kind == "wire":
                        self.want(self.simplify(self.symbolic.wires[entry]))

    def levels(self, forms: list[Form], done: set[int]) -> list[list[tuple[int, Form]]]:
        """Wires that `forms` need and that are not summed yet, by dependency level."""
        level_of: dict[int, int] = {}

        def visit(entry: int) -> int:
            if self.symbolic.entries[entry].kind != "wire" or entry in done:
                return -1
            if entry not in level_of:
                form = self.simplify(self.symbolic.wires[entry])
                level_of[entry] = 1 + max((visit(e) for e in form), default=-1)
            return level_of[entry]

        for form in forms:
            for entry in form:
                visit(entry)
        out: list[list[tuple[int, Form]]] = [[] for _ in range(max(level_of.values(), default=-1) + 1)]
        for entry, level in sorted(level_of.items()):
            out[level].append((entry, self.simplify(self.symbolic.wires[entry])))
        done |= set(level_of)
        return out


def _known_entries(symbolic: Symbolic) -> dict[int, float]:
    """Entries that are constant because their field is 0 in every generated token."""
    known: dict[int, float] = {}
    vocabulary = symbolic.weights.vocabulary
    for number, entry in enumerate(symbolic.entries):
        if entry.kind in ("value", "column") and not vocabulary[entry.index[0]].emitted:
            value = 0.0 if entry.kind == "value" else entry.table[-vocabulary[entry.index[0]].lo]
            known[number] = value
    return known


def static_columns(symbolic: Symbolic, forms: tuple[Form, ...]) -> bool:
    """Whether forms depend on own fields alone (a helper for assertions)."""
    return all(is_own(symbolic, form) for form in forms)


def form_arrays(forms: list[Form], position: dict[int, int]) -> tuple[np.ndarray, ...]:
    """Padded [n, k] positions and weights plus [n] constants of forms of k terms or fewer."""
    width = max((sum(e != ONE for e in form) for form in forms), default=0)
    index = np.zeros((len(forms), width), np.int32)
    weight = np.zeros((len(forms), width))
    const = np.zeros(len(forms))
    for i, form in enumerate(forms):
        const[i] = form.get(ONE, 0.0)
        terms = [(position[e], w) for e, w in form.items() if e != ONE]
        for j, (p, w) in enumerate(sorted(terms)):
            index[i, j], weight[i, j] = p, w
    return index, weight, const
