"""Which residual coordinate holds which signal, and from when to when.

A coordinate is born with the first term written into it and dies with its last reader. A dead
coordinate can be given to a later signal: one neuron of the feed-forward block after its last
reader subtracts the stale value (relu(1) * x, written with weight -1, which is exact).
"""

import bisect
import dataclasses

from wasmjax.circuit.language import Affine, Circuit, Constant, Term, Wire
from wasmjax.circuit.ranges import FORMATS
from wasmjax.circuit.schedule import Schedule

_END = 1 << 30


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Residual coordinates.

    Attributes:
      coordinate: signal -> residual coordinate (the constant 1 is coordinate 0).
      width: number of coordinates.
      clears: per layer, coordinates whose stale value its feed-forward block subtracts.
    """

    coordinate: dict[Term, int]
    width: int
    clears: list[list[int]]


def readers(circuit: Circuit, plan: Schedule) -> list[tuple[int, Affine]]:
    """Every (phase, signal) pair in which the network reads the residual stream."""
    out: list[tuple[int, Affine]] = []
    for layer in range(plan.layers):
        for group, used in plan.groups[layer]:
            signals = [group.values[index] for index in used]
            if group.space is not None and group.query is not None:
                signals += [group.query, group.space.key1, group.space.key2]
            out += [(2 * layer, signal) for signal in signals]
        for neuron in plan.neurons[layer]:
            out += [(2 * layer + 1, neuron.gate), (2 * layer + 1, neuron.value)]
    out += [(_END, signal) for signal in circuit.outputs.values()]
    return out


def allocate(circuit: Circuit, plan: Schedule, reuse: bool = True) -> Allocation:
    """Allocates by liveness; without `reuse` every signal keeps its coordinate for good."""
    last: dict[Term, int] = {circuit.one: _END, circuit.count: _END}
    for phase, signal in readers(circuit, plan):
        for term in signal.terms:
            last[term] = max(last.get(term, -1), phase)

    def written(term: Term) -> list[int]:
        terms = term.definition.terms if isinstance(term, Wire) else {term: 1.0}
        out = [_phase(plan, t) for t in terms]
        if isinstance(term, Wire) and term.definition.const:
            out.append(-1)  # constants come with the embedding
        return out

    born = {term: min(written(term)) for term in last}
    order = sorted(last, key=lambda term: (born[term], not isinstance(term, Constant)))
    coordinate: dict[Term, int] = {}
    free: list[tuple[int, int, Term]] = []  # (phase of its last subtraction, coordinate, what)
    clears: list[list[int]] = [[] for _ in range(plan.layers)]
    width = 0
    for term in order:
        found = next((f for f in free if _may_follow(term, born[term], f)), None) if reuse else None
        if found is not None:
            free.remove(found)
            clears[found[0] // 2].append(found[1])
            slot = found[1]
        else:
            slot, width = width, width + 1
        coordinate[term] = slot
        if last[term] < _END and not term.range.roundings:
            # Subtracted in the feed-forward block at or after the last reader.
            bisect.insort(
                free, (last[term] + (last[term] + 1) % 2, slot, term), key=lambda f: f[:2]
            )
    return Allocation(coordinate, width, clears)


def _may_follow(term: Term, born: int, free: tuple[int, int, Term]) -> bool:
    """Whether a coordinate is free for a term.

    In the block that subtracts the stale value both are in one sum, which must stay exact.
    """
    phase, _, stale = free
    if phase != born:
        return phase < born
    bound = term.accumulated if isinstance(term, Wire) else term.range.bound
    unit = min(term.range.step, stale.range.step)
    return (bound + stale.range.bound) / unit <= FORMATS["float32"].exact


def _phase(plan: Schedule, term: Term) -> int:
    group = getattr(term, "group", None)
    return plan.phase.get(group if group is not None else term, -1)
