"""Fleets as tests use them: prompts in, whole token streams out, compared with what they must be.

The lanes' tokens are to be those of the oracle, of the counter machine's plain interpreter, or of
one lane of the same weights.
"""

import collections
import dataclasses
import functools
import pathlib
import random
from collections.abc import Sequence as Many

import jax
import numpy as np

import counter_machine as cm
import programs
from lowering import compile_wat
from random_transformers import STOP, Drawn, draw
from wasmjax import vm
from wasmjax.cache.lanes import LanesCache
from wasmjax.engine.decode import (
    OUT_OF_RANGE,
    REFUSED,
    RUNNING,
    STOPPED,
    Engine,
    EngineError,
    Session,
    Stop,
)
from wasmjax.engine.fleet import Capacity, Fleet
from wasmjax.engine.lanes import LIMITED, PAUSED, LanesEngine, make_mesh
from wasmjax.engine.sequence import Prefix, Sequence, extend
from wasmjax.machine import isa
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import SMALL, WASM, MachineConfig
from wasmjax.machine.program import invocation, prompt, registers
from wasmjax.machine.tokens import columns
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import lower
from wasmjax.wasm.validate import load_bytes

vm.use_compilation_cache()

FREESTANDING = pathlib.Path(__file__).parent.parent / "examples" / "freestanding"
LIMIT = 1 << 20
SMALL_ROWS, WASM_ROWS = (64,), (1024, 16384)
SMALL_STOP = Stop(columns(SMALL)["kind"], isa.STOP_KINDS, isa.STOP_KINDS)


def one_device():
    return make_mesh(jax.devices()[:1])


@functools.cache
def counter_weights():
    return cm.build().weights


@functools.cache
def engine(name: str, kept: int = 256, keep_all: bool = True, mesh=None) -> LanesEngine:
    """A lanes engine of the universal machine ("wasm"), the small one, or the counter machine.

    It runs on one device unless there is a mesh.
    """
    weights, stop = {
        "wasm": lambda: (build_machine(WASM).weights, vm.stop_rule()),
        "small": lambda: (build_machine(SMALL).weights, SMALL_STOP),
        "counter": lambda: (counter_weights(), cm.STOP),
    }[name]()
    return LanesEngine(weights, stop, mesh or one_device(), kept, keep_all)


def capacity(engine: LanesEngine, lanes: int, *rows: int, pool_rows: int = 1024) -> Capacity:
    return Capacity(lanes, rows, (pool_rows,) * len(engine.cache.static))


def sequence(cache: LanesCache, tokens_NxF: np.ndarray, at: int | None = None) -> Sequence:
    """A filled sequence; the tokens before number `at` by way of a prefix (None: all but one)."""
    at = len(tokens_NxF) - 1 if at is None else at
    return extend(cache, [(Prefix(cache, tokens_NxF[:at]), tokens_NxF[at:])])[0]


@dataclasses.dataclass
class Run:
    """One sequence on its way.

    Attributes:
      sequence: where it begins, and at last what was taken out of its lane.
      left: steps that it may make. status: why it is not running. steps: how many it made.
      problem: what a REFUSED lane says. needs: rows that a FULL one needs.
      parts: generated tokens.
    """

    sequence: Sequence
    left: int = LIMIT
    status: int = RUNNING
    steps: int = 0
    problem: str = ""
    needs: list[int] = dataclasses.field(default_factory=list)
    parts: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def tokens(self) -> np.ndarray:
        return np.concatenate([np.zeros((0, len(self.sequence.token)), np.int32), *self.parts])


