"""The benchmarks' workloads: what the manifest records is what they do, here and in wasmtime."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

import onengine
import wasmjax
from test_examples import in_wasmtime

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ROOT / "examples" / "workloads"
MANIFEST = json.loads((WORKLOADS / "workloads.json").read_text())
SOURCES = sorted(path.stem for path in WORKLOADS.glob("*.c"))
KINDS = {"integer", "memory", "calls", "indirect", "i64", "float"}
REQUIRED = {"name", "wasm", "kind", "args", "small_args", "stdout", "exit_code"}
WASI = {"args_get", "args_sizes_get", "fd_write", "proc_exit"}


def name_of(entry):
    return entry["name"]


def test_the_manifest_is_complete():
    names = [entry["name"] for entry in MANIFEST]
    assert len(set(names)) == len(names)
    assert sorted(e["name"] for e in MANIFEST if not e["wasm"].startswith("../")) == SOURCES
    assert {entry["kind"] for entry in MANIFEST} == KINDS
    for entry in MANIFEST:
        extra = {"stdin", "small_stdin"} if "stdin" in entry else set()
        assert set(entry) == REQUIRED | extra
        assert Path(entry["wasm"]).stem == entry["name"]
        assert (WORKLOADS / entry["wasm"]).is_file()


def test_every_wasm_has_a_source():
    assert sorted(path.stem for path in WORKLOADS.glob("*.wasm")) == SOURCES


@pytest.mark.parametrize("name", SOURCES)
def test_imports(name):
    module = wasmtime.Module.from_file(wasmtime.Engine(), str(WORKLOADS / f"{name}.wasm"))
    assert {f"{one.module}.{one.name}" for one in module.imports} <= {
        f"wasi_snapshot_preview1.{name}" for name in WASI
    }


@pytest.mark.parametrize("entry", MANIFEST, ids=name_of)
def test_in_wasmtime(entry, tmp_path):
    stdin = entry.get("stdin", "").encode()
    got = in_wasmtime(WORKLOADS / entry["wasm"], entry["args"], stdin, tmp_path)
    assert got == (entry["stdout"].encode(), b"", entry["exit_code"])


@pytest.mark.parametrize("entry", MANIFEST, ids=name_of)
def test_small_on_the_engine(entry, tmp_path):
    path, stdin = WORKLOADS / entry["wasm"], entry.get("small_stdin", "").encode()
    result = onengine.machine().run(
        wasmjax.load(path), entry["small_args"], stdin=stdin, fuse=True, max_steps=30_000
    )
    assert result.trap is None and not result.out_of_steps
    got = result.stdout, result.stderr, result.exit_code
    assert got == in_wasmtime(path, entry["small_args"], stdin, tmp_path)
    assert result.exit_code == 0 and result.stdout


@pytest.mark.parametrize("size", ["0", "x", "99999999999"])
@pytest.mark.parametrize("name", SOURCES)
def test_sizes_out_of_range_are_refused(name, size, tmp_path):
    assert in_wasmtime(WORKLOADS / f"{name}.wasm", [size], b"", tmp_path) == (b"", b"", 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("ziglang", reason="needs the compile extra (ziglang)")
    out = tmp_path_factory.mktemp("workloads")
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_workloads"), str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out


@pytest.mark.parametrize("name", SOURCES)
def test_rebuild_gives_the_committed_bytes(built, name):
    name = f"{name}.wasm"
    assert (built / name).read_bytes() == (WORKLOADS / name).read_bytes()
