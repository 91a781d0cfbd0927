"""The proof of exactness: every consumer of every signal, in one floating-point format.

A consumer is a neuron's gate or value, a query, a key, a value that a head copies, a residual
coordinate that is accumulated, an output. Each must see exact numbers, or (queries and outputs,
which round) an error below half its margin.

Matrix units of accelerators take inputs in a narrow format and sum in float32. For such a format
the report also says which projections, sums of inputs times weights, are exact that way.
"""

import dataclasses

from wasmjax.circuit import ranges
from wasmjax.circuit.language import Affine, HeadGroup, Neuron, Term, Wire
from wasmjax.circuit.ranges import FORMATS, Format, Range
from wasmjax.circuit.weights import Compiled


@dataclasses.dataclass(frozen=True)
class Line:
    """One consumer: what it sees, and whether that is proven to be good enough.

    Attributes:
      kind: what consumes. name: the signal. range: of what it sees.
      proven: whether it is exact, or its error is below its margin.
      why: how that is known, or what is wrong.
    """

    kind: str
    name: str
    range: Range
    proven: bool
    why: str


@dataclasses.dataclass(frozen=True)
class Projection:
    """A sum of inputs times weights, with inputs and weights in a narrow format.

    Attributes:
      kind, name: as in `Line`. exact: whether it is, if the sum is one of float32.
      why: the input, weight or sum that the formats do not hold.
    """

    kind: str
    name: str
    exact: bool
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """All consumers of a compiled circuit in one format.

    Attributes:
      lines: every consumer. format: the number format.
      projections: all of them, with inputs in this format and sums in float32.
      max_tokens: longest sequence for which this holds.
      reach: per address space, its largest address.
    """

    lines: list[Line]
    projections: list[Projection]
    format: Format
    max_tokens: int
    reach: dict[str, int]

    @property
    def failures(self) -> list[Line]:
        return [line for line in self.lines if not line.proven]

    @property
    def exact(self) -> bool:
        return not self.failures

    def text(self, signals: bool = False) -> str:
        """The report in words; with `signals`, a line for every consumer."""
        largest = max(self.lines, key=lambda line: line.range.bound / line.range.step)
        out = [
            f"format {self.format.name}: integers are exact up to {self.format.exact:,.0f}",
            f"consumers: {len(self.lines)}, proven: {len(self.lines) - len(self.failures)}",
            f"largest partial sum: {largest.range.bound:,.0f} in units of {largest.range.step:g} "
            f"({largest.kind} {largest.name})",
            f"limits: {self.max_tokens:,} tokens (steps and prompt together)",
        ]
        for name, reach in self.reach.items():
            out.append(f"  {name}: addresses up to {reach:,}")
        if self.format.bits < FORMATS["float32"].bits:
            good = sum(projection.exact for projection in self.projections)
            out.append(
                f"with {self.format.name} inputs and float32 sums: {good} of "
                f"{len(self.projections)} projections are exact"
            )
            for projection in self.projections:
                if signals or not projection.exact:
                    mark = "ok    " if projection.exact else "wider "
                    out.append(f"{mark} {projection.kind:10} {projection.name}: {projection.why}")
        shown = self.lines if signals else self.failures
        for line in shown:
            mark = "ok    " if line.proven else "FAILED"
            out.append(
                f"{mark} {line.kind:10} {line.name}: {line.range.lo:,.6g}..{line.range.hi:,.6g}, "
                f"partial sums up to {line.range.bound:,.6g}: {line.why}"
            )
        return "\n".join(out)


def report(compiled: Compiled, format_name: str = "float32", cache: str = "indexed") -> Report:
    """Checks every live consumer of a compiled circuit.

    With the indexed and the hull cache the second key component (-j^2) only separates members from
    outsiders, which needs no exactness: the one reads the address j, the other squares it. The
    softmax cache compares scores, so there it counts.
    """
    return _Checker(compiled, FORMATS[format_name], cache).run()


