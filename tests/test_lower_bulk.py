"""Bulk memory operators against wasmtime."""

import random

import pytest

from lowering import Machine, Reference, compile_wat

DATA = "".join(f"\\{k % 256:02x}" for k in range(1, 600))
BULK = f"""(module (memory (export "memory") 1 3)
  (data (i32.const 0) "{DATA}")
  (data $passive "passive bytes, thirty-one of them")
  (data $empty "")
  (func (export "copy") (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init") (param i32 i32 i32)
    (memory.init $passive (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init_empty") (param i32 i32 i32)
    (memory.init $empty (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init_active") (param i32 i32 i32)
    (memory.init 0 (local.get 0) (local.get 1) (local.get 2)))
  (func (export "drop") (data.drop $passive))
  (func (export "drop_active") (data.drop 0))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
PAGE = 65536


def check_memory(*calls, **inputs):
    """Every call ends alike here and in wasmtime, and leaves the same bytes."""
    binary = compile_wat(BULK)
    machine, reference = Machine(binary, **inputs), Reference(binary)
    for name, *args in calls:
        assert machine.invoke(name, *args) == reference.invoke(name, *args), (name, args)
        assert machine.memory(1024) == reference.memory(1024), (name, args)
    end = reference.pages * PAGE
    assert machine.memory(end) == reference.memory(end)
    return machine


@pytest.mark.parametrize("distance", [-300, -65, -64, -9, -8, -7, -1, 0, 1, 7, 8, 9, 64, 65, 300])
def test_copies_of_every_size(distance):
    sizes = [*range(50), 63, 64, 65, 72, 73, 127, 128, 129, 136, 150, 191, 192, 193, 256, 299]
    check_memory(*(("copy", 400 + distance, 400, size) for size in sizes))


def test_random_copies_and_fills():
    rng = random.Random(5)
    calls = []
    for _ in range(300):
        to, from_, size = (
            rng.randrange(700),
            rng.randrange(700),
            rng.randrange(rng.choice((30, 300))),
        )
        calls.append(("copy", to, from_, size))
        calls.append(("fill", rng.randrange(700), rng.getrandbits(32), rng.randrange(40)))
    check_memory(*calls)


def test_fills_of_every_size():
    check_memory(*(("fill", 300 + size % 9, 7 * size, size) for size in range(200)))


@pytest.mark.parametrize("name", ["copy", "fill", "init"])
def test_bounds_come_before_any_byte(name):
    calls = []
    for to in (0, 5, PAGE - 8, PAGE - 1, PAGE, PAGE + 1, -1, -8):
        for from_ in (0, 5, 31, 32, 33, PAGE - 4, PAGE, PAGE + 1, -1):
            calls += [(name, to, from_, size) for size in (0, 1, 4, 9, 40, 100, PAGE, -1, -8)]
    check_memory(*calls)


def test_bulk_operators_in_a_grown_memory():
    check_memory(
        ("fill", PAGE - 10, 1, 20), ("grow", 2), ("fill", PAGE - 10, 1, 20),
        ("copy", 2 * PAGE - 100, PAGE - 20, 40), ("copy", 3 * PAGE - 9, 0, 9),
        ("copy", 3 * PAGE - 9, 0, 10), ("init", 3 * PAGE - 33, 0, 33),
        ("init", 3 * PAGE - 31, 0, 32),
    )  # fmt: skip


def test_passive_segments():
    calls = [
        ("init", 40, 3, 17), ("init", 41, 0, 33), ("init", 41, 33, 0), ("init", 41, 33, 1),
        ("init", 41, 34, 0), ("init_empty", 9, 0, 0), ("init_empty", 9, 0, 1),
        ("init_empty", PAGE, 0, 0), ("init_active", 9, 0, 0), ("init_active", 9, 0, 1),
        ("init_active", 9, 1, 0), ("drop_active",), ("drop",), ("init", 60, 0, 0),
        ("init", 60, 0, 1), ("init", 60, 1, 0), ("drop",), ("copy", 0, 40, 20),
    ]  # fmt: skip
    check_memory(*calls)
    machine = check_memory(*calls, args=["program", "x"], environ=["A=1"], stdin=b"text")
    assert b"passive bytes" in machine.lowered.program.inputs


def test_unused_passive_segments_take_no_room():
    text = """(module (memory 1) (data "unused") (data "used")
      (func (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 4))))"""
    assert Machine(compile_wat(text)).lowered.program.inputs == b"used"


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        ("copy", 1, 37), ("copy", 8, 39), ("copy", 16, 39), ("copy", 32, 87), ("copy", 64, 111),
        ("copy", 4096, 2824), ("copy_down", 64, 117), ("copy_down", 4096, 2893),
        ("fill", 8, 48), ("fill", 64, 77), ("fill", 4096, 2034), ("init", 32, 330),
    ],
)  # fmt: skip
def test_bulk_steps(name, size, limit):
    machine = Machine(compile_wat(BULK))
    to, from_ = (8, 0) if name == "copy_down" else (5000 if name == "copy" else 0, 0)
    assert machine.invoke(name.removesuffix("_down"), to, from_, size) == []
    assert machine.steps - 5 <= limit  # three operands pushed, return, halt
