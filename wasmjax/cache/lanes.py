"""The indexed KV cache of many sequences at once, lanes last, in the smallest integer types.

What lanes write (stores that are rewritable) is theirs: an array per family, lanes first, so that a
lane's rows are contiguous. Write-once stores hold what prompts hold and never change while
decoding, so lanes share them: a pool of segments per store, and per lane the row where its own
segment begins. Columns take one or two bytes where their values do, packed into words (fewer
gathers); a column that repeats the key is kept as a flag: whether the row was ever written. What
does not fit is refused: by `pack` on the host, by `problem` on the device.

Shapes: B lanes, R rows of a store, N stores of a family, W words of a row, C columns of a store.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache.indexed import IndexedCache
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
      written: per family of rewritable stores, words [B, R + 1, N, W]; the last row is a dummy.
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


@dataclasses.dataclass(frozen=True)
class Column:
    """How a column lies in a row's words: `value - bias` in `bits` bits from `shift` on.

    With 32 bits it is the float32 itself. A flag says whether the row was ever written; the
    column's value is then the row's address.
    """

    word: int
    shift: int
    bits: int
    bias: int
    flag: bool = False


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the columns of a store lie in its words.

    Attributes:
      columns: one each. words: words of a row. dtype: of a word, unsigned.
    """

    columns: tuple[Column, ...]
    words: int
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.words * self.dtype.itemsize

    def pack(self, data_NxC: np.ndarray) -> np.ndarray:
        """Words [N, W] of rows given by column values, float64.

        Raises:
          ValueError: if a value does not fit.
        """
        out = np.zeros((len(data_NxC), self.words), np.uint32)
        for column, values_N in zip(self.columns, data_NxC.T, strict=True):
            if column.flag:
                bits_N = np.ones(len(values_N), np.uint32)
            elif column.bits == 32:
                single_N = values_N.astype(np.float32)
                bits_N, exact = single_N.view(np.uint32), np.array_equal(single_N, values_N)
            else:
                whole_N = values_N - column.bias
                exact = bool(((whole_N >= 0) & (whole_N < 1 << column.bits)).all())
                bits_N = whole_N.astype(np.uint32) if exact else np.zeros(0, np.uint32)
                exact = exact and np.array_equal(bits_N, whole_N)
            if not column.flag and not exact:
                raise ValueError("a value of the prompt does not fit the cache's types")
            out[:, column.word] |= bits_N << np.uint32(column.shift)
        return out.astype(self.dtype)

    def unpack(self, words_NxW: np.ndarray, rows_N: np.ndarray, lo: int) -> np.ndarray:
        """Column values [N, C], float64, of rows number `rows_N` of a store that begins at `lo`."""
        out = np.zeros((len(words_NxW), len(self.columns)))
        for c, column in enumerate(self.columns):
            raw_N = words_NxW[:, column.word].astype(np.uint32) >> np.uint32(column.shift)
            if column.bits == 32:
                out[:, c] = raw_N.view(np.float32)
                continue
            value_N = raw_N.astype(np.int64) & ((1 << column.bits) - 1)
            if column.flag:
                out[:, c] = np.where(value_N, rows_N + lo, lo)
            else:
                out[:, c] = value_N + column.bias
        return out


def _packing(samples_of_C: Sequence[np.ndarray | None]) -> Packing:
    """The packing for columns of which these are samples; None: a flag."""
    sizes = [(8, 0) if samples is None else _bits(samples) for samples in samples_of_C]
    total = sum(bits for bits, _ in sizes)
    width = 8 if total <= 8 else 16 if total <= 16 else 32
    used: list[int] = []  # bits of every word
    columns: list[Column | None] = [None] * len(sizes)
    for c in sorted(range(len(sizes)), key=lambda c: -sizes[c][0]):
        bits, bias = sizes[c]
        word = next((w for w, n in enumerate(used) if n + bits <= width), len(used))
        if word == len(used):
            used.append(0)
        columns[c] = Column(word, used[word], bits, bias, samples_of_C[c] is None)
        used[word] += bits
    done = tuple(column for column in columns if column is not None)
    return Packing(done, len(used), np.dtype(f"u{width // 8}"))


def _bits(samples: np.ndarray) -> tuple[int, int]:
    """The fewest of 8, 16 or 32 bits that hold samples, and the bias. 32 bits: float32."""
    low, high = samples.min(), samples.max()
    if (samples == np.rint(samples)).all() and abs(low) < 2**15 and high - low < 2**16:
        bias = 0 if 0 <= low and high < 256 else int(low)
        return (8 if high - bias < 256 else 16), bias
    return 32, 0


