"""The committed .wasm files are what their sources compile to."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def in_examples(pattern):
    """Files of the examples, the workloads apart."""
    found = (path.relative_to(EXAMPLES) for path in EXAMPLES.rglob(pattern))
    return sorted(path for path in found if path.parent.name != "workloads")


SOURCES = in_examples("*.c")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("ziglang", reason="needs the compile extra (ziglang)")
    out = tmp_path_factory.mktemp("examples")
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_examples"), str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_rebuild_gives_the_committed_bytes(built, source):
    name = source.with_suffix(".wasm")
    assert (built / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_every_wasm_has_a_source():
    assert [path.with_suffix(".c") for path in in_examples("*.wasm")] == SOURCES
