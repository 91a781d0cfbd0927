"""Programs folded into the weights: the same tokens, and no code in the prompt."""

import dataclasses
import random

import numpy as np
import pytest

import onengine
import programs
import wasmjax
from in_batches import LANES
from lowering import Machine, compile_wat
from wasmjax.batch.jobs import Job
from wasmjax.circuit.check import report
from wasmjax.cli import main
from wasmjax.engine.decode import Engine, Session
from wasmjax.instance import Run
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.program import prompt
from wasmjax.machine.specialize import code_digest, specialize, without_code
from wasmjax.model import io
from wasmjax.model.transformer import Transformer
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.vm import stop_rule

TEXT = """(module
  (memory (export "memory") 1) (table 3 funcref) (elem (i32.const 0) $double $square)
  (func $double (param i64) (result i64) (i64.shl (local.get 0) (i64.const 1)))
  (func $square (param i64) (result i64) (i64.mul (local.get 0) (local.get 0)))
  (func (export "f") (param i32) (result i64)
    (i64.store (i32.const 3) (i64.extend_i32_s (local.get 0)))
    (block $b (block $a (br_table $a $b (local.get 0))) (return (i64.const -5)))
    (call_indirect (param i64) (result i64) (i64.load (i32.const 3))
      (i32.and (local.get 0) (i32.const 3))))
  (func (export "divide") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func (export "sqrt") (param f64) (result f64) (f64.sqrt (local.get 0))))"""
CALLS = [("f", 0), ("f", 1), ("f", 5), ("f", 2), ("f", 3), ("divide", 7, 2), ("divide", 1, 0)]


@pytest.fixture(scope="module")
def binary():
    return compile_wat(TEXT)


@pytest.fixture(scope="module")
def built(binary):
    return specialize(Machine(binary).lowered.program.instructions)


def on(built, engine="packed", cache="indexed"):
    return wasmjax.Machine(engine, cache, Transformer(built.weights), built.names)


def test_it_is_proven_exact(built):
    found = report(built)
    assert found.exact and len(found.lines) > 300
    layers, heads, width, _ = built.weights.shape
    assert layers <= 6 and heads < 219 and width < 438
    parts = [name for layer in built.names.heads for _, name in layer]
    assert parts and not any(name.startswith("fetch") for name in parts)


@pytest.mark.parametrize(
    ("engine", "cache", "calls"),
    [("packed", "indexed", CALLS), ("dense", "indexed", CALLS[1:3])]
    + [("packed", "hull", CALLS[1:4]), ("dense", "softmax", CALLS[1:2])],
)
def test_tokens_are_those_of_the_universal_machine(binary, built, engine, cache, calls):
    folded = on(built, engine, cache).instantiate(wasmjax.load(binary))
    plain = onengine.machine().instantiate(wasmjax.load(binary))
    for name, *args in calls:
        runs = [Run(i, i.function(name), [a % 2**32 for a in args]) for i in (folded, plain)]
        made = [np.concatenate(list(run.tokens(None, keep_all=True))) for run in runs]
        divergence = first_divergence(WASM, made[1], made[0])
        assert divergence is None, divergence
        if runs[0].prompt.shape != runs[1].prompt.shape:  # the first call comes with the prompt
            code = len(folded.lowered.program.instructions)
            assert len(runs[1].prompt) - len(runs[0].prompt) == code


def test_in_a_batch(binary, built):
    jobs = [Job(binary, call=name, call_args=tuple(args)) for name, *args in CALLS]
    other = Job(compile_wat('(module (func (export "f")))'), call="f")
    results = list(on(built).run_batch([*jobs, other], lanes=LANES))
    expected = list(onengine.machine().run_batch(jobs, lanes=LANES))
    for result, plain in zip(results, expected, strict=False):
        assert dataclasses.replace(result, prompt_tokens=plain.prompt_tokens) == plain
        assert result.prompt_tokens < plain.prompt_tokens
    assert (results[-1].outcome, results[-1].error) == (
        "refused", "the weights hold another program",
    )  # fmt: skip


def test_other_programs_are_refused(binary, built):
    machine = on(built)
    other = wasmjax.load(compile_wat('(module (func (export "f")))'))
    with pytest.raises(ValueError, match="another program"):
        machine.instantiate(other)
    with pytest.raises(ValueError, match="no room for others"):
        machine.store()
    assert onengine.machine().program == ""


def test_more_than_256_instructions():
    """Indices of two digits, and a small machine."""
    straight = programs.random_straight_line(WASM, random.Random(5), 320)
    made = [programs.counter_loop(WASM, 3), straight]
    for program in made:
        built = specialize(program.instructions)
        assert report(built).exact
        engine = Engine(built.weights, stop_rule(), "packed", "indexed", chunk=512)
        session = Session(engine)
        session.feed(prompt(WASM, without_code(program)))
        tokens = np.concatenate([kept for _, kept in session.generate(2000, keep_all=True)])
        oracle = Oracle(WASM)
        oracle.feed(prompt(WASM, program))
        assert first_divergence(WASM, oracle.run(2000), tokens) is None
        assert len(tokens) >= 10


def test_a_small_machine():
    program = programs.counter_loop(SMALL, 9)
    built = specialize(program.instructions, SMALL)
    assert report(built).exact
    assert built.weights.count()[0] < 196_800


def test_command_line(tmp_path, capfd):
    source, saved = tmp_path / "p.wasm", tmp_path / "p.safetensors"
    source.write_bytes(compile_wat(TEXT))
    assert main(["specialize", str(source), "-o", str(saved)]) == 0
    assert "instructions folded in" in capfd.readouterr().out
    _, names = io.load(saved)
    code = Machine(source.read_bytes()).lowered.program.instructions
    assert names.program == code_digest(code)
    assert main(["run", "--weights", str(saved), "--call", "f", str(source), "1"]) == 0
    assert capfd.readouterr().out == "1\n"
    other = tmp_path / "other.wasm"
    other.write_bytes(compile_wat('(module (func (export "f")))'))
    assert main(["run", "--weights", str(saved), "--call", "f", str(other)]) == 2
    assert "the weights hold another program" in capfd.readouterr().err
    for path in (tmp_path / "missing.wasm", saved):
        assert main(["specialize", str(path), "-o", str(saved)]) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1
