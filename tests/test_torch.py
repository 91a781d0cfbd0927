"""The exported model in plain PyTorch (extra `torch`) generates the same tokens."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import onengine
import programs
import wasmjax
from lowering import compile_wat
from wasmjax.cli import main
from wasmjax.export import pytorch
from wasmjax.instance import Run
from wasmjax.machine.config import WASM
from wasmjax.machine.program import prompt
from wasmjax.oracle.execute import Oracle

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    pytorch.export(folder, onengine.machine().engine.weights)
    return folder


def test_what_is_written(folder):
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "config.json", "model.py",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    weights = onengine.machine().engine.weights
    assert (config["layers"], config["heads"], config["width"], config["neurons"]) == weights.shape
    tensors = pytorch.tensors(weights)
    assert sum(array.size for array in tensors.values()) == weights.count()[0]
    source = (folder / "model.py").read_text()
    assert "wasmjax" not in source and len(source.splitlines()) < 180


def test_command_line(tmp_path, capsys):
    out = tmp_path / "new"
    assert main(["export", "--torch", str(out), str(EXAMPLES / "hello.wasm"), "x"]) == 0
    assert "prompt.npy holds the" in capsys.readouterr().out
    tokens = np.load(out / "prompt.npy")
    assert tokens.shape[1] == len(json.loads((out / "config.json").read_text())["fields"])
    (tmp_path / "file").write_text("")
    assert main(["export", "--torch", str(tmp_path / "file" / "x")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture(scope="module")
def model(folder):
    pytest.importorskip("torch", reason="needs the extra torch: pip install 'wasmjax[torch]'")
    spec = importlib.util.spec_from_file_location("exported_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, *module.load(folder)


def generated(model, tokens):
    import torch

    module, transformer, config = model
    made = module.generate(transformer, torch.from_numpy(tokens).long(), config)
    return np.stack([token.numpy() for token in made])


def of_oracle(tokens):
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    return oracle.run(1000)


CALLS = """(module (memory 1)
  (func $fib (export "fib") (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
      (then (local.get 0))
      (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                     (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
  (func (export "memory") (param i32) (result i64)
    (i64.store (local.get 0) (i64.const 0x123456789abcdef0))
    (i64.mul (i64.load16_s offset=5 (local.get 0)) (i64.load8_u (local.get 0))))
  (func (export "zero") (param i32) (result i32) (i32.rem_u (local.get 0) (i32.const 0))))"""


@pytest.mark.parametrize("call", [("fib", 4), ("memory", 77), ("zero", 5)], ids=lambda c: c[0])
def test_programs(model, call):
    name, argument = call
    instance = onengine.machine().instantiate(wasmjax.load(compile_wat(CALLS)))
    tokens = Run(instance, instance.function(name), [argument]).prompt
    np.testing.assert_array_equal(generated(model, tokens), of_oracle(tokens))


@pytest.mark.parametrize("program", [programs.recursive_sum(6), programs.jump_by_table(1)])
def test_flat_programs(model, program):
    tokens = prompt(WASM, program)
    np.testing.assert_array_equal(generated(model, tokens), of_oracle(tokens))


def test_it_runs_alone(model, folder):
    """In a process without wasmjax: the file says what a program writes."""
    text = """(module (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 8) "ok\\n\\00\\08\\00\\00\\00\\03\\00\\00\\00")
      (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 12) (i32.const 1) (i32.const 0)))))"""
    machine = onengine.machine()
    running = machine.start(wasmjax.load(compile_wat(text)), ["program"])
    np.save(folder / "prompt.npy", running.prompt)
    command = [sys.executable, str(folder / "model.py"), str(folder / "prompt.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout == "ok\n" and "'kind': 9" in done.stderr
