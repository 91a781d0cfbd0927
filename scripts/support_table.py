#!/usr/bin/env python3
"""The README's table of supported operators, from the code. `--write` puts it there."""

import pathlib
import sys

from wasmjax.wasm import operators
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


def table() -> str:
    """Markdown: per group, how many operators run, and which trap when reached."""
    lines = ['| operators | run | trap as "not yet supported" |', "|---|---|---|"]
    for title in _GROUPS:
        names = [name for name in OPCODES if group(name) == title]
        missing = [name for name in names if name in operators.UNSUPPORTED]
        shown = (
            ", ".join(f"`{name}`" for name in missing) if len(missing) < 12 else str(len(missing))
        )
        lines.append(f"| {title} | {len(names) - len(missing)} | {shown or 'none'} |")
    return "\n".join(lines)


def main() -> int:
    text = README.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    wanted = f"{head}{BEGIN}\n{table()}\n{END}{tail}"
    if "--write" in sys.argv:
        README.write_text(wanted)
    elif text != wanted:
        print("README.md: the support table is stale; run scripts/support_table.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
