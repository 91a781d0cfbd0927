"""What a learnability task is: data from a key, and a constructed solution as the reference."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from wasmjax.circuit.language import Circuit
from wasmjax.circuit.weights import Weights, compile_circuit
from wasmjax.learn.model import Params, Shape, constructed_params
from wasmjax.learn.rescale import rescale

CAUSES = ("fetch", "slot", "memory", "carry", "branch", "output")
"""Why a sequence first goes wrong: what was fetched, which operand was read, what memory answered,
a carry, where a branch went; "output" is everything else."""


class Example(NamedTuple):
    """One sequence. L tokens, the last T of them judged; E judged fields, K signals.

    Attributes:
      tokens: int32 [L, F], field values.
      target: int32 [T, E], vocabulary entries of what must be emitted.
      weight: float32 [T, E], 0 where nothing is asked.
      changed: bool [T, E], where the answer is not the field's usual one.
      signals: float32 [T, K], the named signals.
      cause: int32 [T], index into CAUSES: what an error at this token comes from, if what must be
        attended to is (`read`); -1: not known without looking at attention.
      read: int32 [T], index of the token that some head must attend to; -1: none.
    """

    tokens: jax.Array
    target: jax.Array
    weight: jax.Array
    changed: jax.Array
    signals: jax.Array
    cause: jax.Array
    read: jax.Array


@dataclasses.dataclass(frozen=True)
class Reference:
    """A constructed solution in O(1) weights.

    Attributes:
      params: in the learner's shape; at the task's inverse temperature `beta` the scores of
        neighbours differ by its `gap` (in the head where they differ least).
      weights: the construction as it was compiled. rescaled: the same, of order 1.
    """

    params: Params
    weights: Weights
    rescaled: Weights


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
      name: "T1" .. "T6" with its variant. shape: the learner's.
      judged: emitted fields, in the order of E.
      length: tokens of a sequence for training, judged ones apart. tail: judged ones at 1x.
      sample: (key, scale) -> Example of `scale` times the training length; pure.
      circuit: builds the reference.
      copy_last: (tokens [L, F], T) -> what the copy-last baseline answers, vocabulary entries
        [T, E].
      tail_grows: whether the number of judged tokens grows with the length.
      gap: score difference of neighbours in the construction at the end of training; with a recency
        term, of two writes to one address.
      beta: inverse temperature at the end of training.
    """

    name: str
    shape: Shape
    judged: tuple[str, ...]
    length: int
    tail: int
    sample: Callable[[jax.Array, int], Example]
    circuit: Callable[[], Circuit]
    copy_last: Callable[[jax.Array, int], jax.Array]
    tail_grows: bool = False
    gap: float = 32.0
    beta: float = 1.0
    weights: Callable[[], Weights] | None = None

    def tail_at(self, scale: int) -> int:
        return self.tail * scale if self.tail_grows else self.tail

    def reference(self, logit_gap: float = 8.0) -> Reference:
        """The construction, rescaled, in the learner's shape."""
        original = self.weights() if self.weights else compile_circuit(self.circuit()).weights
        unit = self.shape.count_unit
        scaled = rescale(original, round(1 / unit) if unit else 1)
        sharp = np.abs(original.w_q).max((2, 3)) > 0
        least = scaled.unit_LxH[sharp].min() if sharp.any() else 1.0
        params = constructed_params(scaled.weights, self.shape, logit_gap)
        # W_Q and W_K make up for what the temperature is not.
        factor = math.sqrt(self.gap / float(least) / self.beta)
        for block, is_sharp in zip(params["blocks"], self.shape.sharp, strict=True):
            if is_sharp:
                block["w_q"], block["w_k"] = block["w_q"] * factor, block["w_k"] * factor
        return Reference(params, original, scaled.weights)
