"""When each neuron and head group runs: layers of an attention and a feed-forward phase.

Phase 2 l is the attention of layer l, phase 2 l + 1 its feed-forward block; embeddings have
phase -1. Everything runs as early as its inputs allow, and what no output needs does not run.
"""

import dataclasses

from wasmjax.circuit.language import Affine, Circuit, HeadGroup, HeadOutput, Neuron, Term, Wire


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Neurons and head groups by phase.

    Attributes:
      neurons: per layer, the neurons of its feed-forward block.
      groups: per layer, the head groups of its attention and the value numbers in use.
      phase: phase of every live neuron, group and wire.
    """

    neurons: list[list[Neuron]]
    groups: list[list[tuple[HeadGroup, list[int]]]]
    phase: dict[Term | HeadGroup, int]

    @property
    def layers(self) -> int:
        return len(self.neurons)


def schedule(circuit: Circuit) -> Schedule:
    """Schedules what the outputs of `circuit` depend on."""
    phase: dict[Term | HeadGroup, int] = {}
    used: dict[HeadGroup, set[int]] = {}

    def ready(*signals: Affine | None) -> int:
        return max((visit(t) for s in signals if s is not None for t in s.terms), default=-1)

    def visit_group(group: HeadGroup) -> int:
        if group not in phase:
            space = group.space
            keys = (space.key1, space.key2) if space else ()
            after = ready(group.query, *keys, *group.values)
            phase[group] = after + 1 + (after + 1) % 2
        return phase[group]

    def visit(term: Term) -> int:
        if isinstance(term, HeadOutput):
            used.setdefault(term.group, set()).add(term.index)
            return visit_group(term.group)
        if term not in phase:
            if isinstance(term, Neuron):
                after = ready(term.gate, term.value)
                phase[term] = after + 1 + after % 2
            elif isinstance(term, Wire):
                phase[term] = ready(term.definition)
            else:
                return -1
        return phase[term]

    ready(*circuit.outputs.values())
    layers = max(phase.values(), default=0) // 2 + 1
    neurons: list[list[Neuron]] = [[] for _ in range(layers)]
    groups: list[list[tuple[HeadGroup, list[int]]]] = [[] for _ in range(layers)]
    for neuron in circuit.neurons:
        if neuron in phase:
            neurons[phase[neuron] // 2].append(neuron)
    for group in circuit.groups:
        if group in phase:
            groups[phase[group] // 2].append((group, sorted(used[group])))
    return Schedule(neurons, groups, phase)
