"""Stores and reads of heads, laid out for caches with a row per address, or per member, of a store.

Shapes: S stores, C columns of a store, E outputs of a layer.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.model.heads import Heads, Mean, Read
from wasmjax.model.symbolic import Symbolic


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a store lives: number of its family and its position in it."""

    rewritable: bool
    family: int
    position: int


@dataclasses.dataclass(frozen=True)
class LayerReads:
    """Reads of one layer from one family, as flat element positions.

    Output e of the layer comes from query `query[e]` of store `store[e]`, column `column[e]`.
    """

    place: Place
    query: np.ndarray
    store: np.ndarray
    position: np.ndarray
    column: np.ndarray


class StoreLayout:
    """Which store lies where, and which reads a layer makes. Immutable."""

    def __init__(self, symbolic: Symbolic, heads: Heads) -> None:
        self.symbolic, self.heads = symbolic, heads
        self.layers = len(symbolic.layers)
        self._first: dict[int, int] = {}
        for read in heads.reads:
            self._first[read.store] = min(read.layer, self._first.get(read.store, self.layers))
        self._families: dict[bool, list[list[int]]] = {True: [], False: []}
        self.places: list[Place] = []
        keys: dict[tuple, int] = {}
        for number, store in enumerate(heads.stores):
            # Rewritable stores that are written together share one array.
            key = (store.rewritable, self._first[number], len(store.columns), store.lo)
            families = self._families[store.rewritable]
            if key not in keys or not store.rewritable:
                keys[key] = len(families)
                families.append([])
            family = keys[key]
            self.places.append(Place(store.rewritable, family, len(families[family])))
            families[family].append(number)

    def outputs(self, layer: int) -> list[int]:
        """Entries (wasmjax.model.symbolic) of what `attend` returns, in order."""
        out = [e for reads in self.grouped(layer) for e in reads[1]]
        return out + [mean.entry for mean in self.means(layer)]

    def families(self, rewritable: bool) -> list[list[int]]:
        """Stores that share an array, by array."""
        return self._families[rewritable]

    def first_layer(self, store: int) -> int:
        """The first layer that reads a store: its tokens are written there."""
        return self._first[store]

    def reads(self, layer: int) -> list[Read]:
        """Reads of a layer, in the order of their queries."""
        return [read for read in self.heads.reads if read.layer == layer]

    def means(self, layer: int) -> list[Mean]:
        """Uniform heads of a layer, in order."""
        return [mean for mean in self.heads.means if mean.layer == layer]

    def grouped(self, layer: int) -> list[tuple[LayerReads, list[int]]]:
        """Reads of a layer by family, with the entries they make."""
        groups: dict[tuple[bool, int], list[tuple[int, int, int, int]]] = {}
        for q, read in enumerate(self.reads(layer)):
            place = self.places[read.store]
            for column, entry in zip(read.columns, read.entries, strict=True):
                group = groups.setdefault((place.rewritable, place.family), [])
                group.append((q, read.store, column, entry))
        out = []
        for items in groups.values():
            query, stores, columns, entries = zip(*items, strict=True)
            place = self.places[stores[0]]
            position = np.array([self.places[s].position for s in stores], np.int32)
            out.append(
                (
                    LayerReads(
                        place,
                        np.array(query),
                        np.array(stores),
                        position,
                        np.array(columns, np.int32),
                    ),
                    list(entries),
                )
            )
        return out

    def spread(self, numbers: Sequence[int], of_these: jax.Array, other: int) -> jax.Array:
        """Values of some stores as values of all, [S]: a constant-index gather, since a scatter
        costs more. `other`: of the other stores."""
        position = np.full(len(self.places), len(numbers))
        position[np.asarray(numbers)] = np.arange(len(numbers))
        return jnp.append(of_these, other)[position]


_SLICED = 8
"""So many rows of a layer are read as slices, more as a gather of columns."""


def read_columns(array: jax.Array, plan: LayerReads, row: jax.Array) -> jax.Array:
    """Columns that reads take from rows of a family's array [stores, capacity + 1, C], flat."""
    rows, columns = array.shape[1:]
    (_, position), first, row_of = np.unique(
        np.stack([plan.query, plan.position]), axis=1, return_index=True, return_inverse=True
    )
    if len(first) <= _SLICED:
        # XLA's CPU code would spread a gather from a large array over threads: 3 us a time.
        found = [
            jax.lax.dynamic_slice(array, (int(p), row[k], 0), (1, 1, columns)).reshape(-1)
            for p, k in zip(position, first, strict=True)
        ]
        return jnp.concatenate(found)[row_of * columns + plan.column]
    at = (row + plan.position * rows) * columns + plan.column
    return array.reshape(-1).at[at].get(mode="promise_in_bounds")


def running_means(
    heads: Heads,
    means: Sequence[Mean],
    sums: jax.Array,
    values: jax.Array,
    count: jax.Array,
    active: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What uniform heads of one layer return for a token, from exact integer sums, and the sums.

    Args:
      means: the layer's, which are consecutive among all. sums: of all, before the token.
      values: the token's.
    """
    first = heads.means.index(means[0])
    last = first + len(means)
    increments = jnp.where(active, jnp.round(values), 0).astype(jnp.int32)
    now = sums[first:last] + increments
    unit = jnp.asarray([mean.unit for mean in means], values.dtype)
    out = now.astype(values.dtype) / count.astype(values.dtype) * unit
    return out, jnp.concatenate([sums[:first], now, sums[last:]])


def bucket(rows: int) -> int:
    """Rows of the bucket for so many: powers of 4 up to 2^18, of 2 beyond, so that few exist."""
    bits = max(4, (rows - 1).bit_length())
    return 1 << (bits + bits % 2 if bits <= 18 else bits)
