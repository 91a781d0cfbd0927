"""VM steps per second of many lanes, beside a plain JAX interpreter, and of a whole job list.

    .venv/bin/python scripts/bench_batch.py --lanes=64,256,512 --jobs=3000

Part 1 fills lanes with the example programs and times chunks of steps; in turn with them, chunks of
a plain vmapped interpreter (scripts/plain_interpreter.py, both of its variants) with as many lanes
on as many devices. Compilation and the first chunks are warm-up; median and quartiles are over
chunks, ratios over medians. Part 2 runs a list of jobs whose lengths span three orders of magnitude
(uniform in the logarithm) and reports steps per second and the share of useful lane-steps.
"""

import json
import os

import jax
import numpy as np
from absl import app, flags
from lane_rates import EXAMPLES, SUDOKU, Lanes, Plain, in_turn, mix

import wasmjax
from wasmjax.batch.capacity import Options
from wasmjax.batch.jobs import Job
from wasmjax.batch.schedule import Progress, Scheduler
from wasmjax.engine.lanes import LanesEngine

_LANES = flags.DEFINE_list("lanes", ["32", "128", "256", "512"], "Lanes in all, several.")
_CHUNK = flags.DEFINE_integer("chunk", 512, "Steps per chunk.")
_CHUNKS = flags.DEFINE_integer("chunks", 12, "Chunks timed per measurement.")
_JOBS = flags.DEFINE_integer("jobs", 3000, "Jobs of the list; 0: leave part 2 out.")
_BATCH_LANES = flags.DEFINE_integer("batch_lanes", None, "Lanes of part 2; None: the default.")
_DEVICES = flags.DEFINE_integer("cpu_devices", None, "Devices a CPU is split into; None: cores.")
_PLAIN = flags.DEFINE_bool("plain", True, "Whether to time the plain interpreter too.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError("no arguments are expected")
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", _DEVICES.value or os.cpu_count() or 1)
    vm = wasmjax.Machine()
    engine = vm.lanes_engine()
    print(f"{engine.devices} device(s): {jax.devices()[0].device_kind}")
    for lanes in map(int, _LANES.value):
        lanes_rates(engine, lanes)
    print(f"compilation: {engine.compile_seconds:.2f} s for {engine.compilations} functions")
    if _JOBS.value:
        job_list(engine)


# -- part 1 -----------------------------------------------------------------------------------


def lanes_rates(engine: LanesEngine, lanes: int) -> None:
    """Times chunks of the engine and of the plain interpreter, in turn."""
    jobs = mix()
    ready = Lanes(engine, [jobs[k % len(jobs)] for k in range(lanes)], _CHUNK.value)
    timed: dict[str, Lanes | Plain] = {"transformer": ready}
    if _PLAIN.value:
        timed |= {f"plain, {how}": Plain(engine, ready, how) for how in ("switch", "select")}
    rates = in_turn(timed, _CHUNKS.value)
    for name, values in rates.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        print(
            f"{lanes:6,} lanes  {name:16} {middle:14,.0f} steps/s "
            f"(quartiles {low:,.0f} to {high:,.0f})"
        )
    if _PLAIN.value:
        plain = max(np.median(rates[name]) for name in rates if name != "transformer")
        print(f"{lanes:6,} lanes  ratio to plain    {plain / np.median(rates['transformer']):.1f}")
    print(f"{lanes:6,} lanes  memory per lane   {ready.bytes / 1024:,.0f} KiB")


# -- part 2 -----------------------------------------------------------------------------------


def varied(count: int, seed: int = 0) -> list[Job]:
    """Jobs of 200 to 200,000 steps, uniform in the logarithm, over the examples' mix."""
    rng = np.random.default_rng(seed)
    limits = np.rint(200 * 10 ** rng.uniform(0, 3, count)).astype(int)
    endless = [
        Job(EXAMPLES / "sudoku.wasm", (), SUDOKU * 8),
        Job(EXAMPLES / "sha256.wasm", ("100",), b"abc"),
        Job(EXAMPLES / "collatz.wasm", ("837799",), b""),
        Job(EXAMPLES / "queens.wasm", ("11",), b""),
        Job(EXAMPLES / "life.wasm", ("2000",), b""),
        Job(EXAMPLES / "bytecode.wasm", ("5000",), b""),
    ]
    out = []
    for number, limit in enumerate(limits):
        job = endless[number % len(endless)]
        out.append(Job(job.module, job.args, job.stdin, max_steps=int(limit)))
    return out


def job_list(engine: LanesEngine) -> None:
    """Runs the list and prints what it took."""
    last: list[Progress] = []
    jobs = varied(_JOBS.value)
    scheduler = Scheduler(engine, jobs, Options(lanes=_BATCH_LANES.value), last.append)
    steps = np.array([result.steps for result in scheduler.run()])
    progress = scheduler.progress()
    print(
        f"{len(jobs):,} jobs of {steps.min():,} to {steps.max():,} steps (median "
        f"{np.median(steps):,.0f}) on {max(p.lanes for p in last)} lanes: {progress.steps:,} steps "
        f"in {progress.seconds:.1f} s, {progress.rate:,.0f} steps/s, {progress.useful:.1%} of "
        f"lane-steps useful, compilation {progress.compile_seconds:.1f} s"
    )
    print(json.dumps({"useful": progress.useful, "steps_per_second": progress.rate}))


if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "1")  # as `wasmjax` sets it
    app.run(main)
