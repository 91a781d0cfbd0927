"""Every supported operator through packed/indexed, against wasmtime; no files needed.

Operands are generated. Every token is also compared with the oracle's (`onengine`).
"""

import random
import re

import numpy as np
import pytest

import floats
import onengine
import wasmjax
from lowering import Reference, Trap, compile_wat
from onengine import OnEngine, assert_same_state, check_on_engine, outcomes
from wasmjax.wasm.decode import decode
from wasmjax.wasm.opcodes import OPCODES
from wasmjax.wasm.operators import UNSUPPORTED

SUPPORTED = [name for name in OPCODES if name not in UNSUPPORTED]
PAGE = 65536


class Pair:
    """One module on the engine and in wasmtime."""

    def __init__(self, text):
        binary = compile_wat(text)
        self.machine, self.reference = OnEngine(binary), Reference(binary)

    def wrong(self, *calls):
        return outcomes(self.machine, self.reference, *calls)

    def memories(self):
        size = PAGE * self.reference.pages
        return self.machine.memory(size), self.reference.memory(size)


def data(address, content):
    escaped = "".join(f"\\{byte:02x}" for byte in content)
    return f'(data (i32.const {address}) "{escaped}")'


# --- numeric operators ---

UNARY = re.compile(r"i(32|64)\.(clz|ctz|popcnt|eqz|extend\d+_s|extend_i32_[su]|wrap_i64)")
COMPARISON = re.compile(r"i(32|64)\.(eqz|eq|ne|[lg][te]_[su])")
NUMERIC = [
    name
    for name in SUPPORTED
    if re.match("i(32|64)", name) and not re.search("load|store|const|reinterpret|trunc", name)
]
DIVISIONS = [name for name in NUMERIC if re.search("div|rem", name)]


def signature(name):
    """(operand types, result type) of a numeric operator."""
    result = name[:3]
    if "_i32" in name or "_i64" in name:
        return [name[-3:] if name.endswith("_i64") else "i32"], result
    return (
        [result] * (1 if UNARY.fullmatch(name) else 2),
        "i32" if COMPARISON.fullmatch(name) else result,
    )


EDGES = (
    0, 1, 2, 3, 7, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2,
    2**64 - 2**31, 2**64 - 2**32, 0x0123_4567_89AB_CDEF, 0xAAAA_AAAA_5555_5555,
)  # fmt: skip
LIMITS = (0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**63 - 1, 2**64 - 2**31, 2**64 - 1)
RANDOM_PAIRS = 150


def pairs():
    """Operand pairs of 64 bits; operators of 32 bits take their low halves."""
    rng = random.Random(2)
    out = [(a, b) for a in LIMITS for b in LIMITS]
    out += [(edge, rng.choice(EDGES)) for edge in EDGES for _ in range(3)]
    out += [(rng.choice(EDGES), edge) for edge in EDGES for _ in range(3)]
    for _ in range(RANDOM_PAIRS):
        a, b = (rng.getrandbits(rng.randint(1, 64)) for _ in range(2))
        out.append((rng.choice((a, 2**64 - a)) % 2**64, rng.choice((b, 2**64 - b)) % 2**64))
    return sorted(set(out))


def divides(a, b):
    """Whether no division of these operands traps, at either width."""
    return all(
        b % 2**width and (a % 2**width, b % 2**width) != (2 ** (width - 1), 2**width - 1)
        for width in (32, 64)
    )


SAFE = [pair for pair in pairs() if divides(*pair)]
UNSAFE = [pair for pair in pairs() if not divides(*pair)]
OPERANDS, RESULTS = 4096, 32768


