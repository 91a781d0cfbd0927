#!/usr/bin/env python3
"""Random programs in wasmtime, on the oracle and in lanes of the packed engine.

    .venv/bin/python scripts/fuzz.py --executions 100000 --record fuzz.jsonl

Every call of a program is an execution. It must end alike in wasmtime and on the oracle, with the
same memory and globals after it, and the engine must generate the oracle's tokens, all of them.

The programs follow from a seed per block (and the versions of hypothesis and of the generator, the
tests'); blocks that are in the record already are not run again. A program that ends differently is
written to `fuzz-SEED-NUMBER.wat`, and the exit status is 1; `--shrink SEED` looks for the smallest
one like it.
"""

import argparse
import collections
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, given, settings

from wasmjax.engine.decode import STOPPED
from wasmjax.engine.fleet import Fleet
from wasmjax.engine.sequence import append
from wasmjax.machine.config import WASM
from wasmjax.machine.program import prompt
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import lower
from wasmjax.wasm.validate import load_bytes

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import onlanes
from fuzz_programs import Program, programs
from lowering import Machine, Outcome, Reference, Trap, compile_wat
from onengine import OnEngine, assert_same_state

BLOCK, LANES = 400, 64
SIZES = (20, 60, 150)
"""About how many statements and operators a function has; blocks take turns."""
CALLS = (4, 8)
SLOTS, WORDS, POOL = 4096, 32768, 1 << 17


class Recorded(Oracle):
    """An oracle that keeps what was fed and what was generated, turn by turn."""

    def __init__(self) -> None:
        super().__init__(WASM)
        self.turns: list[tuple[np.ndarray, np.ndarray]] = []
        self._fed: list[np.ndarray] = []

    def feed(self, tokens_NxF: np.ndarray) -> None:
        super().feed(tokens_NxF)
        self._fed.append(tokens_NxF)

    def run(self, max_steps: int, keep: bool = True) -> np.ndarray:
        generated = super().run(max_steps)
        self.turns.append((np.concatenate(self._fed), generated))
        self._fed = []
        return generated


class OnOracle(Machine):
    """A program on an oracle that keeps its turns."""

    oracle: Recorded

    def __init__(self, binary: bytes) -> None:
        self.lowered = lower(load_bytes(binary))
        self.oracle = Recorded()
        self.oracle.feed(prompt(WASM, self.lowered.program))
        self.steps = 0


def draw(seed: int, count: int) -> list[Program]:
    """The programs of a block."""
    out: list[Program] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @given(programs(SIZES[seed % len(SIZES)], CALLS))
    def collect(program: Program) -> None:
        out.append(program)

    collect()
    return out


def ends(machine: Machine, reference: Reference, program: Program) -> list[Outcome]:
    """How the calls of a program end, in wasmtime and on the machine alike."""
    out = []
    for arguments in program.calls:
        want = reference.invoke("f", *arguments)
        got = machine.invoke("f", *arguments)
        assert got == want, f"f{arguments} ends in {got}, in wasmtime in {want}"
        assert_same_state(machine, reference)
        out.append(want)
    return out


