"""Floating point: the compiled routines, and what lowering makes of them, against wasmtime's."""

import random
import subprocess
import sys

import numpy as np
import pytest
import wasmtime

import floats
from float_costs import cost, division_table, operator_module, table, usual_operands
from lowering import Machine, Trap, compile_wat
from vectors import ROOT
from wasmjax.wasm import runtime
from wasmjax.wasm.types import ExternKind

RUNTIME = ROOT / "wasmjax" / "wasm" / "runtime"


# --- the compiled modules ---


@pytest.mark.parametrize("name", runtime.COMPILED)
def test_the_modules_need_nothing(name):
    library = runtime.library(name)
    module = library.module
    assert {import_.name for import_ in module.imports} <= {
        "narrow", "trap_divide_by_zero", "trap_overflow", "trap_invalid_conversion",
    }  # fmt: skip
    used = {instr.name for function in module.functions for instr in function.body}
    assert not [op for op in used if "load" in op or "store" in op or "global" in op]
    assert "call_indirect" not in used
    n_imports = sum(import_.kind is ExternKind.FUNC for import_ in module.imports)
    for function in module.functions:
        for instr in function.body:
            assert instr.name != "call" or instr.immediates[0] < n_imports


def test_every_routine_is_there():
    exported = set()
    for name in ("f32", "f64"):
        exported |= runtime.library(name).functions.keys()
    assert exported == set(floats.ROUTINES)


def test_rebuild_gives_the_committed_bytes(tmp_path):
    pytest.importorskip("ziglang", reason="needs the compile extra (ziglang)")
    command = [sys.executable, str(ROOT / "scripts" / "build_runtime"), str(tmp_path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in runtime.COMPILED:
        assert (tmp_path / f"{name}.wasm").read_bytes() == runtime.binary(name)


# --- natively: the routines against the operators ---


def check(name, arrays):
    arrays = floats.without_traps(name, arrays)
    got, want = floats.compiled(name, *arrays), floats.native(name, *arrays)
    wrong = np.flatnonzero(got != want)
    cases = [[hex(array[k]) for array in (*arrays, got, want)] for k in wrong[:5]]
    assert not wrong.size, f"{wrong.size} of {len(got)} (operands, got, want): {cases}"


@pytest.mark.parametrize("name", floats.ROUTINES)
def test_routine(name):
    check(name, floats.edge_operands(name))
    check(name, floats.operands(name, 20_000))


@pytest.mark.slow
@pytest.mark.parametrize("name", floats.ROUTINES)
def test_routine_at_length(name):
    for seed in range(2, 5):
        check(name, floats.operands(name, 4_000_000, seed))


@pytest.mark.slow
def test_every_square_root():
    """All significands of f32 and both parities of the exponent, all subnormal numbers."""
    for first, last in ((0, 1 << 24), (0x3F80_0000, 0x4080_0000)):
        for start in range(first, last, 1 << 20):
            check("f32.sqrt", (np.arange(start, start + (1 << 20), dtype=np.uint64),))


@pytest.mark.slow
def test_newton_for_every_number():
    """The error bounds that arithmetic.c relies on: its iterations for all 32-bit x."""
    size, two = 1 << 20, np.uint64(32)
    reciprocal, root = [], []
    for start in range(1 << 30, 1 << 32, size):
        x = np.arange(start, start + size, dtype=np.uint64)
        if start >= 1 << 31:
            r, minus_x = ~x + np.uint64(0x176C8B439), ~x
            for _ in range(3):
                r = (r * minus_x >> two) * r >> np.uint64(31)
            missing = np.uint64(1 << 63) - r * (x + np.uint64(1))
            reciprocal += [missing.min(), missing.max()]
        line = x - np.uint64(1 << 30) if start < 1 << 31 else x >> np.uint64(1)
        y, minus_x = (line ^ np.uint64(0x7FFF_FFFF)) + np.uint64(0x79BA_5E36), np.uint64(0) - x
        for _ in range(3):
            assert y.max() < 1 << 32
            y = ((y * y >> two) * minus_x + np.uint64(3 << 62) >> two) * y >> np.uint64(31)
        square = y.astype(float) ** 2 * x / 2.0**94
        root += [square.min(), square.max()]
    assert max(reciprocal) < 1.7e-9 * 2**63  # and none is negative, which would be huge
    assert 1 - 3e-9 < min(root) and max(root) < 1 + 3e-9  # of the square


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_near_exact_results(type_):
    """Quotients of products and roots of squares, and numbers next to these."""
    rng = np.random.default_rng(3)
    a, b = (floats.drawn(type_, 200_000, rng) for _ in range(2))
    mask = np.uint64((1 << floats.BITS[type_]) - 1)

    def around(bits):
        return bits + rng.integers(-2, 3, len(bits)).astype(np.uint64) & mask

    check(f"{type_}.div", (around(floats.native(f"{type_}.mul", a, b)), b))
    check(f"{type_}.sqrt", (around(floats.native(f"{type_}.mul", a, a)),))


# --- lowered ---


def a_sample(name, count):
    """Some of the edge operands and some random ones."""
    edge, drawn = floats.edge_operands(name), floats.operands(name, count, 9)
    at = np.random.default_rng(4).choice(len(edge[0]), min(count, len(edge[0])), replace=False)
    return tuple(np.concatenate([e[at], d]) for e, d in zip(edge, drawn, strict=True))


@pytest.mark.parametrize("name", floats.SIGNATURES)
def test_lowered(name):
    machine = Machine(compile_wat(operator_module([name])))
    arrays = a_sample(name, 120)
    defined = floats.without_traps(name, arrays)
    for *given, want in zip(*defined, floats.native(name, *defined), strict=True):
        assert machine.invoke(name, *map(int, given)) == [want], [hex(x) for x in given]
    for bits in arrays[0]:
        want = floats.trap(name, bits)
        assert want is None or machine.invoke(name, int(bits)) == Trap(want)


def test_traps_of_conversions():
    names = [name for name in floats.ROUTINES if ".trunc_" in name and "_sat_" not in name]
    assert len(names) == 8
    machine = Machine(compile_wat(operator_module(names)))
    for name in names:
        source = floats.SIGNATURES[name][0][0]
        inf = floats.INFINITE[source]
        for bits in (inf, inf | 1 << (floats.BITS[source] - 1)):
            assert machine.invoke(name, bits) == Trap("integer overflow")
        for bits in (inf + 1, floats.CANONICAL[source], -1):
            assert machine.invoke(name, bits) == Trap("invalid conversion to integer")


def test_nan_results_are_canonical_and_signs_of_nans_are_bits():
    names = ["f64.add", "f64.sub", "f64.neg", "f64.abs", "f64.copysign", "f32.sqrt", "f32.neg"]
    machine = Machine(compile_wat(operator_module(names)))
    signaling, minus = 0x7FF0_0000_0000_0001, 1 << 63
    assert machine.invoke("f64.add", signaling | minus, 0) == [floats.CANONICAL["f64"]]
    assert machine.invoke("f64.sub", 0, signaling | minus) == [floats.CANONICAL["f64"]]
    assert machine.invoke("f64.neg", signaling) == [signaling | minus]
    assert machine.invoke("f64.abs", signaling | minus) == [signaling]
    assert machine.invoke("f64.copysign", signaling, minus) == [signaling | minus]
    assert machine.invoke("f64.copysign", signaling | minus, 5) == [signaling]
    assert machine.invoke("f32.sqrt", 0xBF80_0000) == [floats.CANONICAL["f32"]]
    assert machine.invoke("f32.neg", 0xFFC0_0001) == [0x7FC0_0001]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("f64.add", 52), ("f64.sub", 53), ("f64.mul", 45), ("f64.div", 56), ("f64.sqrt", 60),
        ("f32.add", 52), ("f32.sub", 53), ("f32.mul", 24), ("f32.div", 44), ("f32.sqrt", 50),
        ("f64.min", 13), ("f64.max", 13), ("f64.lt", 15), ("f64.le", 15), ("f64.eq", 7),
        ("f64.floor", 14), ("f64.ceil", 14), ("f64.trunc", 11), ("f64.nearest", 17),
        ("f64.neg", 1), ("f64.abs", 1), ("f64.copysign", 3),
        ("f64.convert_i32_s", 12), ("f64.convert_i64_u", 16), ("f32.convert_i32_s", 18),
        ("i32.trunc_f64_s", 16), ("i64.trunc_f64_u", 12), ("i32.trunc_sat_f32_s", 16),
        ("f64.promote_f32", 10), ("f32.demote_f64", 17),
    ],
)  # fmt: skip
def test_steps(name, limit):
    """What an operator costs with operands from 1 to 1000 in magnitude."""
    machine, rng = Machine(compile_wat(operator_module([name]))), random.Random(name)
    for _ in range(100):
        assert cost(machine, name, usual_operands(name, rng)) <= limit


