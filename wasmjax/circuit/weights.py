"""Dense transformer weights from a scheduled and allocated circuit."""

import dataclasses

import numpy as np

from wasmjax.circuit.allocate import Allocation, allocate
from wasmjax.circuit.language import (
    Affine,
    Circuit,
    Embedded,
    HeadGroup,
    HeadOutput,
    Term,
    Vocabulary,
    Wire,
)
from wasmjax.circuit.schedule import Schedule, schedule


@dataclasses.dataclass(frozen=True)
class Names:
    """What people call the parts; nothing computes with it.

    Attributes:
      heads: per layer, (head, name); neurons: per layer, (neuron, name).
      coordinates: (coordinate, name), possibly several in turn.
      program: digest of the code that is folded in (`machine.specialize`); "": none.
    """

    heads: list[list[tuple[int, str]]]
    neurons: list[list[tuple[int, str]]]
    coordinates: list[tuple[int, str]]
    program: str = ""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A decoder-only transformer with 2-dimensional heads, as NumPy float64 arrays.

    L layers, H heads, D = 2 H residual coordinates, F neurons, V_f entries of field f.

    Attributes:
      vocabulary: the fields of a token.
      embedding: per field, [V_f, D].
      position: [D], added (t + 1) times to the token at index t.
      w_q, w_k, w_v: [L, H, 2, D]. w_o: [L, D, H, 2].
      w_gate, w_in: [L, F, D]. w_out: [L, D, F].
      unembedding: per field, [V_f, D] (None for fields that are never emitted).
      softmax_scale: what q.k is multiplied with before the softmax.
    """

    vocabulary: tuple[Vocabulary, ...]
    embedding: list[np.ndarray]
    position: np.ndarray
    w_q: np.ndarray
    w_k: np.ndarray
    w_v: np.ndarray
    w_o: np.ndarray
    w_gate: np.ndarray
    w_in: np.ndarray
    w_out: np.ndarray
    unembedding: list[np.ndarray | None]
    softmax_scale: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(L, H, D, F)."""
        layers, heads, _, width = self.w_q.shape
        return layers, heads, width, self.w_gate.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every parameter array by name."""
        out = {f"embedding.{f.name}": e for f, e in zip(self.vocabulary, self.embedding)}  # noqa: B905
        out |= {
            f"unembedding.{f.name}": u
            for f, u in zip(self.vocabulary, self.unembedding, strict=True)
            if u is not None
        }
        for name in ("position", "w_q", "w_k", "w_v", "w_o", "w_gate", "w_in", "w_out"):
            out[name] = getattr(self, name)
        return out

    def count(self) -> tuple[int, int]:
        """(parameters, non-zero parameters)."""
        arrays = self.arrays().values()
        return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A circuit with the weights that compute it."""

    circuit: Circuit
    plan: Schedule
    allocation: Allocation
    weights: Weights
    names: Names


# Scores of a read differ by at least min(1/512, eps); times this they differ by more than 745,
# so that every loser's softmax weight underflows to exactly 0 in float64.
SOFTMAX_SCALE = 2.0**34


def compile_circuit(circuit: Circuit, reuse: bool = True) -> Compiled:
    """Schedules, allocates and writes the weights."""
    plan = schedule(circuit)
    allocation = allocate(circuit, plan, reuse)
    return _Writer(circuit, plan, allocation).write()