def numeric_module():
    """For every operator a function of its name, and one that applies it to rows of a table."""
    functions = []
    for name in NUMERIC:
        operands, result = signature(name)
        gets = " ".join(f"(local.get {k})" for k in range(len(operands)))
        loads = " ".join(
            f"({type_}.load offset={OPERANDS + 8 * k} (i32.shl (local.get $i) (i32.const 4)))"
            for k, type_ in enumerate(operands)
        )
        functions.append(
            f"""(func (export "{name}") (param {" ".join(operands)}) (result {result})
              ({name} {gets}))
            (func (export "all {name}") (param $n i32) (local $i i32)
              (loop $next
                ({result}.store offset={RESULTS} (i32.shl (local.get $i) (i32.const 3))
                  ({name} {loads}))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $i) (local.get $n)))))"""
        )
    table = b"".join(x.to_bytes(8, "little") for pair in SAFE + UNSAFE for x in pair)
    assert OPERANDS + len(table) <= RESULTS and RESULTS + len(table) // 2 <= PAGE
    return f"""(module (memory (export "memory") 1)
      {data(OPERANDS, table)} {" ".join(functions)})"""


@pytest.fixture(scope="module")
def numeric():
    return Pair(numeric_module())


@pytest.mark.parametrize("name", NUMERIC)
def test_numeric(name, numeric):
    cases = SAFE if name in DIVISIONS else SAFE + UNSAFE
    assert numeric.wrong((f"all {name}", len(cases))) == []
    got, want = numeric.memories()
    if got != want:
        for k, operands in enumerate(cases):
            at = slice(RESULTS + 8 * k, RESULTS + 8 * k + 8)
            assert got[at] == want[at], (name, *map(hex, operands))
    assert got == want


