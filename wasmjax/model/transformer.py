"""The model: a plain decoder-only transformer with 2-dimensional heads, in Flax NNX.

No layer norm, no biases (a constant feature serves as one), ReGLU feed-forward blocks, one
scalar softmax scale. The weights are constructed, not trained; nothing here knows by whom.

Shapes: L tokens, F fields, D residual coordinates, H heads, N neurons, V_f entries of field f.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wasmjax.circuit.weights import Vocabulary, Weights

HIGHEST = jax.lax.Precision.HIGHEST


class Attention(nnx.Module):
    """Causal attention. w_q, w_k, w_v: [H, 2, D]; w_o: [D, H, 2]."""

    def __init__(self, w_q: jax.Array, w_k: jax.Array, w_v: jax.Array, w_o: jax.Array) -> None:
        self.w_q = nnx.Param(w_q)
        self.w_k = nnx.Param(w_k)
        self.w_v = nnx.Param(w_v)
        self.w_o = nnx.Param(w_o)

    def __call__(self, x_LxD: jax.Array, softmax_scale: float) -> jax.Array:
        q, k, v = (
            jnp.einsum("hcd,ld->hlc", w[...], x_LxD, precision=HIGHEST)
            for w in (self.w_q, self.w_k, self.w_v)
        )
        # Two components: written elementwise, so that no matrix unit rounds the score.
        score = q[:, :, None, 0] * k[:, None, :, 0] + q[:, :, None, 1] * k[:, None, :, 1]
        length = x_LxD.shape[0]
        causal = jnp.tril(jnp.ones((length, length), bool))
        weight = jax.nn.softmax(jnp.where(causal, score * softmax_scale, -jnp.inf), axis=-1)
        out = jnp.einsum("hlm,hmc->lhc", weight, v, precision=HIGHEST)
        return jnp.einsum("dhc,lhc->ld", self.w_o[...], out, precision=HIGHEST)


class FeedForward(nnx.Module):
    """ReGLU: relu(gate) * value. w_gate, w_in: [N, D]; w_out: [D, N]."""

    def __init__(self, w_gate: jax.Array, w_in: jax.Array, w_out: jax.Array) -> None:
        self.w_gate = nnx.Param(w_gate)
        self.w_in = nnx.Param(w_in)
        self.w_out = nnx.Param(w_out)

    def __call__(self, x_LxD: jax.Array) -> jax.Array:
        gate = jnp.einsum("nd,ld->ln", self.w_gate[...], x_LxD, precision=HIGHEST)
        value = jnp.einsum("nd,ld->ln", self.w_in[...], x_LxD, precision=HIGHEST)
        hidden = jax.nn.relu(gate) * value
        return jnp.einsum("dn,ln->ld", self.w_out[...], hidden, precision=HIGHEST)


class Block(nnx.Module):
    """One layer: attention, then feed-forward, both added to the residual stream."""

    def __init__(self, attention: Attention, feed_forward: FeedForward) -> None:
        self.attention = attention
        self.feed_forward = feed_forward

    def __call__(self, x_LxD: jax.Array, softmax_scale: float) -> jax.Array:
        x_LxD = x_LxD + self.attention(x_LxD, softmax_scale)
        return x_LxD + self.feed_forward(x_LxD)


class Transformer(nnx.Module):
    """Token embedding (a sum over fields), blocks, one unembedding per emitted field.

    Attributes:
      vocabulary: the fields of a token (static).
      embedding: per field, [V_f, D]. position: [D], added (t + 1) times to token t.
      unembedding: per emitted field (by name), [V_f, D].
    """

    def __init__(self, weights: Weights, dtype: jnp.dtype | type = jnp.float32) -> None:
        def param(x: np.ndarray) -> jax.Array:
            return jnp.asarray(x, dtype)

        self.vocabulary = nnx.static(weights.vocabulary)
        self.softmax_scale = nnx.static(weights.softmax_scale)
        self.embedding = nnx.List([nnx.Param(param(table)) for table in weights.embedding])
        self.position = nnx.Param(param(weights.position))
        self.blocks = nnx.List(
            [
                Block(
                    Attention(
                        *(param(w[i]) for w in (weights.w_q, weights.w_k, weights.w_v, weights.w_o))
                    ),
                    FeedForward(
                        *(param(w[i]) for w in (weights.w_gate, weights.w_in, weights.w_out))
                    ),
                )
                for i in range(weights.shape[0])
            ]
        )
        self.unembedding = nnx.Dict(
            {
                field.name: nnx.Param(param(rows))
                for field, rows in zip(weights.vocabulary, weights.unembedding, strict=True)
                if rows is not None
            }
        )

    def __call__(self, tokens_LxF: jax.Array) -> dict[str, jax.Array]:
        """Logits of the next token's fields, [L, V_f] by field name.

        Args:
          tokens_LxF: field values, int [L, F].
        """
        x_LxD = self.embed(tokens_LxF)
        for block in self.blocks:
            x_LxD = block(x_LxD, self.softmax_scale)
        return {
            name: jnp.einsum("vd,ld->lv", rows[...], x_LxD, precision=HIGHEST)
            for name, rows in self.unembedding.items()
        }

    def embed(self, tokens_LxF: jax.Array) -> jax.Array:
        """The residual stream before the first block, [L, D]."""
        count = jnp.arange(1, tokens_LxF.shape[0] + 1, dtype=self.position[...].dtype)
        x_LxD = count[:, None] * self.position[...]
        for f, (field, table) in enumerate(zip(self.vocabulary, self.embedding, strict=True)):
            x_LxD = x_LxD + table[...][tokens_LxF[:, f] - field.lo]
        return x_LxD

    def weights(self) -> Weights:
        """The parameters as NumPy float64 arrays: what every engine is built from."""

        def array(param: nnx.Param) -> np.ndarray:
            return np.asarray(param[...], np.float64)

        def stacked(part: str, name: str) -> np.ndarray:
            return np.stack([array(getattr(getattr(b, part), name)) for b in self.blocks])

        vocabulary: tuple[Vocabulary, ...] = self.vocabulary
        return Weights(
            vocabulary=vocabulary,
            embedding=[array(table) for table in self.embedding],
            position=array(self.position),
            w_q=stacked("attention", "w_q"),
            w_k=stacked("attention", "w_k"),
            w_v=stacked("attention", "w_v"),
            w_o=stacked("attention", "w_o"),
            w_gate=stacked("feed_forward", "w_gate"),
            w_in=stacked("feed_forward", "w_in"),
            w_out=stacked("feed_forward", "w_out"),
            unembedding=[
                array(self.unembedding[field.name]) if field.emitted else None
                for field in vocabulary
            ],
            softmax_scale=float(self.softmax_scale),
        )
