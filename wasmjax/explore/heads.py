"""What every head does in chosen steps of a recorded run, fast at any length.

The same numbers as `wasmjax.model.explain`, which scores every token: here each distinct key space
is indexed once (`writes`), so that a step scores the last write of every address only. That leaves
nothing out: what was written before at the same address is behind by `eps` a token, and
`softmax_scale` takes its weight to exactly 0.
"""

import dataclasses
import functools

import numpy as np

from wasmjax.cache.softmax import SoftmaxCache
from wasmjax.circuit.weights import Names, Weights
from wasmjax.explore.record import Record
from wasmjax.explore.writes import Writes
from wasmjax.model.heads import Heads, certify
from wasmjax.model.own import OwnEvaluator
from wasmjax.model.symbolic import COUNT, ONE, Form, Symbolic

_UNDERFLOW = 746.0
"""exp(-x) is 0 beyond, in float64."""

_SPAN = 1024
"""Tokens over which steps share a look at who wrote what before."""
_TABLE = 1 << 20
"""Most scores at a time."""


@dataclasses.dataclass(frozen=True)
class KeySpace:
    """All heads with the same keys: members lie on the parabola (2 j r, -j^2 r + eps t).

    Attributes:
      name: what its first head is called. scale: r. eps: recency, already times r.
      k1, k2: forms of the keys, the recency term apart. far: members' k2 is above -far / 2 times r.
    """

    name: str
    scale: float
    eps: float
    k1: Form
    k2: Form
    far: float


@dataclasses.dataclass(frozen=True)
class Group:
    """Heads of a layer with one query and one key space (None: uniform)."""

    layer: int
    heads: tuple[int, ...]
    space: int | None


@dataclasses.dataclass(frozen=True)
class Explained:
    """Steps of the transformer, S of them; H live heads in the order of `Explainer.heads`.

    Attributes:
      index: int64 [S], the token whose successor is explained.
      query, key, value, output: [S, H, 2]. answered: int64 [S, H]. weight: [S, H]; NaN where
        softmax is no more exact (the caches read by address there), and of uniform heads.
      neurons: int64 [K, 3] (position in `index`, layer, neuron); active: [K, 3] (gate, value,
        output).
      residual: [S, L + 1, D], after the embedding and after each layer.
      emitted: int64 [S, E], the value with the largest logit of every emitted field.
    """

    index: np.ndarray
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    output: np.ndarray
    answered: np.ndarray
    weight: np.ndarray
    neurons: np.ndarray
    active: np.ndarray
    residual: np.ndarray
    emitted: np.ndarray


