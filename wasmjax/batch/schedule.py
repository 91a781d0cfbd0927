"""Continuous batching: lanes are refilled at chunk boundaries until every job is done.

Jobs that need more room than a fleet's lanes have wait for a fleet of the next capacity; a job that
outgrows its lane moves there. When few lanes are left running, they move to a smaller fleet. What a
job does depends on none of this: not on the lane, its neighbours, the chunks or the devices.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import Any

import jax
import numpy as np

from wasmjax.batch.checkpoint import Entry, Snapshot
from wasmjax.batch.jobs import Job, JobError, JobResult
from wasmjax.batch.prepare import Prepared, Preparer
from wasmjax.engine import decode
from wasmjax.engine.decode import MAX_TOKENS, EngineError
from wasmjax.engine.fleet import Capacity, Chunk, Fleet, lane_bytes
from wasmjax.engine.lanes import INNER, LIMITED, PAUSED, LanesEngine
from wasmjax.engine.sequence import Sequence, stored
from wasmjax.instance import outputs, signed, value_of
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.contents import read_values
from wasmjax.machine.describe import trap_message
from wasmjax.machine.tokens import columns

LANES_PER_DEVICE = {"cpu": 128, "gpu": 8192, "tpu": 4096}
"""Lanes that are used if memory allows and nobody says otherwise: more are hardly faster."""

_LEAST_ROWS = 1024, 32768
"""Rows of the smallest lanes: stack slots, and memory words (256 KiB)."""
_POOL_ROWS = 16384
_CHUNK_WORK = 1 << 22
"""Most lane-steps of a chunk: about a second on a CPU."""
_COMPILE_WORK = 1 << 22
"""Lane-steps that a compilation costs, about: a fleet is replaced by a smaller one after so many
were wasted by lanes that a smaller one would not have."""

_COLUMN = columns(WASM)
_Rows = tuple[int, ...]
_NONE: collections.deque = collections.deque()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a batch is.

    Attributes:
      jobs: done. steps: VM steps made. lane_steps: steps times lanes, useful or not.
      steps_here: VM steps made since the batch was resumed.
      busy, lanes: lanes with a job, and all lanes. seconds: since the start, compilation apart.
      compile_seconds: compilation. fleets: fleets made so far.
    """

    jobs: int
    steps: int
    lane_steps: int
    steps_here: int
    busy: int
    lanes: int
    seconds: float
    compile_seconds: float
    fleets: int

    @property
    def useful(self) -> float:
        """Share of the lane-steps that did useful work."""
        return self.steps / self.lane_steps if self.lane_steps else 1.0

    @property
    def rate(self) -> float:
        """VM steps per second, all lanes together."""
        return self.steps_here / self.seconds if self.seconds > 0 else 0.0


@dataclasses.dataclass
class Running:
    """A job on its way.

    Attributes:
      index: number of the job. prepared: its program. out: stdout, and stderr.
      steps: VM steps so far. left: steps it may still make. limited: whether the job says so.
      tokens: tokens generated so far, if they are kept.
    """

    index: int
    prepared: Prepared
    left: int
    limited: bool
    out: tuple[bytearray, bytearray] = dataclasses.field(
        default_factory=lambda: (bytearray(), bytearray())
    )
    steps: int = 0
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Options:
    """How a batch is run.

    Attributes:
      lanes: in all; None: as many as are useful and fit the devices' memory.
      chunk: most steps between looks at the lanes; None: adapts.
      memory_bytes: memory of a device to use; None: most of what is free.
    """

    lanes: int | None = None
    chunk: int | None = None
    memory_bytes: int | None = None