@pytest.mark.parametrize("name", DIVISIONS)
def test_division_by_zero_and_overflow(name, numeric):
    width = 2 ** int(name[1:3])
    cases = {(a % width, b % width) for a, b in UNSAFE}
    assert numeric.wrong(*[(name, *case) for case in sorted(cases)]) == []
    assert numeric.machine.invoke(name, 5, 0) == Trap("integer divide by zero")
    if "div_s" in name:
        assert numeric.machine.invoke(name, width // 2, -1) == Trap("integer overflow")


# --- floating point ---


@pytest.mark.parametrize("name", floats.SIGNATURES)
def test_floating_point(name):
    """Results against wasmtime's own operators, NaNs being canonical (`test_runtime_float`)."""
    edge, drawn = floats.edge_operands(name), floats.operands(name, 25)
    at = np.random.default_rng(5).choice(len(edge[0]), 25, replace=False)
    arrays = tuple(np.concatenate([e[at], d]) for e, d in zip(edge, drawn, strict=True))
    defined = floats.without_traps(name, arrays)
    machine = OnEngine(compile_wat(floats.table_module(name, defined)))
    assert machine.invoke("all") == []
    got = floats.table_results(name, machine.memory(2 * PAGE), len(defined[0]))
    assert got.tolist() == floats.native(name, *defined).tolist()
    for bits in map(int, arrays[0]):
        trap = floats.trap(name, bits)
        assert trap is None or machine.invoke("one", bits) == Trap(trap)


# --- memory ---

LOADS = [name for name in SUPPORTED if ".load" in name]
STORES = [name for name in SUPPORTED if ".store" in name]
FLOATS = {"f32": "i32", "f64": "i64"}
AREA = 64  # bytes at either end of the memory that hold data
STRIDE = 1024  # where the loads' results go


def size_of(name):
    bits = re.search(r"(?:load|store)(\d+)", name)
    return int(bits[1] if bits else name[1:3]) // 8


def memory_module():
    """For every load and store functions of some offsets, and loads of every address of a range."""
    rng = random.Random(3)
    functions = []
    for name in LOADS + STORES:
        type_ = name[:3]
        integer = FLOATS.get(type_, type_)
        to_integer = f"{integer}.reinterpret_{type_}" if type_ in FLOATS else ""
        from_integer = f"{type_}.reinterpret_{integer}" if type_ in FLOATS else ""
        for offset in offsets(size_of(name)):
            at = f"{name} offset={offset} align=1"
            if name in LOADS:
                functions.append(
                    f"""(func (export "{name} {offset}") (param i32) (result {integer})
                      ({at} (local.get 0)) {to_integer})"""
                )
            else:
                functions.append(
                    f"""(func (export "{name} {offset}") (param i32 {integer})
                      ({at} (local.get 0) (local.get 1) {from_integer}))"""
                )
        if name in LOADS:
            functions.append(
                f"""(func (export "all {name}") (param $from i32) (param $to i32)
                  (local $out i32)
                  (loop $next
                    ({type_}.store offset={STRIDE} (local.get $out)
                      ({name} offset=3 (local.get $from)))
                    (local.set $out (i32.add (local.get $out) (i32.const 8)))
                    (local.set $from (i32.add (local.get $from) (i32.const 1)))
                    (br_if $next (i32.le_u (local.get $from) (local.get $to)))))"""
            )
    return f"""(module (memory (export "memory") 1 2)
      {data(0, rng.randbytes(AREA))} {data(PAGE - AREA, rng.randbytes(AREA))}
      (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "size") (result i32) (memory.size))
      {" ".join(functions)})"""


def offsets(size):
    return 0, 1, PAGE - size, PAGE - size + 1, 2 * PAGE, 2**26 - size, 2**26, 2**32 - 1


def addresses(size, end):
    """Addresses around those at which an access of `size` bytes meets the memory's end."""
    near = [end - size + delta for delta in (-1, 0, 1)] + [end - 1, end, end + 1]
    far = [2**31 - 1, 2**31, 2**32 - end, 2**32 - 2, 2**32 - 1]
    return [0, 1, *near, *far]


@pytest.fixture(scope="module")
def memory():
    return Pair(memory_module())


@pytest.mark.parametrize("name", LOADS)
def test_load(name, memory):
    size = size_of(name)
    for start, end in ((0, 24), (PAGE - 24, PAGE - size)):
        assert memory.wrong((f"all {name}", start - 3 if start else 0, end - 3)) == []
        got, want = memory.memories()
        assert got == want
    calls = [(f"{name} {o}", a) for o in offsets(size) for a in addresses(size, PAGE)]
    assert memory.wrong(*calls) == []
    assert memory.machine.invoke(f"{name} 0", PAGE) == Trap("out of bounds memory access")


@pytest.mark.parametrize("name", STORES)
def test_store(name, memory):
    rng = random.Random(name)
    size = size_of(name)
    calls = [
        (f"{name} {rng.choice((0, 1))}", start + k, rng.getrandbits(64))
        for start in (100, PAGE - 24)
        for k in rng.sample(range(16), 12)
    ]
    assert memory.wrong(*calls) == []
    got, want = memory.memories()
    assert got == want
    calls = [
        (f"{name} {o}", a, rng.getrandbits(64))
        for o in offsets(size)
        for a in addresses(size, PAGE)
    ]
    assert memory.wrong(*calls) == []
    got, want = memory.memories()
    assert got == want  # a store across the end writes nothing
    trapped = memory.machine.invoke(f"{name} 0", PAGE - size + 1, 0)
    assert trapped == Trap("out of bounds memory access")


def test_accesses_after_growing():
    grown = Pair(memory_module())
    assert grown.wrong(("size",), ("grow", 2), ("grow", 1), ("size",), ("grow", 1)) == []
    rng = random.Random(4)
    calls = []
    for end in (PAGE, 2 * PAGE):  # the first is in the middle now
        for name in STORES + LOADS:
            size = size_of(name)
            values = (rng.getrandbits(64),) if name in STORES else ()
            calls += [(f"{name} 0", end - size + delta, *values) for delta in (-1, 0, 1)]
            calls += [(f"{name} {PAGE - size}", end - PAGE + delta, *values) for delta in (0, 1)]
    assert grown.wrong(*calls) == []
    assert_same_state(grown.machine, grown.reference)


# --- everything else: module fields, calls ---

VALUES = (0, 1, 2, 3, 255, 256, 65536, 2**31 - 1, 2**31, 2**32 - 1)
ONE_INPUT = [("f", value) for value in VALUES]

OTHERS = {
    "constants": (
        """(func (export "i32") (result i32) (i32.const -2147483648))
        (func (export "i64") (result i64) (i64.const 0x8123456789abcdef))
        (func (export "f32") (result i32) (i32.reinterpret_f32 (f32.const -0x1.fffffep+127)))
        (func (export "f64") (result i64) (i64.reinterpret_f64 (f64.const nan:0x123456789abcd)))
        (func (export "to f32") (param i32) (result i32)
          (i32.reinterpret_f32 (f32.reinterpret_i32 (local.get 0))))
        (func (export "to f64") (param i64) (result i64)
          (i64.reinterpret_f64 (f64.reinterpret_i64 (local.get 0))))""",
        [("i32",), ("i64",), ("f32",), ("f64",)]
        # signaling and quiet NaN, infinity, -0, subnormals
        + [("to f32", x) for x in (0, 1, 1 << 31, 0x7F80_0000, 0x7FA0_0001, 0xFFC1_2345)]
        + [("to f64", x << 32 | x) for x in (0, 1, 1 << 31, 0x7FF0_0000, 0x7FF4_0001, 0xFFF8_0001)],
    ),
    "nop, drop, block": (
        """(func (export "f") (param i32) (result i32)
          nop (i32.const 5) (i64.const 6) nop drop
          (block (nop)) (block (result i32) (local.get 0) nop) i32.add)""",
        ONE_INPUT,
    ),
    "select": (
        """(func (export "i32") (param i32 i32 i32) (result i32)
          (select (local.get 0) (local.get 1) (local.get 2)))
        (func (export "i64") (param i64 i64 i32) (result i64)
          (select (local.get 0) (local.get 1) (local.get 2)))
        (func (export "f32") (param i32) (result i32)
          (i32.reinterpret_f32 (select (f32.const nan:0x1) (f32.const -0) (local.get 0))))
        (func (export "f64") (param i32) (result i64)
          (i64.reinterpret_f64 (select (f64.const nan:0x1) (f64.const -inf) (local.get 0))))""",
        [("i32", 2**32 - 1, 7, value) for value in VALUES]
        + [("i64", 2**64 - 2, 2**63, value) for value in VALUES]
        + [(name, value) for name in ("f32", "f64") for value in VALUES],
    ),
    "locals": (
        """(func $mix (export "f") (param i32 i64) (result i64)
          (local i32 i64 f32 f64)
          (local.set 2 (i32.xor (local.get 2) (local.tee 0 (i32.add (local.get 0) (local.get 0)))))
          (local.set 3 (local.tee 1 (i64.add (local.get 3) (local.get 1))))
          (local.set 4 (f32.reinterpret_i32 (local.get 2)))
          (local.set 5 (f64.reinterpret_i64 (local.get 3)))
          (i64.add
            (i64.extend_i32_u (i32.reinterpret_f32 (local.tee 4 (local.get 4))))
            (i64.add (i64.reinterpret_f64 (local.get 5))
              (i64.extend_i32_u (i32.sub (local.get 0) (local.get 2))))))
        (func (export "zeros") (result i64) (local i32 i64 f32 f64)
          (drop (call $mix (i32.const -1) (i64.const -1)))
          (i64.add
            (i64.add (i64.extend_i32_u (local.get 0)) (local.get 1))
            (i64.add (i64.extend_i32_u (i32.reinterpret_f32 (local.get 2)))
              (i64.reinterpret_f64 (local.get 3)))))""",
        [("f", value, 2**64 - 1 - value) for value in VALUES] + [("zeros",)],
    ),
    "globals": (
        """(global $i (export "i") (mut i32) (i32.const -7))
        (global $l (export "l") (mut i64) (i64.const 0x8000000000000001))
        (global $f (mut f32) (f32.const nan:0x200000))
        (global $d (mut f64) (f64.const -0))
        (global $c i32 (i32.const 77))
        (func (export "f") (param i32) (result i64)
          (global.set $i (i32.sub (global.get $i) (local.get 0)))
          (global.set $l (i64.mul (global.get $l) (i64.extend_i32_s (global.get $i))))
          (i64.extend_i32_u (i32.reinterpret_f32 (global.get $f)))
          (i64.reinterpret_f64 (global.get $d))
          (global.set $f (f32.reinterpret_i32 (i32.add (local.get 0) (global.get $c))))
          (global.set $d (f64.reinterpret_i64 (global.get $l)))
          i64.add)""",
        ONE_INPUT,
    ),
    "if and else": (
        """(func (export "f") (param i32) (result i32)
          (i32.const 1000)
          (if (result i32) (local.get 0)
            (then (if (result i32) (i32.eq (local.get 0) (i32.const 2))
              (then (i32.const 20)) (else (i32.const 30))))
            (else (i32.const 40)))
          (if (i32.gt_u (local.get 0) (i32.const 2)) (then (return (local.get 0))))
          (if (param i32) (result i32) (i32.and (local.get 0) (i32.const 1))
            (then (i32.mul (i32.const 3)))
            (else (i32.add (i32.const 5))))
          i32.add)""",
        ONE_INPUT,
    ),
    "br": (
        """(func (export "f") (param i32) (result i32) (local i32)
          (i32.const 9)
          (block $out (result i32)
            (loop $again
              (local.set 1 (i32.add (local.get 1) (i32.const 7)))
              (i32.const 1) (i32.const 2)
              (if (i32.gt_u (local.get 1) (i32.const 30))
                (then (br $out (i32.const 3) (i32.const 4) (local.get 1))))
              drop drop
              (if (i32.lt_u (local.get 1) (local.get 0)) (then (br $again))))
            (i32.const 11) (i32.const 12) (br 0)
            (i32.add) (unreachable))
          i32.sub
          (br 0)
          (i32.const 8) i32.mul)""",
        [*ONE_INPUT, ("f", 20), ("f", 25)],
    ),
    "br_if": (
        """(func (export "f") (param i32) (result i64) (local i32)
          (local.set 1 (i32.const 4))
          (i64.const 2)
          (block $out (result i64)
            (i64.const 5) (i64.const 6)
            (br_if $out (i32.eq (local.get 0) (i32.const 1)))
            (i64.const 7)
            (br_if $out (i32.gt_s (local.get 0) (i32.const 100)))
            i64.mul i64.mul)
          (loop $again (param i64) (result i64)
            (i64.const 3) i64.mul
            (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))
            (br_if $again))
          (br_if 0 (local.get 0))
          i64.add)""",
        ONE_INPUT,
    ),
    "br_table": (
        """(func (export "f") (param i32) (result i32)
          (block $a (result i32)
            (i32.const 100)
            (block $b (result i32)
              (i32.const 200) (i32.const 300)
              (block $c (result i32)
                (i32.const 7) (br_table $c $b $a 3 $c (local.get 0)))
              i32.add i32.sub)
            i32.add)
          (i32.mul (i32.const 3)))
        (func (export "in place") (param i32) (result i32)
          (block $d (block $c (block $b (block $a
            (br_table $a $b $c $d (local.get 0)))
            (return (i32.const 10))) (return (i32.const 11))) (return (i32.const 12)))
          (i32.const 13))
        (func (export "only default") (param i32) (result i32)
          (block $a (result i32) (i32.const 5) (br_table $a (local.get 0))))
        (func (export "loop") (param i32) (result i32) (local i32)
          (block $out (loop $again
            (local.set 1 (i32.add (local.get 1) (i32.const 1)))
            (br_table $again $again $out $out $again $out
              (i32.add (local.get 0) (local.get 1)))))
          (local.get 1))""",
        [(name, v) for name in ("f", "in place", "only default", "loop") for v in (4, 5, *VALUES)],
    ),
    "return": (
        """(func (export "f") (param i32) (result i64)
          (i64.const 1) (i32.const 2)
          (block (loop
            (i64.const 3)
            (if (i32.and (local.get 0) (i32.const 1))
              (then (i32.const 4) (i64.const 5) return))
            (if (i32.and (local.get 0) (i32.const 2)) (then (return (i64.const 6))))
            drop))
          drop return)
        (func (export "none") (return) unreachable)""",
        [*ONE_INPUT, ("none",)],
    ),
    "unreachable": (
        """(global $g (export "g") (mut i32) (i32.const 1))
        (func (export "f") (param i32) (result i32)
          (global.set $g (local.get 0))
          (block (result i32)
            (if (i32.lt_s (local.get 0) (i32.const 2)) (then (br 1 (i32.const 9))))
            (unreachable)))""",
        ONE_INPUT,
    ),
    "call": (
        """(func $sub (param i32 i64 i32) (result i64) (local i64)
          (local.set 3 (i64.sub (i64.extend_i32_s (local.get 0)) (local.get 1)))
          (i64.mul (local.get 3) (i64.extend_i32_s (local.get 2))))
        (func $none)
        (func $floats (param f32 f64) (result f64) (local f32) (local.get 1))
        (func $two (param i32) (result i32 i64) (call $none)
          (i32.add (local.get 0) (i32.const 1)) (i64.extend_i32_s (local.get 0)))
        (func (export "f") (param i32) (result i64) (local i64)
          (i64.const 100)
          (call $sub (i32.const 7) (i64.const 9) (local.get 0))
          (call $none)
          (i64.reinterpret_f64 (call $floats (f32.const 1) (f64.const 2)))
          (call $two (local.get 0)) (local.set 1)
          i64.extend_i32_u (local.get 1)
          i64.sub i64.add i64.add i64.add)
        (func $fib (export "fib") (param i32) (result i32)
          (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
            (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
              (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
        (func $forever (export "forever") (param i64) (call $forever (local.get 0)))""",
        [*ONE_INPUT, ("fib", 9), ("forever", 1), ("fib", 3), ("forever", 2), ("f", 4)],
    ),
    "call_indirect": (
        """(type $unary (func (param i32) (result i32)))
        (type $same (func (param i32) (result i32)))
        (table 8 funcref) (elem (i32.const 0) $double $square $wide $none) (elem (i32.const 6) $neg)
        (global $g (export "g") (mut i32) (i32.const 0))
        (func $double (type $unary) (i32.shl (local.get 0) (i32.const 1)))
        (func $square (type $same) (local i32 i64)
          (local.set 1 (local.get 0)) (i32.mul (local.get 0) (local.get 1)))
        (func $wide (param i64) (result i32) (i32.wrap_i64 (local.get 0)))
        (func $none (global.set $g (i32.add (global.get $g) (i32.const 1))))
        (func $neg (param i32) (result i32) (i32.sub (i32.const 0) (local.get 0)))
        (func (export "unary") (param i32) (result i32)
          (i32.const 1000)
          (call_indirect (type $unary) (i32.const 21) (local.get 0))
          i32.add)
        (func (export "same") (param i32) (result i32)
          (call_indirect (type $same) (i32.const 21) (local.get 0)))
        (func (export "wide") (param i32) (result i32)
          (call_indirect (param i64) (result i32) (i64.const -9) (local.get 0)))
        (func (export "none") (param i32)
          (global.set $g (i32.mul (global.get $g) (i32.const 10)))
          (call_indirect (local.get 0)))""",
        [
            (name, index)
            for name in ("unary", "same", "wide", "none")
            for index in (*range(10), 255, 256, 65536, 2**31, 2**32 - 1)
        ],
    ),
    "call_indirect without a table's elements": (
        """(table 0 funcref)
        (func (export "f") (param i32) (call_indirect (local.get 0)))""",
        ONE_INPUT,
    ),
    "memory.size and memory.grow": (
        """(memory (export "memory") 1 4)
        (func (export "size") (result i32) (memory.size))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "store") (param i32) (i64.store (local.get 0) (i64.const -1)))
        (func (export "load") (param i32) (result i64) (i64.load (local.get 0)))""",
        [
            ("size",), ("grow", 0), ("store", PAGE - 8), ("store", PAGE - 7), ("load", PAGE),
            ("grow", 4), ("grow", 2**31), ("grow", 2**32 - 1), ("size",), ("grow", 1), ("size",),
            ("load", PAGE), ("load", PAGE - 4), ("store", PAGE - 3), ("load", PAGE),
            ("load", 2 * PAGE - 8), ("load", 2 * PAGE - 7), ("grow", 3), ("grow", 2), ("size",),
            ("store", 4 * PAGE - 8), ("load", 4 * PAGE - 8), ("store", 4 * PAGE), ("grow", 1),
            ("grow", 0),
        ],
    ),
    "bulk memory": (
        """(memory (export "memory") 1 2)
        (data (i32.const 0) "0123456789abcdefghijklmnopqrstuvwxyz") (data $passive "ABCDEFGHIJKLM")
        (func (export "fill") (param i32 i32 i32)
          (memory.fill (local.get 0) (local.get 1) (local.get 2)))
        (func (export "copy") (param i32 i32 i32)
          (memory.copy (local.get 0) (local.get 1) (local.get 2)))
        (func (export "init") (param i32 i32 i32)
          (memory.init $passive (local.get 0) (local.get 1) (local.get 2)))
        (func (export "drop") (data.drop $passive))
        (func (export "grow") (result i32) (memory.grow (i32.const 1)))""",
        # copies up and down, with and without overlap, of all alignments
        [("copy", to, start, 20) for to, start in ((3, 0), (0, 3), (40, 1), (8, 16), (5, 5))]
        + [("copy", 100 + 3 * n, n, n) for n in range(18)]
        + [("fill", 200 + k, 0x1A0 + k, k) for k in range(20)]
        + [("init", 300 + k, k, 13 - k) for k in range(14)]
        + [
            ("fill", PAGE - 5, 7, 5), ("fill", PAGE - 5, 8, 6), ("fill", PAGE, 9, 0),
            ("fill", PAGE + 1, 9, 0), ("fill", 0, 9, 2**32 - 1), ("fill", 2**32 - 1, 9, 1),
            ("copy", PAGE - 4, 0, 4), ("copy", PAGE - 4, 0, 5), ("copy", 0, PAGE - 4, 4),
            ("copy", 0, PAGE - 4, 5), ("copy", PAGE, PAGE, 0), ("copy", PAGE + 1, 0, 0),
            ("copy", 2**32 - 1, 0, 2), ("copy", 0, 2**32 - 1, 2),
            ("init", 400, 0, 14), ("init", 400, 13, 0), ("init", 400, 14, 0),
            ("init", PAGE - 2, 0, 2), ("init", PAGE - 2, 0, 3), ("init", 400, 2**32 - 1, 2),
            ("grow",), ("fill", PAGE - 3, 5, 9), ("copy", PAGE + 1, PAGE - 2, 40),
            ("drop",), ("init", 400, 0, 0), ("init", 400, 0, 1), ("init", 400, 1, 0), ("drop",),
        ],
    ),
    "tables that change": (
        """(table 12 funcref) (elem (i32.const 1) $f $g) (elem $passive func $g $f $g)
        (func $f (result i32) (i32.const 7)) (func $g (result i32) (local i32) (local.get 0))
        (func (export "copy") (param i32 i32 i32)
          (table.copy (local.get 0) (local.get 1) (local.get 2)))
        (func (export "init") (param i32 i32 i32)
          (table.init $passive (local.get 0) (local.get 1) (local.get 2)))
        (func (export "drop") (elem.drop $passive))
        (func (export "call") (param i32) (result i32)
          (call_indirect (result i32) (local.get 0)))""",
        [("copy", 5, 0, 4), ("copy", 6, 5, 4), ("copy", 0, 1, 2), ("init", 9, 0, 3), ("drop",)]
        + [("init", 0, 0, 0)] + [("call", k) for k in range(13)],
    ),
    "a memory without pages": (
        """(memory (export "memory") 0 1)
        (func (export "f") (param i32) (result i32) (i32.load8_u (local.get 0)))
        (func (export "grow") (result i32) (memory.grow (i32.const 1)))""",
        [("f", 0), ("f", 2**32 - 1), ("grow",), ("f", 0), ("grow",), ("f", PAGE - 1), ("f", PAGE)],
    ),
    "floats moved through memory": (
        """(memory (export "memory") 1)
        (func (export "f") (param i32)
          (f32.store offset=1 (local.get 0) (f32.const nan:0x212345))
          (f64.store offset=5 (local.get 0) (f64.const -0x1.23456789abcdep-1030))
          (f32.store offset=13 (local.get 0) (f32.load offset=8 (local.get 0)))
          (f64.store offset=17 (local.get 0) (f64.load offset=3 (local.get 0))))""",
        [("f", value) for value in (0, 1, 2, 3, 5, 1000, PAGE - 25, PAGE - 24, 2**32 - 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other(name):
    fields, calls = OTHERS[name]
    check_on_engine(f"(module {fields})", *calls)


def test_traps_of_call_indirect():
    """The three messages, not only those that wasmtime's codes stand for."""
    machine = OnEngine(compile_wat(f"(module {OTHERS['call_indirect'][0]})"))
    assert machine.invoke("unary", 1) == [1441]
    assert machine.invoke("unary", 2) == Trap("indirect call type mismatch")
    assert machine.invoke("unary", 4) == Trap("uninitialized element")
    assert machine.invoke("unary", 8) == Trap("undefined element")


def test_every_supported_operator_is_among_these():
    texts = [numeric_module(), memory_module(), *(f"(module {f})" for f, _ in OTHERS.values())]
    one = np.array([1], np.uint64)
    texts += [
        floats.table_module(name, (one,) * len(types))
        for name, (types, _) in floats.SIGNATURES.items()
    ]
    seen = {
        instr.name
        for text in texts
        for function in decode(compile_wat(text)).functions
        for instr in function.body
    }
    assert set(SUPPORTED) - seen == set()


# --- the same by way of the public interface ---


def test_calls_of_an_instance():
    instance = onengine.machine().instantiate(wasmjax.load(compile_wat(numeric_module())))
    assert instance.call("i32.sub", 3, 5) == (-2,)
    assert instance.call_bits("i32.sub", 3, 5) == (2**32 - 2,)
    assert instance.call("i64.shr_u", -1, 1) == (2**63 - 1,)
    assert instance.call("i64.lt_s", -1, 1) == (1,)
    assert instance.call("i32.wrap_i64", 2**40 + 2**31) == (-(2**31),)
    with pytest.raises(wasmjax.Trap, match=r"^integer divide by zero$"):
        instance.call("i64.rem_u", 1, 0)
    with pytest.raises(wasmjax.Trap, match=r"^integer overflow$"):
        instance.call("i32.div_s", -(2**31), -1)
    assert instance.call("i32.div_s", -7, 2) == (-3,)
    with pytest.raises(TypeError):
        instance.call("i32.add", 2**32, 0)


def test_floating_point_of_an_instance():
    text = """(module
      (global $g (export "g") (mut i32) (i32.const 0))
      (func (export "f") (param f64 i32) (result f64)
        (global.set $g (i32.trunc_f64_s (local.get 0)))
        (f64.div (f64.sub (local.get 0) (f64.const 0.5)) (f64.convert_i32_s (local.get 1)))))"""
    instance = onengine.machine().instantiate(wasmjax.load(compile_wat(text)))
    quotient = floats.bits_of("f64", (2.25 - 0.5) / 3)
    assert instance.call("f", floats.bits_of("f64", 2.25), 3) == (quotient,)
    with pytest.raises(wasmjax.Trap, match=r"^integer overflow$"):
        instance.call("f", floats.bits_of("f64", 1e10), 3)
    with pytest.raises(wasmjax.Trap, match=r"^invalid conversion to integer$"):
        instance.call("f", floats.CANONICAL["f64"], 3)
    assert instance.call("f", floats.bits_of("f64", -7.5), 0) == (
        floats.bits_of("f64", float("-inf")),
    )


def test_all_operators_are_supported():
    assert frozenset() == UNSUPPORTED
