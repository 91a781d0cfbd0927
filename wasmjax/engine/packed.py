"""The packed engine: every sum of the step as constant-index gathers and multiply-adds.

A form of k terms becomes k gathers from the entries computed so far. What is fast differs:

- One lane. The entries are one vector that grows by concatenation, a piece per phase, and forms are
  bucketed by k. (XLA on the CPU would fuse in-place updates of one buffer into their consumers and
  compute producers again and again: measured.)
- Many lanes, lanes last, so that a gathered row is a vector. Every phase has a buffer of its own,
  written in place, and forms are bucketed by how many terms come from which buffer: a gather fuses
  with the sum unless it reads the buffer that the sum is written to. (A vmap of one lane is six
  times slower on a CPU, since its gathers put the lane axis first.)

Shapes: F fields, E emitted fields, *B nothing for one lane, else the lanes.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import Attention, CacheState
from wasmjax.cache.words import Column, Unpack, pack_columns
from wasmjax.engine.plan import Level, Plan, build_plan, terms
from wasmjax.model.symbolic import ONE, Form, Neuron, Symbolic

Pieces = tuple[jax.Array, ...]
"""Entries computed so far: one growing vector, or a buffer per phase, [rows, B]."""

_BUCKETS = (0, 1, 2, 4, 8)
"""One lane: forms are padded to one of these many terms, longer ones to the longest up to _LONG
terms, or up to the next power of two beyond."""
_LONG = 64

_KERNEL_TERMS = 48
"""Many lanes: buckets are merged if that adds fewer zero terms than this: what a kernel costs."""

_Shape = tuple[tuple[int, int], ...]
"""(piece, terms from it) of a bucket's forms."""


def _upright(values: np.ndarray, like: jax.Array) -> jax.Array:
    """Constants [n] in the shape of rows, [n, *1]."""
    return jnp.asarray(values.reshape(-1, *[1] * (like.ndim - 1)), like.dtype)


@dataclasses.dataclass(frozen=True)
class _Terms:
    """n forms of k terms: term j of all forms comes from piece `piece[j]`.

    Attributes:
      piece: [k]. position, weight: [n, k]. constant: [n].
    """

    piece: tuple[int, ...]
    position: np.ndarray
    weight: np.ndarray
    constant: np.ndarray

    def __call__(self, pieces: Pieces) -> jax.Array:
        like = pieces[0]
        constant = _upright(self.constant, like)
        if len(self.piece) > _BUCKETS[-1] and like.ndim == 1:
            gathered = like.at[self.position].get(mode="promise_in_bounds")
            return jnp.sum(gathered * jnp.asarray(self.weight, like.dtype), axis=1) + constant
        out = jnp.broadcast_to(constant, (len(self.constant), *like.shape[1:]))
        for j, piece in enumerate(self.piece):
            gathered = pieces[piece].at[self.position[:, j]].get(mode="promise_in_bounds")
            out = out + gathered * _upright(self.weight[:, j], like)
        return out


@dataclasses.dataclass(frozen=True)
class _Neuron:
    """relu(gate) * value of n neurons."""

    gate: _Terms
    value: _Terms

    def __call__(self, pieces: Pieces) -> jax.Array:
        return jax.nn.relu(self.gate(pieces)) * self.value(pieces)


@dataclasses.dataclass(frozen=True)
class _Phase:
    """Parts whose results go to a piece from `start` on, in order."""

    piece: int
    start: int
    parts: Sequence[Callable[[Pieces], jax.Array]]

    def __call__(self, pieces: Pieces) -> Pieces:
        return _written(pieces, self.piece, self.start, [part(pieces) for part in self.parts])


def _written(pieces: Pieces, piece: int, start: int, new: Sequence[jax.Array]) -> Pieces:
    """The pieces with new rows: one lane's vector ends there, a buffer has room."""
    old = pieces[piece]
    if old.ndim == 1:
        old = jnp.concatenate([old, *new])
    else:
        old = rows_set(old, start, new)
    return (*pieces[:piece], old, *pieces[piece + 1 :])


def rows_set(buffer_RxB: jax.Array, start: int, new: Sequence[jax.Array]) -> jax.Array:
    """The buffer with new rows, [n, B] each, from `start` on."""
    for rows_NxB in new:
        buffer_RxB = jax.lax.dynamic_update_slice(
            buffer_RxB, rows_NxB.astype(buffer_RxB.dtype), (start, 0)
        )
        start += len(rows_NxB)
    return buffer_RxB


