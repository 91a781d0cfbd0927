"""The softmax KV cache: every key and value kept, full attention; the textbook transformer.

Exact where softmax is, which is within a *horizon* that follows from the format and the weights; u
is the format's unit roundoff, J bounds addresses, T tokens, eps is the weight of recency in the
keys (2j, -j^2 + eps t).

- Two tokens with one address differ by eps at least, and share the product of query and k1; the
  rounding of k2 and of the sum may take 2 u J^2 of that. Half of eps is left if J^2 <= eps / (4 u).
- Two addresses differ by 1 at least, less eps T, which is to be below 1/2; all roundings together
  take 6 u J^2. Where eps is 0 that bounds J^2 by 1 / (16 u).
- What is left, times `softmax_scale`, must take a loser's weight to exactly 0.
- Uniform heads: weights are exactly 1, their sum and the sum of the values are integers, exact up
  to T A <= 1 / u for values up to A, and one division follows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.circuit.ranges import FORMATS, granularity
from wasmjax.model.heads import CertificateError
from wasmjax.model.own import OwnEvaluator, is_own
from wasmjax.model.symbolic import COUNT, ONE, Form, Row, Symbolic

_UNDERFLOW = {"float64": 746.0, "float32": 104.0}
"""exp(-x) is 0 beyond."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class SoftmaxState:
    """Contents of the cache.

    Attributes:
      kv: per layer, keys and values [live heads, capacity + 1, 4] (k1, k2, v1, v2).
      need: int32, tokens that a refused append would have needed.
      beyond: bool, whether a token passed the horizon within which softmax is exact.
    """

    kv: tuple[jax.Array, ...]
    need: jax.Array
    beyond: jax.Array


