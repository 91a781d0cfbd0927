"""Many lanes at once: the tokens of one lane, whatever the others do, or a refusal."""

import dataclasses
import functools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import counter_machine as cm
import onengine
import onlanes
import programs
from lowering import compile_wat
from onlanes import SMALL_ROWS, WASM_ROWS, Run, drive, settle
from random_transformers import KINDS, ONCE, STOP, draw
from test_integrity import one_changed
from wasmjax.cache.words import Packing, pack_columns
from wasmjax.circuit.language import Vocabulary
from wasmjax.circuit.weights import Weights
from wasmjax.engine.decode import (
    FULL,
    MAX_TOKENS,
    OUT_OF_RANGE,
    REFUSED,
    RUNNING,
    STOPPED,
    Engine,
    Session,
)
from wasmjax.engine.fleet import Fleet, _Pool
from wasmjax.engine.lanes import IDLE, INNER, LIMITED, PAUSED, LanesEngine
from wasmjax.engine.sequence import Prefix, Segment, append, extend, stored
from wasmjax.machine import isa
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.contents import read_values
from wasmjax.machine.program import Instruction, invocation, prompt, registers, registers_of
from wasmjax.machine.tokens import columns
from wasmjax.model.heads import CertificateError
from wasmjax.model.readout import ReadoutError
from wasmjax.oracle.diff import first_divergence
from wasmjax.wasm.lower import lower
from wasmjax.wasm.validate import load_bytes

# --- one contract for all machines ---


def test_programs_of_the_universal_machine():
    runs = onlanes.check_wasm(onlanes.engine("wasm"))
    kind = columns(WASM)["kind"]
    assert len({int(run.tokens[-1][kind]) for run in runs}) == 2  # halts and traps


def test_a_machine_without_webassembly():
    onlanes.check_counters(onlanes.engine("counter"))


# In layers of 192 and 255 stores of two shapes take turns; 255 and 20 leave their vocabulary.
@pytest.mark.parametrize("seed", [0, 3, 20, 192, 255])
def test_random_transformers(seed):
    drawn, runs, refused = onlanes.check_random_transformer(seed)
    assert any(refused)
    statuses = {run.status for run in runs}
    assert statuses == {LIMITED} if drawn.clipped else statuses <= {LIMITED, OUT_OF_RANGE}
    assert OUT_OF_RANGE in statuses or seed not in (20, 255)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 100))
def test_many_random_transformers(seed):
    onlanes.check_random_transformer(seed)


@pytest.mark.parametrize(("seed", "rewritable"), [(9, False), (19, False), (7, True), (34, True)])
def test_addresses_that_no_prompt_wrote(seed, rewritable):
    """What they answer does not depend on where a prefix ends: among those written as the first
    token, beyond them as the nearest."""
    drawn = draw(seed)
    engine = LanesEngine(drawn.weights, STOP, onlanes.one_device(), keep_all=True)
    one = Engine(drawn.weights, STOP, chunk=16)
    fleet = Fleet(engine, onlanes.capacity(engine, 5, *[16] * len(engine.cache.families)))
    tokens = onlanes.begun(engine.cache, drawn.prompts[0])
    if rewritable:
        drop = np.isin(tokens[:, 0], KINDS) & np.isin(tokens[:, 1], (2, 3, 4, 7))
        drop[-1] = False
    else:
        drop = (tokens[:, 0] == ONCE) & np.isin(tokens[:, 1], (0, 1, 2, 5, 7))
    tokens = tokens[~drop]
    (at,) = np.nonzero(np.isin(tokens[:, 0], KINDS if rewritable else (ONCE,)))
    expected, refusal = onlanes.generate(one, tokens, 40)
    assert not refusal
    splits = [1, max(1, at[0]), at[0] + 1, at[1] + 1, len(tokens) - 1]
    runs = [Run(onlanes.sequence(engine.cache, tokens, split), 40) for split in splits]
    drive(fleet, runs)
    for run in runs:
        np.testing.assert_array_equal(run.tokens, expected)


# --- independence ---


