"""One contract for every engine and cache: the tokens are the oracle's, field by field."""

import functools
import pathlib
import random

import numpy as np
import pytest

import onengine
import programs
import wasmjax
from lowering import Machine
from wasmjax import vm
from wasmjax.engine.decode import Engine, EngineError, Session, Stop
from wasmjax.instance import invocation_of
from wasmjax.machine import isa
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import SMALL, WASM, MachineConfig
from wasmjax.machine.program import Program, prompt, registers
from wasmjax.machine.tokens import columns
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import lower

COMBINATIONS = [(e, c) for e in ("packed", "dense") for c in ("indexed", "hull", "softmax")]
FREESTANDING = pathlib.Path(__file__).parent.parent / "examples" / "freestanding"


@functools.cache
def small_engine(engine: str, cache: str) -> Engine:
    stop = Stop(columns(SMALL)["kind"], isa.STOP_KINDS, isa.STOP_KINDS)
    return Engine(build_machine(SMALL).weights, stop, engine, cache, chunk=512)


def check(config: MachineConfig, engine: Engine, program: Program, limit: int = 5000) -> int:
    """The program on the engine and the oracle; the number of tokens."""
    tokens = prompt(config, program)
    oracle = Oracle(config)
    oracle.feed(tokens)
    expected = oracle.run(limit)
    session = Session(engine)
    session.feed(tokens)
    actual = np.concatenate([kept for _, kept in session.generate(limit, keep_all=True)])
    assert (found := first_divergence(config, expected, actual)) is None, str(found)
    assert session.stopped
    return len(actual)


@pytest.mark.parametrize(("engine", "cache"), COMBINATIONS)
@pytest.mark.parametrize("program", ["counter", "fibonacci", "random"])
def test_small_machine(engine, cache, program):
    made = {
        "counter": lambda: programs.counter_loop(SMALL, 200),
        "fibonacci": lambda: programs.fibonacci_small(SMALL, 20),
        "random": lambda: programs.random_straight_line(SMALL, random.Random(5), 40),
    }[program]()
    assert check(SMALL, small_engine(engine, cache), made) > 30


@pytest.mark.parametrize(("engine", "cache"), COMBINATIONS)
@pytest.mark.parametrize("seed", range(2))
def test_every_operation_in_straight_lines(engine, cache, seed):
    made = programs.random_straight_line(WASM, random.Random(seed), 250)
    assert check(WASM, onengine.machine(engine, cache).engine, made) > 250


EXAMPLES = sorted((FREESTANDING.parent).glob("*.wasm"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("engine", "cache", "dtype", "steps", "prompt_limit"),
    [
        ("packed", "indexed", None, 100_000, None),
        ("packed", "hull", None, 20_000, None),
        ("packed", "softmax", None, 60, None),
        ("dense", "indexed", None, 500, None),
        ("dense", "hull", None, 20, 4000),
        ("dense", "softmax", None, 4, 4000),
        ("packed", "softmax", "float32", 0, None),
    ],
)
def test_examples_on_every_engine_cache_and_format(path, engine, cache, dtype, steps, prompt_limit):
    """The oracle's tokens, from the start of every example.

    What is slow makes few steps, and where prompts are fed step by step long ones are left out; in
    float32 softmax every example is beyond the horizon, and refused.
    """
    module = wasmjax.load(path)
    lowered = lower(module, args=["program"])
    tokens = prompt(WASM, lowered.program)
    if prompt_limit is not None and len(tokens) > prompt_limit:
        pytest.skip(f"a prompt of {len(tokens):,} tokens, fed step by step")
    entry = lowered.exports["_start"]
    call = invocation_of(lowered.program, registers(WASM, tokens), entry, ())
    tokens = np.concatenate([tokens, call])
    session = Session(machine_of(engine, cache, dtype).engine)
    if dtype == "float32":
        session.feed(tokens)
        with pytest.raises(EngineError, match="softmax cache is exact in float32 up to"):
            list(session.generate(10))
        return
    session.feed(tokens)
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    for made, kept in session.generate(steps, keep_all=True):
        divergence = first_divergence(WASM, oracle.run(made), kept)
        assert divergence is None, divergence


@functools.cache
def machine_of(engine, cache, dtype):
    return wasmjax.Machine(engine, cache, chunk=512, dtype=dtype)


@pytest.mark.parametrize(("engine", "cache"), COMBINATIONS)
def test_calls_and_tables(engine, cache):
    made = onengine.machine(engine, cache).engine
    check(WASM, made, programs.recursive_sum(6))
    for index in range(4):
        check(WASM, made, programs.jump_by_table(index))
        check(WASM, made, programs.indirect_call(index, 1))


@pytest.mark.parametrize(("engine", "cache"), COMBINATIONS)
@pytest.mark.parametrize(
    ("name", "export", "args"),
    [("fib", "fib", (20,)), ("fib", "fib_recursive", (6,)), ("sieve", "count_primes", (12,))],
)
def test_libc_free_programs(engine, cache, name, export, args):
    binary = (FREESTANDING / f"{name}.wasm").read_bytes()
    # `OnEngine` compares every token with the oracle's.
    machine = onengine.OnEngine(binary, engine, cache)
    assert machine.invoke(export, *args) == Machine(binary).invoke(export, *args)


def test_explained_step_is_the_generated_one():
    """`explain` (dense float64 softmax over the whole sequence) emits what the engine emits."""
    machine = onengine.machine()
    module = vm.load(FREESTANDING / "fib.wasm")
    for step in (0, 7, 30):
        instance = machine.instantiate(module)
        run = vm.Run(instance, instance.function("fib"), [20])
        found = machine.explain(run, step)
        again = machine.instantiate(module)
        rerun = vm.Run(again, again.function("fib"), [20])
        tokens = np.concatenate(list(rerun.tokens(step + 1, keep_all=True)))
        emitted = {name: int(tokens[step][c]) for name, c in columns(WASM).items()}
        assert found.emitted == {name: emitted[name] for name in found.emitted}
        fetch = [head for head in found.heads if head.name.startswith("fetch")]
        assert fetch and all(head.weight == 1.0 for head in fetch)