class SoftmaxCache:
    """Layout of a softmax cache over all live heads of a transformer.

    Args:
      dtype: "float64" or "float32".

    Attributes:
      max_tokens: how far the horizon reaches in tokens.
      reach: per layer and head, how far in addresses.

    Raises:
      CertificateError: if softmax_scale is too small for a loser's weight to be 0.
    """

    name = "softmax"

    def __init__(
        self, symbolic: Symbolic, dtype: Literal["float32", "float64"] = "float64"
    ) -> None:
        self.symbolic, self.dtype, self.x64 = symbolic, dtype, dtype == "float64"
        self.layers = len(symbolic.layers)
        self.scale = symbolic.weights.softmax_scale
        self._heads = [sorted(layer.q) for layer in symbolic.layers]
        # Recency weights of the keys, per layer and head (0: each address is written once).
        self._eps = [
            np.array([symbolic.layers[layer].k[head][1].get(COUNT, 0.0) for head in heads])
            for layer, heads in enumerate(self._heads)
        ]
        exact = FORMATS[dtype].exact
        self.reach = [np.sqrt(np.where(eps > 0, eps * exact / 4, exact / 16)) for eps in self._eps]
        every = np.concatenate([*self._eps, [0.0]])
        largest, smallest = every.max(), every[every > 0].min(initial=1.0)
        recent = 0.5 / largest if largest else np.inf
        summed = exact / max([1.0, *map(self._bound, self._uniform_values())])
        self.max_tokens = int(min(recent, summed, 2.0**24))
        if smallest / 2 * self.scale <= _UNDERFLOW[dtype]:
            raise CertificateError(
                f"softmax scale {self.scale:g}: the weight of what is older by one token would not "
                f"be 0 in {dtype}"
            )

    def _uniform_values(self) -> list[Form]:
        """Values of the heads that attend to all tokens alike."""
        out = []
        for layer, heads in zip(self.symbolic.layers, self._heads, strict=True):
            for head in heads:
                if not any(layer.q[head]) or not any(layer.k[head]):
                    out += [*layer.v[head]]
        return out

    def _bound(self, form: Form) -> float:
        """The largest magnitude of a form of a token's own fields, in units of its finest part."""
        bound, unit = 0.0, 1.0
        for number, weight in form.items():
            entry = self.symbolic.entries[number]
            field = self.symbolic.weights.vocabulary[entry.index[0]] if entry.index else None
            if entry.kind == "value" and field is not None:
                most = float(max(abs(field.lo), abs(field.lo + field.size - 1)))
            elif entry.kind == "column":
                most = float(np.abs(entry.table).max())
            else:
                most = 1.0 if number == ONE else 2.0**24
            bound += abs(weight) * most
            unit = min(unit, granularity(weight))
        return bound / unit

    def rows(self, layer: int) -> list[Row]:
        """Rows of the projections that `attend` takes: q, k, v of every live head."""
        matrices: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")
        return [
            Row(matrix, layer, head, component)
            for matrix in matrices
            for component in range(2)
            for head in self._heads[layer]
        ]

    def outputs(self, layer: int) -> list[int]:
        """Entries of what `attend` returns, in order."""
        out = self.symbolic.layers[layer].outputs
        return [entry for _, entry in sorted(out.items(), key=lambda item: item[0][::-1])]

    def attend(
        self,
        layer: int,
        state: SoftmaxState,
        y: jax.Array,
        count: jax.Array,
        active: jax.Array,
    ) -> tuple[list[jax.Array], SoftmaxState]:
        """Appends the current token's keys and values, then attends to all tokens."""
        heads = len(self._heads[layer])
        q, k, v = (y[2 * i * heads : 2 * (i + 1) * heads].reshape(2, heads) for i in range(3))
        kv = state.kv[layer]
        capacity = kv.shape[1] - 1
        fits = count <= capacity
        at = jnp.where(active & fits, count - 1, capacity)
        new = jnp.stack([k[0], k[1], v[0], v[1]], axis=1)[:, None, :]
        kv = jax.lax.dynamic_update_slice(
            kv, new.astype(kv.dtype), (jnp.zeros_like(at), at, jnp.zeros_like(at))
        )
        score = q[0][:, None] * kv[:, :, 0] + q[1][:, None] * kv[:, :, 1]
        seen = jnp.arange(capacity + 1, dtype=jnp.int32) < count
        scaled = jnp.where(seen, score * self.scale, -jnp.inf)
        weight = jnp.exp(scaled - jnp.max(scaled, axis=-1, keepdims=True))
        # Divided at last, so that a mean is an exact sum, rounded once.
        whole = jnp.sum(weight, axis=1)
        first = jnp.sum(weight * kv[:, :, 2], axis=1) / whole
        second = jnp.sum(weight * kv[:, :, 3], axis=1) / whole
        square = (k[0] / 2) ** 2
        member = k[1] + square > -square - 1
        beyond = jnp.abs(k[0]) / 2 > jnp.asarray(self.reach[layer], k.dtype)
        far = jnp.any(member & beyond) | (count > self.max_tokens)
        kvs = (*state.kv[:layer], kv, *state.kv[layer + 1 :])
        need = jnp.where(active & ~fits, count, 0)
        position = {head: i for i, head in enumerate(self._heads[layer])}
        used = sorted(self.symbolic.layers[layer].outputs, key=lambda key: key[::-1])
        index = np.array([position[h] + heads * c for h, c in used], np.int32)
        out = jnp.concatenate([first, second])[index]
        return [out], SoftmaxState(kvs, need, state.beyond | (far & active))

    def commit(self, old: SoftmaxState, new: SoftmaxState, ok: jax.Array) -> SoftmaxState:
        """The appended row of a refused token lies beyond `count` and is written again."""
        del old, ok
        return new

    def problem(self, state: SoftmaxState) -> jax.Array:
        """1 if the last token lies beyond the horizon, else 0."""
        return state.beyond.astype(jnp.int32)

    def explain(self, state: SoftmaxState) -> str:
        """What `problem` means."""
        del state
        return (
            f"the softmax cache is exact in {self.dtype} up to {self.max_tokens:,} tokens and "
            f"address {int(np.concatenate(self.reach).min()):,} of the space with the finest "
            "recency term; use the indexed cache"
        )

    def full(self, state: SoftmaxState) -> jax.Array:
        """Whether the last token did not fit."""
        return state.need > 0

    def stored(
        self, state: SoftmaxState, tokens_NxF: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies where tokens would write: their own values and the ones now there, [N, C].

        C runs over both value components of the heads whose keys the tokens have.
        """
        values = OwnEvaluator(self.symbolic, tokens_NxF, count)
        own, found = [], []
        for layer, heads in enumerate(self._heads):
            forms = self.symbolic.layers[layer]
            kv = np.asarray(state.kv[layer])[:, : count - 1]
            for h, head in enumerate(heads):
                k1, k2 = (values.form(form) for form in forms.k[head])
                if not (k2 + k1**2 / 4 > -(k1**2) / 4 - 1).all() or not forms.k[head][0]:
                    continue  # outsiders, or a uniform head
                own.append(np.stack([values.form(form) for form in forms.v[head]], axis=1))
                found.append(self._latest(kv[h], k1))
        if not own:
            return np.zeros((len(tokens_NxF), 0)), np.zeros((len(tokens_NxF), 0))
        return np.concatenate(own, axis=1), np.concatenate(found, axis=1)

    @staticmethod
    def _latest(kv_Nx4: np.ndarray, wanted_M: np.ndarray) -> np.ndarray:
        """Values of the latest member with each key (the first token's if there is none)."""
        k1, k2 = kv_Nx4[:, 0], kv_Nx4[:, 1]
        member = np.flatnonzero(k2 + k1**2 / 4 > -(k1**2) / 4 - 1)
        row_of = {float(key): int(row) for row, key in zip(member, k1[member], strict=True)}
        return kv_Nx4[[row_of.get(float(key), 0) for key in wanted_M], 2:]

    @property
    def own(self) -> bool:
        """Whether all keys and values depend on a token's own fields, and its count, alone."""
        forms = [
            form
            for layer, heads in zip(self.symbolic.layers, self._heads, strict=True)
            for head in heads
            for form in (*layer.k[head], *layer.v[head])
        ]
        return all(
            is_own(self.symbolic, {e: w for e, w in form.items() if e != COUNT}) for form in forms
        )

    def prefill(
        self,
        state: SoftmaxState | None,
        tokens_NxF: np.ndarray,
        first_count: int,
        capacities: Sequence[int],
    ) -> SoftmaxState:
        """The state after tokens, without running the model: only if `own`.

        Args:
          state: what was there before; None: nothing.
          first_count: count of the first token. capacities: least tokens to make room for.
        """
        last = first_count + len(tokens_NxF) - 1
        least = [max(capacities[0], last + 1)]
        state = self.empty(least) if state is None else self.grow(state, least)
        values = OwnEvaluator(self.symbolic, tokens_NxF, first_count)
        every, far = [], last > self.max_tokens
        for layer, heads in enumerate(self._heads):
            forms, kv = self.symbolic.layers[layer], np.array(state.kv[layer])
            for h, head in enumerate(heads):
                k1, k2, v1, v2 = (values.form(f) for f in (*forms.k[head], *forms.v[head]))
                kv[h, first_count - 1 : last] = np.stack([k1, k2, v1, v2], axis=1)
                square = (k1 / 2) ** 2
                member = k2 + square > -square - 1
                far |= bool((member & (np.abs(k1) / 2 > self.reach[layer][h])).any())
            every.append(jnp.asarray(kv, self.dtype))
        return SoftmaxState(tuple(every), jnp.zeros((), jnp.int32), jnp.asarray(bool(far)))

    def default_capacities(self) -> list[int]:
        """Tokens to make room for at first."""
        return [2048]

    def room_for(self, tokens: int) -> list[int]:
        """Capacity that is enough for so many tokens."""
        return [tokens]

    def empty(self, least: Sequence[int]) -> SoftmaxState:
        """A cache without tokens, with room for at least so many."""
        capacity = 1 << (least[0] - 1).bit_length()
        kv = tuple(jnp.zeros((len(heads), capacity + 1, 4), self.dtype) for heads in self._heads)
        return SoftmaxState(kv, jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def grow(self, state: SoftmaxState, least: Sequence[int]) -> SoftmaxState:
        """The same contents with room for at least least[0] tokens."""
        capacity = state.kv[0].shape[1] - 1
        if least[0] <= capacity:
            return state
        while capacity < least[0]:
            capacity *= 2
        kv = tuple(
            jnp.zeros((old.shape[0], capacity + 1, 4), old.dtype)
            .at[:, : old.shape[1] - 1]
            .set(old[:, :-1])
            for old in state.kv
        )
        return SoftmaxState(kv, jnp.zeros((), jnp.int32), state.beyond)