@functools.cache
def small_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompts of the small machine and what follows: from a token to more than a thousand."""
    rng = random.Random(8)
    made = [
        *[programs.counter_loop(SMALL, n) for n in (1, 2, 11, 60, 0)],  # 0: all 256 values
        *[programs.fibonacci_small(SMALL, n) for n in (0, 5, 30)],
        *[programs.random_straight_line(SMALL, rng, n) for n in (1, 31, 32, 50)],
        programs.make_program([Instruction("trap", aux=3), Instruction("halt")], stack_base=2),
    ]
    prompts = [prompt(SMALL, program) for program in made]
    return [(tokens, onlanes.oracle_tokens(SMALL, tokens, 5000)) for tokens in prompts]


@functools.cache
def small_fleet(lanes: int) -> Fleet:
    """Used by all examples of a test: what lanes held before must not show."""
    engine = onlanes.engine("small")
    return Fleet(engine, onlanes.capacity(engine, lanes, *SMALL_ROWS))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 3, 8]),
    st.lists(st.tuples(st.integers(0, 12), st.floats(0, 1)), min_size=1, max_size=14),
    st.sampled_from([1, INNER, 100, 4096]),
    st.integers(1, 9),
)
def test_nothing_but_the_sequence_matters(lanes, drawn, limit, patience):
    """Not the lanes, their order, the chunks, nor what is refilled when, nor where prefixes end."""
    engine = onlanes.engine("small")
    runs, expected = [], []
    for case, where in drawn:
        tokens, following = small_cases()[case]
        split = 1 + int(where * (len(tokens) - 2))
        runs.append(Run(onlanes.sequence(engine.cache, tokens, split)))
        expected.append((tokens, following))
    drive(small_fleet(lanes), runs, limit, patience)
    for run, (tokens, following) in zip(runs, expected, strict=True):
        assert run.status == STOPPED
        np.testing.assert_array_equal(run.tokens, following)
        every = np.concatenate([tokens, following])
        assert run.sequence.count == len(every)
        np.testing.assert_array_equal(run.sequence.totals, every.sum(axis=0))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_lanes_that_move_about(cases, rng):
    """Everything is taken out after every chunk and goes on in another lane of some fleet."""
    engine = onlanes.engine("small")
    runs = [Run(onlanes.sequence(engine.cache, small_cases()[case][0])) for case in cases]
    waiting = list(runs)
    while waiting:
        rng.shuffle(waiting)
        fleet = small_fleet(rng.choice([1, 3, 8]))
        batch = [waiting.pop() for _ in range(min(len(waiting), len(fleet.free)))]
        lanes = fleet.admit([(run.sequence, run.left) for run in batch])
        fleet.start(rng.choice([INNER, 2 * INNER]), len(batch))
        settle(fleet, dict(zip(lanes, batch, strict=True)), everything=True)
        waiting += [run for run in batch if run.status == RUNNING]
    for case, run in zip(cases, runs, strict=True):
        np.testing.assert_array_equal(run.tokens, small_cases()[case][1])


def test_a_chunk_ends_when_enough_lanes_have_stopped():
    engine, fleet = onlanes.engine("small"), small_fleet(3)
    long, short = small_cases()[4][0], small_cases()[0][0]
    for patience, steps in ((1, INNER), (3, 7 * INNER)):
        lanes = fleet.admit(
            [(onlanes.sequence(engine.cache, tokens), 5000) for tokens in (long, short, long)]
        )
        fleet.start(7 * INNER, patience)
        chunk = fleet.finish()
        assert chunk.steps[lanes].tolist() == [steps, len(small_cases()[0][1]), steps]
        assert chunk.lane_steps == 3 * steps
        assert chunk.status[lanes].tolist() == [RUNNING, STOPPED, RUNNING]
        fleet.release(lanes)


def test_the_stop_rule_keeps_what_it_says():
    """Fewer tokens are kept than made, and a fleet of that kind makes the same ones."""
    engine = onlanes.engine("small", 64, False)
    fleet = Fleet(engine, onlanes.capacity(engine, 3, *SMALL_ROWS))
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens, _ in small_cases()]
    drive(fleet, runs)
    kind = columns(SMALL)["kind"]
    for run, (_, following) in zip(runs, small_cases(), strict=True):
        stops = np.isin(following[:, kind], engine.stop.keep)
        np.testing.assert_array_equal(run.tokens, following[stops])
        assert run.steps == len(following)


# --- growth ---

FAR_STORES = """(module (memory 1) (func (export "f") (param i32) (result i64)
  (i64.store (i32.const 16) (i64.const 5))
  (i64.store (local.get 0) (i64.const 0x0102030405060708))
  (i64.store (i32.const 24) (i64.const 0x1112131415161718))
  (i64.add (i64.load (i32.const 24)) (i64.load (local.get 0)))))"""


def test_a_lane_that_outgrows_its_rows_goes_on_in_a_bigger_one():
    engine = onlanes.engine("wasm")
    small = Fleet(engine, onlanes.capacity(engine, 3, 128, 64))
    big = Fleet(engine, onlanes.capacity(engine, 8, *WASM_ROWS))
    stores = compile_wat(FAR_STORES)
    prompts = [
        prompt(WASM, programs.recursive_sum(80)),  # stack slots
        onlanes.invoked(stores, "f", 5000),  # words of the memory
        onlanes.invoked(stores, "f", 60000),
        onlanes.invoked(stores, "f", 100),
        prompt(WASM, programs.recursive_sum(20)),
    ]
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens in prompts]
    drive(small, runs, 64)
    assert [run.status for run in runs] == [FULL, FULL, FULL, STOPPED, STOPPED]
    for run, family in zip(runs, (0, 1, 1), strict=False):
        assert run.needs[family] > small.capacity.rows[family]
        assert run.needs[1 - family] == 0
        assert run.steps == len(run.tokens) > 0
    assert 5000 // 8 < runs[1].needs[1] <= 5000 // 8 + 3
    drive(big, runs[:3], 64)
    for tokens, run in zip(prompts, runs, strict=True):
        expected = onlanes.oracle_tokens(WASM, tokens, onlanes.LIMIT)
        found = first_divergence(WASM, expected, run.tokens)
        assert found is None, str(found)
        assert run.status == STOPPED and run.sequence.count == len(tokens) + len(expected)


def test_what_does_not_fit_is_not_admitted():
    engine = onlanes.engine("small")
    fleet = Fleet(engine, onlanes.capacity(engine, 2, 8))
    fits = onlanes.sequence(engine.cache, small_cases()[0][0])
    halts = programs.make_program([Instruction("halt")], slots={9: 1}, stack_base=2)
    wide = prompt(SMALL, halts)
    too_big = onlanes.sequence(engine.cache, wide)
    changed = onlanes.sequence(engine.cache, wide, 2)  # the slot is not in the prefix
    assert fleet.room_for(fits)
    for bad in (too_big, changed):
        assert not fleet.room_for(bad)
        with pytest.raises(ValueError, match="does not fit a lane"):
            fleet.admit([(bad, 10)])
    for left in (0, -1, MAX_TOKENS - fits.count + 1):
        with pytest.raises(ValueError, match="steps after"):
            fleet.admit([(fits, left)])
    with pytest.raises(ValueError, match="3 sequences for 2 lanes"):
        fleet.admit([(fits, 10)] * 3)
    assert sorted(fleet.free) == [0, 1]


# --- further turns, and reading what is stored ---

COUNTING = """(module (memory 1) (global $g (mut i64) (i64.const 5))
  (func (export "bump") (param i32 i64) (result i64)
    (i64.store (local.get 0) (i64.add (i64.load (local.get 0)) (local.get 1)))
    (global.set $g (i64.add (global.get $g) (i64.load (local.get 0))))
    (global.get $g)))"""


def test_further_turns():
    """A sequence that was taken out is fed another invocation, as a session is."""
    engine = onlanes.engine("wasm")
    fleet = Fleet(engine, onlanes.capacity(engine, 8, *WASM_ROWS))
    lowered = lower(load_bytes(compile_wat(COUNTING)))
    session = Session(onengine.machine().engine)
    entry, first = lowered.exports["bump"], prompt(WASM, lowered.program)
    run = None
    for args in ((8, 3), (16, 2**64 - 1), (8, 2**40 + 7), (60000, 9)):
        now = registers_of(WASM, session.totals) if run else None
        call = invocation(
            WASM,
            lowered.program,
            now or registers(WASM, first),
            entry=entry.entry,
            args=args,
            header=entry.header,
            frame_size=entry.frame_size,
        )
        if run is None:
            tokens = np.concatenate([first, call])
            run = Run(onlanes.sequence(engine.cache, tokens, len(first) - 2))
        else:
            assert registers_of(WASM, run.sequence.totals) == now
            tokens = call
            append(engine.cache, run.sequence, tokens)
        session.feed(tokens)
        expected = np.concatenate([kept for _, kept in session.generate(1000, keep_all=True)])
        run.parts = []
        drive(fleet, [run])
        np.testing.assert_array_equal(run.tokens, expected)
        assert run.sequence.count == session.tokens
    for kind, addresses in (("slot", np.arange(12)), ("mem8", 8 * np.arange(8000))):
        mine = read_values(
            WASM, lambda tokens: stored(engine.cache, run.sequence, tokens), kind, addresses
        )
        np.testing.assert_array_equal(mine, read_values(WASM, session.stored, kind, addresses))
    assert mine[[1, 2, 7500]].tolist() == [2**40 + 10, 2**64 - 1, 9]
    # All that is stored, the addresses that tell whether a word was ever written among it.
    probe = np.zeros((100, len(run.sequence.token)), np.int32)
    probe[:, columns(WASM)["kind"]] = isa.KIND["mem8"]
    probe[:, columns(WASM)["a0"]] = 8 * (np.arange(100) % 32)
    probe[:, columns(WASM)["a1"]] = np.arange(100) // 32
    for mine, its in zip(
        stored(engine.cache, run.sequence, probe), session.stored(probe), strict=True
    ):
        np.testing.assert_array_equal(mine, its)


def test_a_further_turn_may_not_write_what_is_shared():
    engine = onlanes.engine("small")
    tokens = small_cases()[0][0]
    sequence = onlanes.sequence(engine.cache, tokens)
    code = tokens[tokens[:, columns(SMALL)["op"]] > 0]
    with pytest.raises(ValueError, match="write-once address space"):
        append(engine.cache, sequence, np.concatenate([code[:1], tokens[-1:]]))


# --- refusals ---


def test_a_write_once_store_is_never_written():
    """Without the recency term the registers belong to the prompt alone."""
    weights = onlanes.counter_weights()
    w_k = weights.w_k.copy()
    w_k[:, :, 1] *= np.where(weights.position != 0, 0, 1)
    weights = dataclasses.replace(weights, w_k=w_k)
    engine = LanesEngine(weights, cm.STOP, onlanes.one_device(), keep_all=True)
    assert not engine.cache.families
    fleet = Fleet(engine, onlanes.capacity(engine, 2))
    program = [cm.Instruction(cm.JZ, 3, 1), cm.Instruction(cm.INC, 2), cm.Instruction(cm.HALT)]
    # A last token that writes nothing.
    prompts = [np.stack([*cm.prompt(p, (4, 5)), cm.token()]) for p in (program, program[2:])]
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens in prompts]
    drive(fleet, runs)
    # The token is made, but no step from it: what it wrote could not be remembered.
    expected, refusal = onlanes.generate(Engine(weights, cm.STOP, chunk=16), prompts[0], 9)
    np.testing.assert_array_equal(runs[0].tokens, expected)
    np.testing.assert_array_equal(runs[0].tokens, cm.interpret(program, (4, 5))[:2])
    assert runs[0].status == REFUSED and runs[1].status == STOPPED
    assert "write-once address space" in runs[0].problem
    assert refusal.endswith(runs[0].problem)


def narrowed(bits: int) -> LanesEngine:
    """The small machine with slots that hold values of fewer bits than there may be."""
    engine = LanesEngine(
        build_machine(SMALL).weights, onlanes.SMALL_STOP, onlanes.one_device(), keep_all=True
    )
    (packing,) = engine.cache.packing
    columns = [c if c.flag else dataclasses.replace(c, bits=bits) for c in packing.columns]
    engine.cache.packing[0] = dataclasses.replace(
        packing, columns=tuple(columns), proven=tuple(c.flag for c in columns)
    )
    engine.cache._plan()
    return engine


def test_a_value_that_its_type_cannot_hold_is_refused():
    engine = narrowed(4)
    fleet = Fleet(engine, onlanes.capacity(engine, 2, *SMALL_ROWS))
    prompts = [prompt(SMALL, programs.fibonacci_small(SMALL, n)) for n in (3, 12)]
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens in prompts]
    drive(fleet, runs)
    expected = [onlanes.oracle_tokens(SMALL, tokens, 5000) for tokens in prompts]
    np.testing.assert_array_equal(runs[0].tokens, expected[0])
    assert runs[0].status == STOPPED and runs[1].status == REFUSED
    assert "does not fit its type" in runs[1].problem
    count = len(runs[1].tokens)
    np.testing.assert_array_equal(runs[1].tokens, expected[1][:count])
    column = columns(SMALL)
    writes = expected[1][:, column["kind"]] == isa.KIND["slot"]
    writes &= expected[1][:, column["v0"]] > 15
    assert count == 1 + np.flatnonzero(writes)[0]
    with pytest.raises(ValueError, match="does not fit the cache's types"):
        onlanes.sequence(engine.cache, prompt(SMALL, programs.counter_loop(SMALL, 16)))
    # A lane remembers nothing of its refusal.
    again = [Run(onlanes.sequence(engine.cache, prompts[0])) for _ in range(2)]
    drive(fleet, again)
    assert [run.status for run in again] == [STOPPED, STOPPED]


def test_an_address_below_its_space_is_refused():
    """Never written before the first row: that would be another lane's."""
    engine = LanesEngine(onlanes.counter_weights(), cm.STOP, onlanes.one_device(), keep_all=True)
    prompts = [cm.prompt(cm.add(), case) for case in ((0, 0), (3, 2))]
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens in prompts]
    # As if a certificate had not seen the least addresses.
    heads = engine.cache.heads
    stores = [dataclasses.replace(s, lo=5) if s.rewritable else s for s in heads.stores]
    engine.cache.heads = dataclasses.replace(heads, stores=tuple(stores))
    fleet = Fleet(engine, onlanes.capacity(engine, 2, 32))
    lanes = fleet.admit([(run.sequence, 100) for run in runs])
    assert lanes == [0, 1]
    before = np.array(fleet._lanes.cache.written[0])
    fleet.start(100, 2)
    chunk = fleet.finish()
    assert chunk.status[lanes].tolist() == [STOPPED, REFUSED]
    assert "address space" in fleet.problem(1)
    after = np.array(fleet._lanes.cache.written[0])
    np.testing.assert_array_equal(after[:, :-1], before[:, :-1])  # the last row is a dummy


