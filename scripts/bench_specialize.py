#!/usr/bin/env python3
"""Programs folded into the weights against the universal machine: size, and steps per second.

    .venv/bin/python scripts/bench_specialize.py [EXAMPLE...]

Both machines run the same steps in turn, chunk by chunk, in one process.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence

from wasmjax import vm
from wasmjax.machine.specialize import specialize
from wasmjax.model.transformer import Transformer
from wasmjax.wasm.lower import lower

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
PROGRAMS = ("collatz", "sudoku", "sha256", "hello")
ARGS = {"collatz": ["27"], "sha256": ["100"]}
CHUNK, CHUNKS = 4096, 10


def rates(machines: Sequence[vm.Machine], module: object, argv: list[str]) -> list[float]:
    """Median steps per second of each machine, chunks in turn."""
    runs = [machine.start(module, argv) for machine in machines]  # type: ignore[arg-type]
    streams = [run.tokens(None) for run in runs]
    out: list[list[float]] = [[] for _ in runs]
    for number in range(CHUNKS + 1):
        for run, stream, found in zip(runs, streams, out, strict=True):
            if run.stopped:
                continue
            before, start = run.steps, time.perf_counter()
            next(stream, None)
            if number and not run.stopped:  # the first chunk is warm-up, the last one short
                found.append((run.steps - before) / (time.perf_counter() - start))
    return [statistics.median(found) if found else float("nan") for found in out]


def terms(machine: vm.Machine) -> int:
    """Weighted terms of a packed step."""
    return machine.engine.step.plan.count_terms()  # type: ignore[union-attr]


def row(name: str, universal: vm.Machine) -> str:
    """A line of the table."""
    module = vm.load(EXAMPLES / f"{name}.wasm")
    argv = [name, *ARGS.get(name, [])]
    code = lower(module, args=argv).program.instructions
    start = time.perf_counter()
    built = specialize(code)
    seconds = time.perf_counter() - start
    folded = vm.Machine(model=Transformer(built.weights), names=built.names, chunk=CHUNK)
    layers, heads, width, ffn = built.weights.shape
    parameters, nonzero = built.weights.count()
    prompts = [len(m.start(module, argv).prompt) for m in (universal, folded)]
    fast = rates([universal, folded], module, argv)
    both = "too short" if fast[0] != fast[0] else f"{fast[1]:,.0f} of {fast[0]:,.0f}"
    return (
        f"| {name} | {len(code):,} | {seconds:.1f} s | {layers}, {heads}, {width}, {ffn:,} | "
        f"{parameters / 1e6:.1f} M, {nonzero:,} | {terms(folded):,} | "
        f"{prompts[1]:,} of {prompts[0]:,} | {both} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("examples", nargs="*", default=PROGRAMS, metavar="EXAMPLE")
    args = parser.parse_args(argv)
    universal = vm.Machine(chunk=CHUNK)
    layers, heads, width, ffn = universal.engine.weights.shape
    parameters, nonzero = universal.engine.weights.count()
    print(
        "| program | instructions | folded in | layers, heads, d_model, d_ff "
        "| parameters, non-zero | terms a step | prompt | steps/s |\n" + "|---" * 8 + "|"
    )
    print(
        f"| universal | any | | {layers}, {heads}, {width}, {ffn:,} | "
        f"{parameters / 1e6:.1f} M, {nonzero:,} | {terms(universal):,} | | |"
    )
    for name in args.examples:
        print(row(name, universal), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "1")  # as `wasmjax` sets it
    sys.exit(main())