class _Writer:
    def __init__(self, circuit: Circuit, plan: Schedule, allocation: Allocation) -> None:
        self.circuit, self.plan, self.allocation = circuit, plan, allocation
        heads = max((sum(_heads(used) for _, used in groups) for groups in plan.groups), default=0)
        self.heads = max(heads, -(-allocation.width // 2), 1)
        self.width = 2 * self.heads
        self.ffn = max(
            len(n) + len(c) for n, c in zip(plan.neurons, allocation.clears, strict=True)
        )
        # Where a term is written: coordinate -> weight.
        self.destinations: dict[Term, dict[int, float]] = {}
        for term, slot in allocation.coordinate.items():
            parts = term.definition.terms if isinstance(term, Wire) else {term: 1.0}
            for part, weight in parts.items():
                self.destinations.setdefault(part, {})[slot] = weight

    def write(self) -> Compiled:
        layers = self.plan.layers
        shape_qkv = (layers, self.heads, 2, self.width)
        w_q, w_k, w_v = (np.zeros(shape_qkv) for _ in range(3))
        w_o = np.zeros((layers, self.width, self.heads, 2))
        w_gate, w_in = (np.zeros((layers, self.ffn, self.width)) for _ in range(2))
        w_out = np.zeros((layers, self.width, self.ffn))
        names = Names([], [], [])
        for layer in range(layers):
            head_names: list[tuple[int, str]] = []
            head = 0
            for group, used in self.plan.groups[layer]:
                for pair in range(0, len(used), 2):
                    if group.space is not None and group.query is not None:
                        w_q[layer, head, 0] = self.row(group.query)
                        w_q[layer, head, 1] = self.row(Affine(const=1.0))
                        w_k[layer, head, 0] = self.row(group.space.key1)
                        w_k[layer, head, 1] = self.row(group.space.key2)
                    for k, index in enumerate(used[pair : pair + 2]):
                        w_v[layer, head, k] = self.row(group.values[index])
                        for slot, weight in self.outputs_of(group, index).items():
                            w_o[layer, slot, head, k] = weight
                    head_names.append((head, f"{group.name}[{pair // 2}]"))
                    head += 1
            names.heads.append(head_names)
            neuron_names: list[tuple[int, str]] = []
            for index, neuron in enumerate(self.plan.neurons[layer]):
                w_gate[layer, index] = self.row(neuron.gate)
                w_in[layer, index] = self.row(neuron.value)
                for slot, weight in self.destinations.get(neuron, {}).items():
                    w_out[layer, slot, index] = weight
                neuron_names.append((index, neuron.name))
            for index, slot in enumerate(self.allocation.clears[layer], len(neuron_names)):
                w_gate[layer, index] = self.row(Affine(const=1.0))
                w_in[layer, index, slot] = 1.0
                w_out[layer, slot, index] = -1.0
                neuron_names.append((index, f"clear {slot}"))
            names.neurons.append(neuron_names)
        names.coordinates.extend((slot, t.name) for t, slot in self.allocation.coordinate.items())
        position = np.zeros(self.width)
        for slot, weight in self.destinations.get(self.circuit.count, {}).items():
            position[slot] = weight
        weights = Weights(
            self.circuit.vocabulary,
            self.embeddings(),
            position,
            w_q,
            w_k,
            w_v,
            w_o,
            w_gate,
            w_in,
            w_out,
            self.unembeddings(),
            SOFTMAX_SCALE,
        )
        return Compiled(self.circuit, self.plan, self.allocation, weights, names)

    def row(self, signal: Affine) -> np.ndarray:
        out = np.zeros(self.width)
        out[self.allocation.coordinate[self.circuit.one]] = signal.const
        for term, weight in signal.terms.items():
            out[self.allocation.coordinate[term]] += weight
        return out

    def outputs_of(self, group: HeadGroup, index: int) -> dict[int, float]:
        for term, slots in self.destinations.items():
            if isinstance(term, HeadOutput) and term.group is group and term.index == index:
                return slots
        return {}

    def embeddings(self) -> list[np.ndarray]:
        tables = [np.zeros((field.size, self.width)) for field in self.circuit.vocabulary]
        for term, slots in self.destinations.items():
            if isinstance(term, Embedded):
                for slot, weight in slots.items():
                    tables[term.field][:, slot] += weight * np.asarray(term.table)
        # Every token has exactly one entry of field 0: constants come with it.
        tables[0][:, self.allocation.coordinate[self.circuit.one]] += 1.0
        for term, slot in self.allocation.coordinate.items():
            if isinstance(term, Wire):
                tables[0][:, slot] += term.definition.const
        return tables

    def unembeddings(self) -> list[np.ndarray | None]:
        out: list[np.ndarray | None] = []
        one = self.row(Affine(const=1.0))
        for field in self.circuit.vocabulary:
            if not field.emitted:
                out.append(None)
                continue
            value = (field.lo + np.arange(field.size, dtype=np.float64))[:, None]
            # The parabola once more: 2 v x - v^2 peaks at the integer nearest x.
            x = self.row(self.circuit.outputs.get(field.name, Affine()))[None, :]
            out.append(2 * value * x - value**2 * one[None, :])
        return out


def _heads(used: list[int]) -> int:
    return -(-len(used) // 2)
