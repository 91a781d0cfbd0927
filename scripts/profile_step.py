#!/usr/bin/env python3
"""Where a step's time goes: every kernel of the compiled step, timed by JAX's profiler.

    .venv/bin/python scripts/profile_step.py --lanes=256
    .venv/bin/python scripts/profile_step.py --lanes=0        # the step of one lane alone

Prints kernels by kind and the longest ones: nanoseconds per lane and step, a low percentile over
steps, so that what else the machine does counts little. Timing adds a fraction of a microsecond to
a kernel; the rate without it comes first. Kernels that XLA spreads over threads are named: on a CPU
that costs more than it brings. One device; a CPU's names of kernels.
"""

import collections
import dataclasses
import os
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import app, flags
from lane_rates import Lanes, mix

import wasmjax
from wasmjax.engine.lanes import make_mesh

LANES = flags.DEFINE_integer("lanes", 256, "Lanes; 0: the one-lane engine.")
STEPS = flags.DEFINE_integer("steps", 128, "Steps that are profiled.")
TOP = flags.DEFINE_integer("top", 12, "Longest kernels to print.")
HLO = flags.DEFINE_string("hlo", "", "Write the compiled step's HLO here.")

PERCENTILE = 20


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of the step.

    Attributes:
      name, shape: in the HLO. kind: what it does. ns: per lane and step. spread: over threads.
    """

    name: str
    shape: str
    kind: str
    ns: float
    spread: bool


def one_lane() -> tuple[Callable[[int], int], Callable[[], str]]:
    """A function that makes steps, and one that returns the compiled step's HLO."""
    machine = wasmjax.Machine(chunk=STEPS.value)
    job = mix()[2]
    run = machine.start(wasmjax.load(str(job.module)), ["program", *job.args], stdin=job.stdin)
    stream = run.tokens(None)

    def steps(count: int) -> int:
        before = run.steps
        while run.steps < before + count:
            next(stream)
        return run.steps - before

    return steps, lambda: _largest(machine.engine.compiled_text("chunk"))


def many_lanes(lanes: int) -> tuple[Callable[[int], int], Callable[[], str]]:
    """As `one_lane`, for lanes on one device."""
    engine = wasmjax.Machine().lanes_engine(make_mesh(jax.devices()[:1]))
    jobs = mix()
    ready = Lanes(engine, [jobs[k % len(jobs)] for k in range(lanes)], STEPS.value)
    return lambda count: ready(), lambda: _largest(engine.compiled_text("chunk"))


def _largest(texts: list[str]) -> str:
    return max(texts, key=len)


def events(folder: str) -> Iterator[tuple[str, float]]:
    """(name, nanoseconds) of what the profiler saw."""
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                yield event.name, event.duration_ns


def kernels(folder: str, hlo: str, steps: int, lanes: int) -> list[Kernel]:
    """Kernels that ran once per step."""
    times: dict[str, list[float]] = collections.defaultdict(list)
    for name, duration in events(folder):
        times[name].append(duration)
    found = []
    for match in re.finditer(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\S+) (\w[\w\-]*)\(.*$", hlo, re.M):
        name, shape, operation = match.groups()
        if len(times.get(name, ())) != steps:
            continue
        ns = float(np.percentile(times[name], PERCENTILE)) / lanes
        spread = "outer_dimension_partitions" in match.group(0)
        found.append(Kernel(name, shape.split("{")[0], _kind(name, operation, shape), ns, spread))
    return found


def _kind(name: str, operation: str, shape: str) -> str:
    if "scatter" in name or operation == "scatter":
        return "scatters"
    if name.startswith("copy") or operation == "copy":
        return "copies"
    if operation in ("concatenate", "gather") or "gather" in name or name.startswith("concat"):
        return "gathers, concatenations"
    if shape.startswith("u32[") and "dynamic-update-slice" in name:
        return "gathers from caches and tables"
    sums = ("multiply", "add_dynamic", "maximum_dynamic", "maximum_bitcast", "add_bitcast")
    if shape.startswith("f32[") and (name.startswith(sums) or "add_fusion" in name):
        return "sums and neurons"
    if shape.startswith("f32["):
        return "unpacking, embedding, moves"
    return "integers: acceptance, bounds, tokens"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError("no arguments are expected")
    lanes = max(1, LANES.value)
    steps, hlo_of = many_lanes(LANES.value) if LANES.value else one_lane()
    for _ in range(3):
        steps(STEPS.value)
    rates = []
    for _ in range(9):
        begun = time.perf_counter()
        made = steps(STEPS.value)
        rates.append(made / (time.perf_counter() - begun))
    rate = statistics.median(rates)
    print(f"{lanes} lane(s): {rate:,.0f} steps/s, {1e9 / rate:,.0f} ns per lane and step")
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps(STEPS.value)
        hlo = hlo_of()
        found = kernels(folder, hlo, STEPS.value, lanes)
    if HLO.value:
        pathlib.Path(HLO.value).write_text(hlo)
    print(f"{len(found)} kernels, {sum(k.ns for k in found):,.0f} ns while profiled\n")
    kinds: dict[str, list[float]] = collections.defaultdict(list)
    for kernel in found:
        kinds[kernel.kind].append(kernel.ns)
    print("| kind | kernels | ns |\n|---|---|---|")
    for kind, ns in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        print(f"| {kind} | {len(ns)} | {sum(ns):,.0f} |")
    print("\n| kernel | result | ns |\n|---|---|---|")
    for kernel in sorted(found, key=lambda k: -k.ns)[: TOP.value]:
        print(f"| {kernel.name} | {kernel.shape} | {kernel.ns:,.1f} |")
    for kernel in found:
        if kernel.spread:
            print(f"\n{kernel.name}, {kernel.shape}, is spread over threads.")


if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "1")  # as `wasmjax` sets it
    app.run(main)