class Lanes:
    """The engine's side: turns in lanes, every token compared."""

    def __init__(self) -> None:
        self.engine = onlanes.engine("wasm")
        capacity = onlanes.capacity(self.engine, LANES, SLOTS, WORDS, pool_rows=POOL)
        self.fleet = Fleet(self.engine, capacity)

    def differences(
        self, programs: dict[int, list[tuple[np.ndarray, np.ndarray]]]
    ) -> dict[int, str]:
        """What is wrong with the turns (tokens fed, tokens to be generated) of programs."""
        cache, wrong = self.engine.cache, dict[int, str]()
        runs = {
            n: onlanes.Run(onlanes.sequence(cache, turns[0][0])) for n, turns in programs.items()
        }
        turn = 0
        while runs:
            onlanes.drive(self.fleet, list(runs.values()), patience=LANES // 8)
            for number, run in [*runs.items()]:
                turns = programs[number]
                found = first_divergence(WASM, turns[turn][1], run.tokens)
                if found is not None:
                    wrong[number] = f"turn {turn}: {found}"
                elif run.status != STOPPED:
                    wrong[number] = f"turn {turn}: status {run.status} {run.problem}"
                if number in wrong or turn + 1 == len(turns):
                    del runs[number]
                    continue
                append(cache, run.sequence, turns[turn + 1][0])
                runs[number] = onlanes.Run(run.sequence)
            turn += 1
        return wrong


def run_block(seed: int, count: int, lanes: Lanes | None) -> tuple[dict[str, Any], dict[int, str]]:
    """A block's record, and what was found, by number of the program."""
    counts, wrong = collections.Counter[str](), dict[int, str]()
    turns: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    found = draw(seed, count)
    for number, program in enumerate(found):
        try:
            binary = compile_wat(program.text)
            machine = OnOracle(binary)
            outcomes = ends(machine, Reference(binary), program)
        except Exception as error:  # a crash is a finding
            wrong[number] = f"{type(error).__name__}: {error}"
            continue
        counts.update(end.name if isinstance(end, Trap) else "returned" for end in outcomes)
        turns[number] = machine.oracle.turns
    if lanes is not None:
        wrong |= lanes.differences(turns)
    record = {
        "seed": seed,
        "programs": len(found),
        "executions": counts.total(),
        "steps": sum(len(made) for turns_ in turns.values() for _, made in turns_),
        "found": len(wrong),
        "ends": dict(counts.most_common()),
    }
    for number in wrong:
        calls = f";; calls of f: {found[number].calls}\n"
        pathlib.Path(f"fuzz-{seed}-{number}.wat").write_text(found[number].text + "\n" + calls)
    return record, wrong


def shrink(seed: int, count: int) -> int:
    """Fails with the smallest program found for a block's seed that ends differently."""

    @hypothesis.seed(seed)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(programs(SIZES[seed % len(SIZES)], CALLS))
    def check(program: Program) -> None:
        binary = compile_wat(program.text)
        ends(OnEngine(binary), Reference(binary), program)

    try:
        check()
    except Exception as error:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]))
        return 1
    print(f"seed {seed}: nothing found")
    return 0


def read(path: pathlib.Path | None) -> list[dict[str, Any]]:
    """The record so far."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--executions", type=int, default=10_000, help="those in the record too")
    parser.add_argument("--seed", type=int, default=0, help="of the first block")
    parser.add_argument("--every", type=int, default=1, help="go on with every Nth seed")
    parser.add_argument("--block", type=int, default=BLOCK, help="programs of a block")
    parser.add_argument(
        "--record", type=pathlib.Path, metavar="FILE", help="JSON lines, a block each"
    )
    parser.add_argument("--oracle", action="store_true", help="without the engine")
    parser.add_argument(
        "--shrink", type=int, metavar="SEED", help="the smallest finding of a block"
    )
    args = parser.parse_args(argv)
    if min(args.executions, args.every, args.block) < 1:
        parser.error("--executions, --every and --block must be at least 1")
    if args.shrink is not None:
        return shrink(args.shrink, args.block)
    records, lanes = read(args.record), None if args.oracle else Lanes()
    done, seed, start, failed = {record["seed"] for record in records}, args.seed, time.time(), 0
    total = sum(record["executions"] for record in records)
    while total < args.executions:
        if seed not in done:
            record, wrong = run_block(seed, args.block, lanes)
            total += record["executions"]
            failed += len(wrong)
            if args.record is not None:
                with args.record.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            seconds = time.time() - start
            print(f"seed {seed}: {json.dumps(record)}; {total:,} in {seconds:,.0f} s", flush=True)
            for number, what in wrong.items():
                print(f"  program {number}: {what}", flush=True)
        seed += args.every
    print(f"{total:,} executions, {failed} programs that end differently")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
