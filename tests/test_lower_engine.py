"""The runtime library's newer parts and constant division through the transformer.

Every token is compared with the oracle's (see `onengine`), so results are checked in passing.
"""

import pytest

from lowering import compile_wat
from onengine import OnEngine
from test_lower_bulk import BULK
from test_lower_division import OPERATORS, expected
from test_runtime import STDIN, clock_event, poll_module, random_words, stream_event, wasi_module


def test_bulk_memory():
    machine = OnEngine(compile_wat(BULK), args=["program"], stdin=STDIN)
    expected = bytearray(machine.oracle.memory(0, 700))
    for to, from_, size in ((3, 0, 100), (0, 7, 129), (600, 5, 15), (9, 8, 3), (300, 301, 90)):
        assert machine.invoke("copy", to, from_, size) == []
        expected[to : to + size] = expected[from_ : from_ + size]
        assert machine.oracle.memory(0, 700) == expected
    for to, value, size in ((1, 0x1FF, 90), (77, 3, 7), (80, 4, 1)):
        assert machine.invoke("fill", to, value, size) == []
        expected[to : to + size] = bytes([value % 256]) * size
    assert machine.invoke("init", 11, 8, 5) == []
    expected[11:16] = b"bytes"
    assert machine.oracle.memory(0, 700) == expected


def test_time_and_random_numbers():
    machine = OnEngine(wasi_module(), seed=2**63, clock=2**32 - 500)
    assert machine.invoke("random_get", 1001, 13) == [0]
    words = random_words(2**63)
    assert machine.oracle.memory(1001, 14) == (next(words) + next(words))[:13] + b"\0"
    for looks in range(3):
        assert machine.invoke("clock_time_get", 1, 0, 8) == [0]
        time = int.from_bytes(machine.oracle.memory(8, 8), "little")
        assert time == 2**32 - 500 + 1000 * looks


def test_sleeping():
    machine = OnEngine(poll_module([clock_event(1, 1, 10**9), clock_event(2, 0, 10**8)]))
    assert machine.invoke("poll") == [0]
    assert machine.invoke("time") == [10**8]
    machine = OnEngine(poll_module([stream_event(1, 2, 1), clock_event(2, 0, 10**8)]))
    assert machine.invoke("poll") == [0]
    assert machine.invoke("time") == [0]


@pytest.mark.parametrize("width", [32, 64])
def test_division_by_constants(width):
    constants = (2, 3, 7, 10, 16, 2**31, 2**32 - 1, -2, -3, -8)
    cases = [
        (f"{name} by {d}", name, d % (1 << width))
        for name in OPERATORS
        if name.startswith(f"i{width}")
        for d in constants
        if (name, d % (1 << width)) != ("i32.div_s", 2**32 - 1)  # by -1: the library's
    ]
    functions = "".join(
        f'(func (export "{export}") (param i{width}) (result i{width})'
        f" ({name} (local.get 0) (i{width}.const {d})))"
        for export, name, d in cases
    )
    machine = OnEngine(compile_wat(f"(module {functions})"))
    for export, name, d in cases:
        for n in (0x8000_0000_8000_0000, 2**64 - 1, 0x1234_5678_9ABC_DEF0):
            n %= 1 << width
            assert machine.invoke(export, n) == [expected(name, n, d)], (export, n)
