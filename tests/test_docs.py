"""docs/tokens.md and the README say what the code does."""

import pathlib
import re
import subprocess
import sys

import support_table

from wasmjax.machine import isa, tokens
from wasmjax.machine.config import WASM
from wasmjax.wasm.opcodes import OPCODES

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "tokens.md").read_text()


def _rows(section: str) -> list[list[str]]:
    text = PAGE.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _names(cell: str) -> list[str]:
    """`v0` .. `v7` and `base_a` .. `base_d` as lists of names."""
    first, *last = re.findall(r"`(\w+)`", cell)
    if not last:
        return [first]
    stem, start, stop = first[:-1], ord(first[-1]), ord(last[0][-1])
    return [stem + chr(c) for c in range(start, stop + 1)]


def test_version():
    assert PAGE.startswith(f"# Tokens, version {tokens.VERSION}\n")


def test_every_field_with_its_range():
    documented = {}
    for cell, span, where, _ in _rows("Fields"):
        lo, hi = map(int, span.split(".."))
        for name in _names(cell):
            documented[name] = (lo, hi, where == "all")
    actual = {f.name: (f.lo, f.hi, f.emitted) for f in tokens.fields(WASM)}
    assert documented == actual


def test_every_kind():
    documented = {}
    for numbers, names, _ in _rows("Kinds"):
        keys, values = numbers.split(", "), names.split(", ")
        documented.update(zip(map(int, keys), values, strict=True))
    assert documented == dict(enumerate(isa.KINDS))


def test_every_trap_code():
    rows = _rows("Trap codes")
    assert {int(code): message for code, message in rows[:-1]} == {
        code: message for code, message in enumerate(isa.TRAPS) if message
    }
    assert rows[-1][0] == f"{isa.UNSUPPORTED_BASE} + k"


REPORT = """<testsuites><testsuite>
<testcase><properties><property name="operators" value="i32.add nop"/></properties></testcase>
<testcase><properties><property name="operators" value="i64.load"/></properties></testcase>
<testcase><properties><property name="operators" value="f32.add"/></properties><failure/></testcase>
<testcase/></testsuite></testsuites>"""


def test_support_table(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert support_table.ran(report) == {"i32.add", "nop", "i64.load"}
    everything = support_table.table(set(OPCODES))
    assert [line.split(" | ")[-1] for line in everything.splitlines()[2:]] == ["none |"] * 5
    assert "`memory.copy`" in support_table.table(set(OPCODES) - {"memory.copy"})
    # The README says that all are run; that they are, scripts/test finds out at the end.
    assert everything in support_table.README.read_text()
    command = [sys.executable, support_table.__file__, report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is stale" in done.stdout
