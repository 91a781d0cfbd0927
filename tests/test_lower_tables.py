"""Tables that change (table.init, table.copy, elem.drop) against wasmtime."""

import random

import pytest

from lowering import Machine, Reference, Trap, compile_wat

TABLES = """(module (memory (export "memory") 1 3)
  (type $number (func (result i32)))
  (data (i32.const 8) "not the table")
  (table 30 funcref)
  (elem (i32.const 2) $f1 $f2 $f3 $f4 $other)
  (elem $passive func $f4 $f3 $f2 $f1 $f5)
  (elem $empty func)
  (func $f1 (result i32) (i32.const 11))
  (func $f2 (result i32) (local i32) (local.get 0))
  (func $f3 (result i32) (local i32) (local.set 0 (i32.const 33)) (local.get 0))
  (func $f4 (result i32) (i32.load (i32.const 8)))
  (func $f5 (result i32) (memory.grow (i32.const 1)))
  (func $other (param i32))
  (func (export "copy") (param i32 i32 i32)
    (table.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init") (param i32 i32 i32)
    (table.init $passive (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init_empty") (param i32 i32 i32)
    (table.init $empty (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init_active") (param i32 i32 i32)
    (table.init 0 (local.get 0) (local.get 1) (local.get 2)))
  (func (export "drop") (elem.drop $passive))
  (func (export "drop_active") (elem.drop 0))
  (func (export "size") (result i32) (memory.size))
  (func (export "store") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
  (func (export "call") (param i32) (result i32)
    (local i32 i32)
    (i32.add (call_indirect (type $number) (local.get 0)) (i32.const 1))))"""


def check(*calls):
    """Every call ends alike here and in wasmtime, and so do calls of all elements after it."""
    binary = compile_wat(TABLES)
    machine, reference = Machine(binary), Reference(binary)
    for name, *args in calls:
        want = reference.invoke(name, *args)
        if want == Trap("undefined element"):  # wasmtime has one code for both
            want = Trap("out of bounds table access")
        assert machine.invoke(name, *args) == want, (name, args)
    for index in range(33):
        got, want = machine.invoke("call", index), reference.invoke("call", index)
        assert got == want, index
    assert machine.invoke("size") == reference.invoke("size")


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [("copy", 10, 2, 5), ("copy", 11, 10, 5), ("copy", 2, 3, 4)],
        [("copy", 30, 0, 0), ("copy", 0, 30, 0), ("copy", 31, 0, 0), ("copy", 0, 31, 0)],
        [("copy", 28, 2, 3), ("copy", 2, 28, 3), ("copy", -1, 0, 2), ("copy", 0, -1, 2)],
        [("init", 20, 0, 5), ("init", 8, 2, 2), ("init", 25, 0, 5), ("init", 26, 0, 5)],
        [("init", 0, 0, 6), ("init", 0, 6, 0), ("init", 0, 5, 0), ("init", 31, 0, 0)],
        [("init_empty", 0, 0, 0), ("init_empty", 0, 0, 1), ("init_empty", 0, 1, 0)],
        [("init_active", 0, 0, 0), ("init_active", 0, 0, 1), ("drop_active",)],
        [("init", 10, 0, 3), ("drop",), ("init", 10, 0, 0), ("init", 10, 0, 1), ("drop",)],
        [("store", 0, -1), ("store", 65532, -1), ("store", 65533, -1), ("store", -4, 7)],
    ],
)
def test_cases(calls):
    check(*calls)


def test_random_changes():
    rng = random.Random(9)
    calls = []
    for _ in range(60):
        to, from_, count = (rng.randrange(12) * rng.choice((1, 3)) for _ in range(3))
        calls.append((rng.choice(("copy", "init")), to, from_, count))
    check(*calls)


def test_a_table_does_not_cost_what_does_not_change_it():
    """call_indirect of a table that never changes stays one step."""
    text = """(module (table 1 funcref) (elem (i32.const 0) $f) (func $f)
      (func (export "run") (call_indirect (i32.const 0))) {})"""
    plain = Machine(compile_wat(text.format("")))
    changing = Machine(compile_wat(text.format('(func (export "drop") (elem.drop 0))')))
    assert plain.invoke("run") == changing.invoke("run") == []
    assert plain.steps < changing.steps
    assert changing.invoke("drop") == []
    assert not isinstance(changing.invoke("run"), Trap)
