#!/usr/bin/env python3
"""VM steps per second of one lane, early and late in a trace.

    .venv/bin/python scripts/bench_lane.py --late=5000000

Runs a loop that loads, stores, multiplies and branches for as long as asked, and the example
programs. Compilation and the first chunk are warm-up; every chunk is timed on its own (the host
waits for its token count), and median and quartiles are over chunks.
"""

import json
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import jax
import wasmtime
from absl import app, flags

from wasmjax import vm

ENGINE = flags.DEFINE_enum("engine", "packed", ["packed", "dense"], "Engine.")
CACHE = flags.DEFINE_enum("cache", "indexed", ["indexed", "softmax"], "KV cache.")
CHUNK = flags.DEFINE_integer("chunk", 8192, "Steps per call on the device.")
LATE = flags.DEFINE_integer("late", 0, "Also measure the loop around this step.")
CHUNKS = flags.DEFINE_integer("chunks", 24, "Chunks timed per measurement.")
JSONL = flags.DEFINE_string("jsonl", "", "Append raw results to this file.")

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"

LOOP = """
(module
  (memory 1)
  (func (export "_start") (local $i i32) (local $x i32)
    (loop $again
      (local.set $x (i32.mul (i32.add (local.get $x) (local.get $i)) (i32.const 1664525)))
      (i32.store (i32.and (local.get $x) (i32.const 0xfffc)) (local.get $i))
      (local.set $x (i32.xor (local.get $x)
        (i32.load offset=1 (i32.and (local.get $i) (i32.const 0xfff0)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $again))))
"""


PROGRAMS = [
    ("collatz", ["27"], b""),
    (
        "sudoku",
        [],
        b"8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..\n",
    ),
    ("sha256", ["100"], b"abc"),
]


def timed_chunk(chunks: Iterator[object], run: vm.Run) -> float:
    """Steps per second of the next chunk."""
    before, start = run.steps, time.perf_counter()
    next(chunks)
    return (run.steps - before) / (time.perf_counter() - start)


def summary(rates: list[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(rates, n=4)
    return {"steps_per_s": statistics.median(rates), "q1": quartiles[0], "q3": quartiles[-1]}


def measure(run: vm.Run, chunks: int) -> dict[str, float]:
    """Steps per second over up to `chunks` full chunks after the first (warm-up)."""
    stream, rates = run.tokens(None), []
    timed_chunk(stream, run)
    while len(rates) < chunks:
        rate = timed_chunk(stream, run)
        if run.stopped:  # the last chunk is short and mostly overhead
            break
        rates.append(rate)
    return {**summary(rates), "chunks": len(rates), "last_step": run.steps}


def early_and_late(
    start: Callable[[], vm.Run], late_step: int, chunks: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The same program around step 10,000 and around `late_step`, chunk by chunk in turn."""
    late = start()
    late_stream = late.tokens(None)
    peak = 0
    while late.steps < late_step:
        next(late_stream)
        if not peak and late.steps >= late_step // 10:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"\r  {late.steps:,} of {late_step:,} steps", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    early_rates, late_rates = [], []
    early = None
    for _ in range(chunks):
        if early is None or early.steps > 100_000:
            early = start()
            early_stream = early.tokens(None)
            timed_chunk(early_stream, early)
        early_rates.append(timed_chunk(early_stream, early))
        late_rates.append(timed_chunk(late_stream, late))
    rows = [summary(early_rates), summary(late_rates)]
    for row, run in zip(rows, (early, late), strict=True):
        row |= {"chunks": chunks, "last_step": run.steps}
    rows[1]["peak_mib_at_a_tenth"] = peak / 1024
    rows[1]["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows[1]["late_over_early"] = statistics.median(
        late / early for early, late in zip(early_rates, late_rates, strict=True)
    )
    return rows[0], rows[1]


def main(argv: list[str]) -> None:
    del argv
    machine = vm.Machine(ENGINE.value, CACHE.value, chunk=CHUNK.value)
    weights = machine.engine.weights
    layers, heads, width, ffn = weights.shape
    parameters, nonzero = weights.count()
    plan = getattr(machine.engine.step, "plan", None)
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(
        f"{layers} layers, d_model {width}, {heads} heads, d_ff {ffn}: {parameters:,} parameters, "
        f"{nonzero:,} non-zero; terms per packed step: {plan.count_terms() if plan else '-'}"
    )
    loop = vm.load(bytes(wasmtime.wat2wasm(LOOP)))
    rows = [("loop", measure(machine.start(loop, ["loop"]), CHUNKS.value))]
    for name, args, stdin in PROGRAMS:
        module = vm.load(EXAMPLES / f"{name}.wasm")
        run = machine.start(module, [name, *args], stdin=stdin)
        rows.append((" ".join([name, *args]), measure(run, CHUNKS.value)))
    if LATE.value:
        early, late = early_and_late(
            lambda: machine.start(loop, ["loop"]), LATE.value, CHUNKS.value
        )
        rows += [("loop near step 10,000", early), (f"loop near step {LATE.value:,}", late)]
    for name, row in rows:
        print(
            f"{name:26} {row['steps_per_s']:10,.0f} steps/s  (quartiles {row['q1']:,.0f} to "
            f"{row['q3']:,.0f}, {row['chunks']} chunks, last step {row['last_step']:,})"
        )
        if JSONL.value:
            record = {"name": name, "engine": ENGINE.value, "cache": CACHE.value, **row}
            with open(JSONL.value, "a") as file:
                file.write(json.dumps(record) + "\n")
    if LATE.value:
        print(f"late over early, median of pairs in turn: {late['late_over_early']:.3f}")
        print(
            f"peak memory: {late['peak_mib_at_a_tenth']:,.0f} MiB at a tenth of the way, "
            f"{late['peak_mib']:,.0f} MiB in the end"
        )
    print(f"compilation: {machine.engine.compile_seconds:.2f} s")


if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "1")  # as `wasmjax` sets it
    sys.exit(app.run(main))
