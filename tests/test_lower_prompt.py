"""The prompt, made column by column, is what one token after the other gives."""

import dataclasses
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

import programs
from lowering import compile_wat
from test_lower_random import random_module
from wasmjax.machine import isa
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.program import (
    Instruction,
    Program,
    Slot,
    TableEntry,
    encode_instruction,
    prompt,
    write_slot,
)
from wasmjax.machine.tokens import columns, digits, fields, token
from wasmjax.wasm.lower import lower
from wasmjax.wasm.validate import load_bytes

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODULES = sorted({entry["wasm"] for entry in json.loads((EXAMPLES / "examples.json").read_text())})
EMPTY = Program((), {}, {}, {}, b"", 0, 0)


def numbered(name, values):
    return {f"{name}{k}": value for k, value in enumerate(values)}


def one_by_one(config, program):
    """The prompt up to the tokens that move sp and fp."""
    kind = isa.KIND
    rows = [token(config, kind=kind["bos"])]
    rows += [token(config, kind=kind["arith"], row=1 + j) for j in range(256)]
    rows += [encode_instruction(config, i, ins) for i, ins in enumerate(program.instructions)]
    for index, entry in sorted(program.table.items()):
        values = numbered("a", digits(index, 2)) | {"kind": kind["table"], "v5": entry.code}
        values |= numbered("v", digits(entry.entry, 3) + digits(entry.type_id, 2))
        rows.append(token(config, **values))
    for address, word in sorted(program.memory.items()):
        values = numbered("a", digits(address, 4)) | numbered("v", digits(word, 8))
        rows.append(token(config, kind=kind["mem8"], **values))
    rows += [write_slot(config, address, value) for address, value in sorted(program.slots.items())]
    for index, byte in enumerate(program.inputs):
        rows.append(token(config, kind=kind["input"], v0=byte, **numbered("a", digits(index, 3))))
    return np.stack(rows)


def check(config, program):
    actual, expected = prompt(config, program), one_by_one(config, program)
    assert actual.dtype == np.int32
    assert (actual[: len(expected)] == expected).all()
    moves = actual[len(expected) :]
    column = columns(config)
    used = [column[name] for name in ("sp", "fp") if name in column]
    assert (moves[:, used].sum(axis=0) == program.stack_base).all()
    assert np.count_nonzero(moves) == np.count_nonzero(moves[:, used])


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = load_bytes((EXAMPLES / name).read_bytes())
    check(
        WASM, lower(module, args=["program", "é"], environ=["A=b"], stdin=bytes(range(256))).program
    )


def test_random_modules():
    for seed in range(10):
        text, _ = random_module(random.Random(seed))
        check(WASM, lower(load_bytes(compile_wat(text)), seed=2**64 - 1).program)


def test_small_machine():
    check(SMALL, programs.counter_loop(SMALL, 5))
    check(SMALL, EMPTY)


def test_no_program():
    check(WASM, EMPTY)
    check(WASM, dataclasses.replace(EMPTY, stack_base=5000))


def test_large_numbers():
    jump = Instruction("jump", next=2**20 - 1)
    call = Instruction("call_indirect", imm=2**64 - 1, aux=2**32 - 1, type_id=65535)
    branch = Instruction("br_if", target=300, next=70000, dsp=-1279, d=Slot("sp", 1279))
    program = Program(
        (jump, call, branch, Instruction("trap", aux=255)),
        {65535: 2**64 - 1, 3: 0},
        {2**26 - 8: 2**64 - 1, 8: 1},
        {65535: TableEntry(2**24 - 1, 65535, 255), 0: TableEntry(0)},
        b"\xff\0",
        1279,
        0,
    )
    check(WASM, program)


def with_code(**values):
    return dataclasses.replace(EMPTY, instructions=(Instruction(**{"op": "move"} | values),))


@pytest.mark.parametrize(
    "program",
    [
        with_code(op="i8.add"),
        with_code(op="nonsense"),
        with_code(imm=2**64),
        with_code(imm=-1),
        with_code(dsp=1280),
        with_code(d=Slot("fp", -1280)),
        with_code(next=2**24),
        with_code(op="br_if", target=-1),
        with_code(aux=2**32),
        with_code(op="call_indirect", type_id=65536),
        dataclasses.replace(EMPTY, slots={65536: 0}),
        dataclasses.replace(EMPTY, slots={0: 2**64}),
        dataclasses.replace(EMPTY, memory={2**26: 1}),
        dataclasses.replace(EMPTY, memory={0: -1}),
        dataclasses.replace(EMPTY, table={65536: TableEntry(0)}),
        dataclasses.replace(EMPTY, table={0: TableEntry(2**24)}),
        dataclasses.replace(EMPTY, table={0: TableEntry(0, 0, 256)}),
    ],
)
def test_what_does_not_fit_is_refused_alike(program):
    with pytest.raises(ValueError) as expected:
        one_by_one(WASM, program)
    with pytest.raises(ValueError) as actual:
        prompt(WASM, program)
    assert str(actual.value) == str(expected.value)


def test_what_a_small_machine_lacks():
    memory = dataclasses.replace(EMPTY, memory={0: 1})
    with pytest.raises(ValueError, match="field"):
        prompt(SMALL, memory)


def test_too_many_instructions():
    code = (Instruction("move"),) * (WASM.code_limit + 1)
    with pytest.raises(ValueError, match="1,048,577 instructions exceed the machine's 1,048,576"):
        prompt(WASM, dataclasses.replace(EMPTY, instructions=code))


def test_ten_thousand_instructions_take_little_time():
    rng = random.Random(1)
    code = tuple(
        Instruction(
            rng.choice(("move", "i32.add", "br_if", "call", "i64.load", "jump", "return_value")),
            a=Slot("sp", -rng.randrange(9)), b=Slot("fp", rng.randrange(9)),
            imm=rng.getrandbits(64), target=rng.randrange(10_000), aux=rng.getrandbits(32),
        )
        for _ in range(10_000)
    )  # fmt: skip
    program = dataclasses.replace(EMPTY, instructions=code)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        prompt(WASM, program)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.06
    assert len(fields(WASM)) == prompt(WASM, program).shape[1]
