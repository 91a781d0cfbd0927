"""Edges of a memory that is a token sequence: never written, stale, growing, refused."""

import dataclasses
import functools

import numpy as np
import pytest

import counter_machine as cm
import onengine
import programs
import wasmjax
from lowering import Trap, compile_wat
from wasmjax.engine.decode import Engine, EngineError, Session
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.program import Instruction, prompt
from wasmjax.machine.tokens import columns
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle

CACHES = ["indexed", "hull", "softmax"]
LOADS = """(module (memory 1) {data}
  (func (export "load") (param i32) (result i64) (i64.load (local.get 0)))
  (func (export "store") (param i32 i64) (i64.store (local.get 0) (local.get 1))))"""


def loads(data: str, cache: str) -> onengine.OnEngine:
    return onengine.OnEngine(compile_wat(LOADS.format(data=data)), "packed", cache)


@pytest.mark.parametrize("cache", CACHES)
def test_missing_word_between_two_neighbours(cache):
    """The nearest keys answer, equally far; neither may pass the match gate."""
    machine = loads('(data (i32.const 64) "AAAAAAAA") (data (i32.const 80) "BBBBBBBB")', cache)
    assert machine.invoke("load", 72) == [0]
    assert machine.invoke("load", 64) == [int.from_bytes(b"A" * 8, "little")]
    assert machine.invoke("load", 68) == [int.from_bytes(b"A" * 4 + bytes(4), "little")]
    assert machine.invoke("load", 77) == [int.from_bytes(bytes(3) + b"B" * 5, "little")]
    machine.invoke("store", 72, 7)
    assert machine.invoke("load", 72) == [7]


@pytest.mark.parametrize("cache", CACHES)
def test_missing_address_0_and_beyond_the_last(cache):
    machine = loads('(data (i32.const 8) "AAAAAAAA")', cache)
    assert machine.invoke("load", 0) == [0]
    assert machine.invoke("load", 65528) == [0]
    assert machine.invoke("load", 65529) == Trap("out of bounds memory access")
    assert machine.invoke("load", 0xFFFFFFFF) == Trap("out of bounds memory access")


@pytest.mark.parametrize("cache", CACHES)
def test_empty_memory(cache):
    """Only BOS is a member of the memory's space."""
    machine = loads("", cache)
    assert machine.invoke("load", 0) == [0]
    assert machine.invoke("load", 12345) == [0]


@pytest.mark.parametrize("cache", CACHES)
def test_the_latest_of_many_writes(cache):
    text = """(module (memory 1) (func (export "f") (param i32) (result i32)
      (loop $again
        (i32.store (i32.const 40) (local.get 0))
        (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
      (i32.load (i32.const 40))))"""
    assert onengine.OnEngine(compile_wat(text), "packed", cache).invoke("f", 40) == [1]


@pytest.mark.parametrize("cache", CACHES)
def test_stale_slots_are_no_locals(cache):
    """What an earlier call left above the stack is not what a later local starts with."""
    text = """(module
      (func $dirty (param i32) (result i32) (local i32 i32 i32)
        (local.set 1 (local.get 0)) (local.set 2 (local.get 0)) (local.set 3 (local.get 0))
        (i32.add (local.get 1) (i32.add (local.get 2) (local.get 3))))
      (func $clean (param i32) (result i32) (local i32 i32 i32)
        (if (local.get 0) (then (local.set 2 (i32.const 5))))
        (i32.add (local.get 1) (i32.add (local.get 2) (local.get 3))))
      (func (export "f") (param i32) (result i32)
        (drop (call $dirty (i32.const 1000))) (call $clean (local.get 0))))"""
    machine = onengine.OnEngine(compile_wat(text), "packed", cache)
    assert machine.invoke("f", 0) == [0]
    assert machine.invoke("f", 1) == [5]


def test_deep_recursion_then_a_long_loop():
    text = """(module
      (func $deep (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0))))
      (func (export "f") (param i32 i32) (result i32) (local i32)
        (local.set 2 (call $deep (local.get 0)))
        (loop $again
          (local.set 2 (i32.add (local.get 2) (i32.const 3)))
          (br_if $again (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))
        (local.get 2)))"""
    machine = onengine.OnEngine(compile_wat(text))
    assert machine.invoke("f", 1000, 30000) == [1000 + 90000]
    assert machine.invoke("f", 2000, 1) == Trap("call stack exhausted")
    assert machine.invoke("f", 10, 5) == [25]  # the trap left nothing behind


def test_state_persists_between_calls():
    text = """(module (memory (export "memory") 1) (global $g (export "g") (mut i32) (i32.const 5))
      (func (export "bump") (param i32) (result i32)
        (global.set $g (i32.add (global.get $g) (local.get 0)))
        (i32.store8 (global.get $g) (i32.const 9))
        (i32.load8_u (i32.const 6))))"""
    instance = onengine.machine().instantiate(wasmjax.load(compile_wat(text)))
    assert instance.memory(0, 16) == bytes(16)
    assert instance.global_value("g") == 5
    assert instance.call("bump", 1) == (9,)
    assert instance.call("bump", -3) == (9,)
    assert instance.global_value("g") == 3
    assert instance.memory(2, 6) == bytes([0, 9, 0, 0, 9, 0])
    with pytest.raises(IndexError):
        instance.memory(65530, 10)


def test_several_results():
    text = """(module (func (export "f") (param i32) (result i32 i64 i32)
      (local.get 0) (i64.const -2) (i32.const -3)))"""
    instance = onengine.machine().instantiate(wasmjax.load(compile_wat(text)))
    assert instance.call("f", 7) == (7, -2, -3)
    assert instance.call_bits("f", 7) == (7, 2**64 - 2, 2**32 - 3)


