"""What is measured: errors with intervals, rollouts, first divergences, distances, barriers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from wasmjax.learn.model import Params
from wasmjax.learn.tasks.base import CAUSES, Example

_Z = 1.959963984540054
"""Two-sided 95%."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    p, n = successes / trials, trials
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    # At the ends the interval touches them exactly; rounding must not say otherwise.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


@dataclasses.dataclass
class Tally:
    """Counts over held-out sequences.

    A rollout is exact if and only if every judged token is right when the right ones came before
    it: teacher-forced and free-running sequences are the same up to the first error.

    Attributes:
      tokens, wrong: judged tokens, those with any field wrong.
      sequences, exact: sequences, those without an error.
      first: index of the first wrong token of every sequence that has one.
      causes: name -> number of first errors.
      asked: judged tokens of each such sequence's length (for censoring).
    """

    tokens: int = 0
    wrong: int = 0
    sequences: int = 0
    exact: int = 0
    first: list[int] = dataclasses.field(default_factory=list)
    causes: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, wrong_BxT: np.ndarray, asked_BxT: np.ndarray, cause_BxT: np.ndarray) -> None:
        self.tokens += int(asked_BxT.sum())
        self.wrong += int(wrong_BxT.sum())
        self.sequences += len(wrong_BxT)
        bad = wrong_BxT.any(-1)
        self.exact += int((~bad).sum())
        first = wrong_BxT[bad].argmax(-1)
        self.first += [int(t) for t in first]
        for name in cause_BxT[bad][np.arange(len(first)), first]:
            key = CAUSES[int(name)]
            self.causes[key] = self.causes.get(key, 0) + 1

    def summary(self) -> dict[str, Any]:
        """Rates and quantiles; the quantiles take sequences without an error as infinite (None)."""
        return {
            "tokens": self.tokens,
            "wrong": self.wrong,
            "error_rate": self.wrong / max(1, self.tokens),
            "error_interval": wilson(self.wrong, self.tokens),
            "sequences": self.sequences,
            "exact_rollout": self.exact / max(1, self.sequences),
            "first_divergence_median": self._quantile(0.5),
            "first_divergence_p90": self._quantile(0.9),
            "causes": self.causes,
        }

    def _quantile(self, q: float) -> float | None:
        everything = sorted(self.first) + [math.inf] * (self.sequences - len(self.first))
        if not everything:
            return None
        value = everything[min(len(everything) - 1, math.ceil(q * len(everything)) - 1)]
        return None if math.isinf(value) else float(value)


