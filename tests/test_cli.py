"""The command line: every command, and one line for whatever is wrong with the input."""

import json
import pathlib
import struct
import subprocess
import sys

import pytest
import wasmtime

from wasmjax.cli import main, status

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
HELLO = str(EXAMPLES / "hello.wasm")
FIB = str(EXAMPLES / "freestanding" / "fib.wasm")
HEADER = b"\0asm\x01\0\0\0"


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def command(capsysbinary, *args: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command run in this process."""
    code = main(args)
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


BROKEN = {
    "missing.wasm": (None, "No such file"),
    "empty.wasm": (b"", "not a WebAssembly module"),
    "text.wasm": (b"(module)", "not a WebAssembly module"),
    "elf.wasm": (b"\x7fELF" + bytes(60), "not a WebAssembly module"),
    "version.wasm": (b"\0asm\x02\0\0\0", "version"),
    "header_cut.wasm": (b"\0asm\x01", "0x"),
    "section_cut.wasm": (HEADER + b"\x01\x20\x01", "0x"),
    "hello_cut.wasm": ((EXAMPLES / "hello.wasm").read_bytes()[:5000], "0x"),
    "order.wasm": (HEADER + b"\x03\x01\x00\x01\x01\x00", "0x"),
    "leb.wasm": (HEADER + b"\x01\x80\x80\x80\x80\x80\x01", "0x"),
    "section.wasm": (HEADER + b"\x3f\x00", "0x"),
    "name.wasm": (HEADER + b"\x02\x06\x01\x01\xff\x01a\x00\x00", "0x"),
    "opcode.wasm": (
        HEADER + b"\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x05\x01\x03\x00\xff\x0b",
        "in function 0",
    ),
    "types.wasm": (
        HEADER + b"\x01\x05\x01\x60\x00\x01\x7f\x03\x02\x01\x00\x0a\x04\x01\x02\x00\x0b",
        "type mismatch",
    ),
    "simd.wasm": (
        wat('(module (func (export "_start") (drop (v128.const i32x4 0 0 0 0))))'),
        "SIMD",
    ),
    "memory64.wasm": (wat("(module (memory i64 1))"), "memory64"),
    "reference.wasm": (wat("(module (func (drop (ref.null func))))"), "reference types"),
    "import.wasm": (wat('(module (import "env" "now" (func)))'), "env.now"),
    "wasi.wasm": (
        wat('(module (import "wasi_snapshot_preview1" "sock_shutdown" (func)))'),
        "wasi_snapshot_preview1.sock_shutdown",
    ),
    "no_start.wasm": (wat("(module (func))"), "exports no function _start"),
    "start_type.wasm": (
        wat('(module (func (export "_start") (param i32)))'),
        "_start must take and return nothing",
    ),
    "huge.wasm": (wat('(module (memory 2000) (func (export "_start")))'), "2000"),
    "data.wasm": (
        wat('(module (memory 1) (data (i32.const 65535) "ab") (func (export "_start")))'),
        "out of bounds memory access",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_gets_one_line(capsysbinary, tmp_path, name):
    data, words = BROKEN[name]
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    code, out, err = command(capsysbinary, "run", str(path))
    assert (code, out) == (status.REFUSED, "")
    assert err.startswith(f"wasmjax: {path}: ") and err.count("\n") == 1
    assert words in err


def test_wrong_arguments_of_a_call(capsysbinary):
    for args, words in (
        (["--call", "nope", FIB, "1"], "no function 'nope'"),
        (["--call", "fib", FIB], "fib takes 1 argument(s), not 0"),
        (["--call", "fib", FIB, "x"], "'x' is not an integer"),
        (["--call", "fib", FIB, "99999999999"], "does not fit i32"),
        (["--call-depth", "99999", HELLO], "call_depth"),
        (["--weights", HELLO, HELLO], "safetensors"),
    ):
        code, _, err = command(capsysbinary, "run", *args)
        assert code == status.REFUSED
        assert words in err and err.count("\n") == 1


def test_run(capsysbinary):
    code, out, err = command(capsysbinary, "run", "--json", HELLO)
    assert (code, out) == (0, "Hello, world! 42\n")
    record = json.loads(err)
    assert record["outcome"] == "exit" and record["exit_status"] == 0 and record["steps"] > 1000
    code, out, _ = command(capsysbinary, "run", "--call", "fib", FIB, "20")
    assert (code, out) == (0, "6765\n")


def test_statuses(capsysbinary, tmp_path):
    path = tmp_path / "p.wasm"
    path.write_bytes(wat('(module (func (export "_start") (unreachable)))'))
    code, _, err = command(capsysbinary, "run", str(path))
    assert code == status.TRAPPED and err.startswith("wasmjax: trap: unreachable; 1 VM steps")
    code, _, err = command(capsysbinary, "run", "--max-steps", "50", "--json", HELLO)
    assert code == status.OUT_OF_STEPS and json.loads(err)["outcome"] == "step limit"
    path.write_bytes(wat('(module (func $f (export "_start") (call $f)))'))
    code, _, err = command(capsysbinary, "run", "--call-depth", "5", str(path))
    assert code == status.TRAPPED and "call stack exhausted" in err


def test_the_start_function_traps(capsysbinary, tmp_path):
    path = tmp_path / "p.wasm"
    path.write_bytes(wat('(module (func $s (unreachable)) (func (export "f")) (start $s))'))
    code, _, err = command(capsysbinary, "run", "--call", "f", str(path))
    assert code == status.TRAPPED
    assert err == "wasmjax: trap in the start function: unreachable\n"


def test_a_prompt_that_is_too_large(capsysbinary, tmp_path, monkeypatch):
    from wasmjax.engine import decode

    monkeypatch.setattr(decode, "MAX_TOKENS", 5000)
    code, _, err = command(capsysbinary, "run", HELLO)
    assert code == status.REFUSED and "would pass 5000 tokens" in err and err.count("\n") == 1


def test_trace(capsysbinary):
    code, out, _ = command(capsysbinary, "trace", "--from", "2", "--to", "5", HELLO)
    assert code == 0 and len(out.splitlines()) == 4
    assert out.splitlines()[0].split()[1] == "2"
    _, out, _ = command(capsysbinary, "trace", "--json", "--to", "3", HELLO)
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    _, out, _ = command(capsysbinary, "trace", "--tokens", "--to", "0", HELLO)
    assert len(out.split()) == 1 + 41


def test_inspect_and_diff(capsysbinary):
    code, out, _ = command(capsysbinary, "inspect", "--code", HELLO)
    assert code == 0 and "export _start" in out and "i32.add" in out
    code, _, err = command(capsysbinary, "diff", HELLO)
    assert code == 0 and "tokens identical to the oracle's" in err


def test_explain(capsysbinary):
    code, out, _ = command(capsysbinary, "explain", "--step", "3", "--rows", HELLO)
    assert code == 0 and "layer 1 fetch[0]: asks " in out and "registers.ip0" in out
    _, out, _ = command(capsysbinary, "explain", "--step", "3", "--json", HELLO)
    assert json.loads(out)["emitted"]["kind"] == 1
    code, _, err = command(capsysbinary, "explain", "--step", "9999999", HELLO)
    assert code == status.REFUSED and "the program ends after " in err


def test_weights(capsysbinary, tmp_path):
    path = tmp_path / "machine.safetensors"
    code, out, _ = command(capsysbinary, "weights", "-o", str(path))
    assert code == 0 and "sha256" in out
    _, again, _ = command(capsysbinary, "weights", str(path))
    assert out.splitlines()[1:] == again.splitlines()
    code, out, _ = command(capsysbinary, "run", "--weights", str(path), HELLO)
    assert (code, out) == (0, "Hello, world! 42\n")
    data = bytearray(path.read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    data[8 + size + 1000] ^= 1
    path.write_bytes(data)
    code, _, err = command(capsysbinary, "run", "--weights", str(path), HELLO)
    assert code == status.REFUSED and err.count("\n") == 1


def test_check(capsysbinary):
    code, out, _ = command(capsysbinary, "check")
    assert code == 0 and "FAILED" not in out
    code, out, _ = command(capsysbinary, "check", "--dtype", "bfloat16")
    assert code == status.LIMIT and "FAILED" in out
    assert "with bfloat16 inputs and float32 sums: 1616 of 2000 projections are exact" in out
    code, _, err = command(capsysbinary, "run", "--dtype", "bfloat16", HELLO)
    assert code == status.REFUSED and err.count("\n") == 1
    assert "no indexed cache in bfloat16, only in float32" in err


def test_help_does_not_import_jax():
    script = """import sys, wasmjax.cli
try:
    wasmjax.cli.main(["run", "--help"])
except SystemExit:
    print("jax" in sys.modules)"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_a_second_module_compiles_nothing(capsysbinary):
    """One compiled step serves every module of a capacity bucket."""
    import onengine
    from wasmjax import load

    machine = onengine.machine()
    machine.run(load(HELLO))
    before = machine.engine.compilations
    assert machine.run(load(EXAMPLES / "add.wasm")).stdout == b"3 + 5 = 8\n"
    assert machine.run(load(EXAMPLES / "collatz.wasm"), args=["7"]).exit_code == 0
    assert machine.engine.compilations == before