def test_steps_are_used_up():
    fleet, (tokens, following) = small_fleet(3), small_cases()[4]
    sequence = onlanes.sequence(fleet.cache, tokens)
    runs = [Run(sequence, left) for left in (1, 31, 32, 33, len(following))]
    drive(fleet, runs)
    for run, left in zip(runs, (1, 31, 32, 33, len(following)), strict=True):
        assert run.steps == left == len(run.tokens)
        np.testing.assert_array_equal(run.tokens, following[:left])
        assert run.left == 0
        assert run.status == (STOPPED if left == len(following) else LIMITED)
    # Whoever is given more steps goes on.
    again = Run(runs[1].sequence)
    drive(fleet, [again])
    np.testing.assert_array_equal(again.tokens, following[31:])


def test_a_lane_with_no_room_for_tokens_pauses():
    engine = onlanes.engine("small", 10)
    fleet = Fleet(engine, onlanes.capacity(engine, 2, *SMALL_ROWS))
    cases = [small_cases()[k] for k in (3, 0)]
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens, _ in cases]
    lanes = fleet.admit([(run.sequence, run.left) for run in runs])
    fleet.start(1000, 2)
    chunk = fleet.finish()
    assert chunk.status[lanes].tolist() == [PAUSED, STOPPED]
    assert chunk.steps[lanes[0]] == len(chunk.kept[lanes[0]]) == 10
    fleet.start(1000, 1)
    again = fleet.finish()
    assert again.steps[lanes].tolist() == [10, 0] and lanes[1] not in again.kept
    np.testing.assert_array_equal(
        np.concatenate([chunk.kept[lanes[0]], again.kept[lanes[0]]]),
        cases[0][1][:20, engine.emitted],
    )
    fleet.release(lanes)
    drive(fleet, runs, 1000, 1)  # PAUSED lanes go on by themselves
    for run, (_, following) in zip(runs, cases, strict=True):
        np.testing.assert_array_equal(run.tokens, following)


