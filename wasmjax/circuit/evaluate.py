"""Checked mode: evaluates a circuit on a token sequence, term by term, in exact float64.

Independent of scheduling, allocation and weights: it follows the definitions. It verifies every
declared range on every token and the integrality of every output.
"""

import numpy as np

from wasmjax.circuit.language import (
    Affine,
    Circuit,
    Constant,
    Embedded,
    HeadGroup,
    HeadOutput,
    Neuron,
    Term,
    Wire,
)


class CheckFailed(AssertionError):
    """A signal left its declared range, or an output is no integer."""


class Evaluation:
    """Values of a circuit's signals on `tokens_NxF` (field values, not vocabulary indices).

    `first` is the first token whose signals are wanted: earlier ones serve as keys only.
    """

    def __init__(self, circuit: Circuit, tokens_NxF: np.ndarray, first: int = 0) -> None:
        self.circuit = circuit
        self.tokens = np.asarray(tokens_NxF, np.int64)
        self.first = first
        self._values: dict[Term, np.ndarray] = {}
        self._winners: dict[tuple[int, bytes], np.ndarray] = {}

    def output(self, field: str) -> np.ndarray:
        """Values of an output field, one per token from `first` on.

        Raises:
          CheckFailed: if they are no integers, or a declared range is left on the way.
        """
        values = self.signal(self.circuit.outputs[field])[self.first :]
        if np.abs(values - np.rint(values)).max(initial=0.0) > 1e-6:
            raise CheckFailed(f"output {field} is not an integer")
        return np.rint(values).astype(np.int64)

    def signal(self, signal: Affine) -> np.ndarray:
        out = np.full(len(self.tokens), signal.const)
        for term, weight in signal.terms.items():
            out = out + weight * self.term(term)
        return out

    def term(self, term: Term) -> np.ndarray:
        if term not in self._values:
            value = self._compute(term)
            self._verify(term, value)
            self._values[term] = value
        return self._values[term]

    def _verify(self, term: Term, value: np.ndarray) -> None:
        checked = value[self.first :]
        slack = 1e-6
        if checked.size and (
            checked.min() < term.range.lo - slack or checked.max() > term.range.hi + slack
        ):
            raise CheckFailed(
                f"{term.name}: {checked.min():g}..{checked.max():g} leaves its range "
                f"{term.range.lo:g}..{term.range.hi:g}"
            )

    def _compute(self, term: Term) -> np.ndarray:
        if isinstance(term, Embedded):
            lo = self.circuit.vocabulary[term.field].lo
            return np.asarray(term.table)[self.tokens[:, term.field] - lo]
        if isinstance(term, Neuron):
            if term.is_sum:
                (mean,) = term.value.terms
                assert isinstance(mean, HeadOutput)
                return np.cumsum(self.signal(mean.group.values[mean.index]))
            return np.maximum(self.signal(term.gate), 0.0) * self.signal(term.value)
        if isinstance(term, Wire):
            return self.signal(term.definition)
        if isinstance(term, HeadOutput):
            if term.group.space is None:
                return self._mean(term)
            values = self.signal(term.group.values[term.index])
            return values[self._winner(term.group)]
        assert isinstance(term, Constant)
        count = np.arange(1.0, len(self.tokens) + 1)
        return count if term is self.circuit.count else np.ones_like(count)

    def _mean(self, term: HeadOutput) -> np.ndarray:
        total = np.cumsum(self.signal(term.group.values[term.index]))
        return total / np.arange(1.0, len(self.tokens) + 1)

    def _winner(self, group: HeadGroup) -> np.ndarray:
        """Index of the token that answers each token's query."""
        space, query = group.space, group.query
        assert space is not None and query is not None
        address = self.signal(space.key1) / 2
        offset = self.signal(space.key2) + address**2
        member = np.flatnonzero(offset > -0.5 * space.far)
        asked = self.signal(query)
        cache = (id(space), asked.tobytes())
        if cache in self._winners:
            return self._winners[cache]
        winner = np.zeros(len(self.tokens), np.int64)
        for t in range(self.first, len(self.tokens)):
            seen = member[: np.searchsorted(member, t, side="right")]
            distance = np.abs(address[seen] - asked[t])
            best = np.flatnonzero(distance <= distance.min() + 1e-5)
            winner[t] = seen[best[-1]]
        self._winners[cache] = winner
        return winner
