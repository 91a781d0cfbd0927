"""Records of runs, and the state that replaying their tokens gives, beside the oracle's."""

from pathlib import Path

import numpy as np
import pytest

import exploring
import onengine
import wasmjax
from lowering import compile_wat
from wasmjax.engine.decode import EngineError
from wasmjax.explore import tour, writes
from wasmjax.explore.columns import pack, unpack
from wasmjax.explore.record import Record, Tape
from wasmjax.explore.state import State
from wasmjax.instance import Run
from wasmjax.machine.config import WASM
from wasmjax.oracle.execute import Oracle


def tokens_of(record: Record) -> np.ndarray:
    return record.full(np.arange(record.tokens)).astype(np.int32)


def test_a_tape_holds_every_token():
    machine = onengine.machine()
    module = wasmjax.load(exploring.EXAMPLES / "hello.wasm")
    plain = machine.start(module, ["program"])
    expected = np.concatenate([plain.prompt, *plain.tokens(None, keep_all=True)])
    record = exploring.hello().record
    assert np.array_equal(tokens_of(record), expected)
    prompt = len(plain.prompt)
    assert [*record.parts()] == [(0, 0, prompt, False), (prompt, 0, plain.steps, True)]
    assert record.steps == plain.steps
    for step in (0, 1, plain.steps - 1):
        assert record.index_of(step) == prompt + step
    with pytest.raises(IndexError):
        record.index_of(plain.steps)
    for index in (0, 5, prompt, record.tokens):
        sums = record.sums_before(index)
        assert np.array_equal(sums, expected[:index, machine.engine.emitted].sum(axis=0))


START = """(module
  (global $g (mut i32) (i32.const 1))
  (func $init (global.set $g (i32.const 40)))
  (func (export "get") (param i32) (result i32) (i32.add (global.get $g) (local.get 0)))
  (start $init))"""


def test_start_functions_and_further_calls_are_in_the_record():
    machine = onengine.machine()
    tape = Tape(machine.engine)
    instance = machine.instantiate(wasmjax.load(compile_wat(START)), session=tape)
    assert Run(instance, instance.function("get"), [2]).value(None) == 42
    parts = [*tape.record.parts()]
    assert [generated for *_, generated in parts] == [False, True, False, True]
    assert sum(count for _, _, count, generated in parts if generated) == tape.record.steps
    begin, step, _, _ = parts[-1]
    assert tape.record.index_of(step) == begin and tape.record.index_of(step - 1) < begin
    assert tape.record.tokens == instance.session.tokens
    assert np.array_equal(tokens_of(tape.record).sum(axis=0), instance.session.totals)


@pytest.mark.parametrize("block", [64, 1 << 14])
def test_state_is_the_oracle_s_at_every_point(monkeypatch, block):
    """Many small blocks and one large one: what is sealed and what is not answer alike."""
    monkeypatch.setattr("wasmjax.explore.writes.BLOCK", block)
    run = exploring.the_tour().run
    record = run.record
    state = State(record, onengine.machine().engine.emitted)
    state.seal()
    prompt = record.tokens - record.steps
    oracle = Oracle(WASM)
    everything = tokens_of(record)
    oracle.feed(everything[:prompt])
    for index in range(prompt - 1, record.tokens - 1):
        value, writer = state.slots(index, 0, 40)
        assert value.tolist() == [oracle.slot(slot) for slot in range(40)]
        assert (writer <= index).all()
        byte, _ = state.memory(index, 0, 96)
        assert bytes(byte) == oracle.memory(0, 96)
        registers = state.registers(index, index + 1)
        now = oracle.registers
        ip = sum(digit << 8 * k for k, digit in enumerate(now.ip))
        assert (registers.ip[0], registers.sp[0], registers.fp[0]) == (ip, now.sp, now.fp)
        assert registers.depth[0] == now.depth
        _, byte, token = state.output(index)
        assert bytes(byte) == oracle.stdout and (token <= index).all()
        oracle.run(1)
    assert bytes(state.output(record.tokens - 1)[1]) == b"3 + 5 = 8\n"


def test_writes_find_the_last_one(monkeypatch):
    monkeypatch.setattr(writes, "BLOCK", 8)
    rng = np.random.default_rng(0)
    addresses = rng.integers(0, 12, 100)

    class Counted:
        tokens = 100

    def find(start, stop):
        here = np.arange(start, stop)
        kept = here[here % 3 != 0]
        return addresses[kept], kept

    for unique in (True, False):
        index = writes.Writes(Counted(), find, unique)
        index.seal()
        for last in (0, 1, 7, 8, 50, 99):
            want = np.full(12, -1)
            for token in range(last + 1):
                if token % 3:
                    want[addresses[token]] = token
            assert np.array_equal(index.last(np.arange(12), last), want)
            address, token = index.latest(last)
            assert (np.diff(token) > 0).all() and set(token) >= set(want[want >= 0])
            assert np.array_equal(addresses[token], address)
        address, token = index.between(5, 30)
        assert token.tolist() == [t for t in range(5, 30) if t % 3]


def test_growing_records_answer_for_what_is_there():
    run = exploring.explore(exploring.EXAMPLES / "hello.wasm", max_steps=100)
    assert run.record.steps == 100
    assert run.ended == "recording ended after 100 steps (--max-steps)" and run.done


def test_a_limit_ends_a_recording(monkeypatch):
    def broken(*_args, **_options):
        raise EngineError("too much")
        yield

    run = exploring.explore(exploring.EXAMPLES / "hello.wasm", max_steps=10)
    monkeypatch.setattr(run.run, "tokens", broken)
    run.finish(None)
    assert run.ended == "limit: too much"


def test_columns():
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.ones((2, 3)), "c": np.zeros(0, np.int32)}
    found = unpack(pack(**arrays))
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    with pytest.raises(ValueError, match="int64"):
        pack(x=np.arange(3))


def test_the_tour_s_binary_is_its_text():
    assert compile_wat(tour.source()) == (Path(tour.__file__).parent / "tour.wasm").read_bytes()
