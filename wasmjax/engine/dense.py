"""The dense engine: the plain forward pass of one token, every matrix multiplied in full."""

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import Cache, CacheState
from wasmjax.model.symbolic import Row, Symbolic

_HIGHEST = jax.lax.Precision.HIGHEST


class Dense:
    """One step of a transformer as dense products; argmax over every field's logits.

    Attributes:
      fields: vocabulary indices of the emitted fields, in output order.
    """

    name = "dense"

    def __init__(self, symbolic: Symbolic, cache: Cache, dtype: type = jnp.float32) -> None:
        self.symbolic, self.cache, self.dtype = symbolic, cache, dtype
        weights = symbolic.weights
        self.fields = [f for f, field in enumerate(weights.vocabulary) if field.emitted]
        self._lo = np.array([field.lo for field in weights.vocabulary])
        entries = symbolic.entries
        self._rows = [self._flat(cache.rows(layer)) for layer in range(weights.shape[0])]
        self._outputs = [
            np.array([entries[e].index[1:] for e in cache.outputs(layer)], np.int32).reshape(-1, 2)
            for layer in range(weights.shape[0])
        ]

    def params(self) -> dict[str, jax.Array]:
        """The weights, as arguments of the compiled step."""
        return {
            name: jnp.asarray(x, self.dtype) for name, x in self.symbolic.weights.arrays().items()
        }

    def __call__(
        self,
        params: dict[str, jax.Array],
        token: jax.Array,
        count: jax.Array,
        state: CacheState,
        active: jax.Array,
    ) -> tuple[jax.Array, jax.Array, CacheState]:
        """One step; see `wasmjax.engine.packed.Packed.__call__`."""
        vocabulary = self.symbolic.weights.vocabulary
        layers, heads, _, _ = self.symbolic.weights.shape
        x_D = count.astype(self.dtype) * params["position"]
        for f, field in enumerate(vocabulary):
            x_D = x_D + params[f"embedding.{field.name}"][token[f] - field.lo]
        for layer in range(layers):
            qkv = jnp.stack(
                [
                    jnp.einsum("hcd,d->hc", params[name][layer], x_D, precision=_HIGHEST)
                    for name in ("w_q", "w_k", "w_v")
                ]
            )
            index, factor = self._rows[layer]
            y = qkv.reshape(-1)[index] * jnp.asarray(factor, self.dtype)
            out, state = self.cache.attend(layer, state, y, count, active)
            at = self._outputs[layer]
            o_Hx2 = (
                jnp.zeros((heads, 2), self.dtype).at[at[:, 0], at[:, 1]].set(out.astype(self.dtype))
            )
            x_D = x_D + jnp.einsum("dhc,hc->d", params["w_o"][layer], o_Hx2, precision=_HIGHEST)
            gate = jnp.einsum("nd,d->n", params["w_gate"][layer], x_D, precision=_HIGHEST)
            value = jnp.einsum("nd,d->n", params["w_in"][layer], x_D, precision=_HIGHEST)
            hidden = jax.nn.relu(gate) * value
            x_D = x_D + jnp.einsum("dn,n->d", params["w_out"][layer], hidden, precision=_HIGHEST)
        out_values, out_ok = [], []
        for f in self.fields:
            rows = params[f"unembedding.{vocabulary[f].name}"]
            logits = jnp.einsum("vd,d->v", rows, x_D, precision=_HIGHEST)
            best = jnp.argmax(logits)
            out_values.append(best + vocabulary[f].lo)
            out_ok.append(self._within_half(logits, best) & self._exact(rows, x_D))
        return jnp.stack(out_values).astype(jnp.int32), jnp.stack(out_ok), state

    def _within_half(self, logits: jax.Array, best: jax.Array) -> jax.Array:
        """Whether the peak of the parabola through the logits lies within 1/2 of the argmax.

        The logits are a (2 v x - v^2) + b: x - v follows from three neighbouring ones.
        """
        if logits.shape[0] < 3:
            return jnp.array(True)
        middle = jnp.clip(best, 1, logits.shape[0] - 2)
        low, mid, high = logits[middle - 1], logits[middle], logits[middle + 1]
        curvature = 2 * mid - low - high
        peak = middle.astype(self.dtype) + (high - low) / (2 * curvature)
        return jnp.abs(peak - best.astype(self.dtype)) < 0.5

    def _exact(self, rows: jax.Array, x_D: jax.Array) -> jax.Array:
        """Whether rounding cannot have moved the argmax.

        Interval bounds of a logit are far above what occurs (units exclude each other), so the
        engine measures the sum of magnitudes: the rows of the extreme values have the largest
        weights. Terms that are whole numbers (row v is a quadratic in v, so its differences tell)
        sum exactly up to 2^24 in float32; up to 2^21, three inexact terms stay well within the
        gap of 1.
        """
        differences = [jnp.diff(rows[:3], n=order, axis=0)[:1] for order in range(3)]
        terms = jnp.concatenate(differences) * x_D
        whole = jnp.all(terms == jnp.round(terms))
        ends = jnp.abs(jnp.stack([rows[0], rows[-1]]))
        largest = jnp.einsum("vd,d->v", ends, jnp.abs(x_D), precision=_HIGHEST)
        eps = jnp.finfo(self.dtype).eps
        return jnp.max(largest) <= jnp.where(whole, 2 / eps, 0.25 / eps)

    def _flat(self, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of rows in the flattened [q/k/v, head, component] projections."""
        heads = self.symbolic.weights.shape[1]
        position = {"q": 0, "k": 1, "v": 2}
        index = [(position[r.matrix] * heads + r.head) * 2 + r.component for r in rows]
        return np.array(index, np.int32), np.array([row.factor for row in rows])
