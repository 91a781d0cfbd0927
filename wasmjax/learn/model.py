"""The transformer of `wasmjax.model`, as a pytree of parameters that can be trained by the batch.

The same architecture (sum of field embeddings, 2-dimensional heads, ReGLU, no norms, no biases),
with two differences that training needs: the inverse temperature is an argument, and layers have
as many heads and neurons as they need, or none.

Shapes: B sequences, L tokens, T last tokens that are judged, F fields, D residual coordinates,
H heads of C components, N neurons, V entries of a field, K signals.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.circuit.language import Vocabulary
from wasmjax.circuit.weights import Weights
from wasmjax.learn.attention import KINDS

Params = dict[str, Any]
HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Shape:
    """Everything about a model that is not a parameter.

    Attributes:
      vocabulary: the fields of a token.
      width: D. heads, neurons: per layer. head_dim: C.
      sharp: per layer, whether the temperature applies; layers that only average keep 1.
      count_unit: what a token adds to the positional feature (1 / the training length); 0: there is
        none.
      signals: named signals that may be supervised: (name, half layers executed before it is
        read from the residual stream, field-free linear read).
    """

    vocabulary: tuple[Vocabulary, ...]
    width: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    sharp: tuple[bool, ...]
    head_dim: int = 2
    count_unit: float = 1.0
    signals: tuple[tuple[str, int], ...] = ()

    @property
    def layers(self) -> int:
        return len(self.heads)

    @property
    def emitted(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.vocabulary if field.emitted)


def random_params(key: jax.Array, shape: Shape) -> Params:
    """Random start: normal, every matrix with standard deviation 1 / sqrt(inputs)."""
    keys = iter(jax.random.split(key, 8 * shape.layers + 2 * len(shape.vocabulary) + 2))
    d, c = shape.width, shape.head_dim

    def normal(*size: int, inputs: int) -> jax.Array:
        return jax.random.normal(next(keys), size) / math.sqrt(inputs)

    blocks = []
    for h, n in zip(shape.heads, shape.neurons, strict=True):
        blocks.append(
            {
                "w_q": normal(h, c, d, inputs=d),
                "w_k": normal(h, c, d, inputs=d),
                "w_v": normal(h, c, d, inputs=d),
                "w_o": normal(d, h, c, inputs=max(1, h * c)),
                "w_gate": normal(n, d, inputs=d),
                "w_in": normal(n, d, inputs=d),
                "w_out": normal(d, n, inputs=max(1, n)),
            }
        )
    return {
        # A token is a sum of fields.
        "embedding": {
            f.name: normal(f.size, d, inputs=len(shape.vocabulary)) for f in shape.vocabulary
        },
        "position": normal(d, inputs=len(shape.vocabulary)),
        "blocks": blocks,
        # Small, so that the first answers are all alike and not confidently wrong.
        "unembedding": {
            f.name: normal(f.size, d, inputs=d * d) for f in shape.vocabulary if f.emitted
        },
        "sharpness": {f.name: jnp.zeros(()) for f in shape.vocabulary if f.emitted},
        "probe": jnp.zeros((len(shape.signals), d)),
    }


def constructed_params(weights: Weights, shape: Shape, logit_gap: float = 8.0) -> Params:
    """Constructed weights in this shape, padded with zeros; idle heads and neurons are left out.

    `logit_gap`: by how much the right entry of a field leads (the unembedding's own scale is free).

    Raises:
      ValueError: if they do not fit.
    """
    layers, heads, d, neurons = weights.shape
    if shape.layers != layers or shape.width < d or shape.head_dim != 2:
        raise ValueError(f"{layers} layers of width {d} do not fit this shape")

    def padded(x: np.ndarray, *size: int) -> jax.Array:
        if any(a > b for a, b in zip(x.shape, size, strict=True)):
            raise ValueError(f"weights of shape {x.shape} do not fit {size}")
        out = np.zeros(size, np.float32)
        out[tuple(slice(n) for n in x.shape)] = x
        return jnp.asarray(out)

    blocks = []
    for l in range(layers):  # noqa: E741
        live = [h for h in range(heads) if weights.w_o[l, :, h].any() and weights.w_v[l, h].any()]
        used = [n for n in range(neurons) if weights.w_out[l, :, n].any()]
        w, h, n = shape.width, shape.heads[l], shape.neurons[l]
        blocks.append(
            {
                "w_q": padded(weights.w_q[l][live], h, 2, w),
                "w_k": padded(weights.w_k[l][live], h, 2, w),
                "w_v": padded(weights.w_v[l][live], h, 2, w),
                "w_o": padded(weights.w_o[l][:, live], w, h, 2),
                "w_gate": padded(weights.w_gate[l][used], n, w),
                "w_in": padded(weights.w_in[l][used], n, w),
                "w_out": padded(weights.w_out[l][:, used], w, n),
            }
        )
    unembedding, sharpness = {}, {}
    for field, rows in zip(weights.vocabulary, weights.unembedding, strict=True):
        if rows is not None:
            unembedding[field.name] = padded(rows, field.size, shape.width)
            # The parabola's second difference is twice the lead of the right entry.
            bend = np.abs(rows[2] - 2 * rows[1] + rows[0]).max() / 2 if len(rows) > 2 else 1.0
            sharpness[field.name] = jnp.asarray(math.log(logit_gap / bend), jnp.float32)
    return {
        "embedding": {
            field.name: padded(table, field.size, shape.width)
            for field, table in zip(weights.vocabulary, weights.embedding, strict=True)
        },
        "position": padded(weights.position, shape.width) / (shape.count_unit or math.inf),
        "blocks": blocks,
        "unembedding": unembedding,
        "sharpness": sharpness,
        "probe": jnp.zeros((len(shape.signals), shape.width)),
    }


def live_shape(weights: Weights, **more: Any) -> Shape:
    """The smallest shape that holds these weights."""
    layers, heads, d, neurons = weights.shape
    live = [
        sum(bool(weights.w_o[l, :, h].any() and weights.w_v[l, h].any()) for h in range(heads))
        for l in range(layers)  # noqa: E741
    ]
    used = [sum(bool(weights.w_out[l, :, n].any()) for n in range(neurons)) for l in range(layers)]  # noqa: E741
    sharp = tuple(bool(weights.w_q[l].any()) for l in range(layers))  # noqa: E741
    return Shape(weights.vocabulary, d, tuple(live), tuple(used), sharp, **more)


def embed(params: Params, tokens_BxLxF: jax.Array, shape: Shape) -> jax.Array:
    """The residual stream before the first block, [B, L, D]."""
    count = shape.count_unit * jnp.arange(1, tokens_BxLxF.shape[1] + 1, dtype=jnp.float32)
    x_BxLxD = jnp.broadcast_to(
        count[:, None] * params["position"], (*tokens_BxLxF.shape[:2], shape.width)
    )
    for f, field in enumerate(shape.vocabulary):
        x_BxLxD = x_BxLxD + params["embedding"][field.name][tokens_BxLxF[..., f] - field.lo]
    return x_BxLxD


@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass gives on the judged tokens.

    Attributes:
      logits: by field name, [B, T, V]. signals: [B, T, K].
      attended: per layer with heads, on request, [B, H, T or L, L] weights.
    """

    logits: dict[str, jax.Array]
    signals: jax.Array
    attended: tuple[jax.Array, ...] = ()


def forward(
    params: Params,
    tokens_BxLxF: jax.Array,
    shape: Shape,
    attention: Sequence[str] | str,
    beta: jax.Array | float,
    tail: int,
    keep: bool = False,
) -> Output:
    """Logits of what follows the last `tail` tokens.

    Args:
      attention: kind of every layer's attention (names of `attention.KINDS`), or of all that are
        sharp; the others average by softmax.
      beta: inverse temperature of the sharp layers.
      keep: also return attention weights.
    """
    kinds = (
        [attention if sharp else "softmax" for sharp in shape.sharp]
        if isinstance(attention, str)
        else list(attention)
    )
    x = embed(params, tokens_BxLxF, shape)
    length = tokens_BxLxF.shape[1]
    attended, seen = [], {}

    def note(half: int, x: jax.Array) -> None:
        for k, (_, at) in enumerate(shape.signals):
            if at == half:
                rows = x[:, x.shape[1] - tail :]
                seen[k] = jnp.einsum("btd,d->bt", rows, params["probe"][k], precision=HIGHEST)

    for l, block in enumerate(params["blocks"]):  # noqa: E741
        later = any(shape.heads[l + 1 :])
        if shape.heads[l]:
            rows = x if later else x[:, x.shape[1] - tail :]
            score = _scores(block, rows, x) * (beta if shape.sharp[l] else 1.0)
            first = length - rows.shape[1]
            causal = jnp.arange(length) <= first + jnp.arange(rows.shape[1])[:, None]
            weight = KINDS[kinds[l]](jnp.where(causal, score, -jnp.inf))
            value = jnp.einsum("hcd,bmd->bhmc", block["w_v"], x, precision=HIGHEST)
            read = jnp.einsum("bhlm,bhmc->bhlc", weight, value, precision=HIGHEST)
            x = rows + jnp.einsum("dhc,bhlc->bld", block["w_o"], read, precision=HIGHEST)
            if keep:
                attended.append(weight)
        elif not later:
            x = x[:, x.shape[1] - tail :]
        note(2 * l, x)
        if shape.neurons[l]:
            gate = jnp.einsum("nd,bld->bln", block["w_gate"], x, precision=HIGHEST)
            inner = jnp.einsum("nd,bld->bln", block["w_in"], x, precision=HIGHEST)
            hidden = jax.nn.relu(gate) * inner
            x = x + jnp.einsum("dn,bln->bld", block["w_out"], hidden, precision=HIGHEST)
        note(2 * l + 1, x)
    x = x[:, x.shape[1] - tail :]
    logits = {
        name: jnp.exp(params["sharpness"][name])
        * jnp.einsum("vd,btd->btv", rows, x, precision=HIGHEST)
        for name, rows in params["unembedding"].items()
    }
    signals = [seen[k] for k in range(len(shape.signals))]
    stacked = jnp.stack(signals, -1) if signals else jnp.zeros((*x.shape[:2], 0))
    return Output(logits, stacked, tuple(attended))


def _scores(block: Mapping[str, jax.Array], rows: jax.Array, x: jax.Array) -> jax.Array:
    q = jnp.einsum("hcd,bld->bhlc", block["w_q"], rows, precision=HIGHEST)
    k = jnp.einsum("hcd,bmd->bhmc", block["w_k"], x, precision=HIGHEST)
    if q.shape[-1] == 2:  # elementwise, as in `wasmjax.model`
        return q[..., :, None, 0] * k[..., None, :, 0] + q[..., :, None, 1] * k[..., None, :, 1]
    return jnp.einsum("bhlc,bhmc->bhlm", q, k, precision=HIGHEST)