class Scheduler:
    """Runs jobs to their ends.

    Args:
      engine: what runs them. jobs: the jobs. options: how.
      on_progress: called after every chunk.
      on_tokens: called with a job's result, its prompt and its further tokens [n, F] when it has
        run; the engine must keep all tokens.

    Attributes:
      results: of jobs that are done, by number, until they are handed out.
      wanted: the job whose result is handed out next.
    """

    def __init__(
        self,
        engine: LanesEngine,
        jobs: Many[Job],
        options: Options | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_tokens: Callable[[JobResult, np.ndarray, np.ndarray], None] | None = None,
    ) -> None:
        self.engine, self.jobs, self.options = engine, jobs, options or Options()
        self._on_progress, self._on_tokens = on_progress, on_tokens
        self._preparer = Preparer(engine.cache, keep_prompts=on_tokens is not None)
        self.results: dict[int, JobResult] = {}
        self.wanted = 0
        self._next_job = 0
        self._waiting: dict[_Rows, collections.deque[tuple[Running, Sequence]]] = {}
        self._running: dict[int, Running] = {}
        self._fleet: Fleet | None = None
        self._limit, self._ahead = 256, 1
        self._made: set[tuple[int, _Rows]] = set()
        self._wasted = self._last_lane_steps = 0
        self._started = time.perf_counter()
        self._compiled_before = engine.compile_seconds
        self._steps = self._lane_steps = self._fleets = self._done = self._before = 0
        count = len(engine.cache.families)
        self._least = (*_LEAST_ROWS, *[_LEAST_ROWS[0]] * count)[:count]

    # -- the loop -------------------------------------------------------------------------

    def run(self) -> Iterator[JobResult]:
        """Results in the order of the jobs, as soon as they are known.

        Raises:
          EngineError: if the lanes do not fit the devices.
        """
        yield from self.ready()
        while not self.finished:
            self.advance()
            yield from self.ready()

    @property
    def finished(self) -> bool:
        """Whether all results have been handed out."""
        return self.wanted == len(self.jobs)

    def ready(self) -> Iterator[JobResult]:
        """Hands out the results that are next."""
        while self.wanted in self.results:
            self.wanted += 1
            yield self.results.pop(self.wanted - 1)

    def advance(self) -> None:
        """Refills lanes and runs one chunk."""
        fleet = self._refill()
        if fleet is None:
            return
        fleet.start(self._chunk_steps(fleet), self._patience(fleet))
        # Meanwhile: as many jobs as are likely to be wanted.
        self._fetch(fleet.capacity.rows, self._ahead)
        chunk = fleet.finish()
        self._steps += int(chunk.steps.sum(dtype=np.int64))
        self._lane_steps += chunk.lane_steps
        self._last_lane_steps = chunk.lane_steps
        self._settle(fleet, chunk)
        if self._on_progress is not None:
            self._on_progress(self.progress())

    def progress(self) -> Progress:
        """How far the batch is."""
        compiled = self.engine.compile_seconds - self._compiled_before
        return Progress(
            self._done,
            self._steps,
            self._lane_steps,
            self._steps - self._before,
            len(self._running),
            self._fleet.capacity.lanes if self._fleet else 0,
            time.perf_counter() - self._started - compiled,
            compiled,
            self._fleets,
        )

    def _refill(self) -> Fleet | None:
        """The fleet with as many lanes filled as there are jobs for; None: all jobs are done."""
        if self._fleet is None and not self._new_fleet():
            return None
        fleet = self._fleet
        assert fleet is not None
        self._fetch(fleet.capacity.rows, len(fleet.free))
        queue = self._waiting.get(fleet.capacity.rows)
        if not queue and not self._running:
            self._fleet = None
            return self._refill()
        if not queue and self._shrinks(fleet):
            self._park(fleet)
            self._fleet = None
            return self._refill()
        batch = [queue.popleft() for _ in range(min(len(fleet.free), len(queue)))] if queue else []
        if batch:
            lanes = fleet.admit([(sequence, running.left) for running, sequence in batch])
            self._running |= {lane: r for lane, (r, _) in zip(lanes, batch, strict=True)}
        return fleet

    def _fetch(self, rows: _Rows | None, wanted: int) -> None:
        """Prepares jobs until `wanted` of a capacity wait (None: of any), or none are left."""
        while self._next_job < len(self.jobs):
            queues = [self._waiting.get(rows, _NONE)] if rows else list(self._waiting.values())
            missing = wanted - max(map(len, queues), default=0)
            if missing <= 0:
                return
            jobs = self.jobs[self._next_job : self._next_job + missing]
            for index, prepared in enumerate(self._preparer.prepare(jobs), self._next_job):
                self._enqueue(index, self.jobs[index], prepared)
            self._next_job += len(jobs)

    def _enqueue(self, index: int, job: Job, prepared: Prepared | str) -> None:
        if isinstance(prepared, str):
            self._finish(JobResult(index, "refused", error=prepared, id=job.id))
            return
        left, limited = self._limit_of(job, prepared)
        if left < 1:
            error = (
                f"the prompt alone has {prepared.prompt_tokens} tokens, the limit is {MAX_TOKENS}"
            )
            self._finish(JobResult(index, "refused", error=error, id=job.id))
            return
        self._wait(Running(index, prepared, left, limited), prepared.sequence)

    def _limit_of(self, job: Job, prepared: Prepared) -> tuple[int, bool]:
        """Steps that a job may make, and whether it is the job that says so."""
        horizon = MAX_TOKENS - prepared.prompt_tokens
        if job.max_steps is not None and job.max_steps <= horizon:
            return job.max_steps, True
        return horizon, False

    def _wait(self, running: Running, sequence: Sequence, needs: Many[int] = ()) -> None:
        """Queues a sequence for lanes of its capacity."""
        rows = self._capacity_for(sequence.rows_needed(), needs)
        self._waiting.setdefault(rows, collections.deque()).append((running, sequence))

    def _capacity_for(self, *needed: Many[int]) -> _Rows:
        out = []
        for number, least in enumerate(self._least):
            most = max((need[number] for need in needed if need), default=0)
            rows = least
            while rows < most:
                rows *= 4
            store = self.engine.cache.heads.stores[self.engine.cache.families[number][0]]
            out.append(min(rows, store.hi - store.lo + 1))
        return tuple(out)

    # -- snapshots ------------------------------------------------------------------------

    def snapshot(self, identity: str, extra: Any = None) -> Snapshot:
        """Where every job is, between two chunks (see `checkpoint.Snapshot`)."""
        going, fresh = [], []
        if self._fleet is not None:
            lanes = list(self._running)
            for lane, sequence in zip(lanes, self._fleet.take(lanes), strict=True):
                going.append((self._running[lane], self._fleet.left(lane), sequence))
        for queue in self._waiting.values():
            for running, sequence in queue:
                if running.steps == 0 and not running.tokens:
                    fresh.append(running.index)
                else:
                    going.append((running, running.left, sequence))
        return Snapshot(
            identity,
            self._next_job,
            sorted(fresh),
            [self._entry(running, left, sequence) for running, left, sequence in going],
            [self.results[index].to_json() for index in sorted(self.results)],
            self.wanted,
            {"steps": self._steps, "lane_steps": self._lane_steps, "done": self._done},
            extra,
        )

    def _entry(self, running: Running, left: int, sequence: Sequence) -> Entry:
        none = np.zeros((0, len(sequence.token)), np.int16)
        arrays = {f"rows{number}": rows for number, rows in enumerate(sequence.contents())}
        arrays |= {f"seen{number}": seen for number, seen in enumerate(sequence.seen)}
        arrays |= {
            "token": sequence.token,
            "count": np.array([sequence.count], np.int64),
            "totals": sequence.totals,
            "sums": sequence.sums,
            "stdout": np.frombuffer(bytes(running.out[0]), np.uint8),
            "stderr": np.frombuffer(bytes(running.out[1]), np.uint8),
            "tokens": np.concatenate([none, *running.tokens]),
        }
        prepared = running.prepared
        return Entry(
            running.index, left, running.steps, prepared.prompt_tokens, len(prepared.turns), arrays
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot of the same jobs. To be called first."""
        self._next_job, self.wanted = snapshot.next_job, snapshot.wanted
        self._steps, self._lane_steps = (snapshot.counters[k] for k in ("steps", "lane_steps"))
        self._done = snapshot.counters["done"]
        self._before = self._steps
        results = map(JobResult.from_json, snapshot.results)
        self.results = {result.index: result for result in results}
        prepared = self._preparer.prepare([self.jobs[entry.index] for entry in snapshot.entries])
        for entry, again in zip(snapshot.entries, prepared, strict=True):
            self._resume(entry, again)
        fresh = self._preparer.prepare([self.jobs[index] for index in snapshot.fresh])
        for index, again in zip(snapshot.fresh, fresh, strict=True):
            self._enqueue(index, self.jobs[index], again)

    def _resume(self, entry: Entry, prepared: Prepared | str) -> None:
        if isinstance(prepared, str):  # its file has gone or changed in the meantime
            raise JobError(f"job {entry.index} cannot be resumed: {prepared}")
        arrays, families = entry.arrays, range(len(self.engine.cache.families))
        sequence = dataclasses.replace(
            prepared.sequence,
            token=arrays["token"],
            count=int(arrays["count"][0]),
            totals=arrays["totals"],
            sums=arrays["sums"],
            seen=tuple(arrays[f"seen{number}"] for number in families),
        ).with_contents([arrays[f"rows{number}"] for number in families])
        limited = self._limit_of(self.jobs[entry.index], prepared)[1]
        prepared.turns = prepared.turns[len(prepared.turns) - entry.turns :]
        prepared.prompt_tokens = entry.prompt_tokens
        running = Running(
            entry.index,
            prepared,
            entry.left,
            limited,
            (bytearray(arrays["stdout"].tobytes()), bytearray(arrays["stderr"].tobytes())),
            entry.steps,
            [arrays["tokens"]] if len(arrays["tokens"]) else [],
        )
        self._wait(running, sequence)

    # -- fleets ---------------------------------------------------------------------------

    def _new_fleet(self) -> bool:
        """Makes a fleet for the smallest capacity that is waited for; whether there is one."""
        self._fetch(None, self._target())
        waiting = {rows: queue for rows, queue in self._waiting.items() if queue}
        if not waiting:
            return False
        rows = min(waiting)
        more = len(self.jobs) - self._next_job
        lanes = self._lanes_for(rows, len(waiting[rows]) + more)
        pools = tuple(_POOL_ROWS for _ in self.engine.cache.static)
        self._fleet = Fleet(self.engine, Capacity(lanes, rows, pools))
        self._fleets += 1
        self._made.add((lanes, rows))
        self._wasted = self._last_lane_steps = 0
        return True

    def _target(self) -> int:
        per_device = LANES_PER_DEVICE.get(jax.default_backend(), 256)
        return self.options.lanes or per_device * self.engine.devices

    def _lanes_for(self, rows: _Rows, jobs: int) -> int:
        """Lanes of a fleet: no more than jobs (but few different numbers), and what fits.

        Raises:
          EngineError: if not even the fewest fit.
        """
        devices = self.engine.devices
        each = lane_bytes(self.engine, rows)
        free = self.options.memory_bytes or free_bytes(self.engine)
        fit = free // each
        target = max(1, self._target() // devices)
        if fit < 1 or (self.options.lanes is not None and target > fit):
            raise EngineError(
                f"{target if self.options.lanes else 1} lanes per device need "
                f"{each * (target if self.options.lanes else 1) / 2**20:,.0f} MiB of its memory "
                f"({each / 2**20:,.1f} MiB each), {free / 2**20:,.0f} MiB are free: {fit} lanes fit"
            )
        target = min(target, fit)
        per_device = 8
        while per_device < target and per_device * devices < jobs:
            per_device *= 4
        return min(per_device, target) * devices

    def _shrinks(self, fleet: Fleet) -> bool:
        """Whether what is left should move to a smaller fleet."""
        lanes, rows = fleet.capacity.lanes, fleet.capacity.rows
        smaller = self._lanes_for(rows, len(self._running))
        if smaller >= lanes:
            self._wasted = 0
            return False
        self._wasted += self._last_lane_steps * (lanes - smaller) // lanes
        known = (smaller, rows) in self._made
        return self._wasted > (_COMPILE_WORK >> 4 if known else _COMPILE_WORK)

    def _park(self, fleet: Fleet) -> None:
        """Moves every running job back to the queue."""
        lanes = list(self._running)
        for lane, sequence in zip(lanes, fleet.take(lanes), strict=True):
            running = self._running.pop(lane)
            running.left = fleet.left(lane)
            self._wait(running, sequence, fleet.capacity.rows)
        fleet.release(lanes)

    def _chunk_steps(self, fleet: Fleet) -> int:
        most = self.options.chunk or max(INNER, _CHUNK_WORK // fleet.capacity.lanes)
        return min(self._limit, most)

    def _patience(self, fleet: Fleet) -> int:
        """Stopped lanes of a device that end a chunk early."""
        per_device = fleet.capacity.lanes // self.engine.devices
        if self._next_job < len(self.jobs) or self._waiting.get(fleet.capacity.rows):
            return max(1, per_device // 32)
        return max(1, per_device // 8)

    # -- what chunks did ------------------------------------------------------------------

    def _settle(self, fleet: Fleet, chunk: Chunk) -> None:
        stopped = []
        for lane, running in self._running.items():
            running.steps += int(chunk.steps[lane])
            if lane in chunk.kept:
                tokens = self._whole(chunk.kept[lane])
                for number, data in outputs(tokens):
                    running.out[number - 1].extend(data)
                if self._on_tokens is not None:
                    running.tokens.append(tokens.astype(np.int16))
            if chunk.status[lane] not in (decode.RUNNING, PAUSED):
                stopped.append(lane)
        # Longer chunks if nothing happens, shorter ones if lanes stand idle in them.
        self._ahead = max(len(stopped), self._ahead // 2)
        idle = len(stopped) > max(1, fleet.capacity.lanes // 8)
        self._limit = max(64, self._limit // 2) if idle else min(1 << 16, self._limit * 2)
        moving = [lane for lane in stopped if self._moves(fleet, lane, chunk.status[lane])]
        for lane, sequence in zip(moving, fleet.take(moving), strict=True):
            running = self._running.pop(lane)
            running.left = fleet.left(lane)
            self._move(fleet, lane, chunk.status[lane], running, sequence)
        for lane in set(stopped) - set(moving):
            running = self._running.pop(lane)
            self._conclude(running, *self._outcome(fleet, lane, chunk.status[lane], running))
        fleet.release(stopped)

    def _whole(self, kept_NxE: np.ndarray) -> np.ndarray:
        tokens = np.zeros((len(kept_NxE), len(self.engine.weights.vocabulary)), np.int32)
        tokens[:, self.engine.emitted] = kept_NxE
        return tokens

    def _moves(self, fleet: Fleet, lane: int, status: int) -> bool:
        """Whether a stopped lane's sequence is still needed."""
        if status == decode.FULL:
            return True
        running = self._running[lane]
        if status != decode.STOPPED or not _returned(fleet.token(lane)):
            return False
        return bool(running.prepared.turns) or self._results_in_slots(running) > 0

    def _results_in_slots(self, running: Running) -> int:
        """Results of a call that do not fit the halting token."""
        job = self.jobs[running.index]
        if job.call is None:
            return 0
        types = running.prepared.lowered.exports[job.call].type.results
        return max(0, len(types) - 1)

    def _move(
        self, fleet: Fleet, lane: int, status: int, running: Running, sequence: Sequence
    ) -> None:
        if status == decode.FULL:
            self._wait(running, sequence, fleet.needs(lane))
        elif running.prepared.turns:
            tokens = self._preparer.next_turn(running.prepared, sequence)
            if self._on_tokens is not None:
                running.tokens.append(tokens.astype(np.int16))
            horizon = MAX_TOKENS - sequence.count
            if horizon < running.left:
                running.left, running.limited = horizon, False
            if running.left < 1:
                self._conclude(running, *self._out_of_steps(running))
                return
            self._wait(running, sequence, fleet.capacity.rows)
        else:
            lowered = running.prepared.lowered
            count = self._results_in_slots(running)
            addresses = lowered.program.stack_base + 1 + np.arange(count)
            values = read_values(
                WASM,
                lambda tokens: stored(self.engine.cache, sequence, tokens),
                "slot",
                addresses,
            )
            first = value_of(sequence.token)
            self._conclude(running, "return", (first, *map(int, values)))

    def _outcome(
        self, fleet: Fleet, lane: int, status: int, running: Running
    ) -> tuple[str, tuple[int, ...] | int | str | None]:
        """How a job ended, and what belongs to it."""
        if status == LIMITED:
            return self._out_of_steps(running)
        if status == decode.OUT_OF_RANGE:
            what = "a field's value lies outside its vocabulary (machine limit)"
            return "limit", f"token {fleet.count(lane)}: {what}"
        if status == decode.REFUSED:
            return "limit", f"token {fleet.count(lane)}: {fleet.problem(lane)}"
        token = fleet.token(lane)
        if token[_COLUMN["kind"]] == isa.KIND["trap"]:
            unsupported = running.prepared.lowered.program.unsupported
            return "trap", trap_message(int(token[_COLUMN["code"]]), unsupported)
        if not _returned(token):
            return "exit", value_of(token) & 0xFFFFFFFF
        if self.jobs[running.index].call is None:
            return "exit", 0
        return "return", (value_of(token),)

    def _out_of_steps(self, running: Running) -> tuple[str, str | None]:
        if running.limited:
            return "step limit", None
        return "limit", f"the sequence reached {MAX_TOKENS} tokens, the exact limit"

    def _conclude(
        self, running: Running, outcome: str, detail: tuple[int, ...] | int | str | None
    ) -> None:
        job = self.jobs[running.index]
        results = None
        if isinstance(detail, tuple):
            assert job.call is not None
            types = running.prepared.lowered.exports[job.call].type.results
            results = tuple(signed(v, t) for v, t in zip(detail, types, strict=False))
        result = JobResult(
            running.index,
            outcome,
            exit_code=detail if isinstance(detail, int) else None,
            results=results,
            trap=detail if outcome == "trap" and isinstance(detail, str) else None,
            error=detail if outcome == "limit" and isinstance(detail, str) else None,
            stdout=bytes(running.out[0]),
            stderr=bytes(running.out[1]),
            steps=running.steps,
            prompt_tokens=running.prepared.prompt_tokens,
            id=job.id,
        )
        self._finish(result)
        if self._on_tokens is not None:
            prompt = running.prepared.prompt
            assert prompt is not None
            none = np.zeros((0, prompt.shape[1]), np.int16)
            self._on_tokens(result, prompt, np.concatenate([none, *running.tokens]))

    def _finish(self, result: JobResult) -> None:
        self.results[result.index] = result
        self._done += 1


def _returned(token_F: np.ndarray) -> bool:
    """Whether a stop token is the return of what was invoked."""
    return token_F[_COLUMN["kind"]] == isa.KIND["halt"] and token_F[_COLUMN["code"]] == isa.RETURNED


def free_bytes(engine: LanesEngine) -> int:
    """Memory of a device that lanes may use: 80% of what is free."""
    device = engine.mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        # The devices of a CPU share the machine's memory.
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // engine.devices
    return free * 4 // 5
