"""Two minutes of the long run of scripts/fuzz.py, whose record is beside this file."""

import json
import pathlib

import fuzz
import pytest

from lowering import compile_wat
from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns

RECORD = pathlib.Path(__file__).parent / "fuzz_record.jsonl"
SEEDS = range(1_000_000, 1_000_003)
"""None that the record has."""


@pytest.fixture(scope="module")
def lanes():
    return fuzz.Lanes()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slice(seed, lanes):
    record, wrong = fuzz.run_block(seed, fuzz.BLOCK, lanes)
    assert wrong == {}
    assert record["programs"] == fuzz.BLOCK and record["executions"] > 4 * fuzz.BLOCK
    # The generator is worth something: most calls return, the others trap in several ways.
    assert record["ends"]["returned"] > record["executions"] / 2
    assert len(record["ends"]) >= 5


def test_a_wrong_token_would_be_found(lanes):
    """What the engine generates is compared, every token: with one changed, it differs."""
    (program,) = fuzz.draw(1, 1)
    machine = fuzz.OnOracle(compile_wat(program.text))
    for arguments in program.calls:
        machine.invoke("f", *arguments)
    turns = machine.oracle.turns
    assert lanes.differences({3: turns}) == {}
    changed = turns[-1][1].copy()
    changed[len(changed) // 2, columns(WASM)["v0"]] ^= 1
    wrong = lanes.differences({3: [*turns[:-1], (turns[-1][0], changed)]})
    assert list(wrong) == [3] and f"turn {len(turns) - 1}" in wrong[3]


def test_the_record():
    records = [json.loads(line) for line in RECORD.read_text().splitlines()]
    assert len({record["seed"] for record in records}) == len(records)
    assert not {record["seed"] for record in records} & set(SEEDS)
    assert sum(record["executions"] for record in records) >= 100_000
    assert not any(record["found"] for record in records)
