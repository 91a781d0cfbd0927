"""Random programs against wasmtime, most of them drawn so that hypothesis can shrink them.

Many run on the oracle, some through packed/indexed, where every token is the oracle's as well.
"""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_programs import programs
from lowering import Machine, Reference, Trap, compile_wat
from onengine import OnEngine, assert_same_state
from test_lower_random import random_module


def compare(make_machine, program):
    """Calls end alike and leave the same memory and globals; how they ended."""
    binary = compile_wat(program.text)
    machine, reference = make_machine(binary), Reference(binary)
    ends = []
    for arguments in program.calls:
        want = reference.invoke("f", *arguments)
        assert machine.invoke("f", *arguments) == want
        assert_same_state(machine, reference)
        ends.append(want)
    return ends


def fuzz(make_machine, examples, size=40, reproducible=True):
    """Compares that many programs; counts how their calls ended."""
    ends = Counter()

    # Reproducible: what a run in CI finds, a run elsewhere finds too.
    @settings(
        derandomize=reproducible,
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(programs(size))
    def run(program):
        for end in compare(make_machine, program):
            ends[end.name if isinstance(end, Trap) else "returned"] += 1

    run()
    return ends


def test_programs_on_the_oracle():
    ends = fuzz(Machine, 300, 60)
    # The generator is worth something: most calls return, the others trap in several ways.
    assert ends["returned"] > ends.total() / 2
    assert len(ends) >= 4, ends


def test_programs_on_the_engine():
    fuzz(OnEngine, 40, 60)


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 60, 150])
def test_more_programs_on_the_oracle(size):
    fuzz(Machine, 1000, size, reproducible=False)


@pytest.mark.slow
def test_more_programs_on_the_engine():
    fuzz(OnEngine, 300, 80, reproducible=False)


# --- the random modules of the tests of lowering, on the engine ---


def compare_random_module(seed):
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
    compare_random_module(seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=RELAXED)
@given(st.integers(0, 2**32))
def test_many_random_modules(seed):
    compare_random_module(seed)
