"""The examples through the transformer, from Python and from the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

import onengine
import wasmjax
from lowering import compile_wat

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
MANIFEST = json.loads((EXAMPLES / "examples.json").read_text())
PROGRAMS = [entry for entry in MANIFEST if "invoke" not in entry]
FUNCTIONS = [entry for entry in MANIFEST if "invoke" in entry]


def name_of(entry):
    return entry["name"]


@pytest.fixture(scope="session")
def machine():
    return onengine.machine()


def in_wasmtime(path, args, stdin, scratch):
    """(stdout, stderr, exit code) of a WASI program."""
    (scratch / "stdin").write_bytes(stdin)
    config = wasmtime.WasiConfig()
    config.argv = ["program", *args]
    config.stdin_file = scratch / "stdin"
    config.stdout_file = scratch / "stdout"
    config.stderr_file = scratch / "stderr"
    store = wasmtime.Store(wasmtime.Engine())
    store.set_wasi(config)
    linker = wasmtime.Linker(store.engine)
    linker.define_wasi()
    module = wasmtime.Module.from_file(store.engine, str(path))
    exports = linker.instantiate(store, module).exports(store)
    try:
        exports["_start"](store)
        code = 0
    except wasmtime.ExitTrap as exit:
        code = exit.code
    return (scratch / "stdout").read_bytes(), (scratch / "stderr").read_bytes(), code


def marked(entry):
    return pytest.param(entry, marks=[pytest.mark.slow] if entry.get("slow") else [])


@pytest.mark.parametrize("entry", [*map(marked, PROGRAMS)], ids=name_of)
def test_program(entry, machine, tmp_path):
    module = wasmjax.load(EXAMPLES / entry["wasm"])
    stdin = entry["stdin"].encode()
    streamed = {1: b"", 2: b""}

    def on_output(number, data):
        streamed[number] += data

    result = machine.run(module, entry["args"], stdin=stdin, on_output=on_output)
    assert result.trap is None and not result.out_of_steps
    got = result.stdout, result.stderr, result.exit_code
    manifest = (EXAMPLES / entry["stdout"]).read_bytes(), entry.get("stderr", "").encode()
    assert got == (*manifest, entry["exit_code"])
    assert got == in_wasmtime(EXAMPLES / entry["wasm"], entry["args"], stdin, tmp_path)
    assert (streamed[1], streamed[2]) == manifest
    assert result.steps > 0 and result.prompt_tokens > 0


@pytest.mark.parametrize("entry", FUNCTIONS, ids=name_of)
def test_function(entry, machine):
    path = EXAMPLES / entry["wasm"]
    got = machine.instantiate(wasmjax.load(path)).call(entry["invoke"], *entry["args"])
    assert got == tuple(entry["results"])
    store = wasmtime.Store(wasmtime.Engine())
    module = wasmtime.Module.from_file(store.engine, str(path))
    exports = wasmtime.Instance(store, module, []).exports(store)
    assert got == (exports[entry["invoke"]](store, *entry["args"]),)


# --- the command line ---


def run(*args, stdin=b""):
    """`python -m wasmjax run ARGS...`: (exit status, stdout, stderr)."""
    command = [sys.executable, "-m", "wasmjax", "run", *map(str, args)]
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def last_line(stderr):
    assert stderr.endswith("\n") and "Traceback" not in stderr
    return stderr.splitlines()[-1]


def assert_summary(line, what):
    """`wasmjax: WHAT; N VM steps in S s (...` and the steps."""
    match = re.match(rf"wasmjax: {re.escape(what)}; ([\d,]+) VM steps in \d+\.\d+ s \(.*\)", line)
    assert match, line
    return int(match[1].replace(",", ""))


def program(tmp_path, text):
    path = tmp_path / "program.wasm"
    path.write_bytes(compile_wat(text))
    return path


@pytest.mark.parametrize(
    ("arguments", "stdout"),
    [(["hello.wasm"], "hello.txt"), (["collatz.wasm", "27"], "collatz_27.txt")],
)
def test_command_line(arguments, stdout):
    status, out, err = run(EXAMPLES / arguments[0], *arguments[1:])
    assert (status, out) == (0, (EXAMPLES / "expected" / stdout).read_bytes())
    assert len(err.splitlines()) == 1
    assert assert_summary(last_line(err), "exit 0") > 1000


def test_command_line_stdin():
    status, out, _ = run(EXAMPLES / "rot13.wasm", stdin=b"Hello, transformer!\n")
    assert (status, out) == (0, (EXAMPLES / "expected" / "rot13.txt").read_bytes())


def test_command_line_exit_code_and_stderr():
    status, out, err = run(EXAMPLES / "collatz.wasm")
    assert (status, out) == (1, b"")
    assert err.splitlines()[:-1] == ["usage: collatz N"]
    assert_summary(last_line(err), "exit 1")


def test_command_line_trap(tmp_path):
    path = program(tmp_path, '(module (func (export "_start") unreachable))')
    status, out, err = run(path)
    assert (status, out) == (134, b"")
    assert_summary(last_line(err), "trap: unreachable")


def test_command_line_step_limit(tmp_path):
    path = program(tmp_path, '(module (func (export "_start") (loop (br 0))))')
    status, out, err = run("--max-steps", 1234, path)
    assert (status, out) == (124, b"")
    assert assert_summary(last_line(err), "step limit reached") == 1234


def test_command_line_step_limit_keeps_the_output_so_far():
    whole = (EXAMPLES / "expected" / "collatz_27.txt").read_bytes()
    status, out, err = run("--max-steps", 100_000, EXAMPLES / "collatz.wasm", "27")
    assert status == 124 and whole.startswith(out)
    assert assert_summary(last_line(err), "step limit reached") == 100_000


WASI_IMPORT = '(import "env" "missing" (func))'
REFUSED = {
    "no such file": (None, "No such file"),
    "empty": (b"", "not a WebAssembly module"),
    "not wasm": (b"#!/bin/sh\necho hello\n", "not a WebAssembly module"),
    "text format": (b"(module)", "not a WebAssembly module"),
    "truncated": ((EXAMPLES / "hello.wasm").read_bytes()[:1000], "truncated"),
    "unknown import": (
        compile_wat(f'(module {WASI_IMPORT} (func (export "_start")))'),
        "env.missing",
    ),
    "no _start": (compile_wat('(module (func (export "main")))'), "_start"),
    "_start with a parameter": (
        compile_wat('(module (func (export "_start") (param i32)))'),
        "_start",
    ),
    "invalid types": (
        compile_wat('(module (func (export "_start") (i32.add (i32.const 1) (i64.const 2)) drop))'),
        "invalid: type mismatch",
    ),
    "data out of bounds": (
        compile_wat('(module (memory 1) (data (i32.const 65535) "ab") (func (export "_start")))'),
        "out of bounds memory access",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_command_line_refuses(name, tmp_path):
    data, reason = REFUSED[name]
    path = tmp_path / "program.wasm"
    if data is not None:
        path.write_bytes(data)
    status, out, err = run(path)
    assert (status, out) == (2, b"")
    assert len(err.splitlines()) == 1 and "Traceback" not in err
    assert err.startswith(f"wasmjax: {path}: ") and reason in err
