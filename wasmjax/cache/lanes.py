"""The indexed KV cache of many sequences at once, lanes last, in the smallest integer types.

What lanes write (stores that are rewritable) is theirs: an array per family, lanes first, so that a
lane's rows are contiguous. Write-once stores hold what prompts hold and never change while
decoding, so lanes share them: a pool of segments per store, and per lane the row where its own
segment begins. Columns are packed into words (`words`); one that repeats the key is kept as a flag:
whether the row was ever written. What does not fit is refused: by `pack` on the host, by `problem`
on the device.

Shapes: B lanes, R rows of a store, N stores of a family, W words of a row, C columns of a store.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache.indexed import IndexedCache
from wasmjax.cache.words import Packing, Unpack, pack_columns
from wasmjax.model.own import OwnEvaluator, fields_of, sample_tokens
from wasmjax.model.symbolic import Row

_FAR = 2**30

Array = Any
"""A jax.Array on the devices, an array of NumPy on the host."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class LanesState:
    """Contents of the caches of B lanes.

    Attributes:
      written: per family of rewritable stores, words [B, R + 1, N, W]; the last row is
        the host's, for writes that are none.
      seen: per such family, lowest and highest written address, int32 [N, 2, B].
      pools: per write-once store, the lanes' segments end to end, words [rows, W].
      base: int32 [stores, B], row of a pool where a lane's segment begins.
      static_seen: int32 [stores, 2, B], lowest and highest address of the segment.
      sums: int32 [M, B], running sums of the uniform heads.
      need: per family, rows that a refused write would have needed, int32 [B] (0: none refused).
      violation: int32 [B], 1 + the store that a token wrote and must not or cannot exactly.
      scratch: room for gathered words within a chunk (`room`), else (). XLA on the CPU would fuse
        the gather into what unpacks the words, and gather once per column.
    """

    written: tuple[Array, ...]
    seen: tuple[Array, ...]
    pools: tuple[Array, ...]
    base: Array
    static_seen: Array
    sums: Array
    need: tuple[Array, ...]
    violation: Array
    scratch: tuple[Array, ...]


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


@dataclasses.dataclass
class _Read:
    """Reads of one layer from one family, word by word.

    Attributes:
      rewritable, number: the family. lo: its first address.
      query, position: per distinct row read, the query and the store in the family.
      of_word, word: per distinct word, its row (above) and its number in it.
      parts: how outputs come out of the words. order: the outputs in the order of the parts.
      scratch: number of the buffer that the words go to.
    """

    rewritable: bool
    number: int
    lo: int
    query: np.ndarray
    position: np.ndarray
    of_word: np.ndarray
    word: np.ndarray
    parts: list["_Part"]
    scratch: int = 0

    @property
    def order(self) -> np.ndarray:
        return np.concatenate([part.output for part in self.parts])


@dataclasses.dataclass(frozen=True)
class _Part:
    """Outputs that are unpacked together: their numbers in the read, the row read of each."""

    output: np.ndarray
    row: np.ndarray
    unpack: Unpack

    def __call__(self, words_WxB: jax.Array, row_RxB: jax.Array, lo: int) -> jax.Array:
        """Values, float32 [outputs, B]."""
        if not self.unpack.column[0].flag:
            return self.unpack(words_WxB)
        return self.unpack(words_WxB, row_RxB.at[self.row].get(mode="promise_in_bounds"), lo)


