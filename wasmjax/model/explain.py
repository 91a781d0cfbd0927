"""What happens in one step: every named head's query, the token that answered, and its value.

The dense forward pass of one token in float64, with softmax attention over all tokens before it.
Everything is read from the weights; the names are labels.
"""

import dataclasses

import numpy as np

from wasmjax.circuit.weights import Names, Weights
from wasmjax.model.own import OwnEvaluator, is_own
from wasmjax.model.symbolic import COUNT, Symbolic


@dataclasses.dataclass(frozen=True)
class HeadStep:
    """One head in one step.

    Attributes:
      layer, head, name: which it is.
      query: the two components of its query; query[0] / query[1] is the address it asks for.
      answered: index of the token with the largest weight. weight: its softmax weight.
      key: that token's key. value: its value. output: the weighted sum over all tokens.
      uniform: whether all tokens weigh the same (then `answered` means nothing).
      rows: the non-zero entries of its W_Q, W_K and W_V rows: (matrix, component, coordinate,
        name of the coordinate, weight).
    """

    layer: int
    head: int
    name: str
    query: tuple[float, float]
    answered: int
    weight: float
    key: tuple[float, float]
    value: tuple[float, float]
    output: tuple[float, float]
    uniform: bool
    rows: tuple[tuple[str, int, int, str, float], ...]


@dataclasses.dataclass(frozen=True)
class NeuronStep:
    """One active neuron in one step: relu(gate) * value."""

    layer: int
    neuron: int
    name: str
    gate: float
    value: float
    output: float


@dataclasses.dataclass(frozen=True)
class StepExplanation:
    """One step of the transformer.

    Attributes:
      index: index of the token whose successor is explained.
      tokens: the sequence up to it, field values [index + 1, F].
      heads, neurons: live heads; neurons with a non-zero output.
      residual: after the embedding and after each layer, [D].
      emitted: field name -> value with the largest logit.
    """

    index: int
    tokens: np.ndarray
    heads: tuple[HeadStep, ...]
    neurons: tuple[NeuronStep, ...]
    residual: tuple[np.ndarray, ...]
    emitted: dict[str, int]


def explain(
    weights: Weights, names: Names | None, tokens_NxF: np.ndarray, symbolic: Symbolic | None = None
) -> StepExplanation:
    """Explains how the last of `tokens_NxF` (field values) leads to the next token.

    Raises:
      ValueError: if keys or values of a head depend on more than the token's own fields.
    """
    symbolic = symbolic or Symbolic(weights)
    own = OwnEvaluator(symbolic, tokens_NxF)
    index = len(tokens_NxF) - 1
    layers, heads, _, _ = weights.shape
    x_D = (index + 1) * weights.position
    for f, (field, table) in enumerate(zip(weights.vocabulary, weights.embedding, strict=True)):
        x_D = x_D + table[tokens_NxF[index, f] - field.lo]
    residual, head_steps, neuron_steps = [x_D], [], []
    labels = _Labels(weights, names)
    for layer in range(layers):
        out_Hx2 = np.zeros((heads, 2))
        for head in sorted(symbolic.layers[layer].q):
            step = _head(weights, symbolic, own, labels, layer, head, x_D)
            out_Hx2[head] = step.output
            head_steps.append(step)
        x_D = x_D + np.einsum("dhc,hc->d", weights.w_o[layer], out_Hx2)
        gate, value = weights.w_gate[layer] @ x_D, weights.w_in[layer] @ x_D
        hidden = np.maximum(gate, 0) * value
        for n in np.flatnonzero(hidden):
            name = labels.neurons.get((layer, int(n)), "")
            neuron_steps.append(
                NeuronStep(layer, int(n), name, float(gate[n]), float(value[n]), float(hidden[n]))
            )
        x_D = x_D + weights.w_out[layer] @ hidden
        residual.append(x_D)
    emitted = {
        field.name: int(np.argmax(rows @ x_D)) + field.lo
        for field, rows in zip(weights.vocabulary, weights.unembedding, strict=True)
        if rows is not None
    }
    return StepExplanation(
        index, tokens_NxF, tuple(head_steps), tuple(neuron_steps), tuple(residual), emitted
    )


class _Labels:
    def __init__(self, weights: Weights, names: Names | None) -> None:
        self.heads: dict[tuple[int, int], str] = {}
        self.neurons: dict[tuple[int, int], str] = {}
        self.coordinates: dict[int, str] = {}
        if names is None:
            return
        for layer in range(weights.shape[0]):
            self.heads |= {(layer, i): name for i, name in names.heads[layer]}
            self.neurons |= {(layer, i): name for i, name in names.neurons[layer]}
        for slot, name in names.coordinates:
            known = self.coordinates.get(slot)
            self.coordinates[slot] = f"{known} / {name}" if known else name


def _head(
    weights: Weights,
    symbolic: Symbolic,
    own: OwnEvaluator,
    labels: _Labels,
    layer: int,
    head: int,
    x_D: np.ndarray,
) -> HeadStep:
    forms = symbolic.layers[layer]
    for form in (*forms.k[head], *forms.v[head]):
        if not is_own(symbolic, {e: w for e, w in form.items() if e != COUNT}):
            raise ValueError(f"layer {layer} head {head}: keys or values depend on other tokens")
    q = weights.w_q[layer, head] @ x_D
    k_2xN = np.stack([own.form(form) for form in forms.k[head]])
    v_2xN = np.stack([own.form(form) for form in forms.v[head]])
    score = q @ k_2xN * weights.softmax_scale
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    # Of equal scores the latest token answers (eps t decides inside the weights' horizon).
    best = len(score) - 1 - int(np.argmax(score[::-1]))
    uniform = not (np.any(weights.w_q[layer, head]) and np.any(weights.w_k[layer, head]))
    out = v_2xN @ weight
    rows = []
    for name, matrix in (("w_q", weights.w_q), ("w_k", weights.w_k), ("w_v", weights.w_v)):
        for component in range(2):
            for c in np.flatnonzero(matrix[layer, head, component]):
                label = labels.coordinates.get(int(c), "")
                entry = float(matrix[layer, head, component, c])
                rows.append((name, component, int(c), label, entry))
    return HeadStep(
        layer,
        head,
        labels.heads.get((layer, head), f"head {head}"),
        (float(q[0]), float(q[1])),
        best,
        float(weight[best]),
        (float(k_2xN[0, best]), float(k_2xN[1, best])),
        (float(v_2xN[0, best]), float(v_2xN[1, best])),
        (float(out[0]), float(out[1])),
        uniform,
        tuple(rows),
    )
