"""Token sequences on the host: what a lane is filled with, and what is taken out of it.

Keys and values of the certified heads depend on a token's own fields alone, so a prompt's cache is
computed without running the model, for many prompts at once. What prompts have in common is
computed once (`Prefix`) and shared.

Shapes: F fields, E emitted fields, N stores of a family, R rows, W words of a row, M uniform heads.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence as Many

import numpy as np

from wasmjax.cache.lanes import LanesCache, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Rows of a write-once store, from its first address on.

    Attributes:
      words: [R, W]. low, high: lowest and highest address written.
      data: their column values (kept to append to), [R, C].
    """

    words: np.ndarray
    low: int
    high: int
    data: np.ndarray

    @functools.cached_property
    def digest(self) -> bytes:
        """Names the contents."""
        return hashlib.blake2b(self.words.tobytes(), digest_size=16).digest()


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """Contents of the rewritable stores.

    Attributes:
      rows: per family, [R, N, W]. default: per family, what unwritten rows hold, [N, W].
    """

    rows: tuple[np.ndarray, ...]
    default: tuple[np.ndarray, ...]


@dataclasses.dataclass
class Sequence:
    """One token sequence and its cache.

    Attributes:
      token: the current token, which is in no cache yet, int32 [F].
      count: tokens, this one included.
      totals: per field the sum over all tokens, int64 [F] (modulo 2^32 where generated).
      sums: int64 [M]. seen: per family, lowest and highest address written, int64 [N, 2].
      segments: per write-once store.
      template: contents of the rewritable stores, before `changes`: per family rows written over
        it, (rows [U], stores [U], words [U, W]); later ones win.
    """

    token: np.ndarray
    count: int
    totals: np.ndarray
    sums: np.ndarray
    seen: tuple[np.ndarray, ...]
    segments: tuple[Segment, ...]
    template: Template
    changes: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]

    def contents(self) -> list[np.ndarray]:
        """Rows of every family with the changes made, [R, N, W]."""
        return [_contents(self, number) for number in range(len(self.changes))]

    def with_contents(self, rows: Many[np.ndarray]) -> "Sequence":
        """The same, with these rows of every family."""
        default = self.template.default
        none = np.zeros(0, np.int64)
        return dataclasses.replace(
            self,
            template=Template(tuple(rows), default),
            changes=tuple((none, none, empty[:0]) for empty in default),
        )

    def rows_needed(self) -> list[int]:
        """Rows of every family that hold the contents."""
        out = []
        for rows, (changed, _, _) in zip(self.template.rows, self.changes, strict=True):
            out.append(max(len(rows), 1 + int(changed.max(initial=0))))
        return out


