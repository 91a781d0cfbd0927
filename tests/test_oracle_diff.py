import dataclasses

import numpy as np
import pytest

import programs
from wasmjax.machine import isa
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.describe import describe, trap_message
from wasmjax.machine.program import prompt
from wasmjax.machine.tokens import columns, token
from wasmjax.oracle.diff import LENGTH, first_divergence
from wasmjax.oracle.execute import Oracle


@pytest.fixture(scope="module")
def stream():
    oracle = Oracle(WASM)
    oracle.feed(prompt(WASM, programs.counter_loop(WASM, 9)))
    return oracle.run(100)


def test_equal_streams(stream):
    assert first_divergence(WASM, stream, stream.copy()) is None
    assert first_divergence(WASM, stream[:0], stream[:0]) is None


def test_first_difference(stream):
    other = stream.copy()
    other[7, columns(WASM)["sp"]] = 3
    other[7, columns(WASM)["v1"]] = 5
    other[9] = 0
    found = first_divergence(WASM, stream, other)
    assert (found.step, found.field, found.expected, found.actual) == (7, "v1", 0, 5)
    assert found.others == ("sp",)
    text = str(found).splitlines()
    assert text[0] == "step 7: field v1: expected 0, got 5 (also: sp)"
    assert text[1].split() == "expected 7 -> slot 2 = 6".split()
    assert text[2].split() == "actual 7 -> slot 2 = 1286".split()


def test_lengths(stream):
    found = first_divergence(WASM, stream, stream[:4])
    assert (found.step, found.field, found.expected, found.actual) == (4, LENGTH, len(stream), 4)
    assert "expected 28 tokens, got 4" in str(found)
    found = first_divergence(WASM, stream[:-1], stream)
    assert (found.step, found.field) == (27, LENGTH)
    assert "halt" in found.actual_record and not found.expected_record


def test_a_difference_comes_before_a_missing_end(stream):
    other = stream[:5].copy()
    other[2, 0] = isa.KIND["trap"]
    assert first_divergence(WASM, stream, other).step == 2


def test_shapes(stream):
    with pytest.raises(ValueError, match="actual tokens must be"):
        first_divergence(WASM, stream, stream[0])
    with pytest.raises(ValueError, match="expected tokens must be"):
        first_divergence(SMALL, stream, stream)


KIND = isa.KIND


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"kind": KIND["slot"], "a0": 12, "v0": 8, "ip0": 1}, "-> slot 12 = 8"),
        ({"kind": KIND["slot"], "a0": 1, "a1": 2, "v1": 1, "ip0": 1}, "-> slot 513 = 256"),
        ({"kind": KIND["mem2"], "a0": 16, "a2": 1, "v1": 1, "v2": 9}, "-> mem2 0x10010 = 256"),
        ({"kind": KIND["out"], "v0": 65}, "-> out 65 'A'"),
        ({"kind": KIND["err"], "v0": 10}, "-> err 10"),
        ({"kind": KIND["trap"], "code": 4}, "-> trap: out of bounds memory access"),
        ({"kind": KIND["halt"], "v0": 3}, "-> halt 3"),
        ({"ip0": 1}, ""),
        ({"ip0": -5}, "-> ip -5"),
        ({"ip0": -5, "ip1": 1}, "-> ip +251"),
        (
            {"kind": KIND["slot"], "a0": 9, "v0": 3, "depth": 1, "ip0": 7},
            "-> slot 9 = 3, call, ip +7",
        ),
        ({"depth": -1, "ip0": -7}, "-> return, ip -7"),
        ({"kind": KIND["code"], "a0": 3, "op": 1}, f"-> code 3: {WASM.instructions[0]}"),
        ({"kind": KIND["bos"]}, "-> bos"),
        ({"kind": KIND["arith"], "row": 8}, "-> arith 7"),
        ({"kind": KIND["table"], "a1": 1, "v0": 4}, "-> table 256 = 4"),
    ],
)
def test_describe(values, expected):
    line = describe(WASM, token(WASM, **values), 17, "i32.add")
    assert line == f"     17  i32.add           {expected}".rstrip()


def test_describe_on_a_small_machine():
    row = token(SMALL, kind=KIND["slot"], a0=63, v0=255, ip0=-2)
    assert describe(SMALL, row, 3).split() == "3 -> slot 63 = 255, ip -2".split()


def test_describe_never_fails():
    """Diverging tokens may hold anything."""
    rng = np.random.default_rng(0)
    for row in rng.integers(-300, 300, (200, len(columns(WASM)))):
        describe(WASM, row, 0)


def test_trap_messages():
    assert trap_message(2) == "integer divide by zero"
    assert trap_message(isa.UNSUPPORTED_BASE) == "not yet supported: code 32"
    assert trap_message(isa.UNSUPPORTED_BASE + 1, ("x", "f32.add")) == "not yet supported: f32.add"
    assert trap_message(31) == "unknown code 31"


def test_divergence_is_plain_data(stream):
    other = stream.copy()
    other[0, 0] = 0
    found = first_divergence(WASM, stream, other)
    assert dataclasses.asdict(found)["field"] == "kind"