def test_released_lanes_are_idle():
    engine = onlanes.engine("small")
    fleet = Fleet(engine, onlanes.capacity(engine, 3, *SMALL_ROWS))
    lanes = fleet.admit([(onlanes.sequence(engine.cache, small_cases()[4][0]), 5000)] * 2)
    fleet.release(lanes[:1])
    fleet.start(INNER, 1)
    chunk = fleet.finish()
    assert chunk.status[lanes].tolist() == [IDLE, RUNNING]
    assert sorted(chunk.steps.tolist()) == [0, 0, INNER] and set(chunk.kept) == {lanes[1]}


def test_prompts_that_no_session_would_take():
    engine = onlanes.engine("counter")
    tokens = cm.prompt(cm.add(), (3, 5))
    for at in (4, -1):
        wrong = tokens.copy()
        wrong[at, cm.FIELD["value"]] = cm.TOP + 1
        with pytest.raises(ValueError, match="field value of a prompt token is outside"):
            onlanes.sequence(engine.cache, wrong)
        with pytest.raises(ValueError, match="field value of a prompt token is outside"):
            append(engine.cache, onlanes.sequence(engine.cache, tokens), wrong)
    code = np.flatnonzero(tokens[:, cm.FIELD["op"]])[-1]
    last = np.r_[np.delete(np.arange(len(tokens)), code), code]
    with pytest.raises(ValueError, match="field op is never emitted"):
        onlanes.sequence(engine.cache, tokens[last])
    with pytest.raises(ValueError, match="must begin with a token"):
        Prefix(engine.cache, tokens[1:])
    assert extend(engine.cache, []) == []