class _Layout:
    """Where entries lie, and how forms are bucketed.

    Attributes:
      split: a piece per phase. sizes: rows of every piece.
    """

    def __init__(self, split: bool) -> None:
        self.split, self.sizes = split, [0]
        self.place_of: dict[int, tuple[int, int]] = {}

    def place(self, entries: Sequence[int]) -> tuple[int, int]:
        """Places entries; returns the piece and row where the first one goes."""
        if self.split and self.sizes[-1]:
            self.sizes.append(0)
        piece, start = len(self.sizes) - 1, self.sizes[-1]
        for row, entry in enumerate(entries, start):
            self.place_of[entry] = piece, row
        self.sizes[piece] += len(entries)
        return piece, start

    def shape(self, form: Form) -> _Shape:
        """The shape of the bucket for a form."""
        if not self.split:
            count = terms(form)
            longest = max(_LONG, 1 << (count - 1).bit_length())
            return ((0, next((size for size in _BUCKETS if count <= size), longest)),)
        return tuple(sorted(collections.Counter(self.place_of[e][0] for e in form if e).items()))

    def buckets(self, shapes: Sequence[tuple[_Shape, ...]]) -> list[list[int]]:
        """Numbers of forms (or of tuples of forms, like neurons) that are summed together."""
        members: dict[tuple[_Shape, ...], list[int]] = {}
        for number, shape in enumerate(shapes):
            members.setdefault(shape, []).append(number)
        if not self.split:
            return [members[shape] for shape in sorted(members)]
        buckets = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
        while True:
            best = None
            for i, (a, of_a) in enumerate(buckets):
                for j in range(i):
                    b, of_b = buckets[j]
                    both = tuple(map(_cover, a, b))
                    added = (
                        _width(both) * (len(of_a) + len(of_b))
                        - _width(a) * len(of_a)
                        - _width(b) * len(of_b)
                    )
                    if added < _KERNEL_TERMS and (best is None or added < best[0]):
                        best = added, i, j, both
            if best is None:
                return [numbers for _, numbers in buckets]
            _, i, j, both = best
            merged = both, buckets[j][1] + buckets[i][1]
            buckets = [b for k, b in enumerate(buckets) if k not in (i, j)] + [merged]

    def terms(self, forms: Sequence[Form]) -> _Terms:
        """Forms summed together: missing terms are zero times some row."""
        by_piece = [self._by_piece(form) for form in forms]
        pieces = sorted({piece for found in by_piece for piece in found})
        most = [(p, max(len(found.get(p, ())) for found in by_piece)) for p in pieces]
        columns = [p for p, count in most for _ in range(count)]
        position = np.zeros((len(forms), len(columns)), np.int32)
        weight = np.zeros((len(forms), len(columns)))
        for i, found in enumerate(by_piece):
            first = 0
            for p, count in most:
                for j, (row, w) in enumerate(found.get(p, ()), first):
                    position[i, j], weight[i, j] = row, w
                first += count
        constant = np.array([form.get(ONE, 0.0) for form in forms])
        return _Terms(tuple(columns), position, weight, constant)

    def _by_piece(self, form: Form) -> dict[int, list[tuple[int, float]]]:
        found: dict[int, list[tuple[int, float]]] = {}
        places = sorted((*self.place_of[e], w) for e, w in form.items() if e != ONE)
        for piece, row, w in places:
            found.setdefault(piece, []).append((row, w))
        return found

    # -- phases ---------------------------------------------------------------------------

    def level(self, level: Level) -> _Phase:
        """Wires."""
        forms = [form for _, form in level]
        buckets = self.buckets([(self.shape(form),) for form in forms])
        parts = [self.terms([forms[i] for i in bucket]) for bucket in buckets]
        return _Phase(*self.place([level[i][0] for bucket in buckets for i in bucket]), parts)

    def neurons(self, neurons: Sequence[Neuron]) -> _Phase:
        """Neurons, bucketed by gates and values."""
        buckets = self.buckets([(self.shape(n.gate), self.shape(n.value)) for n in neurons])
        parts = [
            _Neuron(
                self.terms([neurons[i].gate for i in bucket]),
                self.terms([neurons[i].value for i in bucket]),
            )
            for bucket in buckets
        ]
        return _Phase(*self.place([neurons[i].entry for bucket in buckets for i in bucket]), parts)

    def sums(self, forms: Sequence[Form]) -> "_Sums":
        """Forms whose sums are wanted in order, and which nothing else refers to."""
        buckets = self.buckets([(self.shape(form),) for form in forms])
        order = np.array([i for bucket in buckets for i in bucket])
        parts = [self.terms([forms[i] for i in bucket]) for bucket in buckets]
        if not self.split:
            return _Sums(_Phase(0, 0, parts), np.argsort(order))
        return _Sums(_Phase(*self.place([-1] * len(forms)), parts), np.argsort(order))


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums in order: buckets, and where each form's result lies in their concatenation."""

    phase: _Phase
    where: np.ndarray

    def __call__(self, pieces: Pieces) -> tuple[jax.Array, Pieces]:
        if pieces[0].ndim == 1:
            return jnp.concatenate([part(pieces) for part in self.phase.parts])[self.where], pieces
        pieces = self.phase(pieces)
        sums = pieces[self.phase.piece]
        in_order = np.array_equal(self.where, np.arange(len(self.where)))
        return sums if in_order else sums[self.where], pieces


