#!/usr/bin/env python3
"""The README's table of supported operators, from what the tests ran.

    scripts/support_table.py REPORT [--write]

REPORT is pytest's (`--junitxml`): passing tests leave the operators there that they ran on an
engine and compared with wasmtime, the oracle or the conformance vectors. Exits with 1 if the README
says something else, unless it is written there.
"""

import argparse
import pathlib
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Set

from wasmjax.wasm.opcodes import OPCODES

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- support table: begin -->", "<!-- support table: end -->"

_GROUPS = {
    "i32 and i64 arithmetic, logic, comparison, conversion": ("i32.", "i64."),
    "integer and float loads, stores, constants": (),
    "f32 and f64 arithmetic, comparison, conversion": ("f32.", "f64."),
    "control, calls, locals, globals, memory size": (),
    "bulk memory and tables": ("memory.", "table.", "data.", "elem."),
}


def group(name: str) -> str:
    """The row an operator belongs to."""
    arithmetic, moves, floats, control, bulk = _GROUPS
    if any(part in name for part in (".load", ".store", ".const")):
        return moves
    if name in ("memory.size", "memory.grow") or name.startswith(("local.", "global.")):
        return control
    if "_f32" in name or "_f64" in name or name.startswith(_GROUPS[floats]):
        return floats
    if name.startswith(_GROUPS[arithmetic]):
        return arithmetic
    return bulk if name.startswith(_GROUPS[bulk]) else control


def ran(report: pathlib.Path) -> set[str]:
    """Operators that passing tests ran."""
    out: set[str] = set()
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is None and case.find("error") is None:
            for found in case.iter("property"):
                if found.get("name") == "operators":
                    out.update(found.get("value", "").split())
    return out


def table(names: Set[str]) -> str:
    """Markdown: per group, how many operators were run, and which were not."""
    lines = ["| operators | run exactly by the tests | not run |", "|---|---|---|"]
    for title in _GROUPS:
        members = [name for name in OPCODES if group(name) == title]
        missing = [name for name in members if name not in names]
        shown = ", ".join(f"`{name}`" for name in missing) or "none"
        lines.append(f"| {title} | {len(members) - len(missing)} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--write", action="store_true", help="put it into the README")
    args = parser.parse_args()
    text = README.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    wanted = f"{head}{BEGIN}\n{table(ran(args.report))}\n{END}{tail}"
    if args.write:
        README.write_text(wanted)
    elif text != wanted:
        print("README.md: the support table is stale; scripts/support_table.py REPORT --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