def test_fields_that_16_bits_cannot_hold_are_refused():
    weights = onlanes.counter_weights()
    at = cm.FIELD["value"]
    field = weights.vocabulary[at]
    extra = 2**15
    vocabulary = list(weights.vocabulary)
    vocabulary[at] = Vocabulary(field.name, field.lo, field.size + extra, field.emitted)

    def longer(table: np.ndarray) -> np.ndarray:
        """The table, its second differences (which readouts are proven from) going on."""
        k = np.arange(field.size + extra)[:, None]
        first, step = table[0], table[1] - table[0]
        return first + k * step + k * (k - 1) / 2 * (table[2] - 2 * table[1] + first)

    embedding, unembedding = list(weights.embedding), list(weights.unembedding)
    embedding[at], unembedding[at] = longer(embedding[at]), longer(unembedding[at])
    wide = dataclasses.replace(
        weights, vocabulary=tuple(vocabulary), embedding=embedding, unembedding=unembedding
    )
    with pytest.raises(ValueError, match="beyond 16 bits"):
        LanesEngine(wide, cm.STOP)


# --- the weights are the machine ---


def lanes_tokens(weights: Weights, tokens: np.ndarray, steps: int) -> Run:
    engine = LanesEngine(weights, onlanes.SMALL_STOP, onlanes.one_device(), keep_all=True)
    fleet = Fleet(engine, onlanes.capacity(engine, 2, *SMALL_ROWS))
    run = Run(onlanes.sequence(engine.cache, tokens), steps)
    drive(fleet, [run])
    return run