def _cover(a: _Shape, b: _Shape) -> _Shape:
    """The smallest shape that holds both."""
    most = dict(a)
    for piece, count in b:
        most[piece] = max(count, most.get(piece, 0))
    return tuple(sorted(most.items()))


def _width(shapes: tuple[_Shape, ...]) -> int:
    """Terms of a form of this shape."""
    return sum(count for shape in shapes for _, count in shape)


class Packed:
    """One step of a transformer, packed. Built once per set of weights and cache layout.

    Args:
      lanes: for many lanes (`of_lanes`) instead of one.

    Attributes:
      plan: what it computes. fields: vocabulary indices of the emitted fields, in output order.
      piece_rows: rows of the buffers of many lanes.
    """

    name = "packed"

    def __init__(
        self,
        symbolic: Symbolic,
        cache: Attention,
        dtype: type = jnp.float32,
        lanes: bool = False,
    ) -> None:
        # Only the indexed cache has a prefill of its own; others see prompt tokens step by step.
        self.plan = build_plan(symbolic, cache, generated_only=cache.name == "indexed")
        self.symbolic, self.cache, self.dtype = symbolic, cache, dtype
        layout = _Layout(split=lanes)
        self._inputs = _Inputs(symbolic, self.plan, layout)
        self._layers = []
        for layer in self.plan.layers:
            wires = [layout.level(level) for level in layer.wires]
            rows = layout.sums(layer.rows) if layer.rows else None
            outputs = layout.place(layer.outputs)
            ffn = [layout.level(level) for level in layer.ffn_wires]
            if layer.neurons:
                ffn.append(layout.neurons(layer.neurons))
            self._layers.append((wires, rows, outputs, ffn))
        self._final = [layout.level(level) for level in self.plan.final_wires]
        if lanes:
            # Output fields in the order in which they are summed: nothing is left to permute.
            order = np.argsort(layout.sums([r.form for r in self.plan.readouts]).where)
            layout.sizes.pop()
            self.plan = dataclasses.replace(
                self.plan, readouts=[self.plan.readouts[i] for i in order]
            )
        self.fields = [readout.field for readout in self.plan.readouts]
        self._readout = layout.sums([readout.form for readout in self.plan.readouts])
        self._lo = np.array([readout.lo for readout in self.plan.readouts])
        self._hi = np.array([readout.hi for readout in self.plan.readouts])
        self.piece_rows = layout.sizes

    def params(self) -> None:
        """Positions and weights are constants of the step: nothing to pass."""
        return None

    def __call__(
        self, params: None, token: jax.Array, count: jax.Array, state: CacheState, active: jax.Array
    ) -> tuple[jax.Array, jax.Array, CacheState]:
        """One step.

        Args:
          token: the current token's field values, int32 [F]. count: tokens including it.
          state: cache state. active: whether the step counts.

        Returns:
          Values of the emitted fields (int32), whether each was within 1/2 of one, new state.
        """
        del params
        inputs = self._inputs
        parts = [token[inputs.values].astype(self.dtype)]
        if len(inputs.fields):
            parts.append(inputs.gathered(token).astype(self.dtype))
        if inputs.counted:
            parts.append(count.astype(self.dtype)[None])
        pieces: Pieces = (jnp.concatenate(parts),)
        values, distance, state, _ = self._run(pieces, count, state, active)
        return values, distance < 0.5, state

    def of_lanes(
        self,
        token_FxB: jax.Array,
        count_B: jax.Array,
        state: CacheState,
        active_B: jax.Array,
        pieces: Pieces,
    ) -> tuple[jax.Array, jax.Array, CacheState, Pieces]:
        """One step of many lanes: as for one, each array with the lanes last.

        Args:
          pieces: room to compute in (`room`); what it contains does not matter.

        Returns:
          Values [E, B], whether all of a lane were within 1/2 of one [B], new state, the room.
        """
        words, pieces = pieces[-1], pieces[:-1]
        inputs = self._inputs
        parts = [token_FxB[inputs.values]]
        if len(inputs.fields):
            words = rows_set(words, 0, [inputs.gathered(token_FxB)])
            parts += [unpack(words) for unpack in inputs.unpack]
        if inputs.counted:
            parts.append(count_B[None])
        pieces = _written(pieces, 0, 0, parts)
        values, distance, state, pieces = self._run(pieces, count_B, state, active_B)
        # Row by row: a CPU does not vectorise a reduction over the leading axis.
        furthest = functools.reduce(jnp.maximum, [distance[k] for k in range(len(distance))])
        return values, furthest < 0.5, state, (*pieces, words)

    def room(self, lanes: int) -> Pieces:
        """Buffers for a number of lanes."""
        # A row more than needed: else XLA sees that the buffer is replaced as a whole.
        words = jnp.zeros((len(self._inputs.fields) + 1, lanes), jnp.uint32)
        return (*(jnp.zeros((rows, lanes), self.dtype) for rows in self.piece_rows), words)

    def _run(
        self, pieces: Pieces, count: jax.Array, state: CacheState, active: jax.Array
    ) -> tuple[jax.Array, jax.Array, CacheState, Pieces]:
        for number, (wires, rows, outputs, ffn) in enumerate(self._layers):
            for phase in wires:
                pieces = phase(pieces)
            if rows is not None:
                y, pieces = rows(pieces)
                out, state = self.cache.attend(number, state, y, count, active)
                pieces = _written(pieces, *outputs, [part.astype(self.dtype) for part in out])
            for phase in ffn:
                pieces = phase(pieces)
        for phase in self._final:
            pieces = phase(pieces)
        x, pieces = self._readout(pieces)
        value = jnp.clip(jnp.round(x), _upright(self._lo, x), _upright(self._hi, x))
        return value.astype(jnp.int32), jnp.abs(x - value), state, pieces


