"""A fleet: lanes of one capacity on a mesh, filled with sequences and emptied again.

Small per-lane values (tokens, counts, running sums, ...) travel to the host after every chunk and
back before the next; caches stay on the devices. With several processes every process holds the
same host state and makes the same calls.
"""

import collections
import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence as Many
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from wasmjax.cache.lanes import LanesState
from wasmjax.engine.decode import MAX_TOKENS, RUNNING
from wasmjax.engine.lanes import AXIS, IDLE, Lanes, LanesEngine
from wasmjax.engine.sequence import Segment, Sequence, Template

_TEMPLATE_BYTES = 256 << 20
"""Templates are kept on the devices up to so many bytes."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What compiled shapes depend on.

    Attributes:
      lanes: in all. rows: per family of rewritable stores, rows of a lane.
      pool_rows: per write-once store, rows for all lanes together.
    """

    lanes: int
    rows: tuple[int, ...]
    pool_rows: tuple[int, ...]


def lane_bytes(engine: LanesEngine, rows: Many[int]) -> int:
    """Device memory per lane, in bytes: caches, kept tokens, and what a step computes."""
    cache = engine.cache
    stores = sum((r + 1) * b for r, b in zip(rows, cache.row_bytes(), strict=True))
    kept = (engine.kept + 1) * len(engine.emitted) * 2
    step = 4 * sum(engine.step.piece_rows)
    return stores + kept + step


@dataclasses.dataclass
class Chunk:
    """What a chunk did, per lane.

    Attributes:
      status, steps: int32 [B]. kept: tokens kept, [n, E] by lane that kept some.
      lane_steps: steps made times lanes, useful or not.
    """

    status: np.ndarray
    steps: np.ndarray
    kept: dict[int, np.ndarray]
    lane_steps: int