def _on_session(session, tokens, limit=20000):
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    session.feed(tokens)
    expected = oracle.run(limit)
    actual = np.concatenate([kept for _, kept in session.generate(limit, keep_all=True)])
    return first_divergence(WASM, expected, actual)


@pytest.mark.parametrize("cache", CACHES)
def test_buckets_grow_in_mid_run(cache):
    """A write beyond a bucket ends the chunk before that step; the step is repeated."""
    engine = onengine.machine("packed", cache).engine
    stores = len(engine.cache.default_capacities())
    session = Session(engine, [16] * stores)
    before = engine.compile_seconds
    program = programs.recursive_sum(60)
    assert _on_session(session, prompt(WASM, program)) is None
    assert session.stopped
    assert engine.compile_seconds > before or cache == "softmax"


def test_every_trap_message():
    traps = {
        "unreachable": "(unreachable)",
        "integer divide by zero": "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
        "integer overflow": "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))",
        "out of bounds memory access": "(drop (i32.load (i32.const 65533)))",
        "undefined element": "(call_indirect (i32.const 9))",
        "uninitialized element": "(call_indirect (i32.const 1))",
        "indirect call type mismatch": "(drop (call_indirect (result i32) (i32.const 0)))",
        "call stack exhausted": "(call $self)",
        "invalid conversion to integer": "(drop (i32.trunc_f64_s (f64.const nan)))",
        "not yet supported: frame of 1301 slots": "(call $large)",
    }
    for message, body in traps.items():
        text = f"""(module (memory 1) (table 2 funcref) (elem (i32.const 0) $self)
          (func $self (export "f") {body}) (func $large (local {"i32 " * 1300})))"""
        instance = onengine.machine().instantiate(wasmjax.load(compile_wat(text)))
        with pytest.raises(wasmjax.Trap, match=f"^{message}$"):
            instance.call("f")


def test_a_write_once_space_is_never_written():
    """A program cannot forge instructions: the engine refuses a token that would."""
    machine = onengine.machine()
    # A model whose slot writes claim to be code: the embedding of kind `slot` joins that space.
    weights = machine.engine.weights
    table = weights.embedding[0].copy()
    kinds = {name: index for index, name in enumerate(isa.KINDS)}
    table[kinds["slot"]] = table[kinds["code"]]
    forged = dataclasses.replace(weights, embedding=[table, *weights.embedding[1:]])
    engine = type(machine.engine)(forged, machine.engine.stop, chunk=64)
    session = Session(engine)
    program = programs.make_program(
        [Instruction("move", imm=1, d=programs.absolute(3)), Instruction("halt")], stack_base=4
    )
    session.feed(prompt(WASM, program))
    with pytest.raises(EngineError, match="write-once address space"):
        list(session.generate(10))


@pytest.mark.parametrize("engine", ["packed", "dense"])
def test_a_step_from_a_token_that_none_generates_is_refused(engine):
    """The compiled step takes fields that are never emitted for 0, so it must not see others."""
    session = Session(counter_machine_engine(engine))
    tokens = cm.prompt(cm.add(), [3, 5])
    code = np.flatnonzero(tokens[:, cm.FIELD["op"]])
    order = np.r_[np.setdiff1d(np.arange(len(tokens)), code), code]
    session.feed(tokens[order])
    with pytest.raises(EngineError, match="field op is never emitted"):
        list(session.generate(10))
    session.feed(tokens[-1:])  # one that could have been generated
    made = np.concatenate([kept for _, kept in session.generate(100, keep_all=True)])
    np.testing.assert_array_equal(made, cm.interpret(cm.add(), [3, 5]))


def test_a_prompt_outside_the_vocabulary_is_refused():
    session = Session(counter_machine_engine("packed"))
    with pytest.raises(EngineError, match="field value of a prompt token"):
        session.feed(cm.prompt(cm.add(), [cm.TOP + 1]))


@functools.cache
def counter_machine_engine(engine: str) -> Engine:
    return Engine(cm.build().weights, cm.STOP, engine, "indexed", chunk=64)


def test_softmax_horizon_is_refused():
    """An address that the recency weight cannot resolve ends the run, named."""
    text = """(module (memory 4) (func (export "f") (param i32)
      (i32.store (local.get 0) (i32.const 1))))"""
    for address, fine in ((131000, True), (200000, False)):
        instance = onengine.machine("packed", "softmax").instantiate(
            wasmjax.load(compile_wat(text))
        )
        if fine:
            instance.call("f", address)
        else:
            with pytest.raises(EngineError, match="softmax cache is exact in float64 up to"):
                instance.call("f", address)


def test_out_of_vocabulary_is_refused():
    """A field's value off every entry of its vocabulary is never clipped silently."""
    machine = onengine.machine()
    # sp moves by dsp; a readout scaled by 4000 leaves its range at the first push.
    weights = machine.engine.weights
    field = columns(WASM)["sp"]
    rows = [None if u is None else u.copy() for u in weights.unembedding]
    most = WASM.frame_limit
    values = np.arange(-most, most + 1, dtype=np.float64)[:, None]
    x = (rows[field][-1] - rows[field][0]) / (4 * most)
    one = -(rows[field][2] - 2 * rows[field][1] + rows[field][0]) / 2
    rows[field] = 2 * values * 4096 * x - values**2 * one
    scaled = dataclasses.replace(weights, unembedding=rows)
    engine = type(machine.engine)(scaled, machine.engine.stop, chunk=64)
    session = Session(engine)
    session.feed(prompt(WASM, programs.fibonacci_small(WASM, 3)))
    with pytest.raises(EngineError, match="vocabulary"):
        list(session.generate(10))