def check_changed(seed: int) -> Run | None:
    """Lanes follow a changed weight as one lane does; None if they refuse weights or prompt."""
    tokens = prompt(SMALL, programs.fibonacci_small(SMALL, 6))
    what, changed = one_changed(build_machine(SMALL).weights, seed)
    try:
        run = lanes_tokens(changed, tokens, 80)
    except (CertificateError, ReadoutError) as error:
        with pytest.raises(type(error)):
            Engine(changed, onlanes.SMALL_STOP)
        return None
    except ValueError as error:
        assert "must begin" in str(error) or "fit" in str(error), what
        return None
    expected, refusal = onlanes.generate(Engine(changed, onlanes.SMALL_STOP, chunk=16), tokens, 80)
    both = min(len(expected), len(run.tokens))
    np.testing.assert_array_equal(run.tokens[:both], expected[:both], err_msg=what)
    if run.status != REFUSED:  # lanes may refuse what one lane remembers, not the reverse
        assert len(run.tokens) == len(expected), what
        assert (run.status == OUT_OF_RANGE) == ("vocabulary" in refusal), what
    return run


# The last one leaves a vocabulary.
@pytest.mark.parametrize("seed", [10, 14, 31, 32, 65, 62])
def test_a_changed_weight_changes_lanes_as_it_changes_one(seed):
    tokens = prompt(SMALL, programs.fibonacci_small(SMALL, 6))
    run = check_changed(seed)
    assert run is not None
    assert not np.array_equal(run.tokens, onlanes.oracle_tokens(SMALL, tokens, 80))
    assert (run.status == OUT_OF_RANGE) == (seed == 62)


