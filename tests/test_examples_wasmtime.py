"""The manifest of the examples holds, by an independent WebAssembly runtime."""

import hashlib
import json
import math
import re
import zlib
from functools import cache
from pathlib import Path

import pytest
import wasmtime

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MANIFEST = json.loads((EXAMPLES / "examples.json").read_text())
PROGRAMS = [entry for entry in MANIFEST if "invoke" not in entry]
FUNCTIONS = [entry for entry in MANIFEST if "invoke" in entry]
WASI = {
    *("args_get", "args_sizes_get", "fd_close", "fd_fdstat_get", "fd_read", "fd_seek", "fd_write"),
    "proc_exit",
}


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


@pytest.mark.parametrize("wasm", sorted({entry["wasm"] for entry in PROGRAMS}))
def test_imports(wasm, engine):
    module = wasmtime.Module.from_file(engine, str(EXAMPLES / wasm))
    assert {f"{one.module}.{one.name}" for one in module.imports} <= {
        f"wasi_snapshot_preview1.{name}" for name in WASI
    }


# --- the expected output, computed another way ---


def long_addition(args, stdin):
    return f"{sum(map(int, stdin.split()))}\n"


def fibonacci(args, stdin):
    a, b = 0, 1
    for _ in range(int(args[0])):
        a, b = b, a + b
    return f"{a}\n"


def cheapest_assignment(stdin):
    """The cost, by sets of columns taken."""
    n, *costs = map(int, stdin.split())

    @cache
    def cheapest(row, taken):
        if row == n:
            return 0
        columns = (c for c in range(n) if not taken >> c & 1)
        return min(costs[row * n + c] + cheapest(row + 1, taken | 1 << c) for c in columns)

    return cheapest(0, 0)


def sha256(args, stdin):
    digest = stdin.encode()
    for _ in range(int(args[0]) if args else 1):
        digest = hashlib.sha256(digest).digest()
    return f"{digest.hex()}\n"


def crc32(args, stdin):
    return f"{zlib.crc32(stdin.encode()):08x}\n"


def quicksort(args, stdin):
    state = int(args[0]) * 2654435761 % 2**32 | 1
    numbers = []
    for _ in range(int(args[1]) if len(args) > 1 else 500):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        numbers.append(state - (state >> 31 << 32))
    numbers.sort()
    checksum = 0
    for number in numbers:
        checksum = (31 * checksum + number) % 2**32
    return f"{len(numbers)} numbers from {numbers[0]} to {numbers[-1]}, checksum {checksum:08x}\n"


def queens(args, stdin):
    n = int(args[0])

    def ways(columns):
        if len(columns) == n:
            return 1
        row = len(columns)
        safe = (
            c
            for c in range(n)
            if all(c != d and abs(c - d) != row - r for r, d in enumerate(columns))
        )
        return sum(ways((*columns, c)) for c in safe)

    return f"{n} queens: {ways(())} ways\n"


def life(args, stdin):
    glider = {(1, 2), (2, 3), (3, 1), (3, 2), (3, 3)}
    living = glider | {(8, 17), (8, 18), (9, 16), (9, 17), (10, 17)}
    for _ in range(int(args[0])):
        around = {}
        for y, x in living:
            for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
                cell = (y + dy) % 16, (x + dx) % 32
                around[cell] = around.get(cell, 0) + 1
        living = {c for c, count in around.items() if count == 3 or (count == 2 and c in living)}
    rows = ("".join(".#"[(y, x) in living] for x in range(32)) for y in range(16))
    return "".join(f"{row}\n" for row in rows)


def bytecode(args, stdin):
    limit = int(args[0])
    return f"{sum(all(n % d for d in range(2, n)) for n in range(2, limit + 1))}\n"


def three_bodies(args, stdin):
    bodies = [
        [0.97000436, -0.24308753, 0.466203685, 0.43236573],
        [-0.97000436, 0.24308753, 0.466203685, 0.43236573],
        [0.0, 0.0, -0.93240737, -0.86473146],
    ]
    pairs = [(bodies[i], bodies[(i + 1) % 3]) for i in range(3)]

    def energy():
        motion = sum((vx * vx + vy * vy) / 2 for _, _, vx, vy in bodies)
        return motion - sum(1 / math.dist(a[:2], b[:2]) for a, b in pairs)

    def move():
        for body in bodies:
            body[0] += body[2] * 0.005
            body[1] += body[3] * 0.005

    before = energy()
    for _ in range(int(args[0])):
        move()
        for a, b in pairs:
            dx, dy = b[0] - a[0], b[1] - a[1]
            factor = 0.01 / math.dist(a[:2], b[:2]) ** 3
            for body, sign in ((a, 1), (b, -1)):
                body[2] += sign * dx * factor
                body[3] += sign * dy * factor
        move()
    lines = [f"energy {before:.12f}", *(f"{x:+f} {y:+f}" for x, y, _, _ in bodies)]
    lines.append(f"energy {energy():.12f}, after {int(args[0]) * 0.01:g}")
    return "".join(f"{line}\n" for line in lines)


def sudoku_is_right(stdin, stdout):
    """Every solution is one, of its puzzle."""
    puzzles, lines = stdin.split(), stdout.split()
    assert len(lines) == 9 * len(puzzles)
    for i, puzzle in enumerate(puzzles):
        rows = lines[9 * i : 9 * i + 9]
        assert re.fullmatch(puzzle, "".join(rows))
        columns = ["".join(column) for column in zip(*rows, strict=True)]
        corners = ((y, x) for y in (0, 3, 6) for x in (0, 3, 6))
        boxes = ["".join(row[x : x + 3] for row in rows[y : y + 3]) for y, x in corners]
        assert all(sorted(unit) == list("123456789") for unit in rows + columns + boxes)


def matching_is_right(stdin, stdout):
    n, *costs = map(int, stdin.split())
    lines = [line.replace("->", " ") for line in stdout.splitlines()]
    *pairs, total = (tuple(map(int, re.findall(r"-?\d+", line))) for line in lines)
    assert sorted(row for row, _, _ in pairs) == sorted(column for _, column, _ in pairs)
    assert [row for row, _, _ in pairs] == list(range(1, n + 1))
    assert all(cost == costs[(row - 1) * n + column - 1] for row, column, cost in pairs)
    assert total == (sum(cost for _, _, cost in pairs),) == (cheapest_assignment(stdin),)


OUTPUTS = [
    *(long_addition, fibonacci, sha256, crc32, quicksort, queens, life, bytecode, three_bodies),
]
RECOMPUTED = {f"{function.__name__}.wasm": function for function in OUTPUTS}
CHECKED = {"sudoku.wasm": sudoku_is_right, "matching.wasm": matching_is_right}
SUCCEEDING = [entry for entry in PROGRAMS if entry["exit_code"] == 0]


def entries_of(table):
    return [entry for entry in SUCCEEDING if entry["wasm"] in table]


@pytest.mark.parametrize("entry", entries_of(RECOMPUTED), ids=name_of)
def test_output_recomputed(entry):
    stdout = (EXAMPLES / entry["stdout"]).read_text()
    assert RECOMPUTED[entry["wasm"]](entry["args"], entry["stdin"]) == stdout


@pytest.mark.parametrize("entry", entries_of(CHECKED), ids=name_of)
def test_output_is_right(entry):
    stdout = (EXAMPLES / entry["stdout"]).read_text()
    if entry["name"] == "sudoku_none":
        assert stdout == "no solution\n"
    else:
        CHECKED[entry["wasm"]](entry["stdin"], stdout)
