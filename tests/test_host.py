"""Functions of the host: in instances, in runs, and in batches, where other lanes go on."""

import dataclasses

import numpy as np
import pytest

import onengine
import wasmjax
from lowering import compile_wat
from wasmjax.batch.jobs import Job
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import LinkError

KIND = columns(WASM)["kind"]

ASKS = """(module
  (import "env" "next" (func $next (param i32) (result i32)))
  (import "env" "both" (func $both (param i64 f32) (result f32 i64)))
  (import "env" "note" (func $note))
  (memory (export "memory") 1)
  (func (export "sum") (param $n i32) (result i32) (local $sum i32)
    (loop $more
      (local.set $sum (i32.add (local.get $sum) (call $next (local.get $n))))
      (call $note)
      (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum))
  (func (export "swap") (param i64 f32) (result f32 i64) (call $both (local.get 0) (local.get 1)))
  (func $spins (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "spin") (param i32) (result i32)
    (call $spins (local.get 0)) (call $next (i32.const 1)))
  (func (export "_start") (drop (call $next (i32.const 77)))))"""


class World:
    """What a host remembers."""

    def __init__(self):
        self.notes, self.asked = 0, []

    def next(self, n):
        self.asked.append(n)
        match n:
            case 66:
                raise wasmjax.Trap("host says no")
            case 77:
                raise wasmjax.Exit(7)
            case 88:
                raise LookupError("nothing\nhere")
            case 99:
                return 1 << 40
        return n * n

    def note(self):
        self.notes += 1

    @property
    def imports(self):
        function = wasmjax.HostFunction
        return {
            ("env", "next"): function(["i32"], ["i32"], self.next),
            ("env", "both"): function(["i64", "f32"], ["f32", "i64"], lambda a, b: (b, -a)),
            ("env", "note"): function([], [], self.note),
        }


@pytest.fixture
def world():
    return World()


@pytest.fixture(scope="module")
def binary():
    return compile_wat(ASKS)


@pytest.fixture(scope="module")
def machine():
    return onengine.machine()


def test_an_instance_calls_them(machine, binary, world):
    instance = machine.instantiate(wasmjax.load(binary), imports=world.imports)
    assert instance.call("sum", 3) == (14,)
    assert (world.asked, world.notes) == ([3, 2, 1], 3)
    assert instance.call_bits("swap", 5, 0x7FC00001) == (0x7FC00001, 2**64 - 5)
    with pytest.raises(wasmjax.Trap, match=r"^host says no$"):
        instance.call("sum", 66)
    with pytest.raises(LookupError):
        instance.call("sum", 88)
    with pytest.raises(TypeError, match="does not fit i32"):
        instance.call("sum", 99)
    assert instance.call("sum", 2) == (5,)


def test_a_run_is_ended_by_them(machine, binary, world):
    result = machine.run(wasmjax.load(binary), imports=world.imports)
    assert (result.exit_code, result.trap) == (7, None)
    world.next = lambda n: World.next(world, 66)
    result = machine.run(wasmjax.load(binary), imports=world.imports)
    assert (result.exit_code, result.trap) == (None, "host says no")


def test_wrong_imports_are_refused(machine, binary, world):
    module, imports = wasmjax.load(binary), world.imports
    with pytest.raises(LinkError, match=r"^unknown import: env.next \(func\)$"):
        machine.instantiate(module)
    imports["env", "note"] = wasmjax.HostFunction(["i32"], [], print)
    with pytest.raises(LinkError, match=r"^incompatible import type: env.note \(func\)$"):
        machine.instantiate(module, imports=imports)
    with pytest.raises(ValueError, match="v128"):
        wasmjax.HostFunction(["v128"], [], print)


def test_a_start_function_has_its_limit(machine):
    module = wasmjax.load(compile_wat("(module (func $f (loop $l (br $l))) (start $f))"))
    with pytest.raises(wasmjax.OutOfSteps):
        machine.instantiate(module, max_steps=100)
    with pytest.raises(wasmjax.OutOfSteps):
        machine.store().instantiate(module, max_steps=100)


def jobs_of(binary):
    job = Job(binary, call="sum")
    calls = [dataclasses.replace(job, call_args=(n,)) for n in (5, 66, 88, 99, 1, 30)]
    return [
        *calls,
        Job(binary, call="spin", call_args=(2000,)),
        Job(binary),
        Job(binary, call="swap", call_args=(5, 0x7FC00001)),
        dataclasses.replace(job, call_args=(30,), max_steps=50),
        *(dataclasses.replace(job, call_args=(n,)) for n in range(1, 12)),
    ]


def test_a_batch_calls_them(machine, binary, world):
    jobs = jobs_of(binary)
    results = list(machine.run_batch(jobs, lanes=8, imports=world.imports))
    outcomes = [(r.outcome, r.results, r.trap or r.error or r.exit_code) for r in results]
    assert outcomes[:10] == [
        ("return", (55,), None),
        ("trap", None, "host says no"),
        ("host error", None, "LookupError: nothing here"),
        ("host error", None, "TypeError: what next returns: 1099511627776 does not fit i32"),
        ("return", (1,), None),
        ("return", (9455,), None),
        ("return", (1,), None),
        ("exit", None, 7),
        ("return", (0x7FC00001, -5), None),
        ("step limit", None, None),
    ]
    assert [r.results for r in results[10:]] == [
        (sum(k * k for k in range(1, n + 1)),) for n in range(1, 12)
    ]
    # One lane, alone: the same results and steps.
    alone = list(machine.run_batch(jobs, lanes=1, chunk=32, imports=World().imports))
    assert [r.to_json() for r in alone] == [r.to_json() for r in results]


def test_other_lanes_go_on(machine, binary):
    """A lane that asks gives up its place; the job that spins is not waited for."""
    order = []
    function = wasmjax.HostFunction(["i32"], ["i32"], lambda n: order.append(n) or n)
    imports = World().imports | {("env", "next"): function}
    spin = Job(binary, call="spin", call_args=(20_000,))
    sums = [Job(binary, call="sum", call_args=(n,)) for n in (20, 10)]
    results = list(machine.run_batch([spin, *sums], lanes=4, chunk=64, imports=imports))
    assert [r.results for r in results] == [(1,), (210,), (55,)]
    assert len(order) == 31 and order[-1] == 1 and order.count(1) == 3
    assert order.index(10) < order.index(1)
    assert sorted(order[:30]) == sorted([*range(1, 21), *range(1, 11)])


def test_a_trace_shows_both_sides(machine, binary, world):
    """The oracle, given the host's answers, generates the same tokens."""
    (trace,) = machine.traces([Job(binary, call="sum", call_args=(3,))], imports=world.imports)
    tokens, oracle = trace.tokens.astype(np.int32), Oracle(WASM)
    assert np.count_nonzero(tokens[:, KIND] == isa.KIND["host"]) == 6
    at = trace.prompt_tokens
    oracle.feed(tokens[:at])
    while at < len(tokens):
        made = oracle.run(1000)
        divergence = first_divergence(WASM, tokens[at : at + len(made)], made)
        assert divergence is None, divergence
        at += len(made)
        if at < len(tokens):  # each of these functions is answered by one token
            oracle.feed(tokens[at : at + 1])
            at += 1
