"""What division and floating point cost in steps: prints the tables of docs/performance.md."""

import random
import statistics

import floats
import vectors
from lowering import Machine, compile_wat

FILES = ("f32", "f64", "conversions", "satfloat")
CONVERSIONS = {"demote_f64, promote_f32": {"f32": "f32.demote_f64", "f64": "f64.promote_f32"}}
for _i in ("i32", "i64"):
    for _sign in "su":
        for _name in (f"convert_{_i}_{_sign}", f"{_i}.trunc_{_sign}", f"{_i}.trunc_sat_{_sign}"):
            _kind, _, _last = _name.rpartition("_")
            CONVERSIONS[_name] = {
                t: f"{t}.{_name}" if _name.startswith("convert") else f"{_kind}_{t}_{_last}"
                for t in ("f32", "f64")
            }


def operator_module(names):
    """Functions of the operators' names."""
    functions = []
    for name in names:
        types, result = floats.SIGNATURES[name]
        gets = " ".join(f"(local.get {k})" for k in range(len(types)))
        functions.append(
            f'(func (export "{name}") (param {" ".join(types)}) (result {result}) ({name} {gets}))'
        )
    return f"(module {''.join(functions)})"


def cost(machine, name, operands):
    """Steps from the operands on the stack to the result, or the trap, in their place."""
    outcome = machine.invoke(name, *operands)
    around = len(operands) + (2 if isinstance(outcome, list) else 0)  # pushes, return, halt
    return machine.steps - around


def usual_operands(name, rng):
    """Numbers from 1 to 1000 in magnitude."""
    types, _ = floats.SIGNATURES[name]
    signed = "sqrt" not in name and not name.endswith("_u")
    signs = [rng.choice((1, -1)) if signed else 1 for _ in types]
    numbers = [sign * 10 ** rng.uniform(0.01, 3) for sign in signs]
    return [floats.bits_of(type_, number) for type_, number in zip(types, numbers, strict=True)]


def costs(name, rows):
    """(least, typical, most): of the vectors, of 200 pairs of usual numbers, of the vectors."""
    machine, rng = Machine(compile_wat(operator_module([name]))), random.Random(name)
    of_rows = [cost(machine, name, [value.bits for value in row.operands]) for row in rows]
    usual = [cost(machine, name, usual_operands(name, rng)) for _ in range(200)]
    of_rows += usual
    return min(of_rows), round(statistics.median(usual)), max(of_rows)


def table():
    """Markdown."""
    rows = {}
    for file in FILES:
        for row in vectors.load(file):
            rows.setdefault(row.operation, []).append(row)
    names = dict(CONVERSIONS)
    for name in floats.SIGNATURES:
        if name.startswith("f32.") and "convert" not in name and name != "f32.demote_f64":
            names[name[4:]] = {t: f"{t}{name[3:]}" for t in ("f32", "f64")}
    order = sorted(names, key=lambda name: (name in CONVERSIONS, list(names).index(name)))
    groups = {}  # operators of equal costs share a line
    for name in order:
        cells = [costs(names[name][t], rows.get(names[name][t], [])) for t in ("f32", "f64")]
        groups.setdefault(tuple(cells), []).append(name)
    lines = [
        "| operator | f32: least, typical, most | f64: least, typical, most |",
        "|---|---|---|",
    ]
    for cells, operators in groups.items():
        shown = " | ".join(", ".join(map(str, cell)) for cell in cells)
        lines.append(f"| {', '.join(operators)} | {shown} |")
    return "\n".join(lines)


def division_table(pairs=300):
    """Markdown."""
    names = [f"{t}.{op}" for t in ("i32", "i64") for op in ("div_u", "rem_u", "div_s", "rem_s")]
    functions = [
        f'(func (export "{name}") (param {name[:3]} {name[:3]}) (result {name[:3]})'
        f" ({name} (local.get 0) (local.get 1)))"
        for name in names
    ]
    machine, rng = Machine(compile_wat(f"(module {''.join(functions)})")), random.Random(0)
    lines = ["| operator | least, median, most |", "|---|---|"]
    for name in names:
        width = int(name[1:3])
        taken = []
        for _ in range(pairs):
            n, d = (rng.getrandbits(rng.randint(1, width)) for _ in "nd")
            if name.endswith("_s") and rng.random() < 0.3:
                n = -n
            taken.append(cost(machine, name, [n, max(1, d)]))
        lines.append(f"| {name} | {min(taken)}, {round(statistics.median(taken))}, {max(taken)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(division_table())
    print(table())