class _Checker:
    def __init__(self, compiled: Compiled, fmt: Format, cache: str) -> None:
        self.compiled, self.fmt, self.cache = compiled, fmt, cache
        self.lines: list[Line] = []
        self.projections: list[Projection] = []

    def run(self) -> Report:
        plan, circuit = self.compiled.plan, self.compiled.circuit
        reach: dict[str, int] = {}
        key2_only = self._key2_only()
        for term in self.compiled.allocation.coordinate:
            if isinstance(term, Wire) and term not in key2_only:
                self._accumulated(term)
        for layer in range(plan.layers):
            for group, used in plan.groups[layer]:
                if group.space is not None:
                    reach[group.space.name] = group.space.hi
                self._group(group, used)
            for neuron in plan.neurons[layer]:
                if neuron not in key2_only:
                    self._neuron(neuron)
        for name, signal in circuit.outputs.items():
            self._project("output", name, signal)
            self._rounded("output", name, signal)
        max_tokens = int(min(circuit.count.range.hi, self.fmt.exact))
        return Report(self.lines, self.projections, self.fmt, max_tokens, reach)

    def _key2_only(self) -> set[Term]:
        """Terms that nothing but second key components read, when those need no exactness."""
        if self.cache == "softmax":
            return set()
        plan = self.compiled.plan
        other: list[Affine] = list(self.compiled.circuit.outputs.values())
        keys: list[Affine] = []
        for layer in range(plan.layers):
            for group, used in plan.groups[layer]:
                other += [group.values[i] for i in used]
                if group.space is not None and group.query is not None:
                    other += [group.query, group.space.key1]
                    keys.append(group.space.key2)
            for neuron in plan.neurons[layer]:
                other += [neuron.gate, neuron.value]
        read = {part for signal in other for term in signal.terms for part in _parts(term)}
        return {p for signal in keys for term in signal.terms for p in _parts(term)} - read

    def _add(self, kind: str, name: str, seen: Range, proven: bool, why: str) -> None:
        self.lines.append(Line(kind, name, seen, proven, why))

    def _accumulated(self, wire: Wire) -> None:
        seen = wire.definition.range
        if seen.roundings:
            self._add("coordinate", wire.name, seen, True, "inexact; its readers are checked")
            return
        seen = dataclasses.replace(seen, bound=wire.accumulated)
        why = f"declared: {wire.declared}" if wire.declared else "exact"
        self._exact("coordinate", wire.name, seen, why)

    def _exact(self, kind: str, name: str, seen: Range, why: str = "exact") -> None:
        ok = seen.exact(self.fmt)
        self._add(kind, name, seen, ok, why if ok else "not exact in this format")

    def _project(self, kind: str, name: str, signal: Affine) -> None:
        """Judges a sum with narrow inputs."""
        wide = FORMATS["float32"]
        for term, weight in signal.terms.items():
            seen = term.range
            most = max(abs(seen.lo), abs(seen.hi)) / seen.step
            if seen.roundings or most > self.fmt.exact:
                what = "is inexact" if seen.roundings else f"is up to {most:,.0f}"
                self.projections.append(Projection(kind, name, False, f"{term.name} {what}"))
                return
            if abs(weight) / ranges.granularity(weight) > self.fmt.exact:
                why = f"the weight {weight:g} of {term.name}"
                self.projections.append(Projection(kind, name, False, why))
                return
        total = signal.range
        fits = total.bound / total.step <= wide.exact
        why = f"sums up to {total.bound / total.step:,.0f}"
        self.projections.append(Projection(kind, name, fits, why))

    def _neuron(self, neuron: Neuron) -> None:
        self._project("gate", neuron.name, neuron.gate)
        self._project("value", neuron.name, neuron.value)
        if neuron.is_sum:
            ok = neuron.gate.range.exact(self.fmt)
            self._add("sum", neuron.name, neuron.range, ok, "exact count; read by rounding only")
            return
        self._exact("gate", neuron.name, neuron.gate.range)
        if neuron.value.range.roundings:
            # An inexact value passes through a gate of 0 or 1 unchanged.
            ok = neuron.gate.range.hi <= 1
            self._add("value", neuron.name, neuron.value.range, ok, "inexact, gated by 0 or 1")
        else:
            self._exact("value", neuron.name, neuron.value.range)
            self._exact("neuron", neuron.name, neuron.range)

    def _group(self, group: HeadGroup, used: list[int]) -> None:
        for index in used:
            self._project("copied", f"{group.name}.{index}", group.values[index])
            self._exact("copied", f"{group.name}.{index}", group.values[index].range)
        if group.space is None or group.query is None:
            return
        self._project("key", group.name, group.space.key1)
        self._project("query", group.name, group.query)
        self._exact("key", group.name, group.space.key1.range)
        if self.cache == "softmax":
            static = group.space.key2.range
            self._exact("key^2", group.name, static)
        self._rounded("query", group.name, group.query)

    def _rounded(self, kind: str, name: str, signal: Affine) -> None:
        seen = signal.range
        margin = ranges.tie_margin(signal.const, signal.weighted_ranges())
        if kind == "output" and (seen.step < 1 or signal.const % 1):
            self._add(kind, name, seen, False, "not an integer")
        elif not seen.roundings:
            self._exact(kind, name, seen, f"exact, margin {margin:g}")
        else:
            error = seen.error(self.fmt)
            self._add(kind, name, seen, error < margin, f"error {error:.2g}, margin {margin:g}")


def _parts(term: Term) -> list[Term]:
    """A term with everything its coordinate is made of."""
    return [term, *term.definition.terms] if isinstance(term, Wire) else [term]
