#!/usr/bin/env python3
"""VM steps per second of one lane, early and late in a trace.

    .venv/bin/python scripts/bench_lane.py --late=5000000

Runs a loop that loads, stores, multiplies and branches for as long as asked, and the example
programs. Compilation and the first chunk are warm-up; every chunk is timed on its own (the host
waits for its token count), and median and quartiles are over chunks.
"""

import json
import pathlib
import platform
import statistics
import sys
import time

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


def measure(run: vm.Run, skip: int, chunks: int) -> dict[str, float]:
    """Steps per second over `chunks` chunks after `skip` steps (first chunk: warm-up)."""
    rates, seen, before = [], 0, 0
    start = time.perf_counter()
    for _ in run.tokens(None):
        now = time.perf_counter()
        seen, made = run.steps, run.steps - before
        if before >= skip and before > 0:
            rates.append(made / (now - start))
        if len(rates) >= chunks:
            break
        before, start = seen, time.perf_counter()
    # The last chunk of a program that ended is short and mostly overhead.
    rates = rates[:-1] if run.stopped and len(rates) > 1 else rates
    quartiles = statistics.quantiles(rates, n=4) if len(rates) > 1 else rates * 3
    return {
        "steps_per_s": statistics.median(rates),
        "q1": quartiles[0],
        "q3": quartiles[-1],
        "chunks": len(rates),
        "last_step": seen,
    }


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
    cases = [("loop", loop, [], 0)]
    if LATE.value:
        cases.append((f"loop at step {LATE.value:,}", loop, [], LATE.value))
    collatz = vm.load(EXAMPLES / "collatz.wasm")
    cases.append(("collatz 27", collatz, ["27"], 0))
    for name, module, args, skip in cases:
        row = measure(machine.start(module, [name, *args]), skip, CHUNKS.value)
        row = {"name": name, "engine": ENGINE.value, "cache": CACHE.value, **row}
        print(
            f"{name:24} {row['steps_per_s']:10,.0f} steps/s  (quartiles {row['q1']:,.0f} to "
            f"{row['q3']:,.0f}, {row['chunks']} chunks, last step {row['last_step']:,})",
            flush=True,
        )
        if JSONL.value:
            with open(JSONL.value, "a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"compilation: {machine.engine.compile_seconds:.2f} s")


if __name__ == "__main__":
    sys.exit(app.run(main))