def test_weights_that_one_lane_refuses_are_refused():
    assert check_changed(20) is None


@pytest.mark.slow
def test_many_changed_weights():
    assert sum(check_changed(seed) is not None for seed in range(100, 200)) > 30


# --- rows in words ---


@st.composite
def tables(draw) -> tuple[Packing, np.ndarray]:
    """A packing, and rows of values that were among its samples."""
    names = ["byte", "low", "bit", "wide", "half", "flag"]
    kinds = draw(st.lists(st.sampled_from(names), min_size=1))
    samples = {
        "byte": np.arange(256.0),
        "low": np.arange(-5.0, 200.0),
        "bit": np.array([0.0, 1.0]),
        "wide": np.arange(-1023.0, 1024.0),
        "half": np.array([0.0, 0.5, -3.25, 2.0**30]),
        "flag": None,
    }
    proven = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    columns = st.sampled_from(range(len(kinds)))
    together = draw(st.lists(st.lists(columns, unique=True), max_size=3))
    packing = pack_columns([samples[kind] for kind in kinds], proven, together)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(0, 9))
    data = np.zeros((n, len(kinds)))
    for c, kind in enumerate(kinds):
        data[:, c] = np.arange(n) + 7 if kind == "flag" else rng.choice(samples[kind], n)
    return packing, data


@settings(max_examples=60, deadline=None)
@given(tables())
def test_packed_rows_are_read_back(table):
    packing, data = table
    words = packing.pack(data)
    assert words.dtype == packing.dtype and words.shape == (len(data), packing.words)
    assert packing.row_bytes == packing.words * packing.dtype.itemsize
    np.testing.assert_array_equal(packing.unpack(words, np.arange(len(data)), 7), data)
    # Rows that nothing wrote are zero: flags then say the first address.
    flags = [c for c, column in enumerate(packing.columns) if column.flag]
    never = packing.unpack(np.zeros_like(words), np.arange(len(data)), 7)
    np.testing.assert_array_equal(never[:, flags], np.full((len(data), len(flags)), 7.0))


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_values_that_do_not_fit_are_refused(table, data):
    packing, rows = table
    c = data.draw(st.integers(0, len(packing.columns) - 1))
    column = packing.columns[c]
    beyond = column.bias + 2.0**column.bits
    wrong = [column.bias - 1.0, beyond, column.bias + 0.5, np.nan, np.inf]
    if column.bits == 32:
        wrong = [1 + 2.0**-30, 2.0**24 + 1, 1 / 3]
    rows = np.concatenate([rows, np.tile([[float(f.bias) for f in packing.columns]], (1, 1))])
    rows[data.draw(st.integers(0, len(rows) - 1)), c] = data.draw(st.sampled_from(wrong))
    if column.flag:
        packing.pack(rows)  # the address is not stored
    else:
        with pytest.raises(ValueError, match="does not fit"):
            packing.pack(rows)


