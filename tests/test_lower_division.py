"""Division by constants: the multipliers, the steps, and what lowering makes of them."""

import random

import pytest

from lowering import Machine, Trap, check, compile_wat
from wasmjax.oracle import alu
from wasmjax.wasm.division import ZERO, by_constant, signed_magic, unsigned_magic
from wasmjax.wasm.lower import lower_code
from wasmjax.wasm.validate import load_bytes

OPERATORS = [
    f"i{width}.{name}" for width in (32, 64) for name in ("div_u", "div_s", "rem_u", "rem_s")
]


def signed(bits, width):
    return bits - (1 << width) if bits >> (width - 1) else bits


def expected(name, n, d):
    """What the operator gives for unsigned bits (without the traps)."""
    width = int(name[1:3])
    if name.endswith("_s"):
        n, d = signed(n, width), signed(d, width)
    quotient = abs(n) // abs(d) * (-1 if (n < 0) != (d < 0) else 1)
    return (quotient if "div" in name else n - quotient * d) % (1 << width)


def run(steps, n):
    """The steps on the oracle's arithmetic. Slots keep all 64 bits of every result."""
    places = {0: n, ZERO: 0}
    for step in steps:
        a, b = places[step.a], places[step.b]
        assert step.imm == 0 or b == 0  # the machine adds byte by byte
        b += step.imm
        if step.op in alu.BINARY:
            value = alu.BINARY[step.op](a, b)
        elif step.op in alu.EXTEND:
            value = alu.EXTEND[step.op](b)
        else:
            value = b & {"i32.wrap_i64": 2**32 - 1, "move": 2**64 - 1}[step.op]
        places[step.to] = value
    return places[0]


@pytest.mark.parametrize("width", [4, 5, 8])
def test_multipliers_of_small_numbers(width):
    """All of them, which the same formulas make."""
    increments = 0
    for d in range(3, 1 << width):
        if d & (d - 1):
            magic = unsigned_magic(d, width)
            increments += magic.increment
            assert magic.multiplier < 1 << width
            for n in range(1 << width):
                assert (n + magic.increment) * magic.multiplier >> magic.shift == n // d, (n, d)
            if d < 1 << (width - 1):
                magic = signed_magic(d, width)
                assert magic.multiplier < 1 << width
                for n in range(-1 << (width - 1), 1 << (width - 1)):
                    quotient = n // d if n >= 0 else -(-n // d)
                    assert (n * magic.multiplier >> magic.shift) + (n < 0) == quotient, (n, d)
    assert increments


def divisors(width):
    rng = random.Random(width)
    numbers = set(range(1, 300)) | {10**k for k in range(1, 20)} | {641, 6700417, 10**9 + 7}
    for bit in range(1, width + 1):
        numbers |= {(1 << bit) + delta for delta in (-3, -2, -1, 0, 1, 2, 3)}
        numbers |= {rng.getrandbits(bit) for _ in range(6)}
    numbers |= {-number for number in numbers}
    return sorted({number % (1 << width) for number in numbers} - {0})


