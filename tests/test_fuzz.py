"""Random valid modules: the packed engine, the oracle and wasmtime agree."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowering import Reference, compile_wat
from onengine import OnEngine
from test_lower_random import random_module


def compare(seed: int) -> None:
    """Four calls of a random module; `OnEngine` compares every token with the oracle's."""
    rng = random.Random(seed)
    text, functions = random_module(rng)
    binary = compile_wat(text)
    machine, reference = OnEngine(binary), Reference(binary)
    for _ in range(4):
        index = rng.randrange(len(functions))
        args = [rng.getrandbits(rng.choice((8, 32, 64))) for _ in functions[index][0]]
        expected = reference.invoke(f"f{index}", *args)
        assert machine.invoke(f"f{index}", *args) == expected, text
        assert machine.memory(512) == reference.memory(512), text
        assert machine.pages == reference.pages, text
        reference.invoke("refuel")
        machine.invoke("refuel")


RELAXED = (HealthCheck.too_slow, HealthCheck.data_too_large)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=RELAXED)
@given(st.integers(0, 2**32))
def test_random_modules(seed):
    compare(seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=RELAXED)
@given(st.integers(0, 2**32))
def test_many_random_modules(seed):
    compare(seed)