def settle(fleet: Fleet, running: dict[int, Run], everything: bool = False) -> list[Run]:
    """Waits for a chunk and takes out what has stopped (or everything); returns it."""
    chunk = fleet.finish()
    assert set(chunk.kept) <= set(running)
    assert all(chunk.steps[lane] or chunk.status[lane] not in (RUNNING, PAUSED) for lane in running)
    for lane, run in running.items():
        if lane in chunk.kept:
            tokens = np.zeros((len(chunk.kept[lane]), len(run.sequence.token)), np.int32)
            tokens[:, fleet.engine.emitted] = chunk.kept[lane]
            run.parts.append(tokens)
        run.steps += int(chunk.steps[lane])
        run.status = int(chunk.status[lane])
    goes_on = (RUNNING, PAUSED)
    out = [lane for lane, run in running.items() if everything or run.status not in goes_on]
    runs = []
    for lane, taken in zip(out, fleet.take(out), strict=True):
        run = running.pop(lane)
        run.sequence, run.left, run.needs = taken, fleet.left(lane), fleet.needs(lane)
        np.testing.assert_array_equal(fleet.token(lane), taken.token)
        assert fleet.count(lane) == taken.count
        if run.status == REFUSED:
            run.problem = fleet.problem(lane)
        runs.append(run)
    fleet.release(out)
    return runs


def drive(fleet: Fleet, runs: Many[Run], limit: int = 4096, patience: int = 1) -> None:
    """Runs sequences in lanes that are refilled, until each has stopped for good."""
    waiting = collections.deque(runs)
    running: dict[int, Run] = {}
    while waiting or running:
        batch = [waiting.popleft() for _ in range(min(len(waiting), len(fleet.free)))]
        lanes = fleet.admit([(run.sequence, run.left) for run in batch])
        running |= zip(lanes, batch, strict=True)
        fleet.start(limit, patience)
        settle(fleet, running)


# --- what the tokens must be ---


def oracle_tokens(config: MachineConfig, tokens_NxF: np.ndarray, limit: int) -> np.ndarray:
    oracle = Oracle(config)
    oracle.feed(tokens_NxF)
    return oracle.run(limit)


def generate(engine: Engine, tokens_NxF: np.ndarray, steps: int) -> tuple[np.ndarray, str]:
    """Tokens of one lane until a stop, `steps`, or a refusal (its message)."""
    session = Session(engine)
    session.feed(tokens_NxF)
    out = [np.zeros((0, tokens_NxF.shape[1]), np.int32)]
    try:
        for _ in range(steps):  # one step a call: a refusal keeps the tokens before it
            out += [kept for _, kept in session.generate(1, keep_all=True)]
            if session.stopped:
                break
    except EngineError as error:
        return np.concatenate(out), str(error)
    return np.concatenate(out), ""


def invoked(binary: bytes, export: str, *args: int) -> np.ndarray:
    """The prompt of a module and of a call."""
    lowered = lower(load_bytes(binary), call_depth=100)
    entry, tokens = lowered.exports[export], prompt(WASM, lowered.program)
    now = registers(WASM, tokens)
    call = invocation(
        WASM, lowered.program, now, entry=entry.entry, args=args,
        header=entry.header, frame_size=entry.frame_size,
    )  # fmt: skip
    return np.concatenate([tokens, call])


TRAPS = """(module (memory 1) (table 2 funcref) (elem (i32.const 0) $self)
  (func $self (export "endless") (call $self))
  (func (export "unreachable") (unreachable))
  (func (export "zero") (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0)))
  (func (export "far") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "empty") (call_indirect (i32.const 1)))
  (func (export "mismatch") (drop (call_indirect (result i32) (i32.const 0)))))"""


@functools.cache
def wasm_prompts() -> list[np.ndarray]:
    """Many programs of the universal machine: loops, calls, memory, modules, traps."""
    flat = [
        *[programs.recursive_sum(n) for n in (0, 3, 40)],
        programs.recursive_sum(9, depth_limit=5),  # traps
        *[programs.jump_by_table(index) for index in range(3)],
        *[programs.indirect_call(index, 1 + index % 2) for index in range(4)],  # some trap
        *[programs.random_straight_line(WASM, random.Random(s), 40 * s + 90) for s in range(4)],
        programs.counter_loop(WASM, 300),
        programs.counter_loop(WASM, 1),
        programs.fibonacci_small(WASM, 33),
    ]
    traps = compile_wat(TRAPS)
    fib = (FREESTANDING / "fib.wasm").read_bytes()
    sieve = (FREESTANDING / "sieve.wasm").read_bytes()
    calls = [
        (fib, "fib", 25), (fib, "fib_recursive", 7), (sieve, "count_primes", 30),
        (traps, "endless"), (traps, "unreachable"), (traps, "zero", 0), (traps, "zero", 3),
        (traps, "far", 65533), (traps, "far", 2**32 - 1), (traps, "far", 5), (traps, "empty"),
        (traps, "mismatch"),
    ]  # fmt: skip
    return [prompt(WASM, program) for program in flat] + [invoked(*call) for call in calls]