@dataclasses.dataclass
class _Read:
    """Reads of one layer from one family, word by word.

    Attributes:
      rewritable, number: the family. lo: its first address. packing: of its rows.
      query, position: per distinct row read, the query and the store in the family.
      of_word, word: per distinct word, its row (above) and its number in it.
      column, row_of, word_of: per output, its column, its row and its word (above).
      scratch: number of the buffer that the words go to.
    """

    rewritable: bool
    number: int
    lo: int
    packing: Packing
    query: np.ndarray
    position: np.ndarray
    of_word: np.ndarray
    word: np.ndarray
    column: np.ndarray
    row_of: np.ndarray
    word_of: np.ndarray
    scratch: int = 0


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
        self.packing = [self._family_packing(family) for family in self.families]
        self.pool_packing = [_packing(self._sampled(number)) for number in self.static]
        self._plans = [self._reads(layer) for layer in range(one.layers)]
        for number, read in enumerate(read for reads in self._plans for read in reads):
            read.scratch = number

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
        for read in self._plans[layer]:
            found, state = self._read(state, read, at)
            out.append(found)
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
    ) -> tuple[jax.Array, LanesState]:
        """Values of a group of reads, [len(read.column), B]."""
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
        values = _unpacked(read.packing, read.column, scratch[read.scratch][read.word_of])
        flag = np.array([read.packing.columns[c].flag for c in read.column])
        if flag.any():
            addresses = jnp.where(values > 0, (row[read.row_of] + lo).astype(values.dtype), lo)
            values = jnp.where(flag[:, None], addresses, values)
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
            unfit = jnp.any(member & ~(exact & (row >= 0)), axis=0)
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
        which = jnp.max(jnp.where(member, 1 + np.array(guards, np.int32)[:, None], 0), axis=0)
        return dataclasses.replace(state, violation=jnp.maximum(state.violation, which))

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

    def _reads(self, layer: int) -> list["_Read"]:
        out = []
        for plan, _ in self.one.grouped(layer):
            place = plan.place
            packing = (self.packing if place.rewritable else self.pool_packing)[place.family]
            (query, position), row_of = np.unique(
                np.stack([plan.query, plan.position]), axis=1, return_inverse=True
            )
            word = np.array([packing.columns[c].word for c in plan.column])
            (of_word, words), word_of = np.unique(
                np.stack([row_of, word]), axis=1, return_inverse=True
            )
            out.append(
                _Read(
                    place.rewritable,
                    place.family,
                    self.heads.stores[plan.store[0]].lo,
                    packing,
                    query,
                    position,
                    of_word,
                    words,
                    plan.column,
                    row_of,
                    word_of,
                )
            )
        return out

    def _sampled(self, number: int) -> list[np.ndarray]:
        """Per column of a store, values of tokens that may be members."""
        out = []
        for row in self.heads.stores[number].columns:
            form = self.symbolic.projection(row)
            tokens = sample_tokens(self.symbolic, fields_of(self.symbolic, (form,)))
            out.append(OwnEvaluator(self.symbolic, tokens).form(form))
        return out

    def _family_packing(self, family: list[int]) -> Packing:
        form = self.symbolic.projection
        stores = [self.heads.stores[number] for number in family]
        sampled = [self._sampled(number) for number in family]
        samples: list[np.ndarray | None] = []
        for c in range(len(stores[0].columns)):
            if all(form(store.columns[c]) == form(store.key) for store in stores):
                samples.append(None)
            else:
                samples.append(np.concatenate([of_store[c] for of_store in sampled]))
        return _packing(samples)


def _unpacked(packing: Packing, columns: np.ndarray, words_ExB: jax.Array) -> jax.Array:
    """Values of columns from the words that hold them, float32; flags as 0 or 1."""
    of = [packing.columns[c] for c in columns]

    def upright(values: list[int], dtype: str) -> jax.Array:
        return jnp.asarray(np.array(values, dtype)[:, None])

    words_ExB = words_ExB.astype(jnp.uint32)
    raw = words_ExB >> upright([column.shift for column in of], "uint32")
    raw &= upright([(1 << column.bits) - 1 for column in of], "uint32")
    values = raw.astype(jnp.int32) + upright([column.bias for column in of], "int32")
    out = values.astype(jnp.float32)
    whole = np.array([column.bits == 32 for column in of])
    if whole.any():
        floats = jax.lax.bitcast_convert_type(words_ExB, jnp.float32)
        out = jnp.where(whole[:, None], floats, out)
    return out


__all__ = ["Column", "LanesCache", "LanesState", "Packing", "Rows"]
