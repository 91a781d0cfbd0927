"""Continuous batching: lanes are refilled at chunk boundaries until every job is done.

Jobs that need more room than a fleet's lanes have wait for a fleet of the next capacity; a job that
outgrows its lane moves there. When few lanes are left running, they move to a smaller fleet. What a
job does depends on none of this: not on the lane, its neighbours, the chunks or the devices.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from wasmjax.batch.capacity import Capacities, Options, Rows
from wasmjax.batch.checkpoint import Snapshot
from wasmjax.batch.jobs import Job, JobResult
from wasmjax.batch.prepare import Prepared, Preparer
from wasmjax.batch.resume import entry, resumed
from wasmjax.batch.running import OnTokens, Running
from wasmjax.engine import decode
from wasmjax.engine.decode import MAX_TOKENS
from wasmjax.engine.fleet import Chunk, Fleet
from wasmjax.engine.lanes import INNER, PAUSED, LanesEngine
from wasmjax.engine.sequence import Sequence, stored
from wasmjax.host import Imports
from wasmjax.instance import asks_host

_CHUNK_WORK = 1 << 22
"""Most lane-steps of a chunk: about a second on a CPU."""
_STOPS = 24
"""A chunk is to end when 1/24 of the lanes have stopped: 2% idle on the average, and few chunks."""
_COMPILE_WORK = 1 << 22
"""Lane-steps that a compilation costs, about: a fleet is replaced by a smaller one after so many
were wasted by lanes that a smaller one would not have."""

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


class Scheduler:
    """Runs jobs to their ends.

    Args:
      engine: what runs them. jobs: the jobs. options: how.
      on_progress: called after every chunk.
      on_tokens: called when a job has run; the engine must keep all tokens.
      imports: functions of the host. program: digest of the program that the weights hold.

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
        on_tokens: OnTokens | None = None,
        imports: Imports | None = None,
        program: str = "",
    ) -> None:
        self.engine, self.jobs, self.options = engine, jobs, options or Options()
        self._capacities = Capacities(engine, self.options)
        self._on_progress, self._on_tokens = on_progress, on_tokens
        self._preparer = Preparer(engine.cache, on_tokens is not None, imports, program)
        self.results: dict[int, JobResult] = {}
        self.wanted = 0
        self._next_job = 0
        self._waiting: dict[Rows, collections.deque[tuple[Running, Sequence]]] = {}
        self._running: dict[int, Running] = {}
        self._fleet: Fleet | None = None
        self._last_steps, self._ahead = INNER, 1
        self._stop_rate: float | None = None  # lanes per step, averaged
        self._made: set[tuple[int, Rows]] = set()
        self._wasted = self._last_lane_steps = 0
        self._started = time.perf_counter()
        self._compiled_before = engine.compile_seconds
        self._steps = self._lane_steps = self._fleets = self._done = self._before = 0

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
        if not queue and (not self._running or self._shrinks(fleet)):
            self._park(fleet)
            # Its memory is wanted for the next one.
            del fleet
            self._fleet = None
            return self._refill()
        batch = [queue.popleft() for _ in range(min(len(fleet.free), len(queue)))] if queue else []
        if batch:
            lanes = fleet.admit([(sequence, running.left) for running, sequence in batch])
            self._running |= {lane: r for lane, (r, _) in zip(lanes, batch, strict=True)}
        return fleet

    def _fetch(self, rows: Rows | None, wanted: int) -> None:
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
        running = Running.new(index, job, prepared)
        if running.left < 1:
            error = f"a prompt of {prepared.prompt_tokens} tokens; the limit is {MAX_TOKENS}"
            self._finish(JobResult(index, "refused", error=error, id=job.id))
            return
        self._wait(running, prepared.sequence)

    def _wait(self, running: Running, sequence: Sequence, needs: Many[int] = ()) -> None:
        """Queues a sequence for lanes of its capacity."""
        rows = self._capacities.rows(sequence.rows_needed(), needs)
        self._waiting.setdefault(rows, collections.deque()).append((running, sequence))

    # -- snapshots ------------------------------------------------------------------------

    def snapshot(self, identity: str, extra: Any = None) -> Snapshot:
        """Where every job is, between two chunks (see `checkpoint.Snapshot`)."""
        going, fresh = [], []
        if self._fleet is not None:
            lanes = list(self._running)
            for lane, sequence in zip(lanes, self._fleet.take(lanes), strict=True):
                rows = self._fleet.capacity.rows
                going.append((self._running[lane], self._fleet.left(lane), sequence, rows))
        for rows, queue in self._waiting.items():
            for running, sequence in queue:
                if not running.begun:
                    fresh.append(running.index)
                else:
                    going.append((running, running.left, sequence, rows))
        return Snapshot(
            identity,
            self._next_job,
            sorted(fresh),
            [entry(*job) for job in going],
            [self.results[index].to_json() for index in sorted(self.results)],
            self.wanted,
            {"steps": self._steps, "lane_steps": self._lane_steps, "done": self._done},
            extra,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot of the same jobs. To be called first.

        Raises:
          JobError: if a job that has begun cannot be prepared any more.
        """
        self._next_job, self.wanted = snapshot.next_job, snapshot.wanted
        self._steps, self._lane_steps = (snapshot.counters[k] for k in ("steps", "lane_steps"))
        self._done = snapshot.counters["done"]
        self._before = self._steps
        results = map(JobResult.from_json, snapshot.results)
        self.results = {result.index: result for result in results}
        prepared = self._preparer.prepare([self.jobs[saved.index] for saved in snapshot.entries])
        for saved, again in zip(snapshot.entries, prepared, strict=True):
            running, sequence = resumed(saved, self.jobs[saved.index], again)
            self._wait(running, sequence, saved.arrays["room"].tolist())
        fresh = self._preparer.prepare([self.jobs[index] for index in snapshot.fresh])
        for index, again in zip(snapshot.fresh, fresh, strict=True):
            self._enqueue(index, self.jobs[index], again)

    # -- fleets ---------------------------------------------------------------------------

    def _new_fleet(self) -> bool:
        """Makes a fleet for the smallest capacity that is waited for; whether there is one."""
        self._fetch(None, self._capacities.target)
        waiting = {rows: queue for rows, queue in self._waiting.items() if queue}
        if not waiting:
            return False
        rows = min(waiting)
        more = len(self.jobs) - self._next_job
        capacity = self._capacities.fleet(rows, len(waiting[rows]) + more)
        self._fleet = Fleet(self.engine, capacity)
        self._fleets += 1
        self._made.add((capacity.lanes, rows))
        self._wasted = self._last_lane_steps = 0
        return True

    def _shrinks(self, fleet: Fleet) -> bool:
        """Whether what is left should move to a smaller fleet."""
        lanes, rows = fleet.capacity.lanes, fleet.capacity.rows
        smaller = self._capacities.lanes(rows, len(self._running))
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
        """Steps of the next chunk: until about 1/_STOPS of the lanes have stopped.

        Devices wait for each other after a chunk, so that its length, not the first device with
        enough stopped lanes, should end it.
        """
        most = self.options.chunk or max(INNER, _CHUNK_WORK // fleet.capacity.lanes)
        target = fleet.capacity.lanes / _STOPS
        wanted = target / self._stop_rate if self._stop_rate else 4 * self._last_steps
        return int(min(max(INNER, wanted), 4 * self._last_steps, most))

    def _patience(self, fleet: Fleet) -> int:
        """Stopped lanes of a device that end a chunk early."""
        return max(1, fleet.capacity.lanes // self.engine.devices // 8)

    # -- what chunks did ------------------------------------------------------------------

    def _settle(self, fleet: Fleet, chunk: Chunk) -> None:
        """Takes note of steps and output, and deals with the lanes that stopped."""
        keep = self._on_tokens is not None
        for lane, running in self._running.items():
            kept = chunk.kept.get(lane)
            tokens = None if kept is None else self._whole(kept)
            running.make(int(chunk.steps[lane]), tokens, keep)
        status = {lane: int(chunk.status[lane]) for lane in self._running}
        stopped = [lane for lane, s in status.items() if s not in (decode.RUNNING, PAUSED)]
        self._ahead = max(len(stopped), self._ahead // 2)
        self._last_steps = max(INNER, chunk.lane_steps // fleet.capacity.lanes)
        rate = len(stopped) / self._last_steps
        self._stop_rate = rate if self._stop_rate is None else (3 * self._stop_rate + rate) / 4
        going_on = [
            lane for lane in stopped if self._running[lane].goes_on(status[lane], fleet.token(lane))
        ]
        for lane, sequence in zip(going_on, fleet.take(going_on), strict=True):
            running = self._running.pop(lane)
            running.left = fleet.left(lane)
            needs = fleet.needs(lane) if status[lane] == decode.FULL else fleet.capacity.rows
            self._go_on(running, sequence, status[lane], needs)
        for lane in stopped:
            if lane in self._running:
                running = self._running.pop(lane)
                self._conclude(running, running.result(fleet, lane, status[lane]))
        fleet.release(stopped)

    def _go_on(self, running: Running, sequence: Sequence, status: int, needs: Many[int]) -> None:
        """Queues a sequence for more room, the host's answer or its next invocation, or reads its
        results."""
        asks = status != decode.FULL and asks_host(sequence.token)
        if asks or (status != decode.FULL and running.prepared.turns):
            feed = self._preparer.answer if asks else self._preparer.next_turn
            try:
                tokens = feed(running.prepared, sequence)
            except Exception as error:  # whatever the host's function raises is its job's result
                if not asks:
                    raise
                self._conclude(running, running.failed(error))
                return
            running.turn(tokens, sequence.count, self._on_tokens is not None)
            if running.left < 1:
                self._conclude(running, running.out_of_steps())
                return
        elif status != decode.FULL:
            cache = self.engine.cache
            result = running.several_results(
                sequence.token, lambda tokens: stored(cache, sequence, tokens)
            )
            self._conclude(running, result)
            return
        self._wait(running, sequence, needs)

    def _whole(self, kept_NxE: np.ndarray) -> np.ndarray:
        tokens = np.zeros((len(kept_NxE), len(self.engine.weights.vocabulary)), np.int32)
        tokens[:, self.engine.emitted] = kept_NxE
        return tokens

    def _conclude(self, running: Running, result: JobResult) -> None:
        self._finish(result)
        if self._on_tokens is not None:
            prompt = running.prepared.prompt
            assert prompt is not None
            none = np.zeros((0, prompt.shape[1]), np.int16)
            self._on_tokens(result, prompt, np.concatenate([none, *running.tokens]))

    def _finish(self, result: JobResult) -> None:
        self.results[result.index] = result
        self._done += 1


__all__ = ["Options", "Progress", "Scheduler"]
