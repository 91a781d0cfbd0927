"""The indexed KV cache of many sequences at once, lanes last, in the smallest integer types.

What lanes write (stores that are rewritable) is theirs: an array per family, lanes first, so that a
lane's rows are contiguous. Write-once stores hold what prompts hold and never change while
decoding, so lanes share them: a pool of segments per store, and per lane the row where its own
segment begins. Columns are bytes where the values are, four (or two) of them to a word; a column
that repeats the key is kept as one bit: whether the row was ever written. What does not fit is
refused: by `compile_rows` on the host, by `problem` on the device.

Shapes: B lanes, R rows of a store, N stores of a family, W words of a row, C columns of a store.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache.indexed import IndexedCache, bucket
from wasmjax.model.heads import Store
from wasmjax.model.own import OwnEvaluator, fields_of, sample_tokens
from wasmjax.model.symbolic import Row

_FAR = 2**30


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class LanesState:
    """Contents of the caches of B lanes.

    Attributes:
      written: per family of rewritable stores, words [B, R + 1, N, W]; the last row is a dummy.
      seen: per such family, lowest and highest written address, int32 [N, 2, B].
      pools: per write-once store, the lanes' segments end to end, [rows, C].
      base: int32 [stores, B], row of a pool where a lane's segment begins.
      static_seen: int32 [stores, 2, B], lowest and highest address of the segment.
      sums: int32 [M, B], running sums of the uniform heads.
      need: per family, rows that a refused write would have needed, int32 [B] (0: none refused).
      violation: int32 [B], 1 + the store that a token wrote and must not or cannot exactly.
    """

    written: tuple[jax.Array, ...]
    seen: tuple[jax.Array, ...]
    pools: tuple[jax.Array, ...]
    base: jax.Array
    static_seen: jax.Array
    sums: jax.Array
    need: tuple[jax.Array, ...]
    violation: jax.Array


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a run of tokens leaves in the stores, on the host.

    Attributes:
      rows: per store, rows written, int64 [n]; later ones win.
      data: per store, column values, float64 [n, C].
      sums: int64 [tokens, M], what every token adds to the running sums.
      token: per store, index of the token that wrote each row, int64 [n].
    """

    rows: tuple[np.ndarray, ...]
    data: tuple[np.ndarray, ...]
    sums: np.ndarray
    token: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the columns of a store lie in its words.

    Attributes:
      flags: columns kept as a bit, since their value is the row's address.
      per_word: columns in a word (4, 2 or 1). words: words of a row.
      dtype: of a word; it holds any column if per_word is 1.
    """

    flags: frozenset[int]
    per_word: int
    words: int
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return self.words * self.dtype.itemsize

    def pack(self, data_NxC: np.ndarray) -> np.ndarray:
        """Words of rows given by column values, [N, W]. Flag columns are set.

        Raises:
          ValueError: if a value does not fit.
        """
        data = np.array(data_NxC)
        data[:, sorted(self.flags)] = 1
        if self.per_word == 1:
            return _exactly(data, self.dtype)
        padded = np.zeros((len(data), self.words * self.per_word), np.uint8)
        padded[:, : data.shape[1]] = _exactly(data, np.dtype(np.uint8))
        return padded.view(f"<u{self.per_word}").astype(self.dtype)

    def unpack(self, words_NxW: np.ndarray, columns: int) -> np.ndarray:
        """Raw column values of rows, float64 [N, C]; flag columns are 0 or 1."""
        if self.per_word == 1:
            return words_NxW.astype(np.float64)
        raw = np.ascontiguousarray(words_NxW.astype(f"<u{self.per_word}")).view(np.uint8)
        return raw.reshape(len(words_NxW), -1)[:, :columns].astype(np.float64)


class LanesCache:
    """The layout of the caches of many lanes, over the same certified heads. Holds no contents.

    Attributes:
      families: rewritable stores that are written together. static: the write-once stores.
      packing: per family. pool_dtypes: per write-once store.
    """

    name = "indexed"
    x64 = False

    def __init__(self, one: IndexedCache) -> None:
        self.one, self.symbolic, self.heads = one, one.symbolic, one.heads
        self.families = one.families(True)
        self.static = [family[0] for family in one.families(False)]
        self.packing = [self._packing(family) for family in self.families]
        self.pool_dtypes = [
            _smallest(self._sampled(self.heads.stores[number])) for number in self.static
        ]

    # -- what the engine projects ---------------------------------------------------------

    def rows(self, layer: int) -> list[Row]:
        """Rows of the projections that `attend` takes, in order."""
        return self.one.rows(layer)

    def outputs(self, layer: int) -> list[int]:
        """Entries of what `attend` returns, in order."""
        return self.one.outputs(layer)

    # -- execution ------------------------------------------------------------------------

    def attend(
        self,
        layer: int,
        state: LanesState,
        y: jax.Array,
        count: jax.Array,
        active: jax.Array,
    ) -> tuple[list[jax.Array], LanesState]:
        """Writes every lane's keys and values, then answers its queries.

        Args:
          y: [rows, B] projections. count: int32 [B], tokens so far, the current one included.
          active: bool [B], lanes whose token counts; others write to a dummy row.
        """
        reads, means = self.one.reads(layer), self.one.means(layer)
        queries, values = y[: len(reads)], y[len(reads) : len(reads) + len(means)]
        state, rest = self._write(layer, state, y[len(reads) + len(means) :], active)
        state = self._guard(layer, state, rest, active)
        at = jnp.round(queries).astype(jnp.int32)
        out = []
        for plan, _ in self.one.grouped(layer):
            read = self._read_written if plan.place.rewritable else self._read_static
            out.append(read(state, plan, at).astype(y.dtype))
        if means:
            first = self.heads.means.index(means[0])
            last = first + len(means)
            increments = jnp.where(active, jnp.round(values), 0).astype(jnp.int32)
            sums = state.sums[first:last] + increments
            unit = jnp.asarray([[mean.unit] for mean in means], y.dtype)
            out.append(sums.astype(y.dtype) / count.astype(y.dtype) * unit)
            every = jnp.concatenate([state.sums[:first], sums, state.sums[last:]])
            state = dataclasses.replace(state, sums=every)
        return out, state

    def _read_static(self, state: LanesState, plan, at: jax.Array) -> jax.Array:
        pool = state.pools[plan.place.family]
        queries, which = np.unique(plan.query, return_inverse=True)
        lo, hi = state.static_seen[plan.place.family]
        row = jnp.clip(at[queries], lo, hi) + (
            state.base[plan.place.family] - self.heads.stores[plan.store[0]].lo
        )
        return pool.at[row[which], plan.column[:, None]].get(mode="promise_in_bounds")

    def _read_written(self, state: LanesState, plan, at: jax.Array) -> jax.Array:
        array, seen = state.written[plan.place.family], state.seen[plan.place.family]
        packing = self.packing[plan.place.family]
        capacity, lo = array.shape[1] - 1, self.heads.stores[plan.store[0]].lo
        reads, read_of = np.unique(
            np.stack([plan.query, plan.position]), axis=1, return_inverse=True
        )
        query, position = reads
        row = jnp.clip(at[query], seen[position, 0], seen[position, 1]) - lo
        row = jnp.clip(row, 0, capacity - 1)
        word, shift = plan.column // packing.per_word, plan.column % packing.per_word * 8
        items, item_of = np.unique(np.stack([read_of, word]), axis=1, return_inverse=True)
        lane = jnp.arange(array.shape[0], dtype=jnp.int32)
        words = array.at[
            lane[None, :], row[items[0]], position[items[0]][:, None], items[1][:, None]
        ].get(mode="promise_in_bounds")
        raw = words[item_of]
        if packing.per_word > 1:
            raw = raw >> shift[:, None].astype(array.dtype) & np.asarray(255, array.dtype)
        if packing.flags:
            flag = np.isin(plan.column, sorted(packing.flags))
            addresses = jnp.where(raw > 0, row[read_of] + lo, lo)
            raw = jnp.where(flag[:, None], addresses, raw.astype(jnp.int32))
        return raw

    def _write(
        self, layer: int, state: LanesState, y: jax.Array, active: jax.Array
    ) -> tuple[LanesState, jax.Array]:
        written, seen, need = list(state.written), list(state.seen), list(state.need)
        violation = state.violation
        for number, family in enumerate(self.families):
            if self.one.first_layer(family[0]) != layer:
                continue
            stores = [self.heads.stores[n] for n in family]
            columns = len(stores[0].columns)
            y_Nx2CxB = y[: len(family) * (2 + columns)].reshape(len(family), 2 + columns, -1)
            y = y[len(family) * (2 + columns) :]
            address = jnp.round(y_Nx2CxB[:, 0]).astype(jnp.int32)
            far = np.array([[store.far] for store in stores])
            member = (y_Nx2CxB[:, 1] > -far / 2) & active
            row = address - stores[0].lo
            room = written[number].shape[1] - 1
            fits = member & (row < room)
            words, exact = self._pack(number, y_Nx2CxB[:, 2:])
            lane = jnp.arange(row.shape[1], dtype=jnp.int32)[None, :]
            position = np.arange(len(family), dtype=np.int32)[:, None]
            written[number] = (
                written[number]
                .at[lane, jnp.where(fits, row, room), position]
                .set(jnp.moveaxis(words, 1, 2), mode="promise_in_bounds")
            )
            low = jnp.where(member, address, _FAR)
            high = jnp.where(member, address, -_FAR)
            old = seen[number]
            seen[number] = jnp.stack(
                [jnp.minimum(old[:, 0], low), jnp.maximum(old[:, 1], high)], axis=1
            )
            needed = jnp.max(jnp.where(member & ~fits, row + 1, 0), axis=0)
            need[number] = jnp.maximum(need[number], needed)
            unfit = jnp.any(member & ~exact, axis=0)
            violation = jnp.where(unfit, jnp.maximum(violation, 1 + family[0]), violation)
        state = dataclasses.replace(
            state, written=tuple(written), seen=tuple(seen), need=tuple(need), violation=violation
        )
        return state, y

    def _pack(self, number: int, y_NxCxB: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Words [N, W, B] of rows, and whether they hold the values exactly, [N, B]."""
        packing = self.packing[number]
        flag = np.isin(np.arange(y_NxCxB.shape[1]), sorted(packing.flags))[:, None]
        values = jnp.where(flag, 1, y_NxCxB)
        if packing.per_word == 1:
            words = values.astype(packing.dtype)
            return words, jnp.all(words.astype(values.dtype) == values, axis=1)
        whole = jnp.round(values)
        exact = jnp.all((whole == values) & (whole >= 0) & (whole <= 255), axis=1)
        n, columns, lanes = values.shape
        padding = packing.words * packing.per_word - columns
        # uint32 arithmetic, since narrower shifts are widened anyway.
        whole_4 = jnp.pad(whole.astype(jnp.uint32), ((0, 0), (0, padding), (0, 0)))
        whole_4 = whole_4.reshape(n, packing.words, packing.per_word, lanes)
        words = whole_4[:, :, 0]
        for k in range(1, packing.per_word):
            words = words | whole_4[:, :, k] << np.uint32(8 * k)
        return words.astype(packing.dtype), exact

    def _guard(
        self, layer: int, state: LanesState, y: jax.Array, active: jax.Array
    ) -> LanesState:
        guards = self.one.guards(layer)
        if not guards:
            return state
        far = np.array([[self.heads.stores[number].far] for number in guards])
        member = (y[: len(guards)] > -far / 2) & active
        which = jnp.max(jnp.where(member, 1 + np.array(guards, np.int32)[:, None], 0), axis=0)
        return dataclasses.replace(state, violation=jnp.maximum(state.violation, which))

    def commit(self, old: LanesState, new: LanesState, ok: jax.Array) -> LanesState:
        """`new` in lanes whose token was accepted; else what is left of `old` (rows written
        meanwhile are written again when the token is repeated)."""
        return dataclasses.replace(
            new,
            seen=tuple(
                jnp.where(ok, a, b) for a, b in zip(new.seen, old.seen, strict=True)
            ),
            sums=jnp.where(ok, new.sums, old.sums),
        )

    def problem(self, state: LanesState) -> jax.Array:
        """Non-zero in lanes whose last token cannot be remembered exactly."""
        return state.violation

    def explain(self, violation: int) -> str:
        """What a `problem` means."""
        store = self.heads.stores[violation - 1]
        if store.rewritable:
            return f"a value of address space {violation - 1} does not fit its type"
        return f"write-once address space {violation - 1} was written"

    def full(self, state: LanesState) -> jax.Array:
        """Lanes whose last token did not fit."""
        return jnp.any(jnp.stack(state.need) > 0, axis=0)

    # -- the host's side ------------------------------------------------------------------

    def compile_rows(self, tokens_NxF: np.ndarray) -> Rows:
        """What tokens leave in the stores (keys and values depend on their own fields alone).

        Raises:
          ValueError: if an address is below its space.
        """
        values = OwnEvaluator(self.symbolic, tokens_NxF)
        form = self.symbolic.projection
        rows, data, token = [], [], []
        for number, store in enumerate(self.heads.stores):
            member = np.flatnonzero(values.form(form(store.member)) > -store.far / 2)
            at = np.rint(values.form(form(store.key))[member]).astype(np.int64) - store.lo
            if at.min(initial=0) < 0:
                raise ValueError(f"an address lies below the first address of store {number}")
            rows.append(at)
            data.append(np.stack([values.form(form(c))[member] for c in store.columns], 1))
            token.append(member)
        sums = [np.rint(values.form(form(mean.value))) for mean in self.heads.means]
        sums_NxM = np.array(sums, np.int64).reshape(len(sums), -1).T
        return Rows(tuple(rows), tuple(data), sums_NxM, tuple(token))

    def segment(self, index: int, data_RxC: np.ndarray) -> np.ndarray:
        """Rows of the write-once store `static[index]` in the type of its pool.

        Raises:
          ValueError: if a value does not fit.
        """
        return _exactly(data_RxC, self.pool_dtypes[index])

    def row_bytes(self) -> list[int]:
        """Bytes per row of every family, all its stores together."""
        return [
            len(family) * packing.size
            for family, packing in zip(self.families, self.packing, strict=True)
        ]

    # -- layout ---------------------------------------------------------------------------

    def _sampled(self, store: Store) -> np.ndarray:
        """Column values of member tokens, float64 [n, C]."""
        form = self.symbolic.projection
        forms = [form(row) for row in (store.key, store.member, *store.columns)]
        columns = []
        for column in forms[2:]:
            fields = fields_of(self.symbolic, (forms[1], column))
            values = OwnEvaluator(self.symbolic, sample_tokens(self.symbolic, fields))
            sampled = values.form(column)[values.form(forms[1]) > -store.far / 2]
            columns.append([sampled.min(), sampled.max(), *sampled[:4096]])
        width = max(map(len, columns))
        return np.stack([np.resize(column, width) for column in columns], 1)

    def _packing(self, family: list[int]) -> Packing:
        form = self.symbolic.projection
        stores = [self.heads.stores[number] for number in family]
        columns = len(stores[0].columns)
        flags = frozenset(
            c
            for c in range(columns)
            if all(form(store.columns[c]) == form(store.key) for store in stores)
        )
        kept = [c for c in range(columns) if c not in flags]
        samples = np.concatenate([self._sampled(store)[:, kept] for store in stores])
        dtype = _smallest(samples) if kept else np.dtype(np.uint8)
        if dtype != np.uint8:
            return Packing(flags, 1, columns, dtype)
        per_word = 4 if columns > 2 else columns
        return Packing(flags, per_word, -(-columns // per_word), np.dtype(f"u{per_word}"))


def _smallest(samples: np.ndarray) -> np.dtype:
    """The smallest type that holds all samples: an integer type, else float32."""
    for name in ("uint8", "int16", "int32"):
        dtype = np.dtype(name)
        limits = np.iinfo(dtype)
        if (samples == np.rint(samples)).all() and limits.min <= samples.min():
            if samples.max() <= limits.max:
                return dtype
    return np.dtype(np.float32)


def _exactly(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    out = values.astype(dtype)
    if not np.array_equal(out.astype(np.float64), values):
        raise ValueError(f"a value of the prompt does not fit the cache's type {dtype}")
    return out


__all__ = ["LanesCache", "LanesState", "Packing", "Rows", "bucket"]