def check_wasm(engine: LanesEngine, lanes: int = 8) -> list[Run]:
    """All of `wasm_prompts` in one fleet, which is refilled, against the oracle."""
    fleet = Fleet(engine, capacity(engine, lanes, *WASM_ROWS))
    prompts = wasm_prompts()
    runs = [Run(sequence(engine.cache, tokens)) for tokens in prompts]
    drive(fleet, runs, 200, 2)
    for tokens, run in zip(prompts, runs, strict=True):
        expected = oracle_tokens(WASM, tokens, LIMIT)
        found = first_divergence(WASM, expected, run.tokens)
        assert found is None, str(found)
        assert run.status == STOPPED
        every = np.concatenate([tokens, expected])
        assert run.sequence.count == len(every) and run.steps == len(expected)
        np.testing.assert_array_equal(run.sequence.totals, every.sum(axis=0))
    assert len(fleet.free) == lanes
    return runs


COUNTERS = [
    *[(cm.add(), (a, b)) for a, b in ((5, 7), (0, 0), (20, 43), (1, 0), (0, 60))],
    *[(cm.multiply(), (a, b, c)) for a, b, c in ((6, 7, 0), (0, 9, 3), (3, 3, 60 - 9), (8, 1, 1))],
]


def check_counters(engine: LanesEngine, lanes: int = 4) -> None:
    """The machine without WebAssembly against its plain interpreter."""
    fleet = Fleet(engine, capacity(engine, lanes, 32))
    runs = [Run(sequence(engine.cache, cm.prompt(*case))) for case in COUNTERS]
    drive(fleet, runs, 64)
    for case, run in zip(COUNTERS, runs, strict=True):
        np.testing.assert_array_equal(run.tokens, cm.interpret(*case))
        assert run.status == STOPPED


def begun(cache: LanesCache, tokens_NxF: np.ndarray) -> np.ndarray:
    """A prompt of a random transformer with a token at the front that a prefix can begin with."""
    for at in np.flatnonzero(tokens_NxF[:-1, 1] == 0):
        try:
            Prefix(cache, tokens_NxF[at : at + 1])
        except ValueError:
            continue
        order = np.r_[at, np.delete(np.arange(len(tokens_NxF)), at)]
        return tokens_NxF[order]
    raise AssertionError("no token is a member at the first address")


def check_random_transformer(seed: int, steps: int = 12) -> tuple[Drawn, list[Run], list[bool]]:
    """A transformer that no compiler made against one lane of it.

    Prompts that a prefix cannot begin with are refused. Returns its runs, and which of the prompts
    as drawn were refused.
    """
    drawn = draw(seed)
    engine = LanesEngine(drawn.weights, STOP, one_device(), keep_all=True)
    refused, prompts = [], []
    for tokens in drawn.prompts:
        try:
            sequence(engine.cache, tokens)
            refused.append(False)
            prompts.append(tokens)
        except ValueError as error:
            assert "must begin with" in str(error)
            refused.append(True)
            prompts.append(begun(engine.cache, tokens))
    one = Engine(drawn.weights, STOP, chunk=16)
    fleet = Fleet(engine, capacity(engine, 3, *[16] * len(engine.cache.families), pool_rows=64))
    # Half of each prompt comes by way of a prefix, and half as its own.
    runs = [Run(sequence(engine.cache, tokens, len(tokens) // 2), steps) for tokens in prompts]
    drive(fleet, runs)
    for tokens, run in zip(prompts, runs, strict=True):
        expected, refusal = generate(one, tokens, steps)
        np.testing.assert_array_equal(run.tokens, expected)
        assert run.status == (OUT_OF_RANGE if refusal else LIMITED)
        assert ("vocabulary" in refusal) == bool(refusal)
    return drawn, runs, refused