def judge(
    logits: dict[str, jax.Array],
    attended: Sequence[jax.Array],
    example: Example,
    judged: Sequence[str],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(wrong, asked, cause) per token, [B, T].

    An error where no head puts most of its weight on the token that had to be read is a fetch
    error, or keeps the task's own cause if that is about a read ("slot", "memory").
    """
    wrong = jnp.zeros(example.target.shape[:2], bool)
    for e, name in enumerate(judged):
        miss = logits[name].argmax(-1) != example.target[..., e]
        wrong = wrong | (miss & (example.weight[..., e] > 0))
    asked = example.weight.max(-1) > 0
    cause = example.cause
    if attended:
        found = jnp.zeros(wrong.shape, bool)
        for weight in attended:
            rows = weight[:, :, -wrong.shape[1] :]
            at = jnp.broadcast_to(example.read[:, None, :, None], (*rows.shape[:3], 1))
            on_it = jnp.take_along_axis(rows, jnp.maximum(at, 0), -1)[..., 0] > 0.5
            found = found | on_it.any(1)
        missed = (example.read >= 0) & ~found
        cause = jnp.where(missed, CAUSES.index("fetch"), cause)
    return wrong, asked, cause


def fields_right(logits: dict[str, jax.Array], example: Example, judged: Sequence[str]) -> float:
    """The part of the fields asked for that are right, each on its own."""
    asked = np.asarray(example.weight) > 0
    said = np.stack([np.asarray(logits[name].argmax(-1)) for name in judged], -1)
    return float((said == np.asarray(example.target))[asked].mean())


# -- distance to the construction -------------------------------------------------------------


def distance(learned: Params, reference: Params) -> float:
    """Distance of two parameter sets modulo the symmetries of the architecture, 0 to 1.

    Per layer, heads are compared by W_Q^T W_K and W_O W_V and neurons by gate (x) in (x) out, all
    scales removed, after the assignment of heads and neurons that costs least (Hungarian
    method); embeddings and unembeddings by direction. Parts that are zero in both do not count.
    Both are taken in the same basis of the residual stream: with embeddings of its own a model can
    be the construction in another basis and far from it here (`behaviour` sees that).
    """
    costs: list[float] = []
    for mine, theirs in zip(learned["blocks"], reference["blocks"], strict=True):
        costs += _matched(_head_costs(mine, theirs), _live(theirs, "w_v", 0), _live(mine, "w_v", 0))
        costs += _matched(
            _neuron_costs(mine, theirs), _live(theirs, "w_out", 1), _live(mine, "w_out", 1)
        )
    for part in ("embedding", "unembedding"):
        for name, table in reference[part].items():
            if np.any(np.asarray(table)):
                costs.append(_angle(np.asarray(learned[part][name]), np.asarray(table)))
    return float(np.mean(costs)) if costs else 0.0


def _live(block: dict[str, jax.Array], name: str, axis: int) -> np.ndarray:
    x = np.abs(np.asarray(block[name], np.float64))
    return x.max(tuple(k for k in range(x.ndim) if k != axis), initial=0) > 0


def _matched(cost: np.ndarray, theirs: np.ndarray, mine: np.ndarray) -> list[float]:
    """Costs of the cheapest assignment, of parts that exist in either model."""
    if not cost.size:
        return []
    rows, columns = linear_sum_assignment(cost)
    return [float(cost[r, c]) for r, c in zip(rows, columns, strict=True) if mine[r] or theirs[c]]


def assignment(learned: Params, reference: Params) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per layer, which head and which neuron of `learned` plays each part of `reference`."""
    out = []
    for mine, theirs in zip(learned["blocks"], reference["blocks"], strict=True):
        pair = []
        for cost in (_head_costs(mine, theirs), _neuron_costs(mine, theirs)):
            rows, columns = linear_sum_assignment(cost)
            order = np.zeros(len(rows), int)
            order[columns] = rows
            pair.append(order)
        out.append((pair[0], pair[1]))
    return out


def _angle(x: np.ndarray, y: np.ndarray) -> float:
    return float((1 - _cosine(x.ravel(), y.ravel())) / 2)


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.linalg.norm(x), np.linalg.norm(y)
    if not a or not b:
        return 1.0 if a == b else 0.0
    return float(np.clip(x @ y / (a * b), -1, 1))


def _head_costs(mine: dict[str, jax.Array], theirs: dict[str, jax.Array]) -> np.ndarray:
    """[heads, heads], 0..1: half from where it looks, half from what it moves."""

    def circuits(block: dict[str, jax.Array]) -> tuple[np.ndarray, np.ndarray]:
        q, k, v, o = (np.asarray(block[n], np.float64) for n in ("w_q", "w_k", "w_v", "w_o"))
        return np.einsum("hcd,hce->hde", q, k), np.einsum("dhc,hce->hde", o, v)

    (qk, ov), (qk2, ov2) = circuits(mine), circuits(theirs)
    return np.array(
        [
            [(_angle(qk[i], qk2[j]) + _angle(ov[i], ov2[j])) / 2 for j in range(len(qk2))]
            for i in range(len(qk))
        ]
    ).reshape(len(qk), len(qk2))


def _neuron_costs(mine: dict[str, jax.Array], theirs: dict[str, jax.Array]) -> np.ndarray:
    """[neurons, neurons], 0..1. relu(g x)(i x) o: g by a > 0, i and o by factors of one sign."""

    def unit(x: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)

    def parts(block: dict[str, jax.Array]) -> tuple[np.ndarray, ...]:
        g, i = (unit(np.asarray(block[n], np.float64)) for n in ("w_gate", "w_in"))
        return g, i, unit(np.asarray(block["w_out"], np.float64).T)

    (g, i, o), (g2, i2, o2) = parts(mine), parts(theirs)
    alike = np.maximum(g @ g2.T, 0) * (i @ i2.T) * (o @ o2.T)
    dead = ~np.abs(o).any(-1)[:, None] & ~np.abs(o2).any(-1)[None]
    return np.where(dead, 0.0, (1 - alike) / 2)


def score_distance(learned_JxJ: np.ndarray, reference_JxJ: np.ndarray) -> float:
    """Distance of two heads by the scores that they give, 0 to 1: free of the residual basis.

    What a query adds to all keys alike is taken out (softmax does not see it), and the scale.
    """
    rows = [x - x.mean(-1, keepdims=True) for x in (learned_JxJ, reference_JxJ)]
    return _angle(*rows)


# -- functions --------------------------------------------------------------------------------


def function_distance(
    logits: dict[str, jax.Array], reference: dict[str, jax.Array]
) -> tuple[float, float]:
    """(mean Kullback-Leibler divergence from the reference, rate of different answers)."""
    divergence, different = [], []
    for name, theirs in reference.items():
        p, q = jax.nn.log_softmax(theirs, -1), jax.nn.log_softmax(logits[name], -1)
        divergence.append(float((jnp.exp(p) * (p - q)).sum(-1).mean()))
        different.append(float((theirs.argmax(-1) != logits[name].argmax(-1)).mean()))
    return float(np.mean(divergence)), float(np.mean(different))


def align(learned: Params, reference: Params) -> Params:
    """The reference with its heads and neurons in the order of the learned ones they match."""
    blocks = []
    for (heads, neurons), block in zip(
        assignment(learned, reference), reference["blocks"], strict=True
    ):
        # Part j of the reference goes where its learned counterpart is.
        h, n = np.argsort(heads), np.argsort(neurons)
        blocks.append(
            {
                "w_q": block["w_q"][h],
                "w_k": block["w_k"][h],
                "w_v": block["w_v"][h],
                "w_o": block["w_o"][:, h],
                "w_gate": block["w_gate"][n],
                "w_in": block["w_in"][n],
                "w_out": block["w_out"][:, n],
            }
        )
    return {**reference, "blocks": blocks}


def barrier(
    loss: Callable[[Params], jax.Array], learned: Params, reference: Params, points: int = 11
) -> tuple[float, list[float]]:
    """Loss along the straight line to the aligned reference: (barrier, losses).

    The barrier is how far the largest loss on the way lies above the larger of both ends.
    """
    target = align(learned, reference)
    losses = []
    for a in np.linspace(0, 1, points):
        between = jax.tree.map(lambda x, y, a=float(a): (1 - a) * x + a * y, learned, target)
        losses.append(float(loss(between)))
    return max(losses) - max(losses[0], losses[-1]), losses
