#!/usr/bin/env python3
"""Time per step of the three KV caches against the length of the trace and the addresses in use.

    .venv/bin/python scripts/bench_caches.py --jsonl=caches.jsonl --plot=caches.png

One program, a loop that loads, stores and multiplies, is run with the indexed and the hull cache to
the end of the longest trace, and timed on the way; their tokens are compared. Softmax attention
starts from the same tokens at every length. Steps are timed chunk by chunk after a warm-up, in turn
with chunks of a short trace of the same cache, since machines change their pace: growth is the
median ratio of such pairs. The plot needs matplotlib (extra `bench`).
"""

import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
import wasmtime
from absl import app, flags

from wasmjax import vm
from wasmjax.engine.decode import Session

LENGTHS = flags.DEFINE_list(
    "lengths", ["1000", "10000", "40000", "100000", "1000000"], "Tokens at which to time."
)
FAR = flags.DEFINE_integer("far", 10_000_000, "The indexed cache alone goes on to here.")
SOFTMAX = flags.DEFINE_integer("softmax", 100_000, "Longest trace for the softmax cache.")
CHUNKS = flags.DEFINE_integer("chunks", 12, "Chunks timed per point.")
JSONL = flags.DEFINE_string("jsonl", "", "Append the points to this file.")
PLOT = flags.DEFINE_string("plot", "", "Write a log-log PNG here.")

CHUNK = {"indexed": 4096, "hull": 512, "softmax": 8}
"""Steps timed together."""
MASKS = (0x3C, 0x3FC, 0x3FFC, 0x3FFFC)
"""Addresses that the loop uses, as masks of a byte address."""
DEFAULT_MASK = 0x3FFC

LOOP = """
(module
  (memory 5)
  (func (export "_start") (local $i i32) (local $x i32)
    (loop $again
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1664525)) (i32.const 1013904223)))
      (i32.store (i32.and (i32.shr_u (local.get $x) (i32.const 8)) (i32.const {mask}))
        (local.get $i))
      (local.set $x (i32.xor (local.get $x)
        (i32.load (i32.and (i32.shl (local.get $i) (i32.const 2)) (i32.const {mask})))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $again))))
"""


def start(machine: vm.Machine, mask: int) -> vm.Run:
    """The loop, about to begin."""
    return machine.start(vm.load(bytes(wasmtime.wat2wasm(LOOP.format(mask=mask)))), ["loop"])


Chunks = Iterator[tuple[int, np.ndarray]]


class Short:
    """Chunks of a short trace of a cache, again and again."""

    def __init__(self, machine: vm.Machine, most: int) -> None:
        self.machine, self.most = machine, most
        self._restart()

    def _restart(self) -> None:
        self.session = start(self.machine, DEFAULT_MASK).instance.session
        self.chunks = self.session.generate(1 << 30)
        next(self.chunks)

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> tuple[int, np.ndarray]:
        if self.session.tokens > self.most:
            self._restart()
        return next(self.chunks)


def timed(chunks: Chunks, count: int, short: Chunks | None = None) -> dict[str, list[float]]:
    """Seconds per step of so many chunks, after one that is warm-up; and their ratios to chunks of
    a short trace, in turn."""
    out: dict[str, list[float]] = {"seconds": [], "ratios": []}

    def one(chunks: Chunks) -> float:
        begun = time.perf_counter()
        steps, _ = next(chunks)
        return (time.perf_counter() - begun) / steps

    next(chunks)
    for _ in range(count):
        if short is not None:
            next(short)  # perhaps the first chunk of a new trace
            before = one(short)
        out["seconds"].append(one(chunks))
        if short is not None:
            out["ratios"].append(out["seconds"][-1] / before)
    return out


def point(cache: str, tokens: int, addresses: int, times: dict[str, list[float]]) -> dict:
    """A point of a curve, printed."""
    seconds = times["seconds"]
    low, middle, high = statistics.quantiles(seconds, n=4)
    row = {"cache": cache, "tokens": tokens, "addresses": addresses}
    row |= {"us": 1e6 * middle, "us_q1": 1e6 * low, "us_q3": 1e6 * high, "chunks": len(seconds)}
    if times["ratios"]:
        row["over_short"] = statistics.median(times["ratios"])
    beside = f", {row['over_short']:.3f} of a short trace" if "over_short" in row else ""
    print(
        f"{cache:8} {tokens:>11,} tokens {addresses:>7,} addresses {row['us']:12,.1f} us a step "
        f"({row['us_q1']:,.1f} to {row['us_q3']:,.1f}){beside}",
        flush=True,
    )
    return row