class LanesCache:
    """The layout of the caches of many lanes, over the same certified heads. Holds no contents.

    Attributes:
      families: rewritable stores that are written together. static: the write-once stores.
      packing: per family. pool_packing: per write-once store.
    """

    name = "indexed"
    x64 = False

    def __init__(self, one: IndexedCache) -> None:
        self.one, self.symbolic, self.heads = one, one.symbolic, one.heads
        self.families = one.families(True)
        self.static = [family[0] for family in one.families(False)]
        self.packing = [
            self._family_packing(family, self._together(True, index))
            for index, family in enumerate(self.families)
        ]
        self.pool_packing = [
            pack_columns(self._sampled(number), self._proven(number), self._together(False, index))
            for index, number in enumerate(self.static)
        ]
        self._plan()

    # -- what the engine projects ---------------------------------------------------------

    def rows(self, layer: int) -> list[Row]:
        """Rows of the projections that `attend` takes, in order: of inserts family by family."""
        out = [read.query for read in self.one.reads(layer)]
        out += [mean.value for mean in self.one.means(layer)]
        for family in self.families:
            if self.one.first_layer(family[0]) == layer:
                for store in (self.heads.stores[number] for number in family):
                    out += [store.key, store.member, *store.columns]
        out += [self.heads.stores[number].member for number in self.one.guards(layer)]
        return out

    def outputs(self, layer: int) -> list[int]:
        """Entries of what `attend` returns, in order."""
        entries, out, first = self.one.outputs(layer), [], 0
        for read in self._plans[layer]:
            out += [entries[first + k] for k in read.order]
            first += len(read.order)
        return out + entries[first:]

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
          active: bool [B], lanes whose token counts; others write nothing.
        """
        reads, means = self.one.reads(layer), self.one.means(layer)
        queries, values = y[: len(reads)], y[len(reads) : len(reads) + len(means)]
        state, rest = self._write(layer, state, y[len(reads) + len(means) :], active)
        state = self._guard(layer, state, rest, active)
        at = jnp.round(queries).astype(jnp.int32)
        out = []
        for read in self._plans[layer]:
            found, state = self._read(state, read, at)
            out += found
        if means:
            first = self.heads.means.index(means[0])
            last = first + len(means)
            increments = jnp.where(active, jnp.round(values), 0).astype(jnp.int32)
            sums = state.sums[first:last] + increments
            unit = jnp.asarray([[mean.unit] for mean in means], y.dtype)
            out.append(sums.astype(y.dtype) / count.astype(y.dtype) * unit)
            every = jnp.concatenate([state.sums[:first], sums, state.sums[last:]])
            state = dataclasses.replace(state, sums=every)
        return [part.astype(y.dtype) for part in out], state

    def _read(
        self, state: LanesState, read: "_Read", at: jax.Array
    ) -> tuple[list[jax.Array], LanesState]:
        """Values of a group of reads, part by part, [outputs, B]."""
        number, lo = read.number, read.lo
        if read.rewritable:
            array, seen = state.written[number], state.seen[number]
            row = jnp.clip(at[read.query], seen[read.position, 0], seen[read.position, 1]) - lo
            row = jnp.clip(row, 0, array.shape[1] - 2)
            lane = jnp.arange(array.shape[0], dtype=jnp.int32)[None, :]
            position, word = read.position[read.of_word][:, None], read.word[:, None]
            words = array.at[lane, row[read.of_word], position, word].get(mode="promise_in_bounds")
        else:
            first, last = state.static_seen[number]
            row = jnp.clip(at[read.query], first, last) + (state.base[number] - lo)
            words = (
                state.pools[number]
                .at[row[read.of_word], read.word[:, None]]
                .get(mode="promise_in_bounds")
            )
        scratch = list(state.scratch)
        scratch[read.scratch] = jax.lax.dynamic_update_slice(
            scratch[read.scratch], words.astype(jnp.uint32), (0, 0)
        )
        values = [part(scratch[read.scratch], row, lo) for part in read.parts]
        return values, dataclasses.replace(state, scratch=tuple(scratch))

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
            fits = member & (row >= 0) & (row < room)
            words, exact = self._pack(number, y_Nx2CxB[:, 2:])
            lane = jnp.arange(row.shape[1], dtype=jnp.int32)[None, :]
            position = np.arange(len(family), dtype=np.int32)[:, None]
            written[number] = (
                written[number]
                .at[lane, jnp.where(fits, row, room + 1), position]
                .set(jnp.moveaxis(words, 1, 2), mode="drop")
            )
            low = jnp.where(member, address, _FAR)
            high = jnp.where(member, address, -_FAR)
            old = seen[number]
            seen[number] = jnp.stack(
                [jnp.minimum(old[:, 0], low), jnp.maximum(old[:, 1], high)], axis=1
            )
            # Row by row: a CPU does not vectorise a reduction over the leading axis.
            needed = functools.reduce(jnp.maximum, jnp.where(member & ~fits, row + 1, 0))
            need[number] = jnp.maximum(need[number], needed)
            unfit = functools.reduce(jnp.logical_or, member & ~(exact & (row >= 0)))
            violation = jnp.where(unfit, jnp.maximum(violation, 1 + family[0]), violation)
        state = dataclasses.replace(
            state, written=tuple(written), seen=tuple(seen), need=tuple(need), violation=violation
        )
        return state, y

    def _pack(self, number: int, y_NxCxB: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Words [N, W, B] of rows, and whether they hold the values exactly, [N, B]."""
        packing = self.packing[number]
        words = [jnp.zeros_like(y_NxCxB[:, 0], jnp.uint32)] * packing.words
        exact = jnp.ones_like(words[0], bool)
        for c, column in enumerate(packing.columns):
            if column.flag:
                bits = jnp.uint32(1)
            elif column.bits == 32:
                bits = jax.lax.bitcast_convert_type(y_NxCxB[:, c], jnp.uint32)
            else:
                value = y_NxCxB[:, c] - column.bias
                bits = value.astype(jnp.uint32)
                if not packing.proven[c]:
                    inside = (value >= 0) & (value < 1 << column.bits)
                    exact &= inside & (bits.astype(value.dtype) == value)
            words[column.word] |= bits << np.uint32(column.shift)
        return jnp.stack(words, axis=1).astype(packing.dtype), exact

    def _guard(self, layer: int, state: LanesState, y: jax.Array, active: jax.Array) -> LanesState:
        guards = self.one.guards(layer)
        if not guards:
            return state
        far = np.array([[self.heads.stores[number].far] for number in guards])
        member = (y[: len(guards)] > -far / 2) & active
        stores = 1 + np.array(guards, np.int32)[:, None]
        which = functools.reduce(jnp.maximum, jnp.where(member, stores, 0))
        return dataclasses.replace(state, violation=jnp.maximum(state.violation, which))

    def gathered_words(self) -> int:
        """Words that a step of a lane gathers."""
        return sum(len(read.word) for reads in self._plans for read in reads)

    def room(self, lanes: int) -> tuple[jax.Array, ...]:
        """Scratch for a number of lanes."""
        # A row more than needed: else XLA sees that the buffer is replaced as a whole.
        rows = [1 + len(read.word) for reads in self._plans for read in reads]
        return tuple(jnp.zeros((n, lanes), jnp.uint32) for n in rows)

    def commit(self, old: LanesState, new: LanesState, ok: jax.Array) -> LanesState:
        """`new` in lanes whose token was accepted; else what is left of `old` (rows written
        meanwhile are written again when the token is repeated)."""
        return dataclasses.replace(
            new,
            seen=tuple(jnp.where(ok, a, b) for a, b in zip(new.seen, old.seen, strict=True)),
            sums=jnp.where(ok, new.sums, old.sums),
        )

    def problem(self, state: LanesState) -> jax.Array:
        """Non-zero in lanes whose last token cannot be remembered exactly."""
        return state.violation

    def explain(self, violation: int) -> str:
        """What a `problem` means."""
        store = self.heads.stores[violation - 1]
        if store.rewritable:
            return f"a value or address of address space {violation - 1} does not fit its type"
        return f"write-once address space {violation - 1} was written"

    def full(self, state: LanesState) -> jax.Array:
        """Lanes whose last token did not fit."""
        none = jnp.zeros_like(state.violation)
        return functools.reduce(jnp.maximum, state.need, none) > 0

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
        """Words of rows of the write-once store `static[index]`.

        Raises:
          ValueError: if a value does not fit.
        """
        return self.pool_packing[index].pack(data_RxC)

    def row_bytes(self) -> list[int]:
        """Bytes per row of every family, all its stores together."""
        return [
            len(family) * packing.row_bytes
            for family, packing in zip(self.families, self.packing, strict=True)
        ]

    # -- layout ---------------------------------------------------------------------------

    def _plan(self) -> None:
        self._plans = [self._reads(layer) for layer in range(self.one.layers)]
        for number, read in enumerate(read for reads in self._plans for read in reads):
            read.scratch = number

    def _reads(self, layer: int) -> list["_Read"]:
        out = []
        for plan, _ in self.one.grouped(layer):
            place = plan.place
            packing = (self.packing if place.rewritable else self.pool_packing)[place.family]
            (query, position), row_of = np.unique(
                np.stack([plan.query, plan.position]), axis=1, return_inverse=True
            )
            columns = [packing.columns[c] for c in plan.column]
            of_word, word_of = np.unique(
                np.stack([row_of, [column.word for column in columns]]), axis=1, return_inverse=True
            )
            alike: dict[tuple[bool, bool], list[int]] = {}
            for k, column in enumerate(columns):
                alike.setdefault((column.flag, column.bits == 32), []).append(k)
            parts = [
                _Part(
                    np.array(output),
                    row_of[output],
                    Unpack(word_of[output], [columns[k] for k in output]),
                )
                for output in alike.values()
            ]
            first = self.heads.stores[plan.store[0]].lo
            read = place.rewritable, place.family, first, query, position
            out.append(_Read(*read, of_word[0], of_word[1], parts))
        return out

    def _sampled(self, number: int) -> list[np.ndarray]:
        """Per column of a store, values of tokens that may be members."""
        out = []
        for row in self.heads.stores[number].columns:
            form = self.symbolic.projection(row)
            tokens = sample_tokens(self.symbolic, fields_of(self.symbolic, (form,)))
            out.append(OwnEvaluator(self.symbolic, tokens).form(form))
        return out

    def _proven(self, number: int) -> list[bool]:
        """Per column of a store, whether its samples are all values there are, and no sum can be
        inexact: it is a field's value, or a column of a field's embedding, as it stands."""
        entries = self.symbolic.entries
        forms = [self.symbolic.projection(row) for row in self.heads.stores[number].columns]
        return [
            all(w == 1.0 and entries[e].kind in ("value", "column") for e, w in form.items())
            and len(form) == 1
            for form in forms
        ]

    def _together(self, rewritable: bool, number: int) -> list[list[int]]:
        """Sets of columns that queries read from a family."""
        found: dict[tuple[int, ...], list[int]] = {}
        for layer in range(self.one.layers):
            for plan, _ in self.one.grouped(layer):
                if (plan.place.rewritable, plan.place.family) == (rewritable, number):
                    for query, position, column in zip(plan.query, plan.position, plan.column):  # noqa: B905
                        found.setdefault((layer, int(query), int(position)), []).append(int(column))
        return list(found.values())

    def _family_packing(self, family: list[int], together: list[list[int]]) -> Packing:
        form = self.symbolic.projection
        stores = [self.heads.stores[number] for number in family]
        sampled = [self._sampled(number) for number in family]
        samples: list[np.ndarray | None] = []
        for c in range(len(stores[0].columns)):
            if all(form(store.columns[c]) == form(store.key) for store in stores):
                samples.append(None)
            else:
                samples.append(np.concatenate([of_store[c] for of_store in sampled]))
        proven = [all(of_column) for of_column in zip(*map(self._proven, family), strict=True)]
        return pack_columns(samples, proven, together)


__all__ = ["LanesCache", "LanesState", "Rows"]