class Fleet:
    """Lanes of one capacity.

    Args:
      engine: what runs them. capacity: its `lanes` must be a multiple of the devices.

    Attributes:
      free: lanes without a sequence.
    """

    def __init__(self, engine: LanesEngine, capacity: Capacity) -> None:
        if capacity.lanes % engine.devices:
            raise ValueError(f"{capacity.lanes} lanes on {engine.devices} devices")
        self.engine, self.cache, self.capacity = engine, engine.cache, capacity
        self.free = list(range(capacity.lanes))[::-1]
        self._pools = [
            _Pool(packing.words, packing.dtype, rows)
            for packing, rows in zip(self.cache.pool_packing, capacity.pool_rows, strict=True)
        ]
        self._templates: collections.OrderedDict[int, tuple[Template, tuple]] = (
            collections.OrderedDict()
        )
        self._host = self._empty()
        self._lanes = self._allocate()
        self._origin: dict[int, tuple[Template, tuple[Segment, ...], np.ndarray]] = {}

    # -- what comes and goes --------------------------------------------------------------

    def room_for(self, sequence: Sequence) -> bool:
        """Whether a sequence's rows fit a lane."""
        rows = zip(sequence.rows_needed(), self.capacity.rows, strict=True)
        return all(needed <= there for needed, there in rows)

    def admit(self, sequences: Many[tuple[Sequence, int]]) -> list[int]:
        """Puts sequences with the steps they may make into free lanes; returns those lanes.

        Raises:
          ValueError: if there are too few lanes, a sequence does not fit, or its steps are none or
            more than can be made exactly.
        """
        if len(sequences) > len(self.free):
            raise ValueError(f"{len(sequences)} sequences for {len(self.free)} lanes")
        for sequence, left in sequences:
            if not self.room_for(sequence):
                raise ValueError("a sequence does not fit a lane")
            if not 0 < left <= MAX_TOKENS - sequence.count:
                raise ValueError(f"{left} steps after {sequence.count} of {MAX_TOKENS} tokens")
        lanes = [self.free.pop() for _ in sequences]
        host = self._host
        for lane, (sequence, left) in zip(lanes, sequences, strict=True):
            self._origin[lane] = sequence.template, sequence.segments, sequence.totals
            host.token[:, lane] = sequence.token
            host.count[lane], host.left[lane] = sequence.count, left
            host.status[lane] = RUNNING
            host.totals[:, lane] = 0
            host.cache.sums[:, lane] = sequence.sums
            for seen, now in zip(host.cache.seen, sequence.seen, strict=True):
                seen[:, :, lane] = now
            for need in host.cache.need:
                need[lane] = 0
            host.cache.violation[lane] = 0
            for index, segment in enumerate(sequence.segments):
                self._pools[index].hold(segment)
                host.cache.static_seen[index, :, lane] = segment.low, segment.high
        for index, pool in enumerate(self._pools):
            pool.place()
            for lane, (_, segments, _) in self._origin.items():
                host.cache.base[index, lane] = pool.base(segments[index])
        self._fill(lanes, [sequence for sequence, _ in sequences])
        return lanes

    def release(self, lanes: Iterable[int]) -> None:
        """Frees lanes."""
        for lane in lanes:
            self._host.status[lane] = IDLE
            _, segments, _ = self._origin.pop(lane)
            for pool, segment in zip(self._pools, segments, strict=True):
                pool.drop(segment)
            self.free.append(lane)

    def take(self, lanes: Many[int]) -> list[Sequence]:
        """Copies of the sequences in lanes."""
        if not lanes:
            return []
        size = 1 << (len(lanes) - 1).bit_length()
        index = np.zeros(size, np.int32)
        index[: len(lanes)] = lanes
        whole = self.engine.sharding(PartitionSpec())
        taken = jax.jit(_taken, out_shardings=whole)(self._lanes.cache.written, index)
        families = [np.asarray(array) for array in taken]
        return [self._sequence(lane, [f[i] for f in families]) for i, lane in enumerate(lanes)]

    def _sequence(self, lane: int, arrays: list[np.ndarray]) -> Sequence:
        host = self._host
        template, segments, totals = self._origin[lane]
        rows = []
        seen = tuple(np.array(s[:, :, lane], np.int64) for s in host.cache.seen)
        for number, array in enumerate(arrays):
            lo = self.cache.heads.stores[self.cache.families[number][0]].lo
            rows.append(array[: int(seen[number][:, 1].max()) - lo + 1].copy())
        totals = totals.copy()
        totals[self.engine.emitted] += host.totals[:, lane]
        return Sequence(
            token=host.token[:, lane].copy(),
            count=int(host.count[lane]),
            totals=totals,
            sums=np.array(host.cache.sums[:, lane], np.int64),
            seen=seen,
            segments=segments,
            template=Template(tuple(rows), template.default),
            changes=tuple(
                (np.zeros(0, np.int64), np.zeros(0, np.int64), default[:0, :])
                for default in template.default
            ),
        )

    def left(self, lane: int) -> int:
        """Steps that a lane may still make."""
        return int(self._host.left[lane])

    def token(self, lane: int) -> np.ndarray:
        """A lane's current token, int32 [F]."""
        return self._host.token[:, lane].copy()

    def count(self, lane: int) -> int:
        """A lane's tokens."""
        return int(self._host.count[lane])

    def needs(self, lane: int) -> list[int]:
        """Rows per family that a lane needs, which was FULL."""
        return [int(need[lane]) for need in self._host.cache.need]

    def problem(self, lane: int) -> str:
        """Why a lane was REFUSED."""
        return self.cache.explain(int(self._host.cache.violation[lane]))

    # -- running --------------------------------------------------------------------------

    def start(self, limit: int, patience: int) -> None:
        """Starts a chunk (see `LanesEngine.run_chunk`); `finish` waits for its end."""
        self._lanes, self._done = self.engine.run_chunk(self._to_devices(), limit, patience)

    def finish(self) -> Chunk:
        """What the chunk that was started did."""
        lanes = self._lanes
        self._host, done = self._fetch((self._small(lanes), self._done))
        n_kept = self._host.n_kept
        kept: dict[int, np.ndarray] = {}
        if n_kept.any():
            most = min(1 << int(n_kept.max() - 1).bit_length(), self.engine.kept)
            # The tokens of a lane as its last axis, as in all that is fetched.
            tokens = self._fetch(lanes.kept[:, :most].transpose(1, 2, 0)).transpose(2, 0, 1)
            kept = {int(k): tokens[k, : n_kept[k]].copy() for k in np.flatnonzero(n_kept)}
        per_device = self.capacity.lanes // self.engine.devices
        return Chunk(
            self._host.status,
            self._host.n_steps,
            kept,
            int(np.sum(done, dtype=np.int64)) * per_device,
        )

    # -- devices --------------------------------------------------------------------------

    def _empty(self) -> Lanes:
        """The small values of idle lanes, on the host; big arrays are left out."""
        lanes = self.capacity.lanes
        families, static = self.cache.families, len(self.cache.static)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros((*shape, lanes), np.int32)

        state = LanesState(
            written=(),
            seen=tuple(zeros(len(family), 2) for family in families),
            pools=(),
            base=zeros(static),
            static_seen=zeros(static, 2),
            sums=zeros(len(self.cache.heads.means)),
            need=tuple(zeros() for _ in families),
            violation=zeros(),
            scratch=(),
        )
        return Lanes(
            token=zeros(len(self.engine.weights.vocabulary)),
            count=zeros() + 1,
            status=zeros() + IDLE,
            left=zeros(),
            cache=state,
            totals=zeros(len(self.engine.emitted)),
            kept=(),
            n_kept=zeros(),
            n_steps=zeros(),
        )

    def _allocate(self) -> Lanes:
        """The big arrays, on the devices."""
        sharded = self.engine.sharding(PartitionSpec(AXIS))
        lanes = self.capacity.lanes

        def allocate() -> tuple[tuple[jax.Array, ...], jax.Array]:
            written = tuple(
                jnp.zeros((lanes, rows + 1, len(family), packing.words), packing.dtype)
                for family, packing, rows in zip(
                    self.cache.families, self.cache.packing, self.capacity.rows, strict=True
                )
            )
            kept = jnp.zeros((lanes, self.engine.kept + 1, len(self.engine.emitted)), jnp.int16)
            return written, kept

        written, kept = jax.jit(allocate, out_shardings=sharded)()
        cache = dataclasses.replace(self._host.cache, written=written)
        return dataclasses.replace(self._host, cache=cache, kept=kept)

    def _small(self, lanes: Lanes) -> Lanes:
        cache = dataclasses.replace(lanes.cache, written=(), pools=())
        return dataclasses.replace(lanes, cache=cache, kept=())

    def _to_devices(self) -> Lanes:
        """The lanes with the host's small values and pools."""
        specs = self.engine.specs(self._host)
        specs.kept = ()
        small = jax.tree.map(self._put, self._host, self._small(specs))
        pools = []
        for number, pool in enumerate(self._pools):
            if pool.changed or not self._lanes.cache.pools:
                pools.append(self._put(pool.rows, PartitionSpec()))
                pool.changed = False
            else:
                pools.append(self._lanes.cache.pools[number])
        cache = dataclasses.replace(
            small.cache, written=self._lanes.cache.written, pools=tuple(pools)
        )
        return dataclasses.replace(small, cache=cache, kept=self._lanes.kept)

    def _put(self, array: np.ndarray, spec: PartitionSpec) -> jax.Array:
        # Through a callback, since other processes' devices cannot be written to directly.
        return jax.make_array_from_callback(
            array.shape, self.engine.sharding(spec), lambda index: array[index]
        )

    def _fetch(self, tree: Any) -> Any:
        """Copies of arrays of one type, sharded along their last axes, in every process."""
        if jax.process_count() == 1:
            return jax.tree.map(np.array, jax.device_get(tree))
        # Joined, since what passes between processes takes a moment each time.
        arrays, structure = jax.tree.flatten(tree)
        devices, whole = self.engine.devices, self.engine.sharding(PartitionSpec())
        join = jax.jit(_joined, static_argnums=0, out_shardings=whole)
        joined = np.array(join(devices, arrays))  # a copy that may be written
        out, start = [], 0
        for array in arrays:
            *lead, last = array.shape
            size = array.size // devices
            mine = joined[:, start : start + size].reshape(devices, *lead, last // devices)
            out.append(np.moveaxis(mine, 0, -2).reshape(array.shape))
            start += size
        return jax.tree.unflatten(structure, out)

    def _fill(self, lanes: list[int], sequences: list[Sequence]) -> None:
        """Copies templates into lanes and writes the changes over them."""
        devices = self.engine.devices
        per_device = self.capacity.lanes // devices
        groups: dict[int, list[int]] = {}
        for lane, sequence in zip(lanes, sequences, strict=True):
            groups.setdefault(id(sequence.template), []).append(lane)
        of_lane = dict(zip(lanes, sequences, strict=True))
        sharded, whole = PartitionSpec(AXIS), PartitionSpec()
        written = self._lanes.cache.written
        specs = tuple(sharded for _ in written)
        for group in groups.values():
            template = self._template(of_lane[group[0]].template)
            local = np.zeros((devices, per_device), np.int32)
            n = np.zeros(devices, np.int32)
            for lane in group:
                device, number = divmod(lane, per_device)
                local[device, n[device]] = number
                n[device] += 1
            filling = (written, template, self._put(local, sharded), self._put(n, sharded))
            fill_specs = (specs, tuple(whole for _ in written), sharded, sharded)
            fill = self.engine.compiled("fill", _filled, fill_specs, specs, *filling)
            written = fill(*filling)
        changes, words = self._changes(of_lane, per_device)
        if changes is not None:
            changing = (written, changes, words)
            change = self.engine.compiled("change", _changed, (specs,) * 3, specs, *changing)
            written = change(*changing)
        cache = dataclasses.replace(self._lanes.cache, written=written)
        self._lanes = dataclasses.replace(self._lanes, cache=cache)

    def _template(self, template: Template) -> tuple[jax.Array, ...]:
        """A template's rows on every device, padded to the capacity."""
        key = id(template)
        if key in self._templates:
            self._templates.move_to_end(key)
            return self._templates[key][1]
        arrays = []
        for rows, default, capacity in zip(
            template.rows, template.default, self.capacity.rows, strict=True
        ):
            whole = np.empty((capacity + 1, *rows.shape[1:]), rows.dtype)
            whole[: len(rows)], whole[len(rows) :] = rows, default
            arrays.append(self._put(whole, PartitionSpec()))
        self._templates[key] = template, tuple(arrays)
        size = sum(array.nbytes for array in arrays)
        while len(self._templates) > max(1, _TEMPLATE_BYTES // max(1, size)):
            self._templates.popitem(last=False)
        return tuple(arrays)

    def _changes(
        self, of_lane: dict[int, Sequence], per_device: int
    ) -> tuple[tuple[jax.Array, ...] | None, tuple[jax.Array, ...]]:
        """Per family, (lane, row, store) [devices, U, 3] and words [devices, U, W] to write."""
        devices = self.engine.devices
        places, words = [], []
        any_change = False
        for number, packing in enumerate(self.cache.packing):
            dummy = 0, self.capacity.rows[number], 0
            of_device: list[list[np.ndarray]] = [[] for _ in range(devices)]
            words_of: list[list[np.ndarray]] = [[] for _ in range(devices)]
            for lane, sequence in of_lane.items():
                device, local = divmod(lane, per_device)
                rows, stores, w = _latest(*sequence.changes[number])
                of_device[device].append(np.stack([np.full_like(rows, local), rows, stores], 1))
                words_of[device].append(w)
            most = max(sum(map(len, parts)) for parts in of_device)
            any_change |= most > 0
            size = 1 << max(4, (most - 1).bit_length()) if most else 16
            place = np.tile(np.array(dummy, np.int32), (devices, size, 1))
            word = np.zeros((devices, size, packing.words), packing.dtype)
            for device in range(devices):
                if of_device[device]:
                    joined = np.concatenate(of_device[device])
                    place[device, : len(joined)] = joined
                    word[device, : len(joined)] = np.concatenate(words_of[device])
            places.append(self._put(place, PartitionSpec(AXIS)))
            words.append(self._put(word, PartitionSpec(AXIS)))
        return (tuple(places) if any_change else None), tuple(words)


class _Pool:
    """Segments of one write-once store, end to end; equal ones once."""

    def __init__(self, words: int, dtype: np.dtype, rows: int) -> None:
        self.rows = np.zeros((rows, words), dtype)
        self.changed = True
        self._held: dict[bytes, tuple[Segment, int]] = {}
        self._base: dict[bytes, int] = {}
        self._end = 0

    def hold(self, segment: Segment) -> None:
        _, users = self._held.get(segment.digest, (segment, 0))
        self._held[segment.digest] = segment, users + 1

    def drop(self, segment: Segment) -> None:
        _, users = self._held[segment.digest]
        if users > 1:
            self._held[segment.digest] = segment, users - 1
        else:
            del self._held[segment.digest]

    def base(self, segment: Segment) -> int:
        """The row where a segment that is held begins, after `place`."""
        return self._base[segment.digest]

    def place(self) -> None:
        """Gives every segment held its place; those not held any more go when room is short."""
        new = [s for digest, (s, _) in self._held.items() if digest not in self._base]
        if self._end + sum(len(s.words) for s in new) > len(self.rows):
            self._base, self._end = {}, 0
            new = [s for s, _ in self._held.values()]
            total = sum(len(s.words) for s in new)
            if total > len(self.rows):
                size = 1 << (2 * total - 1).bit_length()
                self.rows = np.zeros((size, self.rows.shape[1]), self.rows.dtype)
        for segment in new:
            self.rows[self._end : self._end + len(segment.words)] = segment.words
            self._base[segment.digest] = self._end
            self._end += len(segment.words)
            self.changed = True


def _latest(
    rows: np.ndarray, stores: np.ndarray, words: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of changes to the same row the last: a scatter does not order its updates."""
    if not len(rows):
        return rows, stores, words
    _, last = np.unique(np.stack([rows, stores])[:, ::-1], axis=1, return_index=True)
    keep = len(rows) - 1 - last
    return rows[keep], stores[keep], words[keep]


def _joined(devices: int, arrays: list[jax.Array]) -> jax.Array:
    """What each device has of arrays, in a row of its own."""
    rows = []
    for array in arrays:
        split = array.reshape(*array.shape[:-1], devices, array.shape[-1] // devices)
        rows.append(jnp.moveaxis(split, -2, 0).reshape(devices, -1))
    return jnp.concatenate(rows, axis=1)


def _taken(written: tuple[jax.Array, ...], lanes: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(array[lanes] for array in written)


def _filled(
    written: tuple[jax.Array, ...],
    template: tuple[jax.Array, ...],
    lanes: jax.Array,
    n: jax.Array,
) -> tuple[jax.Array, ...]:
    """The template copied into the first n of `lanes` [1, B]."""

    def copy(i: jax.Array, written: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(
            jax.lax.dynamic_update_slice(array, rows[None], (lanes[0, i], 0, 0, 0))
            for array, rows in zip(written, template, strict=True)
        )

    return jax.lax.fori_loop(0, n[0], copy, written)


def _changed(
    written: tuple[jax.Array, ...], places: tuple[jax.Array, ...], words: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """Rows `places` [1, U, 3] (lane, row, store) set to `words` [1, U, W]."""
    return tuple(
        array.at[place[0, :, 0], place[0, :, 1], place[0, :, 2]].set(word[0])
        for array, place, word in zip(written, places, words, strict=True)
    )


__all__ = ["Capacity", "Chunk", "Fleet", "lane_bytes"]