def test_documented_costs(load_vectors):
    documented = (ROOT / "docs" / "performance.md").read_text()
    assert division_table() in documented
    load_vectors("f32")  # or skip
    assert table() in documented


def test_results_have_no_upper_halves():
    """A slot with an i32 or f32 has zero bytes above, which other operators rely on."""
    text = ""
    for name, (types, result) in floats.SIGNATURES.items():
        if floats.BITS[result] == 32:
            value = f"({name} {' '.join(f'(local.get {k})' for k in range(len(types)))})"
            if result == "f32":
                value = f"(i32.reinterpret_f32 {value})"
            text += (
                f'(func (export "{name}") (param {" ".join(types)}) (result i64)'
                f" (i64.extend_i32_u {value}))"
            )
    machine = Machine(compile_wat(f"(module {text})"))
    for name, (_, result) in floats.SIGNATURES.items():
        if floats.BITS[result] == 32:
            arrays = floats.without_traps(name, a_sample(name, 40))
            for *given, want in zip(*arrays, floats.native(name, *arrays), strict=True):
                assert machine.invoke(name, *map(int, given)) == [want]


def test_operators_between_others():
    """A call of the library leaves the operands below it alone."""
    text = """(module (func (export "f") (param f64 f64 i32) (result i64) (local f32)
      (i64.const 7)
      (local.get 2)
      (local.set 3 (f32.convert_i32_s (local.get 2)))
      (f64.sub
        (f64.mul (f64.add (local.get 0) (local.get 1)) (f64.neg (local.get 1)))
        (f64.div (local.get 0) (f64.sqrt (f64.abs (f64.copysign (local.get 1) (local.get 0))))))
      (f64.max (f64.promote_f32 (f32.min (local.get 3) (f32.const 2.5))))
      (f64.lt (f64.const 0.5))
      i32.add i64.extend_i32_u i64.mul))"""
    machine, store = Machine(compile_wat(text)), wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, text), []).exports(store)
    rng = random.Random(6)
    for _ in range(30):
        a, b, n = rng.uniform(-5, 5), rng.uniform(-5, 5), rng.randrange(100)
        bits = [int(np.float64(x).view(np.uint64)) for x in (a, b)]
        assert machine.invoke("f", *bits, n) == [exports["f"](store, a, b, n)]