class Explainer:
    """Explains steps of a record.

    Attributes:
      heads: (layer, head) of the live heads. names: what they are called.
      spaces, groups: how they share keys and queries.
      horizon: tokens up to which float64 softmax is exact.

    Raises:
      CertificateError: if a head is neither uniform nor indexable.
    """

    def __init__(
        self, weights: Weights, names: Names | None, symbolic: Symbolic, record: Record
    ) -> None:
        self.weights, self.symbolic, self.record = weights, symbolic, record
        self.horizon = SoftmaxCache(symbolic).max_tokens
        known = [dict(layer) for layer in names.heads] if names is not None else []
        self.heads = [(k, h) for k, layer in enumerate(symbolic.layers) for h in sorted(layer.q)]
        self.names = [
            (known[layer].get(head) if known else None) or f"head {head}"
            for layer, head in self.heads
        ]
        self._number = {pair: n for n, pair in enumerate(self.heads)}
        self.spaces, self.groups = self._classify(certify(symbolic))
        self.writes = [self._writes(space) for space in self.spaces]
        self._evaluators: dict[tuple[int, int], OwnEvaluator] = {}

    def seal(self) -> None:
        """Indexes what the record has gained."""
        for writes in self.writes:
            writes.seal()

    def explain(self, indices_S: np.ndarray) -> Explained:
        """What happens after each of these tokens."""
        weights, record = self.weights, self.record
        indices_S = np.asarray(indices_S, np.int64)
        n, (layers, _, width, _) = len(indices_S), weights.shape
        shape = (n, len(self.heads), 2)
        query, key, value, output = (np.zeros(shape) for _ in range(4))
        answered, weight = np.zeros(shape[:2], np.int64), np.full(shape[:2], np.nan)
        tokens_SxF = record.full(indices_S)
        x_SxD = (indices_S + 1.0)[:, None] * weights.position
        for f, (field, table) in enumerate(zip(weights.vocabulary, weights.embedding, strict=True)):
            x_SxD = x_SxD + table[tokens_SxF[:, f] - field.lo]
        residual = np.zeros((n, layers + 1, width))
        residual[:, 0] = x_SxD
        neurons, active = [], []
        for layer in range(layers):
            for group in self.groups:
                if group.layer != layer:
                    continue
                heads, columns = list(group.heads), [self._number[layer, h] for h in group.heads]
                query[:, columns] = np.einsum("hcd,sd->shc", weights.w_q[layer, heads], x_SxD)
                if group.space is None:
                    output[:, columns] = value[:, columns] = self._means(group, indices_S)
                    continue
                found = self._read(group, indices_S, query[:, columns[0]])
                answered[:, columns], weight[:, columns] = found[0][:, None], found[1][:, None]
                key[:, columns] = found[2][:, None]
                value[:, columns], output[:, columns] = found[3], found[4]
            mine = [(n, head) for n, (k, head) in enumerate(self.heads) if k == layer]
            columns, heads = [n for n, _ in mine], [head for _, head in mine]
            w_o = weights.w_o[layer][:, heads]
            x_SxD = x_SxD + np.einsum("dhc,shc->sd", w_o, output[:, columns])
            gate, inside = x_SxD @ weights.w_gate[layer].T, x_SxD @ weights.w_in[layer].T
            hidden = np.maximum(gate, 0) * inside
            s, k = np.nonzero(hidden)
            neurons.append(np.stack([s, np.full(len(s), layer), k], axis=1))
            active.append(np.stack([gate[s, k], inside[s, k], hidden[s, k]], axis=1))
            x_SxD = x_SxD + hidden @ weights.w_out[layer].T
            residual[:, layer + 1] = x_SxD
        emitted = [
            np.argmax(x_SxD @ rows.T, axis=1) + field.lo
            for field, rows in zip(weights.vocabulary, weights.unembedding, strict=True)
            if rows is not None
        ]
        return Explained(
            indices_S,
            query,
            key,
            value,
            output,
            answered,
            weight,
            np.concatenate(neurons),
            np.concatenate(active),
            residual,
            np.stack(emitted, axis=1),
        )

    def keys(self, space: int, tokens_N: np.ndarray) -> np.ndarray:
        """Keys of tokens in a space, recency included, [N, 2]."""
        own = self.own(tokens_N)
        found = self.spaces[space]
        recency = found.eps * (np.asarray(tokens_N) + 1.0)
        return np.stack([own.form(found.k1), own.form(found.k2) + recency], axis=1)

    def own(self, tokens_N: np.ndarray) -> OwnEvaluator:
        """What tokens make of their own fields."""
        tokens_N = np.asarray(tokens_N)
        return OwnEvaluator(self.symbolic, self.record.full(tokens_N), counts_N=tokens_N + 1)

    # -- key spaces -------------------------------------------------------------------------

    def _classify(self, certified: Heads) -> tuple[list[KeySpace], list[Group]]:
        stores = {_frozen(*self._keys_of(s.key.layer, s.key.head)): s for s in certified.stores}
        spaces: list[KeySpace] = []
        numbers: dict[tuple, int] = {}
        groups: dict[tuple, list[int]] = {}
        for (layer, head), name in zip(self.heads, self.names, strict=True):
            forms = self.symbolic.layers[layer]
            if not any(forms.q[head]) or not any(forms.k[head]):
                groups.setdefault((layer, None, None), []).append(head)
                continue
            k1, k2 = self._keys_of(layer, head)
            frozen = _frozen(k1, k2)
            if frozen not in numbers:
                store = stores[frozen]
                scale = 1 / (2 * store.key.factor)
                static = {entry: w for entry, w in k2.items() if entry != COUNT}
                numbers[frozen] = len(spaces)
                eps = k2.get(COUNT, 0.0)
                spaces.append(
                    KeySpace(name.split("[")[0], scale, eps, k1, static, store.far * scale)
                )
            groups.setdefault((layer, numbers[frozen], _frozen(*forms.q[head])), []).append(head)
        return spaces, [Group(key[0], tuple(heads), key[1]) for key, heads in groups.items()]

    def _keys_of(self, layer: int, head: int) -> tuple[Form, Form]:
        return self.symbolic.layers[layer].k[head]

    def _writes(self, space: KeySpace) -> Writes:
        def find(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            own = self._block(start, stop)
            member = np.flatnonzero(own.form(space.k2) > -space.far / 2)
            address = own.form(space.k1)[member] / (2 * space.scale)
            return np.rint(address).astype(np.int64), member + start

        lost = space.eps * space.scale * self.weights.softmax_scale > _UNDERFLOW
        return Writes(self.record, find, unique=lost)

    def _block(self, start: int, stop: int) -> OwnEvaluator:
        """Kept for the spaces that ask next; several threads may ask."""
        kept = self._evaluators
        if (start, stop) not in kept:
            self._evaluators = kept = {(start, stop): self.own(np.arange(start, stop))}
        return kept[start, stop]

    # -- attention --------------------------------------------------------------------------

    def _read(self, group: Group, indices_S: np.ndarray, query_Sx2: np.ndarray) -> tuple:
        """Which token answers, its weight, key, values [S, heads, 2] and the outputs."""
        assert group.space is not None
        space, writes = self.spaces[group.space], self.writes[group.space]
        n = len(indices_S)
        answered, weight = np.zeros(n, np.int64), np.full(n, np.nan)
        others: list[tuple[int, np.ndarray, np.ndarray]] = []
        for part in _near(indices_S):
            first, last = int(indices_S[part[0]]), int(indices_S[part[-1]])
            address_M, token_M = writes.latest(first)
            new_address, new_token = writes.between(first + 1, last + 1)
            address_M = np.concatenate([address_M, new_address])
            token_M = np.concatenate([token_M, new_token])
            size = max(1, _TABLE // max(1, len(address_M)))
            for rows in np.split(part, range(size, len(part), size)):
                there = token_M <= indices_S[rows, None]
                q1, q2 = query_Sx2[rows, :1], query_Sx2[rows, 1:]
                score = space.scale * (address_M * (2 * q1) - address_M * (q2 * address_M))
                score[~there] = -np.inf
                # Of equal scores the latest one, as in every cache; members are in order.
                best = len(token_M) - 1 - np.argmax(score[:, ::-1], axis=1)
                answered[rows] = token_M[best]
                recent = q2 * space.eps * (token_M - token_M[best, None])
                behind = score - np.take_along_axis(score, best[:, None], axis=1) + recent
                behind *= self.weights.softmax_scale
                near = behind > -_UNDERFLOW
                exact = indices_S[rows] < self.horizon
                weight[rows[exact]] = 1.0
                for k in np.flatnonzero(exact & (near.sum(axis=1) > 1)):
                    at = np.flatnonzero(near[k])
                    shares = np.exp(behind[k, at] - behind[k, at].max())
                    shares /= shares.sum()
                    weight[rows[k]] = shares[at == best[k]][0]
                    others.append((int(rows[k]), token_M[at], shares))
        own = self.own(answered)
        forms = self.symbolic.layers[group.layer]
        value = np.stack(
            [np.stack([own.form(form) for form in forms.v[h]], axis=1) for h in group.heads], axis=1
        )
        output = value.copy()
        for s, token, shares in others:
            near_own = self.own(token)
            for h, head in enumerate(group.heads):
                output[s, h] = [shares @ near_own.form(form) for form in forms.v[head]]
        return answered, weight, self.keys(group.space, answered), value, output

    def _means(self, group: Group, indices_S: np.ndarray) -> np.ndarray:
        """Means of the values over all tokens so far, [S, heads, 2]."""
        forms = self.symbolic.layers[group.layer].v
        out = np.zeros((len(indices_S), len(group.heads), 2))
        for s, index in enumerate(indices_S):
            sums = self.record.sums_before(int(index) + 1)
            for h, head in enumerate(group.heads):
                for c, form in enumerate(forms[head]):
                    total = sum(
                        weight * self._total(entry, sums, int(index))
                        for entry, weight in form.items()
                    )
                    out[s, h, c] = total / (index + 1)
        return out

    def _total(self, number: int, sums: np.ndarray, index: int) -> float:
        """The sum of an entry over all tokens up to one."""
        if number == ONE:
            return index + 1.0
        entry = self.symbolic.entries[number]
        if entry.kind == "value" and entry.index[0] in self._emitted:
            return float(sums[self._emitted[entry.index[0]]])
        return float(self.own(np.arange(index + 1)).entry(number).sum())

    @functools.cached_property
    def _emitted(self) -> dict[int, int]:
        """Field -> position among the emitted ones."""
        emitted = [f for f, rows in enumerate(self.weights.unembedding) if rows is not None]
        return {f: n for n, f in enumerate(emitted)}


def _near(indices_S: np.ndarray) -> list[np.ndarray]:
    """Positions of ascending numbers, in runs that span no more than `_SPAN`."""
    runs: list[list[int]] = []
    for position in np.argsort(indices_S, kind="stable"):
        if runs and indices_S[position] - indices_S[runs[-1][0]] < _SPAN:
            runs[-1].append(int(position))
        else:
            runs.append([int(position)])
    return [np.array(run) for run in runs]


def _frozen(*forms: Form) -> tuple:
    return tuple(tuple(sorted(form.items())) for form in forms)