class _Inputs:
    """What of a token a step begins with: values of fields, columns of the embedding, its count.

    Many lanes: a field's columns are packed into words, so that one gather brings several.
    """

    def __init__(self, symbolic: Symbolic, plan: Plan, layout: _Layout) -> None:
        entries, vocabulary = symbolic.entries, symbolic.weights.vocabulary
        values, columns, counts = (
            [e for e in plan.inputs if entries[e].kind == kind]
            for kind in ("value", "column", "count")
        )
        self.values = np.array([entries[e].index[0] for e in values], np.int32)
        self.counted = bool(counts)
        fields: list[int] = []
        tables: list[np.ndarray] = []
        self.unpack: list[Unpack] = []
        if layout.split:
            columns, fields, tables, self.unpack = _packed(symbolic, columns)
        else:
            fields = [entries[e].index[0] for e in columns]
            tables = [np.array(entries[e].table) for e in columns]
        starts = np.cumsum([0, *map(len, tables)])[:-1]
        self.fields = np.array(fields, np.int32)
        self.offset = (starts - [vocabulary[f].lo for f in fields]).astype(np.int32)
        self.table = np.concatenate(tables) if tables else np.zeros(0)
        layout.place(values + columns + counts)

    def gathered(self, token: jax.Array) -> jax.Array:
        """Rows of the table for a token, [*B] each."""
        at = token[self.fields] + self.offset.reshape(-1, *[1] * (token.ndim - 1))
        return jnp.asarray(self.table).at[at].get(mode="promise_in_bounds")


def _packed(
    symbolic: Symbolic, columns: Sequence[int]
) -> tuple[list[int], list[int], list[np.ndarray], list[Unpack]]:
    """Columns of the embedding (entries) packed into words.

    Returns:
      The columns in the order in which they are unpacked; per word its field and its table over
      the field's values, uint32; how to unpack them.
    """
    entries = symbolic.entries
    fields: list[int] = []
    tables: list[np.ndarray] = []
    alike: dict[bool, list[tuple[int, int, Column]]] = {}
    for field in dict.fromkeys(entries[e].index[0] for e in columns):
        mine = [e for e in columns if entries[e].index[0] == field]
        values_NxC = np.stack([np.array(entries[e].table) for e in mine], 1)
        packing = pack_columns([*values_NxC.T], [True] * len(mine))
        for e, column in zip(mine, packing.columns, strict=True):
            alike.setdefault(column.bits == 32, []).append((e, len(tables) + column.word, column))
        fields += [field] * packing.words
        tables += [*packing.pack(values_NxC).astype(np.uint32).T]
    order = [e for found in alike.values() for e, _, _ in found]
    unpack = [
        Unpack(np.array([word for _, word, _ in found]), [column for _, _, column in found])
        for found in alike.values()
    ]
    return order, fields, tables, unpack
