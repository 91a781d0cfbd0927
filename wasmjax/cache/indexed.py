"""The indexed KV cache: one row per integer address, O(1) to write and to ask.

A certified head group (wasmjax.model.heads) asks for the value of the nearest key, the latest
among equals. Its keys are integers on a parabola, so that is row `round(q)` of a table; queries
beyond the written addresses clip to the nearest one. Addresses inside that range that were never
written answer with the row of the first token (BOS). Uniform heads are integer running sums.

Shapes: S stores, C columns of a store, E outputs of a layer.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache.layout import StoreLayout, bucket, read_columns, running_means
from wasmjax.model.own import OwnEvaluator
from wasmjax.model.symbolic import Row


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class IndexedState:
    """Contents of the cache.

    Attributes:
      written: per family of rewritable stores, [stores, capacity + 1, C]; the last row is a dummy.
      static: per family of write-once stores, likewise; never written while decoding.
      seen: [S, 2] int32, lowest and highest written address of every store.
      sums: [M] int32, running sums of the uniform heads.
      need: [S] int32, rows that a refused write would have needed (0: none refused).
      violation: int32, 1 + the write-once store that a generated token tried to write.
    """

    written: tuple[jax.Array, ...]
    static: tuple[jax.Array, ...]
    seen: jax.Array
    sums: jax.Array
    need: jax.Array
    violation: jax.Array


class IndexedCache(StoreLayout):
    """The layout of an indexed cache for certified heads. Immutable; holds no contents."""

    name = "indexed"
    x64 = False

    # -- what the engine projects ---------------------------------------------------------

    def rows(self, layer: int) -> list[Row]:
        """Rows of the projections that `attend` takes, in order."""
        out = [read.query for read in self.reads(layer)]
        out += [mean.value for mean in self.means(layer)]
        for number in self._inserts(layer):
            store = self.heads.stores[number]
            out += [store.key, store.member, *store.columns]
        out += [self.heads.stores[number].member for number in self.guards(layer)]
        return out

    # -- execution ------------------------------------------------------------------------

    def attend(
        self,
        layer: int,
        state: IndexedState,
        y: jax.Array,
        count: jax.Array,
        active: jax.Array,
    ) -> tuple[list[jax.Array], IndexedState]:
        """Writes the current token's keys and values, then answers its queries.

        Args:
          y: [len(rows)] projections. count: tokens so far, this one included.
          active: whether the token counts; else nothing is written.
        """
        reads, means = self.reads(layer), self.means(layer)
        queries = y[: len(reads)]
        values = y[len(reads) : len(reads) + len(means)]
        rest = y[len(reads) + len(means) :]
        state, rest = self._write(layer, state, rest, active)
        state = self._guard(layer, state, rest, active)
        out = []
        integer = jnp.round(queries).astype(jnp.int32)
        for plan, _ in self.grouped(layer):
            array = (state.written if plan.place.rewritable else state.static)[plan.place.family]
            capacity = array.shape[1] - 1
            lo = self.heads.stores[plan.store[0]].lo
            at = jnp.clip(integer[plan.query], state.seen[plan.store, 0], state.seen[plan.store, 1])
            out.append(read_columns(array, plan, jnp.clip(at - lo, 0, capacity - 1)))
        if means:
            mean, sums = running_means(self.heads, means, state.sums, values, count, active)
            out.append(mean)
            state = dataclasses.replace(state, sums=sums)
        return out, state

    def _write(
        self, layer: int, state: IndexedState, y: jax.Array, active: jax.Array
    ) -> tuple[IndexedState, jax.Array]:
        inserts = self._inserts(layer)
        if not inserts:
            return state, y
        stores = [self.heads.stores[number] for number in inserts]
        starts = np.cumsum([0] + [2 + len(store.columns) for store in stores])
        head = y[starts[:-1]], y[starts[:-1] + 1]
        address = jnp.round(head[0]).astype(jnp.int32)
        member = (head[1] > -np.array([store.far for store in stores]) / 2) & active
        row = address - np.array([store.lo for store in stores], np.int32)
        room = np.array([self._capacity(state, number) for number in inserts], np.int32)
        target = jnp.where(member & (row < room), row, room)
        written = list(state.written)
        for i, number in enumerate(inserts):
            place = self.places[number]
            array = written[place.family]
            values = y[starts[i] + 2 : starts[i + 1]].astype(array.dtype)
            written[place.family] = jax.lax.dynamic_update_slice(
                array, values[None, None, :], (jnp.int32(place.position), target[i], jnp.int32(0))
            )
        low = self.spread(inserts, jnp.where(member, address, 2**30), 2**30)
        high = self.spread(inserts, jnp.where(member, address, -(2**30)), -(2**30))
        refused = self.spread(inserts, jnp.where(member & (row >= room), row + 1, 0), 0)
        seen = jnp.stack(
            [jnp.minimum(state.seen[:, 0], low), jnp.maximum(state.seen[:, 1], high)], axis=1
        )
        need = jnp.maximum(state.need, refused)
        state = dataclasses.replace(state, written=tuple(written), seen=seen, need=need)
        return state, y[starts[-1] :]

    def _capacity(self, state: IndexedState, number: int) -> int:
        place = self.places[number]
        arrays = state.written if place.rewritable else state.static
        return arrays[place.family].shape[1] - 1

    def _guard(
        self, layer: int, state: IndexedState, y: jax.Array, active: jax.Array
    ) -> IndexedState:
        guards = self.guards(layer)
        if not guards:
            return state
        far = np.array([self.heads.stores[number].far for number in guards])
        member = (y[: len(guards)] > -far / 2) & active
        which = jnp.max(jnp.where(member, 1 + np.array(guards, np.int32), 0))
        return dataclasses.replace(state, violation=jnp.maximum(state.violation, which))

    def commit(self, old: IndexedState, new: IndexedState, ok: jax.Array) -> IndexedState:
        """`new` if the token was accepted; else what is left of `old` (rows written meanwhile
        are written again when the token is repeated)."""
        return dataclasses.replace(
            new,
            seen=jnp.where(ok, new.seen, old.seen),
            sums=jnp.where(ok, new.sums, old.sums),
        )

    def problem(self, state: IndexedState) -> jax.Array:
        """Non-zero if the last token wrote a write-once store."""
        return state.violation

    def explain(self, state: IndexedState) -> str:
        """What `problem` means."""
        return f"write-once address space {int(state.violation) - 1} was written"

    def full(self, state: IndexedState) -> jax.Array:
        """Whether the last token did not fit."""
        return jnp.any(state.need > 0)

    # -- prefill --------------------------------------------------------------------------

    def prefill(
        self,
        state: IndexedState | None,
        tokens_NxF: np.ndarray,
        first_count: int,
        capacities: Sequence[int],
    ) -> IndexedState:
        """The state after tokens (keys and values depend on their own fields alone).

        Args:
          state: what was there before; None: nothing.
          first_count: count of the first token. capacities: least rows of every store.

        Raises:
          ValueError: if an address is below its space.
        """
        values = OwnEvaluator(self.symbolic, tokens_NxF, first_count)
        form = self.symbolic.projection
        contents = self._host(state, capacities)
        if state is None:
            seen = np.array([[2**30, -(2**30)]] * len(self.places), np.int32)
            sums = np.zeros(len(self.heads.means), np.int64)
        else:
            seen, sums = np.array(state.seen), np.array(state.sums, np.int64)
        for number, (store, place) in enumerate(zip(self.heads.stores, self.places, strict=True)):
            member = np.flatnonzero(values.form(form(store.member)) > -store.far / 2)
            address = values.form(form(store.key))[member]
            rows = np.rint(address).astype(np.int64) - store.lo
            if not member.size:
                continue
            if rows.min() < 0:
                raise ValueError(f"an address lies below the first address of store {number}")
            data = np.stack([values.form(form(column))[member] for column in store.columns], 1)
            array = contents[place.rewritable][place.family]
            if rows.max() >= array.shape[1] - 1:
                array = _grown(array, int(rows.max()) + 1)
                contents[place.rewritable][place.family] = array
            if state is None and member[0] == 0 and rows[0] == 0:
                array[place.position, :] = data[0]  # what an unwritten address answers
            # NumPy assignment in order: of equal addresses the latest stays.
            array[place.position, rows] = data
            seen[number, 0] = min(seen[number, 0], address.min())
            seen[number, 1] = max(seen[number, 1], address.max())
        for m, mean in enumerate(self.heads.means):
            sums[m] += np.rint(values.form(form(mean.value))).astype(np.int64).sum()
        return IndexedState(
            tuple(jnp.asarray(array) for array in contents[True]),
            tuple(jnp.asarray(array) for array in contents[False]),
            jnp.asarray(seen, jnp.int32),
            jnp.asarray(sums, jnp.int32),
            jnp.zeros(len(self.places), jnp.int32),
            jnp.zeros((), jnp.int32),
        )

    def stored(
        self, state: IndexedState, tokens_NxF: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies where tokens would write: their own values and the ones now there, [N, C].

        C runs over the columns of the stores that the tokens are members of. Addresses that were
        never written answer like the first token.
        """
        values = OwnEvaluator(self.symbolic, tokens_NxF, count)
        form = self.symbolic.projection
        own, found = [], []
        for number, (store, place) in enumerate(zip(self.heads.stores, self.places, strict=True)):
            if not (values.form(form(store.member)) > -store.far / 2).all():
                continue
            array = np.asarray((state.written if place.rewritable else state.static)[place.family])
            rows = np.rint(values.form(form(store.key))).astype(np.int64) - store.lo
            # A row beyond the bucket was never written.
            rows[(rows < 0) | (rows >= self._capacity(state, number))] = 0
            own.append(np.stack([values.form(form(c)) for c in store.columns], axis=1))
            found.append(array[place.position, rows])
        if not own:
            return np.zeros((len(tokens_NxF), 0)), np.zeros((len(tokens_NxF), 0))
        return np.concatenate(own, axis=1), np.concatenate(found, axis=1)

    def default_capacities(self) -> list[int]:
        """Rows to make room for at first: small buckets would be outgrown and compiled again."""
        return [65536 if store.rewritable else 1024 for store in self.heads.stores]

    def room_for(self, tokens: int) -> list[int]:
        """Rows do not depend on how many tokens there are: those made at first."""
        del tokens
        return self.default_capacities()

    def grow(self, state: IndexedState, least: Sequence[int]) -> IndexedState:
        """The same contents with at least `least` rows per store."""
        contents = self._host(state, least)
        return dataclasses.replace(
            state, written=tuple(jnp.asarray(array) for array in contents[True])
        )

    def capacities(self, state: IndexedState) -> list[int]:
        """Rows of every store."""
        return [self._capacity(state, number) for number in range(len(self.places))]

    def _host(
        self, state: IndexedState | None, capacities: Sequence[int]
    ) -> dict[bool, list[np.ndarray]]:
        """Writable host copies with at least `capacities` rows."""
        out: dict[bool, list[np.ndarray]] = {}
        for rewritable, families in self._families.items():
            arrays = []
            for number, family in enumerate(families):
                columns = len(self.heads.stores[family[0]].columns)
                least = max(capacities[store] for store in family)
                if state is None:
                    array = np.zeros((len(family), bucket(least) + 1, columns), np.float32)
                else:
                    source = state.written if rewritable else state.static
                    array = np.array(source[number])
                    if array.shape[1] - 1 < least:
                        array = _grown(array, least)
                arrays.append(array)
            out[rewritable] = arrays
        return out

    # -- layout ---------------------------------------------------------------------------

    def _inserts(self, layer: int) -> list[int]:
        stores = enumerate(self.heads.stores)
        return [n for n, s in stores if s.rewritable and self._first[n] == layer]

    def guards(self, layer: int) -> list[int]:
        """Write-once stores whose writes would show in this layer."""
        stores = enumerate(self.heads.stores)
        return [n for n, s in stores if not s.rewritable and self._first[n] == layer]


def _grown(array: np.ndarray, least: int) -> np.ndarray:
    """A copy with the next bucket of rows; new rows look like the dummy's neighbours."""
    old = array.shape[1] - 1
    out = np.zeros((array.shape[0], bucket(least) + 1, array.shape[2]), array.dtype)
    out[:, :] = array[:, :1] if old else 0
    out[:, :old] = array[:, :old]
    return out
