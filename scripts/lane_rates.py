"""Many lanes timed chunk by chunk: the engine, and the plain interpreter on the same programs.

For benchmarks: `Lanes` and `Plain` are what takes steps, `in_turn` times them alternately, since
machines change their pace.
"""

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import plain_interpreter
from jax.sharding import NamedSharding, PartitionSpec

from wasmjax.batch.capacity import Capacities, Options
from wasmjax.batch.jobs import Job
from wasmjax.batch.prepare import Prepared, Preparer
from wasmjax.engine.decode import MAX_TOKENS
from wasmjax.engine.fleet import Capacity, Fleet, lane_bytes
from wasmjax.engine.lanes import AXIS, LanesEngine, compiler_options

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
SUDOKU = b"8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..\n"
MIX = (
    ("collatz", ("27",), b""),
    ("sudoku", (), SUDOKU),
    ("sha256", ("100",), b"abc"),
    ("queens", ("8",), b""),
    ("life", ("100",), b""),
    ("bytecode", ("100",), b""),
    ("quicksort", ("7", "1000"), b""),
    ("fibonacci", ("1000",), b""),
)


def mix() -> list[Job]:
    """The examples' mix; every one of them makes 70,000 steps or more."""
    return [Job(EXAMPLES / f"{name}.wasm", args, stdin) for name, args, stdin in MIX]


WARM_UP = 2
"""Chunks before those that count."""


class Lanes:
    """Jobs on lanes, a lane each, about to begin.

    Attributes:
      prepared: the jobs. rows: rows of every rewritable family. bytes: memory of a lane.
    """

    def __init__(self, engine: LanesEngine, jobs: Sequence[Job], steps: int) -> None:
        found = Preparer(engine.cache).prepare(jobs)
        self.prepared = [p for p in found if isinstance(p, Prepared)]
        if len(self.prepared) < len(jobs):
            raise ValueError(next(p for p in found if not isinstance(p, Prepared)))
        capacities = Capacities(engine, Options())
        needed = [capacities.rows(p.sequence.rows_needed()) for p in self.prepared]
        self.rows = tuple(map(max, zip(*needed, strict=True)))
        self._fleet = Fleet(engine, Capacity(len(jobs), self.rows, self._pools(engine)))
        self._fleet.admit([(p.sequence, MAX_TOKENS - p.sequence.count) for p in self.prepared])
        self.jobs, self.steps, self.bytes = jobs, steps, lane_bytes(engine, self.rows)

    def _pools(self, engine: LanesEngine) -> tuple[int, ...]:
        """Rows for the segments of all jobs; equal ones are stored once."""
        out = []
        for index in range(len(engine.cache.static)):
            sizes = {
                p.sequence.segments[index].words.tobytes(): len(p.sequence.segments[index].words)
                for p in self.prepared
            }
            out.append(1 << (sum(sizes.values()) + 1).bit_length())
        return tuple(out)

    def __call__(self) -> int:
        """A chunk of steps; returns how many were made."""
        self._fleet.start(self.steps, len(self.prepared))
        return int(self._fleet.finish().steps.sum())


class Plain:
    """The same jobs in the plain interpreter (`plain_interpreter`), in one of its variants."""

    def __init__(self, engine: LanesEngine, lanes: Lanes, how: str) -> None:
        keys = [(str(j.module), tuple(j.args), j.stdin, j.fuse) for j in lanes.jobs]
        jobs = dict(zip(keys, lanes.prepared, strict=True))
        which = np.array([list(jobs).index(key) for key in keys])
        mesh = engine.mesh
        with jax.enable_x64(True):
            programs = [p.lowered.program for p in jobs.values()]
            code = plain_interpreter.pack(programs)
            whole, sharded = PartitionSpec(), PartitionSpec(AXIS)
            names = ("instructions", "immediates", "table", "inputs")
            self._code = {
                name: jax.device_put(jnp.asarray(getattr(code, name)), NamedSharding(mesh, whole))
                for name in names
            }
            first = [
                plain_interpreter.initial(
                    p.lowered.program, start, p.lowered.exports["_start"], 1024, 8 * lanes.rows[1]
                )
                for p, start in zip(jobs.values(), code.starts, strict=True)
            ]
            for lane in first:
                lane["output"], lane["n_output"] = np.zeros(257, np.int32), np.int32(0)
            self._state = {
                name: jax.device_put(
                    np.stack([lane[name] for lane in first])[which], NamedSharding(mesh, sharded)
                )
                for name in first[0]
            }
            run = functools.partial(plain_interpreter.run_chunk, steps=lanes.steps, how=how)
            mapped = jax.shard_map(
                run, mesh=mesh, in_specs=(whole, sharded), out_specs=sharded, check_vma=False
            )
            jitted = jax.jit(mapped, donate_argnums=1).lower(self._code, self._state)
            self._chunk = jitted.compile(compiler_options=compiler_options(mesh))

    def __call__(self) -> int:
        """A chunk of steps; returns how many were made."""
        with jax.enable_x64(True):
            steps = self._state["steps"]
            before = int(np.asarray(steps).sum())
            empty = np.zeros(len(steps), np.int32)
            self._state["n_output"] = jax.device_put(empty, steps.sharding)
            self._state = jax.block_until_ready(self._chunk(self._code, self._state))
            return int(np.asarray(self._state["steps"]).sum()) - before


def in_turn(timed: Mapping[str, "Lanes | Plain"], chunks: int) -> dict[str, list[float]]:
    """Steps per second of so many chunks each."""
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(WARM_UP + chunks):
        for name, chunk in timed.items():
            begun = time.perf_counter()
            steps = chunk()
            if number >= WARM_UP:
                rates[name].append(steps / (time.perf_counter() - begun))
    return rates