def test_fewer_bits_where_they_do():
    byte, wide, half = np.arange(256.0), np.arange(300.0), np.array([0.5])
    for samples, words, dtype in (
        ([byte], 1, "u1"), ([None], 1, "u1"), ([wide], 1, "u2"), ([byte, None], 1, "u2"),
        ([half], 1, "u4"), ([byte] * 4, 1, "u4"), ([byte] * 5, 2, "u4"),
        ([wide, byte, half, byte], 2, "u4"),
    ):  # fmt: skip
        packing = pack_columns(samples, [False] * len(samples))
        assert (packing.words, packing.dtype) == (words, np.dtype(dtype))
    bit = np.array([0.0, 1.0])
    assert pack_columns([bit] * 32, [True] * 32).words == 1
    assert pack_columns([bit] * 32, [False] * 32).words == 8  # there may be larger values


def test_columns_that_are_read_together_share_a_word():
    byte = np.arange(256.0)
    packing = pack_columns([byte] * 8, [True] * 8, [[0, 3, 5], [1, 7]])
    word = [column.word for column in packing.columns]
    assert word[0] == word[3] == word[5] and word[1] == word[7]
    assert packing.words == 2


# --- pools of segments ---


def segment(rng: np.random.Generator, rows: int) -> Segment:
    words = rng.integers(0, 2**16, (rows, 3)).astype(np.uint16)
    return Segment(words, 0, rows - 1, words.astype(float))


def check_pool(pool: _Pool, held: list[Segment]) -> None:
    for one in held:
        base = pool.base(one)
        np.testing.assert_array_equal(pool.rows[base : base + len(one.words)], one.words)


def test_equal_segments_are_stored_once():
    pool = _Pool(3, np.dtype(np.uint16), 64)
    a, b, again = (segment(np.random.default_rng(seed), 20) for seed in (1, 2, 1))
    for one in (a, b, again):
        pool.hold(one)
    pool.place()
    check_pool(pool, [a, b, again])
    assert pool.base(a) == pool.base(again) != pool.base(b)
    assert len(pool.rows) == 64
    pool.changed = False
    pool.drop(a)
    pool.hold(a)
    pool.place()
    assert not pool.changed  # the devices have them all


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=60))
def test_a_pool_keeps_every_segment_that_is_held(steps):
    """Segments come and go; the pool is compacted, then grows."""
    known = [segment(np.random.default_rng(k), 1 + 5 * (k % 4)) for k in range(12)]
    pool, held = _Pool(3, np.dtype(np.uint16), 24), []
    for comes, k in steps:
        if comes or not held:
            held.append(known[k])
            pool.hold(known[k])
            pool.place()
        else:
            pool.drop(held.pop(k % len(held)))
        check_pool(pool, held)
    total = sum(len(one.words) for one in {one.digest: one for one in held}.values())
    assert len(pool.rows) >= total


@pytest.mark.parametrize("rows", [2, 100])
def test_lanes_keep_their_segments_when_pools_change(rows):
    """Pools too small for one prompt grow, those for three are compacted, while others run."""
    engine = onlanes.engine("small")
    fleet = Fleet(engine, onlanes.capacity(engine, 3, *SMALL_ROWS, pool_rows=rows))
    # The second and the last one run on while the code before theirs goes.
    cases = [small_cases()[k] for k in (9, 7, 10, 11, 12, 9, 10, 11, 8, 10, 9, 7, 11, 9, 10, 4)]
    runs = [Run(onlanes.sequence(engine.cache, tokens)) for tokens, _ in cases]
    drive(fleet, runs, INNER)
    for run, (_, following) in zip(runs, cases, strict=True):
        np.testing.assert_array_equal(run.tokens, following)
    assert (len(fleet._pools[0].rows) > rows) == (rows == 2)
