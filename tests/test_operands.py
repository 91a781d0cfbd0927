"""Operand fusion of user code: the same outcomes in fewer steps."""

import functools
import json
import random
from pathlib import Path

import pytest

import onengine
import test_lower_random
import wasmjax
from lowering import Machine, Reference, compile_wat
from test_fuzz import fuzz
from wasmjax.batch.jobs import Job
from wasmjax.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"
Fused = functools.partial(Machine, fuse=True)


def check(text, *calls):
    """Calls end alike in wasmtime, unfused and fused; returns the steps of both."""
    binary = compile_wat(text)
    machines, reference = (Machine(binary), Fused(binary)), Reference(binary)
    steps = [0, 0]
    for name, *args in calls:
        want = reference.invoke(name, *args)
        for k, machine in enumerate(machines):
            assert machine.invoke(name, *args) == want, (name, args, k)
            steps[k] += machine.steps
    return steps


def one(body, *, params="i32 i32", result="i32", locals_=""):
    return (
        "(module (memory 1) (global $g (mut i32) (i32.const 9))"
        f'(func (export "f") (param {params}) (result {result}) (local {locals_}) {body})'
        "(func $h (param i32) (result i32) (global.set $g (local.get 0)) (i32.const 1)))"
    )


CASES = {
    "operands in place": ("(i32.sub (local.get 0) (local.get 1))", 2),
    "a constant on the right": ("(i32.shl (local.get 0) (i32.const 3))", 2),
    "a constant on the left that may change places": (
        "(i32.lt_u (i32.const 7) (local.get 1))", 2,
    ),
    "a constant on the left that may not": ("(i32.sub (i32.const 7) (local.get 1))", 3),
    "two constants": ("(i32.sub (i32.const 7) (i32.const 9))", 3),
    "zero on the left": ("(i32.sub (i32.const 0) (local.get 1))", 2),
    "a destination": (
        "(local.set 0 (i32.add (local.get 0) (local.get 1))) (local.get 0)", 2,
    ),
    "a tee that is read": (
        "(i32.add (local.tee 1 (i32.mul (local.get 0) (local.get 0))) (local.get 1))", 3,
    ),
    "an old value below a write": (
        "(local.get 0) (local.set 0 (i32.const 5)) (i32.add (local.get 0))", 4,
    ),
    "an old value below a write that cannot be forwarded": (
        "(local.get 0) (local.set 0 (i32.mul (local.get 0) (local.get 1)))"
        " (i32.sub (local.get 0))", 5,
    ),
    "a swap": (
        "(local.get 0) (local.get 1) (local.set 0) (local.set 1)"
        " (i32.sub (local.get 0) (local.get 1))", 5,
    ),
    "an old global below a call": (
        "(global.get $g) (drop (call $h (i32.const 3))) (i32.sub (global.get $g))", None,
    ),
    "a store": (
        "(i32.store offset=4 (i32.const 8) (i32.const 77)) (i32.load (i32.const 12))", 3,
    ),
    "a constant address out of bounds": ("(i32.load (i32.const 65533))", None),
    "an address beyond the space": ("(i32.load offset=0xfffffff0 (i32.const 0x20))", None),
    "select": ("(select (local.get 0) (i32.const 5) (local.get 1))", 2),
    "select of constants": ("(select (i32.const 6) (i32.const 5) (i32.const 1))", None),
    "a condition": ("(if (result i32) (local.get 0) (then (i32.const 3)) (else (local.get 1)))",
                    None),
    "a value below a block": (
        "(local.get 0) (block (br_if 0 (local.get 1)) (local.set 0 (i32.const 1)))"
        " (i32.add (local.get 0))", None,
    ),
    "a branch with a value": (
        "(block (result i32) (br_if 0 (local.get 0) (local.get 1)) (drop) (i32.const 4))", None,
    ),
    "a division by a constant": ("(i32.div_s (local.get 0) (i32.const -7))", None),
    "a division by what is deferred": ("(i32.rem_u (local.get 0) (local.get 1))", None),
    "after unreachable code": (
        "(block (result i32) (local.get 0) (return (local.get 1)) (i32.const 3)) (drop)"
        " (i32.const 4)", None,
    ),
    "counts": ("(i32.clz (i32.const 77)) (i32.add (i32.eqz (local.get 0)))", None),
    "a dropped value": ("(drop (local.get 0)) (drop (i32.const 3)) (local.get 1)", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    body, steps = CASES[name]
    calls = [("f", a, b) for a in (0, 1, 5, 2**31) for b in (0, 1, 3, 2**32 - 1)]
    plain, fused = check(one(body), *calls)
    assert fused <= plain
    if steps is not None:  # and a halt
        assert fused == (steps + 1) * len(calls)


def test_extensions_and_floats():
    body = """(i64.add (i64.extend_i32_s (local.get 0)) (i64.extend_i32_u (local.get 0)))
      (i64.xor (i64.reinterpret_f64 (f64.neg (local.get 1))))
      (i64.xor (i64.reinterpret_f64 (f64.copysign (f64.const 1.5) (local.get 1))))"""
    text = one(body, params="i32 f64", result="i64")
    binary = compile_wat(text)
    plain, fused = Machine(binary), Fused(binary)
    for a in (0, 2**31, 2**32 - 1):
        for b in (0, 1 << 63, 0x3FF8 << 48):
            assert fused.invoke("f", a, b) == plain.invoke("f", a, b)


def test_copysign_where_sp_lags_behind():
    """After a drop sp is above the stack: the steps of an operator must not disagree on it."""
    body = """(i64.reinterpret_f64
      (f64.copysign (f64.const 2.5) (block (result f64) (local.get 0) (i32.const 1) (drop))))"""
    binary = compile_wat(one(body, params="f64", result="i64"))
    for machine in (Machine(binary), Fused(binary)):
        assert machine.invoke("f", 1 << 63) == [0xC004 << 48]
    text = one("(f64.const 2.5) (local.get 0) (local.get 1) (drop) (f64.copysign)"
               " (i64.reinterpret_f64)", params="f64 i32", result="i64")  # fmt: skip
    for machine in (Machine(compile_wat(text)), Fused(compile_wat(text))):
        assert machine.invoke("f", 1 << 63, 7) == [0xC004 << 48]
        assert machine.invoke("f", 0, 7) == [0x4004 << 48]


def test_random_modules(monkeypatch):
    monkeypatch.setattr(test_lower_random, "Machine", Fused)
    for seed in range(150):
        test_lower_random.compare(random.Random(seed))


def test_random_programs():
    ends = fuzz(Fused, 250, 60)
    assert ends["returned"] > ends.total() / 2


@pytest.mark.slow
def test_more_random_programs():
    for size in (20, 60, 150):
        fuzz(Fused, 1000, size, reproducible=False)


def test_on_the_engine():
    fuzz(functools.partial(onengine.OnEngine, fuse=True), 20, 60)


SHORT = ("hello", "rot13", "long_addition", "crc32_text", "queens_4", "life_0", "bytecode_1")


@pytest.mark.parametrize("name", SHORT)
def test_examples_take_about_half_the_steps(name):
    manifest = json.loads((EXAMPLES / "examples.json").read_text())
    entry = next(e for e in manifest if e["name"] == name)
    module, machine = wasmjax.load(EXAMPLES / entry["wasm"]), onengine.machine()
    stdin = entry["stdin"].encode()
    plain, fused = (
        machine.run(module, entry["args"], stdin=stdin, fuse=fuse) for fuse in (False, True)
    )
    assert (fused.stdout, fused.exit_code) == (plain.stdout, plain.exit_code)
    assert fused.steps < 0.65 * plain.steps
    assert fused.prompt_tokens < plain.prompt_tokens


def test_traces_name_what_a_step_is_made_of(capfd, tmp_path):
    path = tmp_path / "p.wasm"
    path.write_bytes(compile_wat(one("(i32.add (local.get 0) (i32.const 3))")))
    assert main(["trace", "--fuse", "--call", "f", str(path), "1", "2"]) == 0
    assert "i32.add <- local.get 0 <- i32.const 3" in capfd.readouterr().out


def test_in_batches_and_stores():
    binary = compile_wat(one("(i32.mul (local.get 0) (i32.add (local.get 1) (local.get 1)))"))
    machine = onengine.machine()
    jobs = [Job(binary, call="f", call_args=(3, 4), fuse=fuse) for fuse in (False, True)]
    plain, fused = machine.run_batch(jobs, lanes=8)
    assert plain.results == fused.results == (24,)
    assert fused.steps < plain.steps
    instance = machine.store(fuse=True).instantiate(wasmjax.load(binary))
    assert instance.call("f", 3, 4) == (24,)
