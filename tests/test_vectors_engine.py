"""The numeric conformance vectors, through the transformer."""

import numpy as np
import pytest

import floats
import onengine
import wasmjax
from lowering import Machine, Trap, compile_wat

FILES = ("i32", "i64", "signext")
SAMPLE = 200
DIVISIONS = ("div_s", "div_u", "rem_s", "rem_u")


def signature(row):
    """(operand types, result type); a row that traps has results of its operands' type."""
    operands = [value.type for value in row.operands]
    return operands, row.results[0].type if row.results else operands[0]


def operator_module(rows):
    """A function of the same name for every operator."""
    functions = []
    for operation, row in {row.operation: row for row in rows}.items():
        operands, result = signature(row)
        gets = " ".join(f"(local.get {k})" for k in range(len(operands)))
        functions.append(
            f'(func (export "{operation}") (param {" ".join(operands)}) (result {result})'
            f" ({operation} {gets}))"
        )
    return compile_wat(f"(module {' '.join(functions)})")


def outcome(instance, row):
    try:
        return instance.call_bits(row.operation, *(value.bits for value in row.operands))
    except wasmjax.Trap as trap:
        return str(trap)


@pytest.mark.parametrize("name", FILES)
def test_every_row(load_vectors, name):
    rows = load_vectors(name)
    # All rows of a file are calls in one token sequence, those after a trap too.
    instance = onengine.machine().instantiate(wasmjax.load(operator_module(rows)))
    wrong = []
    for row in rows:
        want = tuple(value.bits for value in row.results) if row.trap is None else row.trap
        got = outcome(instance, row)
        if got != want:
            wrong.append(f"{row}: {got}, not {want}")
    assert wrong == []
    assert len(rows) == {"i32": 360, "i64": 360, "signext": 38}[name]


# --- floating point ---

FLOAT_FILES = {"f32": 5448, "f64": 5512, "conversions": 409, "satfloat": 180}


def by_operation(rows):
    out = {}
    for row in rows:
        out.setdefault(row.operation, []).append(row)
    return out


@pytest.mark.parametrize("name", FLOAT_FILES)
def test_every_row_of_floats(load_vectors, name):
    """Every operator runs over a table of its operands; what traps is called by itself."""
    all_rows = load_vectors(name)
    assert len(all_rows) == FLOAT_FILES[name]
    others = [row for row in all_rows if row.operation not in floats.SIGNATURES]
    if others:  # reinterpretations, conversions of integers
        instance = onengine.machine().instantiate(wasmjax.load(operator_module(others)))
        for row in others:
            assert outcome(instance, row) == (row.results[0].bits,), str(row)
    for operation, rows in by_operation(all_rows).items():
        if operation not in floats.SIGNATURES:
            continue
        types, result = floats.SIGNATURES[operation]
        returning = [row for row in rows if row.trap is None]
        assert all(row.results[0].type == result for row in returning)
        operands = [
            np.array([row.operands[k].bits for row in returning], np.uint64)
            for k in range(len(types))
        ]
        machine = onengine.OnEngine(compile_wat(floats.table_module(operation, operands)))
        assert machine.invoke("all") == []
        results = floats.table_results(operation, machine.memory(2 * 65536), len(returning))
        wrong = [
            f"{row}: {got:x}"
            for row, got in zip(returning, results.tolist(), strict=True)
            if not row.results[0].accepts(got)
        ]
        assert wrong == []
        for row in rows:
            if row.trap is not None:
                assert machine.invoke("one", row.operands[0].bits) == Trap(row.trap), str(row)


def on_dense_weights(rows):
    machine = onengine.OnEngine(straight_line_module(rows), "dense", "softmax")
    check_results(machine, rows)
    assert machine.oracle.session.tokens < 2048


@pytest.mark.parametrize(
    "operations", [["f64.mul", "f64.lt", "f64.floor", "f32.convert_i64_s", "f64.promote_f32"]]
)
def test_float_rows_on_dense_weights(load_vectors, operations):
    rows = by_operation([row for name in FLOAT_FILES for row in load_vectors(name)])
    on_dense_weights([rows[name][-len(rows[name]) // 3] for name in operations])


@pytest.mark.slow
def test_more_float_rows_on_dense_weights(load_vectors):
    rows = [row for row in load_vectors("f64") if row.operation in floats.SIGNATURES]
    for row in fair_sample(rows, 2 * len(by_operation(rows))):
        on_dense_weights([row])


# --- dense weights and softmax ---


def fair_sample(rows, count):
    """`count` rows, as many of every operator as of any other (up to one), spread evenly."""
    by_operation = {}
    for row in rows:
        by_operation.setdefault(row.operation, []).append(row)
    fewest, more = divmod(count, len(by_operation))
    longest = sorted(by_operation, key=lambda name: (-len(by_operation[name]), name))[:more]
    sample = []
    for operation, candidates in by_operation.items():
        n = fewest + (operation in longest)
        at = (np.arange(n) + 0.5) * len(candidates) / n
        sample += [candidates[k] for k in at.astype(int)]
    return sample


def straight_lines(rows, budget=1200):
    """The rows as programs: lists of rows with few tokens, a trap only as the last row."""
    cost = {row: 110 if row.operation[4:] in DIVISIONS else 6 for row in rows}
    programs, room = [], 0
    # Divisions last, so that few programs hold the library.
    for row in sorted(rows, key=lambda row: cost[row]):
        if row.trap is not None:
            continue
        if cost[row] > room:
            programs.append([])
            room = budget
        programs[-1].append(row)
        room -= cost[row]
    traps = [row for row in rows if row.trap is not None]
    for k, row in enumerate(reversed(traps)):
        if k < len(programs):
            programs[-1 - k].append(row)
        else:
            programs.append([row])
    return programs


def straight_line_module(rows):
    """A function that leaves the result of row i in the i-th slot of its operand stack."""
    body = []
    for row in rows:
        for type_, bits in row.operands:
            body.append(f"{floats.INTEGER[type_]}.const 0x{bits:x}")
            if type_ in floats.FRACTION_BITS:
                body.append(f"{type_}.reinterpret_{floats.INTEGER[type_]}")
        body.append(row.operation)
    body += ["drop"] * len(rows)
    return compile_wat(f'(module (func (export "f") {" ".join(body)}))')


def check_results(machine: Machine, rows):
    returned = machine.invoke("f")
    trap = rows[-1].trap
    assert returned == ([] if trap is None else Trap(trap))
    base = machine.lowered.program.stack_base + machine.lowered.exports["f"].frame_size
    for k, row in enumerate(rows if trap is None else rows[:-1]):
        assert row.results[0].accepts(machine.oracle.slot(base + k)), str(row)


@pytest.fixture(scope="module")
def sample(load_vectors):
    return fair_sample([row for name in FILES for row in load_vectors(name)], SAMPLE)


def test_sample(sample):
    assert len(sample) == len(set(sample)) == SAMPLE
    assert len({row.operation for row in sample}) == 63
    assert any(row.trap for row in sample)


@pytest.mark.parametrize(("engine", "cache"), [("packed", "indexed"), ("dense", "softmax")])
def test_sample_of_rows(sample, engine, cache):
    """Both engines emit the oracle's tokens (`onengine`), so each other's."""
    for rows in straight_lines(sample):
        machine = onengine.OnEngine(straight_line_module(rows), engine, cache)
        check_results(machine, rows)
        assert machine.oracle.session.tokens < 2048  # what the softmax cache has room for at first
