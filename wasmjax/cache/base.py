"""What every KV cache offers the engines."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from wasmjax.model.symbolic import Row, Symbolic

CacheState = Any
"""A pytree of arrays; its type belongs to the cache."""


class Attention(Protocol):
    """What a step needs of a KV cache.

    Attributes:
      name: "indexed", "hull" or "softmax".
    """

    name: str

    def rows(self, layer: int) -> list[Row]:
        """Rows of the projections that `attend` takes, in order."""

    def outputs(self, layer: int) -> list[int]:
        """Entries (wasmjax.model.symbolic) of what `attend` returns, in order."""

    def attend(
        self,
        layer: int,
        state: CacheState,
        y: jax.Array,
        count: jax.Array,
        active: jax.Array,
    ) -> tuple[list[jax.Array], CacheState]:
        """Writes the current token's keys and values, then answers its queries.

        Returns:
          The outputs, in parts to be concatenated, and the new state.
        """


class Cache(Attention, Protocol):
    """Layout of one sequence's KV cache; immutable, its contents are a `CacheState`.

    Attributes:
      x64: whether its arrays are float64. symbolic: the transformer's weights on forms.
    """

    x64: bool
    symbolic: Symbolic

    def commit(self, old: CacheState, new: CacheState, ok: jax.Array) -> CacheState:
        """The state after a token that was accepted (`ok`) or must be repeated."""

    def full(self, state: CacheState) -> jax.Array:
        """Whether the last token did not fit."""

    def problem(self, state: CacheState) -> jax.Array:
        """Non-zero if the last token cannot be remembered exactly."""

    def explain(self, state: CacheState) -> str:
        """What `problem` means."""

    def grow(self, state: CacheState, least: Sequence[int]) -> CacheState:
        """The same contents with more room."""

    def stored(
        self, state: CacheState, tokens_NxF: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies where tokens would write: their own values and the ones now there, [N, C]."""

    def room_for(self, tokens: int) -> list[int]:
        """Capacities that are enough for so many tokens, whatever they are."""

    def default_capacities(self) -> list[int]:
        """Room to make at first."""
