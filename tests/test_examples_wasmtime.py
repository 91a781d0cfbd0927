"""The manifest of the examples holds, by an independent WebAssembly runtime."""

import json
from pathlib import Path

import pytest
import wasmtime

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MANIFEST = json.loads((EXAMPLES / "examples.json").read_text())
PROGRAMS = [entry for entry in MANIFEST if "invoke" not in entry]
FUNCTIONS = [entry for entry in MANIFEST if "invoke" in entry]


def name_of(entry):
    return entry["name"]


@pytest.fixture(scope="module")
def engine():
    return wasmtime.Engine()


@pytest.mark.parametrize("entry", PROGRAMS, ids=name_of)
def test_program(entry, engine, tmp_path):
    (tmp_path / "stdin").write_bytes(entry["stdin"].encode())
    config = wasmtime.WasiConfig()
    config.argv = [entry["wasm"], *entry["args"]]
    config.stdin_file = tmp_path / "stdin"
    config.stdout_file = tmp_path / "stdout"
    config.stderr_file = tmp_path / "stderr"
    store = wasmtime.Store(engine)
    store.set_wasi(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    module = wasmtime.Module.from_file(engine, str(EXAMPLES / entry["wasm"]))
    instance = linker.instantiate(store, module)
    try:
        instance.exports(store)["_start"](store)
        code = 0
    except wasmtime.ExitTrap as exit:
        code = exit.code
    assert (tmp_path / "stdout").read_bytes() == (EXAMPLES / entry["stdout"]).read_bytes()
    assert (tmp_path / "stderr").read_text() == entry.get("stderr", "")
    assert code == entry["exit_code"]


@pytest.mark.parametrize("entry", FUNCTIONS, ids=name_of)
def test_function(entry, engine):
    store = wasmtime.Store(engine)
    module = wasmtime.Module.from_file(engine, str(EXAMPLES / entry["wasm"]))
    instance = wasmtime.Instance(store, module, [])
    result = instance.exports(store)[entry["invoke"]](store, *entry["args"])
    assert [result] == entry["results"]
