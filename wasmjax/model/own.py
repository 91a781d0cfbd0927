"""Evaluates forms that depend on a token's own fields: keys, values, membership.

Used to certify heads and to prefill caches, for many tokens at once, in exact float64.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from wasmjax.model.symbolic import COUNT, ONE, Form, Symbolic


class OwnEvaluator:
    """Values of own-token entries on `tokens_NxF` (field values).

    Args:
      first_count: count of tokens up to the first one. counts_N: those of tokens that do not follow
        one another.
    """

    def __init__(
        self,
        symbolic: Symbolic,
        tokens_NxF: np.ndarray,
        first_count: int = 1,
        counts_N: np.ndarray | None = None,
    ) -> None:
        self._symbolic = symbolic
        self._tokens = np.asarray(tokens_NxF, np.int64)
        n = len(self._tokens)
        if counts_N is None:
            counts_N = np.arange(first_count, first_count + n)
        self._values: dict[int, np.ndarray] = {
            ONE: np.ones(n),
            COUNT: np.asarray(counts_N, np.float64),
        }
        self._neurons = neurons_by_entry(symbolic)

    def form(self, form: Form) -> np.ndarray:
        """Values of a form, float64 [N].

        Raises:
          ValueError: if it depends on what other tokens say.
        """
        out = np.zeros(len(self._tokens))
        for entry, weight in form.items():
            out += weight * self.entry(entry)
        return out

    def entry(self, number: int) -> np.ndarray:
        if number not in self._values:
            self._values[number] = self._compute(number)
        return self._values[number]

    def _compute(self, number: int) -> np.ndarray:
        entry = self._symbolic.entries[number]
        vocabulary = self._symbolic.weights.vocabulary
        if entry.kind == "value":
            return self._tokens[:, entry.index[0]].astype(np.float64)
        if entry.kind == "column":
            field = entry.index[0]
            return np.asarray(entry.table)[self._tokens[:, field] - vocabulary[field].lo]
        if entry.kind == "wire":
            return self.form(self._symbolic.wires[number])
        if entry.kind == "neuron":
            neuron = self._neurons[number]
            return np.maximum(self.form(neuron.gate), 0.0) * self.form(neuron.value)
        raise ValueError(f"entry {number} depends on other tokens")


def neurons_by_entry(symbolic: Symbolic) -> dict:
    """Output entry -> neuron."""
    return {neuron.entry: neuron for layer in symbolic.layers for neuron in layer.neurons}


def is_own(symbolic: Symbolic, form: Form) -> bool:
    """Whether a form depends on the token's own fields alone (not on its index either)."""
    return all(symbolic.entries[e].own and e != COUNT for e in form)


def fields_of(symbolic: Symbolic, forms: Iterable[Form]) -> list[int]:
    """The token fields that forms depend on."""
    neurons = neurons_by_entry(symbolic)
    found: set[int] = set()
    seen: set[int] = set()
    stack: list[int] = [entry for form in forms for entry in form]
    while stack:
        number = stack.pop()
        if number in seen:
            continue
        seen.add(number)
        entry = symbolic.entries[number]
        if entry.kind in ("value", "column"):
            found.add(entry.index[0])
        elif entry.kind == "wire":
            stack += symbolic.wires[number]
        elif entry.kind == "neuron":
            stack += [*neurons[number].gate, *neurons[number].value]
    return sorted(found)


def sample_tokens(
    symbolic: Symbolic, fields: Sequence[int], seed: int = 0, random: int = 256
) -> np.ndarray:
    """Tokens that sweep `fields`: every combination of the small ones, each with full sweeps of
    every large one (others at both ends and at random) and random combinations."""
    vocabulary = symbolic.weights.vocabulary
    rng = np.random.default_rng(seed)
    small = [f for f in fields if vocabulary[f].size <= 32]
    large = [f for f in fields if vocabulary[f].size > 32]
    lows = np.array([field.lo for field in vocabulary])
    sizes = np.array([field.size for field in vocabulary])
    rows = []
    for f in large:
        for mode in range(3):
            block = np.zeros((sizes[f], len(vocabulary)), np.int64)
            for g in large:
                span = sizes[g]
                block[:, g] = (
                    0 if mode == 0 else span - 1 if mode == 1 else rng.integers(span, size=sizes[f])
                )
            block[:, f] = np.arange(sizes[f])
            rows.append(block)
    block = np.zeros((random, len(vocabulary)), np.int64)
    for g in large:
        block[:, g] = rng.integers(sizes[g], size=random)
    base = np.concatenate([*rows, block])
    grids = np.meshgrid(*(np.arange(sizes[f]) for f in small), indexing="ij")
    combos = np.stack([g.ravel() for g in grids], 1) if small else np.zeros((1, 0), np.int64)
    out = np.repeat(base, len(combos), axis=0)
    out[:, small] = np.tile(combos, (len(base), 1))
    tokens = np.zeros_like(out)
    tokens[:, fields] = out[:, fields] + lows[list(fields)]
    return tokens
