"""The dense engine: the plain forward pass of one token, every matrix multiplied in full."""

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import Cache, CacheState
from wasmjax.model.readout import readouts
from wasmjax.model.symbolic import Row, Symbolic, depends_on_sums

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
        # Integers are exact up to 2 / eps; where a running sum takes part each of a few additions
        # rounds, which a gap of 1 between logits survives up to 0.25 / eps.
        eps = float(jnp.finfo(dtype).eps)
        rounded = {r.field for r in readouts(symbolic) if depends_on_sums(symbolic, r.form)}
        self._bounds = {f: (0.25 if f in rounded else 2.0) / eps for f in self.fields}
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
                jnp.zeros((heads, 2), self.dtype)
                .at[at[:, 0], at[:, 1]]
                .set(jnp.concatenate([jnp.zeros((0,), y.dtype), *out]).astype(self.dtype))
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
            exact = self._largest_sum(rows, x_D) <= self._bounds[f]
            out_ok.append(self._within_half(logits, best) & exact)
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

    def _largest_sum(self, rows: jax.Array, x_D: jax.Array) -> jax.Array:
        """Largest magnitude that a partial sum of the field's logits can have.

        Interval bounds of a logit are far above what occurs (units exclude each other), so the
        engine measures: the rows of the extreme values have the largest weights.
        """
        ends = jnp.abs(jnp.stack([rows[0], rows[-1]]))
        return jnp.max(jnp.einsum("vd,d->v", ends, jnp.abs(x_D), precision=_HIGHEST))

    def _flat(self, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of rows in the flattened [q/k/v, head, component] projections."""
        heads = self.symbolic.weights.shape[1]
        position = {"q": 0, "k": 1, "v": 2}
        index = [(position[r.matrix] * heads + r.head) * 2 + r.component for r in rows]
        return np.array(index, np.int32), np.array([row.factor for row in rows])
