"""A circuit that is not WebAssembly runs through every engine and cache."""

import functools

import numpy as np
import pytest

import counter_machine as cm
from wasmjax.circuit.check import report
from wasmjax.circuit.evaluate import Evaluation
from wasmjax.engine.decode import Engine, Session

COMBINATIONS = [(e, c) for e in ("packed", "dense") for c in ("indexed", "hull", "softmax")]
CASES = [(cm.add(), (5, 7)), (cm.multiply(), (6, 7, 0)), (cm.multiply(), (0, 9, 3))]


@functools.cache
def compiled():
    return cm.build()


@functools.cache
def made(engine: str, cache: str) -> Engine:
    return Engine(compiled().weights, cm.STOP, engine, cache, chunk=256)


@pytest.mark.parametrize(("engine", "cache"), COMBINATIONS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_tokens_are_the_interpreters(engine, cache, case):
    program, registers = CASES[case]
    session = Session(made(engine, cache))
    session.feed(cm.prompt(program, registers))
    tokens = np.concatenate([kept for _, kept in session.generate(2000, keep_all=True)])
    np.testing.assert_array_equal(tokens, cm.interpret(program, registers))
    assert session.stopped


def test_it_is_proven_exact():
    assert report(compiled(), "float32").exact


def test_checked_mode_agrees():
    program, registers = CASES[0]
    prompt, generated = cm.prompt(program, registers), cm.interpret(program, registers)
    sequence = np.concatenate([prompt, generated])[:-1]
    found = Evaluation(compiled().circuit, sequence, first=len(prompt) - 1)
    for name in compiled().circuit.outputs:
        np.testing.assert_array_equal(found.output(name), generated[:, cm.FIELD[name]])


def test_what_is_not_exact_is_not_proven():
    assert not report(compiled(), "bfloat16").exact