class Prefix:
    """The beginning of prompts, cached.

    Args:
      tokens_NxF: the tokens; the first one must be a member of every rewritable store, at its
        lowest address (it is what an address answers that was never written).

    Raises:
      ValueError: if it is not, a value does not fit the cache's types, or one lies outside its
        vocabulary.
    """

    def __init__(self, cache: LanesCache, tokens_NxF: np.ndarray) -> None:
        self.cache = cache
        self.tokens = len(tokens_NxF)
        self.totals = tokens_NxF.sum(axis=0, dtype=np.int64)
        _check(cache, tokens_NxF)
        rows = cache.compile_rows(tokens_NxF)
        self.sums = rows.sums.sum(axis=0)
        begins = [
            token[:1].tolist() == [0] and at[0] == 0
            for token, at in zip(rows.token, rows.rows, strict=True)
        ]
        for store, first in zip(cache.heads.stores, begins, strict=True):
            if store.rewritable and not first:
                raise ValueError("a prompt must begin with a token at the first address of stores")
        # What an address of a write-once store answers that was never written.
        self._unwritten = [
            rows.data[number][:1] if begins[number] else np.zeros((1, rows.data[number].shape[1]))
            for number in cache.static
        ]
        self.segments = [
            self._segment(index, rows.rows[number], rows.data[number])
            for index, number in enumerate(cache.static)
        ]
        self.seen, filled, defaults = [], [], []
        for number, family in enumerate(cache.families):
            array, seen, default = self._family(number, family, rows)
            filled.append(array)
            self.seen.append(seen)
            defaults.append(default)
        self.template = Template(tuple(filled), tuple(defaults))

    def _family(
        self, number: int, family: list[int], rows: Rows
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        packing = self.cache.packing[number]
        height = 1 + max(int(rows.rows[store].max(initial=0)) for store in family)
        default = np.stack([packing.pack(rows.data[store][:1])[0] for store in family])
        for column in packing.columns:
            if column.flag:  # an unwritten row was not written: it answers like the first one
                keep = ~np.array(((1 << column.bits) - 1) << column.shift, np.uint64)
                default[:, column.word] &= keep.astype(default.dtype)
        array = np.repeat(default[None], height, axis=0)
        seen = np.zeros((len(family), 2), np.int64)
        for position, store in enumerate(family):
            # NumPy assignment in order: of equal addresses the latest stays.
            array[rows.rows[store], position] = packing.pack(rows.data[store])
            lo = self.cache.heads.stores[store].lo
            seen[position] = rows.rows[store].min() + lo, rows.rows[store].max() + lo
        return array, seen, default

    def _segment(
        self, index: int, rows: np.ndarray, data: np.ndarray, old: Segment | None = None
    ) -> Segment:
        """A segment from rows of a write-once store, which come after those of an old one."""
        lo = self.cache.heads.stores[self.cache.static[index]].lo
        kept = data[:0] if old is None else old.data
        height = max(len(kept), 1 + int(rows.max(initial=-1)))
        dense = np.repeat(self._unwritten[index], max(1, height), axis=0)
        dense[: len(kept)] = kept
        dense[rows] = data
        words = self.cache.segment(index, dense)
        if not height:
            return Segment(words, lo, lo, data[:0])
        low, high = int(rows.min(initial=height)) + lo, int(rows.max(initial=-1)) + lo
        if old is not None and len(kept):
            low, high = min(low, old.low), max(high, old.high)
        return Segment(words, low, high, dense)

    def followed_by(self, tail: np.ndarray, rows: Rows) -> Sequence:
        """The sequence that goes on with these tokens; `rows` are those of all but the last."""
        segments = list(self.segments)
        for index, number in enumerate(self.cache.static):
            if len(rows.rows[number]):
                segments[index] = self._segment(
                    index, rows.rows[number], rows.data[number], segments[index]
                )
        sequence = Sequence(
            token=tail[-1].astype(np.int32),
            count=self.tokens + len(tail),
            totals=self.totals + tail.sum(axis=0, dtype=np.int64),
            sums=self.sums.copy(),
            seen=tuple(seen.copy() for seen in self.seen),
            segments=tuple(segments),
            template=self.template,
            changes=tuple(
                (np.zeros(0, np.int64), np.zeros(0, np.int64), default[:0, :])
                for default in self.template.default
            ),
        )
        _write(self.cache, sequence, rows)
        return sequence


def extend(cache: LanesCache, pairs: Many[tuple[Prefix, np.ndarray]]) -> list[Sequence]:
    """Sequences that begin with a prefix and go on with other tokens, [n, F] each; the last token
    becomes the current one.

    Raises:
      ValueError: if a value does not fit the cache's types, or a token is none that may be there.
    """
    if not pairs:
        return []
    _check(cache, np.concatenate([tail for _, tail in pairs]))
    _check_current(cache, np.stack([tail[-1] for _, tail in pairs]))
    # All at once: evaluating forms costs more per call than per token.
    rows = cache.compile_rows(np.concatenate([tail[:-1] for _, tail in pairs]))
    out, start = [], 0
    for prefix, tail in pairs:
        stop = start + len(tail) - 1
        out.append(prefix.followed_by(tail, _between(rows, start, stop)))
        start = stop
    return out


def append(cache: LanesCache, sequence: Sequence, tokens_NxF: np.ndarray) -> None:
    """Feeds a sequence further tokens, which must not write write-once stores.

    Raises:
      ValueError: if they do, or `extend` would refuse them.
    """
    _check(cache, tokens_NxF)
    _check_current(cache, tokens_NxF[-1:])
    cached = np.concatenate([sequence.token[None], tokens_NxF[:-1]])
    rows = cache.compile_rows(cached)
    if any(len(rows.rows[number]) for number in cache.static):
        raise ValueError("a write-once address space would be written")
    _write(cache, sequence, rows)
    sequence.token = tokens_NxF[-1].astype(np.int32)
    sequence.count += len(tokens_NxF)
    sequence.totals = sequence.totals + tokens_NxF.sum(axis=0, dtype=np.int64)


def stored(
    cache: LanesCache, sequence: Sequence, tokens_NxF: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What lies where tokens would write: their own values and those now there, [N, C].

    C runs over the columns of the stores that all of the tokens are members of.
    """
    rows = cache.compile_rows(tokens_NxF)
    own, found = [np.zeros((len(tokens_NxF), 0))], [np.zeros((len(tokens_NxF), 0))]
    for number, family in enumerate(cache.families):
        contents = _contents(sequence, number)
        for position, store in enumerate(family):
            if len(rows.rows[store]) != len(tokens_NxF):
                continue
            at = rows.rows[store]
            at = np.where(at < len(contents), at, 0)  # rows beyond were never written
            words = contents[at, position]
            own.append(rows.data[store])
            lo = cache.heads.stores[store].lo
            found.append(cache.packing[number].unpack(words, at, lo))
    return np.concatenate(own, axis=1), np.concatenate(found, axis=1)


def _check(cache: LanesCache, tokens_NxF: np.ndarray) -> None:
    """Raises ValueError if a value lies outside its vocabulary."""
    low, high = tokens_NxF.min(axis=0), tokens_NxF.max(axis=0)
    for field, least, most in zip(cache.symbolic.weights.vocabulary, low, high, strict=True):
        if least < field.lo or most >= field.lo + field.size:
            raise ValueError(f"field {field.name} of a prompt token is outside its vocabulary")


def _check_current(cache: LanesCache, tokens_NxF: np.ndarray) -> None:
    """Raises ValueError if a step from a token is none that is made for generated ones."""
    for field, values in zip(cache.symbolic.weights.vocabulary, tokens_NxF.T, strict=True):
        if not field.emitted and values.any():
            raise ValueError(
                f"field {field.name} is never emitted, so the last token of a prompt must hold 0 "
                "there"
            )


def _contents(sequence: Sequence, number: int) -> np.ndarray:
    """Rows of a family with the changes made, [R, N, W]."""
    height = sequence.rows_needed()[number]
    template, default = sequence.template.rows[number], sequence.template.default[number]
    missing = max(0, height - len(template))
    out = np.concatenate([template, np.repeat(default[None], missing, axis=0)])
    rows, stores, words = sequence.changes[number]
    out[rows, stores] = words
    return out


def _write(cache: LanesCache, sequence: Sequence, rows: Rows) -> None:
    """Writes rows over a sequence's contents."""
    changes = []
    for number, family in enumerate(cache.families):
        old_rows, old_stores, old_words = sequence.changes[number]
        at = [rows.rows[store] for store in family]
        words = [cache.packing[number].pack(rows.data[store]) for store in family]
        stores = [np.full(len(r), position) for position, r in enumerate(at)]
        seen = sequence.seen[number]
        for position, (store, r) in enumerate(zip(family, at, strict=True)):
            lo = cache.heads.stores[store].lo
            if len(r):
                seen[position, 0] = min(seen[position, 0], int(r.min()) + lo)
                seen[position, 1] = max(seen[position, 1], int(r.max()) + lo)
        changes.append(
            (
                np.concatenate([old_rows, *at]),
                np.concatenate([old_stores, *stores]),
                np.concatenate([old_words, *words]),
            )
        )
    sequence.changes = tuple(changes)
    sequence.sums = sequence.sums + rows.sums.sum(axis=0)


def _between(rows: Rows, start: int, stop: int) -> Rows:
    """What the tokens from number `start` to before `stop` leave."""
    mine = [(start <= token) & (token < stop) for token in rows.token]
    return Rows(
        tuple(r[m] for r, m in zip(rows.rows, mine, strict=True)),
        tuple(d[m] for d, m in zip(rows.data, mine, strict=True)),
        rows.sums[start:stop],
        tuple(t[m] for t, m in zip(rows.token, mine, strict=True)),
    )
