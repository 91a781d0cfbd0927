"""A circuit that is not WebAssembly runs through every engine and cache."""

import functools

import jax.numpy as jnp
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


def test_projections_with_narrow_inputs():
    """What is called exact is: inputs and weights survive bfloat16 on every token of a trace."""
    program, registers = CASES[0]
    prompt, generated = cm.prompt(program, registers), cm.interpret(program, registers)
    circuit = compiled().circuit
    found = Evaluation(circuit, np.concatenate([prompt, generated])[:-1], first=len(prompt) - 1)
    narrow = lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)  # noqa: E731
    projections = {(p.kind, p.name): p for p in report(compiled(), "bfloat16").projections}
    checked = 0
    for name, signal in circuit.outputs.items():
        projection = projections["output", name]
        for term, weight in signal.terms.items():
            values = found.term(term)
            if projection.exact:
                np.testing.assert_array_equal(narrow(values), values)
                assert narrow(weight) == weight
                checked += 1
    assert checked > 5
    wide = [p for p in projections.values() if not p.exact]
    assert wide and all("is up to" in p.why or "is inexact" in p.why for p in wide)
    assert len(wide) < len(projections) / 2