class Trace:
    """A program on its way; its tokens are compared with those of another cache, or kept."""

    def __init__(self, machine: vm.Machine, mask: int = DEFAULT_MASK) -> None:
        self.run = start(machine, mask)
        self.session = self.run.instance.session
        self.kept = [self.run.prompt]
        self.compared = 0

    def go(self, tokens: int, like: "Trace | None" = None) -> None:
        """Goes on to a length; `like` has its tokens up to there."""
        while self.session.tokens < tokens:
            before = self.session.tokens
            for _, made in self.session.generate(tokens - before, keep_all=True):
                if like is None:
                    self.kept.append(made)
                else:
                    at = self.session.tokens - len(made)
                    expected = like.tokens(at, at + len(made))
                    assert np.array_equal(made, expected), f"tokens differ after {at:,}"
                    self.compared += len(made)

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Tokens by number."""
        if len(self.kept) > 1:
            self.kept = [np.concatenate(self.kept)]
        return self.kept[0][begin:end]


def by_length(lengths: list[int], rows: list[dict]) -> None:
    """Curves over the length of the trace."""
    addresses = (DEFAULT_MASK >> 2) + 1
    machines = {name: vm.Machine("packed", name, chunk=CHUNK[name]) for name in CHUNK}
    indexed, hull = Trace(machines["indexed"]), Trace(machines["hull"])
    short = {
        "indexed": Short(machines["indexed"], 200_000),
        "hull": Short(machines["hull"], 8000),
    }
    for length in lengths:
        indexed.go(length)
        hull.go(length, like=indexed)
        # Timed on copies of the same length: the traces themselves stay comparable.
        for name, trace in (("indexed", indexed), ("hull", hull)):
            times = timed(chunks_of(trace, length), CHUNKS.value, short[name])
            rows.append(point(name, length, addresses, times))
            catch_up(trace, indexed)
        if length <= SOFTMAX.value:
            session = Session(machines["softmax"].engine)
            session.feed(indexed.tokens(0, length))
            times = timed(session.generate(1 << 30), min(CHUNKS.value, 6))
            rows.append(point("softmax", length, addresses, times))
    print(f"hull and indexed: {hull.compared:,} tokens compared, all equal")
    far = start(machines["indexed"], DEFAULT_MASK).instance.session
    for length in (10_000, FAR.value):
        for _ in far.generate(max(0, length - far.tokens)):
            print(f"\r  {far.tokens:,} tokens", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        times = timed(far.generate(1 << 30), 4 * CHUNKS.value, short["indexed"])
        rows.append(point("indexed", length, addresses, times))


def chunks_of(trace: Trace, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """Chunks of a trace from a length on; what they make is kept or will be compared."""
    del length
    for steps, made in trace.session.generate(1 << 30, keep_all=True):
        trace.kept.append(made)
        yield steps, made


def catch_up(trace: Trace, indexed: Trace) -> None:
    """Compares what was made while timing, once the other trace is as long."""
    if trace is indexed:
        return
    end = trace.session.tokens
    made = np.concatenate(trace.kept[1:])
    trace.kept = [trace.kept[0]]
    indexed.go(end)
    expected = indexed.tokens(end - len(made), end)
    assert np.array_equal(made, expected), "tokens differ"
    trace.compared += len(made)


def by_addresses(rows: list[dict]) -> None:
    """Curves over the addresses in use, at 30,000 tokens."""
    for name in ("indexed", "hull", "softmax"):
        machine = vm.Machine("packed", name, chunk=CHUNK[name])
        for mask in MASKS:
            if name == "softmax" and mask == MASKS[-1]:
                continue  # beyond its horizon
            source = Trace(vm.Machine("packed", "indexed"), mask)
            source.go(30_000)
            session = Session(machine.engine)
            session.feed(source.tokens(0, 30_000))
            times = timed(session.generate(1 << 30), min(CHUNKS.value, 6))
            rows.append(point(name, 30_000, (mask >> 2) + 1, times))


def fit(rows: list[dict], cache: str) -> str:
    """The growth of a cache's time, relative to a short trace where that was measured: a straight
    line over log2 of the length, and a power of the length."""
    points = [
        (math.log2(row["tokens"]), row.get("over_short", row["us"]))
        for row in rows
        if row["cache"] == cache
        and row["addresses"] == (DEFAULT_MASK >> 2) + 1
        and ("over_short" in row or (cache == "softmax" and row["tokens"] != 30_000))
    ]
    logs, times = np.array(points).T
    b, a = np.polyfit(logs, times, 1)
    power, _ = np.polyfit(logs, np.log2(times), 1)
    return f"{cache}: {a:,.3f} {b:+,.4f} log2 n; as a power n^{power:.3f}"


def plot(rows: list[dict], path: str) -> None:
    """A log-log plot of both families of curves."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, key, name in (
        (axes[0], "tokens", "tokens in the sequence"),
        (axes[1], "addresses", "addresses in use, at 30,000 tokens"),
    ):
        for cache in ("softmax", "hull", "indexed"):
            chosen = [row for row in rows if row["cache"] == cache]
            if key == "tokens":
                chosen = [r for r in chosen if r["tokens"] != 30_000]
            else:
                chosen = [r for r in chosen if r["tokens"] == 30_000]
            chosen.sort(key=lambda row: row[key])
            # Growth as it was measured in pairs, from the pace of the first point.
            first = chosen[0]["us"] / chosen[0].get("over_short", 1)
            us = [first * r["over_short"] if "over_short" in r else r["us"] for r in chosen]
            axis.plot([r[key] for r in chosen], us, "o-", label=cache)
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("microseconds a step, one lane")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
    del argv
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    rows: list[dict] = []
    by_length([int(length) for length in LENGTHS.value], rows)
    by_addresses(rows)
    for cache in ("indexed", "hull", "softmax"):
        print(fit(rows, cache))
    at = {row["cache"]: row["us"] for row in rows if row["tokens"] == 40_000}
    if {"softmax", "hull"} <= at.keys():
        print(f"at 40,000 tokens softmax takes {at['softmax'] / at['hull']:,.0f} times the hull")
    if JSONL.value:
        with pathlib.Path(JSONL.value).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    if PLOT.value:
        plot(rows, PLOT.value)


if __name__ == "__main__":
    os.environ.setdefault("PJRT_NPROC", "1")  # as `wasmjax` sets it
    sys.exit(app.run(main))