def dividends(width, d, rng):
    """Numbers at the ends of the range, and around multiples of the divisor."""
    top = 1 << width
    numbers = [0, 1, 2, top - 1, top - 2, top // 2, top // 2 - 1, top // 2 + 1, d - 1, d, d + 1]
    numbers += [
        -d,
        top // 2 // d * d,
        top // 2 // d * d - 1,
        (top - 1) // d * d,
        (top - 1) // d * d - 1,
    ]
    for _ in range(8):
        multiple = rng.getrandbits(rng.randint(1, width)) // d * d
        numbers += [multiple - 1, multiple, multiple + 1, -multiple, -multiple - 1]
        numbers.append(rng.getrandbits(width))
    return [number % top for number in numbers]


@pytest.mark.parametrize("name", OPERATORS)
def test_steps(name):
    width = int(name[1:3])
    rng = random.Random(name)
    longest = 0
    for d in divisors(width):
        steps = by_constant(name, d)
        if steps is None:
            assert signed(d, width) == -1 and name.endswith("div_s")
            continue
        longest = max(longest, len(steps))
        for n in dividends(width, d, rng):
            assert run(steps, n) == expected(name, n, d), (n, d)
    limits = {
        "i32.div_u": 3, "i32.rem_u": 5, "i32.div_s": 5, "i32.rem_s": 7,
        "i64.div_u": 16, "i64.rem_u": 18, "i64.div_s": 17, "i64.rem_s": 19,
    }  # fmt: skip
    assert longest == limits[name]


@pytest.mark.parametrize("name", OPERATORS)
def test_traps_are_left_to_the_library(name):
    width = int(name[1:3])
    assert by_constant(name, 0) is None
    minus_one = by_constant(name, (1 << width) - 1)
    assert (minus_one is None) == (name[4:] == "div_s")


@pytest.mark.parametrize(
    ("name", "divisor", "ops"),
    [
        ("i32.div_u", 1, ""),
        ("i32.div_u", 8, "shr_u"),
        ("i32.rem_u", 8, "and"),
        ("i32.div_u", 10, "mul shr_u"),
        ("i32.div_u", 7, "add mul shr_u"),
        ("i32.rem_u", 10, "mul shr_u mul sub"),
        ("i32.div_u", 2**32 - 1, "ge_u"),
        ("i32.div_s", 2, "shr_u add shr_s"),
        ("i32.div_s", -4, "shr_s shr_u add shr_s sub"),
        ("i32.rem_s", -1, "move"),
    ],
)
def test_shapes(name, divisor, ops):
    steps = by_constant(name, divisor % (1 << 32))
    assert [step.op.split(".")[-1] for step in steps] == ops.split()


def test_lowering_leaves_the_library_out():
    text = """(module (func (param i32) (result i32)
      (i32.div_u (local.get 0) (i32.const 10))
      (i32.rem_u (local.get 0) (i32.const 16))
      i32.add))"""
    code = lower_code(load_bytes(compile_wat(text)))
    assert [function.name for function in code.functions] == ["func 0"]
    assert [ins.op for ins in code.instructions[:-1]] == [
        "move", "i64.mul", "i64.shr_u", "move", "i32.and", "i32.add", "return_value",
    ]  # fmt: skip
    assert code.instructions[1].note == "i32.div_u by 10"


@pytest.mark.parametrize("width", [32, 64])
def test_against_wasmtime(width):
    t = f"i{width}"
    constants = [
        1,
        2,
        3,
        7,
        10,
        16,
        641,
        1000,
        10**9 + 7,
        2**31,
        2**32 - 1,
        -1,
        -2,
        -3,
        -10,
        -(2**31),
    ]
    if width == 64:
        constants += [2**32 + 1, 10**12 + 39, 2**63, 2**64 - 1, -(10**15)]
    functions = ""
    names = []
    for name in (o for o in OPERATORS if o.startswith(t)):
        for k, d in enumerate(constants):
            # among operands, and with one left over by a drop
            functions += f"""(func (export "{name} {k}") (param {t}) (result {t})
              ({t}.const 3) (drop (i32.const 5))
              ({name} (local.get 0) ({t}.const {d})) ({t}.const 9) {t}.add {t}.sub)"""
            names.append(f"{name} {k}")
    values = [0, 1, 2, 9, 10, 11, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 123456789012345678]
    check(f"(module {functions})", *((name, value) for name in names for value in values))


def test_a_division_that_traps():
    text = """(module
      (func (export "zero") (param i32) (result i32) (i32.div_u (local.get 0) (i32.const 0)))
      (func (export "one") (param i64) (result i64) (i64.div_s (local.get 0) (i64.const -1))))"""
    machine = Machine(compile_wat(text))
    assert machine.invoke("zero", 1) == Trap("integer divide by zero")
    assert machine.invoke("one", 5) == [2**64 - 5]
    assert machine.invoke("one", 2**63) == Trap("integer overflow")


def test_unreachable_division():
    check(
        """(module (func (export "f") (param i32) (result i32)
          (block (br_if 0 (local.get 0)) (return (i32.const 1)) (i32.const 3) i32.div_u drop)
          (i32.const 5)))""",
        ("f", 0), ("f", 1),
    )  # fmt: skip
