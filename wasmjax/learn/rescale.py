"""Constructed weights with entries of order 1 and one scalar temperature: the same tokens.

The construction uses whatever numbers are convenient: 2^22 to keep outsiders away, 65025 in a
parabola. None of that is needed. These changes of scale leave every token as it is:

- a residual coordinate times s, what reads it divided by s;
- a neuron's gate times a > 0, its value times b, its output divided by a b;
- a head's value times a, its output divided by a;
- W_Q and W_K times anything positive, if the temperature makes up for it (heads that then become
  sharper than they were already put all weight on one key);
- an unembedding times anything positive: argmax does not see it.

All factors are powers of two, so no mantissa changes and the tokens are equal bit for bit where
they were exact before.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize, sparse

from wasmjax.circuit.weights import Weights


@dataclasses.dataclass(frozen=True)
class Rescaled:
    """Balanced weights; `unit_LxH`: per head, the score difference that was 1 before."""

    weights: Weights
    unit_LxH: np.ndarray


def rescale(weights: Weights, length: int = 1, rounds: int = 40) -> Rescaled:
    """Balances, part by part, the largest weight that writes it with the largest that reads it.

    Args:
      length: tokens after which the positional feature is to be 1.
    """
    balance = _Balance(weights)
    for _ in range(rounds):
        balance.parts()
        balance.coordinates()
    balance.features(length)
    balance.parts()
    return balance.result()


def smallest(weights: Weights) -> Rescaled:
    """The largest weight as small as these changes of scale can make it: proven, not searched.

    `rescale` brings features to 1 as well, which is kinder to training and costs size elsewhere.
    """
    balance = _Balance(weights)
    balance.least()
    balance.lookups()
    return balance.result()


class _Balance:
    """Weights under rescaling; every method keeps what they compute.

    `unit_LxH`: the score difference that was 1 before.
    """

    def __init__(self, weights: Weights) -> None:
        self.original = weights
        self.w = {name: array.copy() for name, array in weights.arrays().items()}
        fields = [field.name for field in weights.vocabulary]
        self.embedded = [f"embedding.{name}" for name in fields]
        self.unembedded = [n for n in (f"unembedding.{name}" for name in fields) if n in self.w]
        self.unit_LxH = np.ones(weights.shape[:2])

    def parts(self) -> None:
        """Within heads, neurons and unembeddings."""
        w = self.w
        self.lookups()
        self._scale_heads(_power(_root(_top(w["w_o"], (1, 3)), _top(w["w_v"], (2, 3)))))
        gate, inner = _top(w["w_gate"], 2), _top(w["w_in"], 2)
        mean = np.cbrt(gate * inner * _top(w["w_out"], 1))
        self._scale_neurons(
            *(_power(np.where(mean > 0, mean / _one(x), 1.0)) for x in (gate, inner))
        )

    def lookups(self) -> None:
        """Queries, keys and unembeddings, whose scale is free."""
        w = self.w
        for name in ("w_q", "w_k"):
            # Equal rows get equal factors, so that heads with one key stay heads with one key.
            top = _power(_top(w[name], (2, 3)))
            w[name] /= top[..., None, None]
            self.unit_LxH /= top
        for name in self.unembedded:
            w[name] /= _power(_top(w[name], None))

    def least(self) -> None:
        """All other parts at once: integer exponents that make the largest weight smallest."""
        w = self.w
        values = _top(w["w_v"], 2)
        outputs = _top(w["w_o"], 3)
        embedded = np.max([np.abs(w["position"]), *(_top(w[n], 0) for n in self.embedded)], axis=0)
        problem = _Exponents()
        for (c,) in np.argwhere(embedded):
            problem.bound(embedded[c], [("coordinate", c)], [])
        for layer, h, c in np.argwhere(values):
            problem.bound(values[layer, h, c], [("head", layer, h)], [("coordinate", c)])
        for layer, c, h in np.argwhere(outputs):
            problem.bound(outputs[layer, c, h], [("coordinate", c)], [("head", layer, h)])
        for name in ("w_gate", "w_in"):
            for layer, n, c in np.argwhere(w[name]):
                problem.bound(w[name][layer, n, c], [(name, layer, n)], [("coordinate", c)])
        for layer, c, n in np.argwhere(w["w_out"]):
            problem.bound(
                w["w_out"][layer, c, n],
                [("coordinate", c)],
                [("w_gate", layer, n), ("w_in", layer, n)],
            )
        found = problem.solve()
        layers, heads, d, neurons = self.original.shape

        def factor(name: str, *size: int) -> np.ndarray:
            exponents = [found.get((name, *at), 0) for at in np.ndindex(*size)]
            return 2.0 ** np.reshape(exponents, size)

        self._scale(factor("coordinate", d))
        self._scale_heads(factor("head", layers, heads))
        self._scale_neurons(*(factor(name, layers, neurons) for name in ("w_gate", "w_in")))

    def coordinates(self) -> None:
        """Residual coordinates: writers against readers."""
        w = self.w
        readers = [_top(w[n], (0, 1, 2)) for n in ("w_q", "w_k", "w_v")]
        readers += [_top(w[n], (0, 1)) for n in ("w_gate", "w_in")]
        readers += [_top(w[n], 0) for n in self.unembedded]
        writers = [_top(w[n], 0) for n in self.embedded]
        writers += [np.abs(w["position"]), _top(w["w_o"], (0, 2, 3)), _top(w["w_out"], (0, 2))]
        self._scale(_power(_root(np.max(readers, axis=0), np.max(writers, axis=0))))

    def features(self, length: int) -> None:
        """Embedded features up to 1: a number 0..255 is not felt 255 times as much as a flag."""
        tops = [_top(self.w[name], 0) for name in self.embedded]
        self._scale(1 / _power(np.max([*tops, np.abs(self.w["position"]) * length], axis=0)))

    def _scale(self, s: np.ndarray) -> None:
        w = self.w
        for name in ("w_q", "w_k", "w_v", "w_gate", "w_in", *self.unembedded):
            w[name] /= s
        for name in ("position", *self.embedded):
            w[name] *= s
        w["w_o"] *= s[:, None, None]
        w["w_out"] *= s[:, None]

    def _scale_heads(self, s_LxH: np.ndarray) -> None:
        self.w["w_v"] *= s_LxH[..., None, None]
        self.w["w_o"] /= s_LxH[:, None, :, None]

    def _scale_neurons(self, gate_LxN: np.ndarray, inner_LxN: np.ndarray) -> None:
        self.w["w_gate"] *= gate_LxN[..., None]
        self.w["w_in"] *= inner_LxN[..., None]
        self.w["w_out"] /= (gate_LxN * inner_LxN)[:, None, :]

    def result(self) -> Rescaled:
        w, weights = self.w, self.original
        others: dict[str, Any] = {
            name: w[name]
            for name in ("position", "w_q", "w_k", "w_v", "w_o", "w_gate", "w_in", "w_out")
        }
        scaled = dataclasses.replace(
            weights,
            embedding=[w[name] for name in self.embedded],
            unembedding=[
                None if rows is None else w[f"unembedding.{field.name}"]
                for field, rows in zip(weights.vocabulary, weights.unembedding, strict=True)
            ],
            # The head whose scores shrank most sets the temperature.
            softmax_scale=weights.softmax_scale / float(self.unit_LxH.min()),
            **others,
        )
        return Rescaled(scaled, self.unit_LxH)


class _Exponents:
    """Integers e such that the largest |w| 2^(sum of some e - sum of others) is smallest."""

    def __init__(self) -> None:
        self.column: dict[tuple[Any, ...], int] = {}
        self.entries: list[tuple[int, int, int]] = []
        self.log2: list[float] = []

    def bound(self, weight: float, plus: list[Any], minus: list[Any]) -> None:
        row = len(self.log2)
        self.log2.append(float(np.log2(abs(weight))))
        for sign, names in ((1, plus), (-1, minus)):
            for name in names:
                at = self.column.setdefault(name, len(self.column))
                self.entries.append((row, at, sign))

    def solve(self) -> dict[tuple[Any, ...], int]:
        """The exponents, and of those that do, about the smallest ones."""
        rows, columns, signs = zip(*self.entries, strict=True)
        size = (len(self.log2), len(self.column))
        matrix = sparse.csr_matrix((signs, (rows, columns)), shape=size)
        log2 = np.array(self.log2)
        wide = sparse.hstack([matrix, sparse.csr_matrix(-np.ones((size[0], 1)))], format="csr")
        cost = np.r_[np.zeros(size[1]), 1.0]
        # A linear program bounds the size from below; then integers: e = up - down, both >= 0.
        relaxed = optimize.linprog(cost, A_ub=wide, b_ub=-log2, bounds=(None, None))
        top = np.ceil(relaxed.fun - 1e-6)
        both = sparse.hstack([matrix, -matrix], format="csr")
        while True:  # ends: rounding the relaxed exponents costs a factor below 2^1.5
            found = optimize.milp(
                np.ones(2 * size[1]),
                # Sums of integers: the slack admits rounding errors and nothing else.
                constraints=optimize.LinearConstraint(both, -np.inf, top - log2 + 1e-6),
                integrality=np.ones(2 * size[1]),
                options={"mip_rel_gap": 0.05},
            )
            if found.x is not None:
                up, down = np.split(np.rint(found.x).astype(int), 2)
                return {name: int(up[k] - down[k]) for name, k in self.column.items()}
            top += 1


def largest(weights: Weights) -> float:
    """The largest absolute weight."""
    return max(float(np.abs(array).max(initial=0)) for array in weights.arrays().values())


def _top(x: np.ndarray, axes: tuple[int, ...] | int | None) -> np.ndarray:
    return np.abs(x).max(axes, initial=0)


def _power(x: np.ndarray) -> np.ndarray:
    """The nearest power of two; 1 for 0."""
    return 2.0 ** np.rint(np.log2(_one(np.asarray(x, np.float64))))


def _one(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 1.0)


def _root(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """sqrt(numerator / denominator); 1 where either is 0."""
    both = (numerator > 0) & (denominator > 0)
    return np.where(both, np.sqrt(numerator / _one(denominator)), 1.0)
