"""Floats as bits: operands for the tests, and what operators make of them, natively.

A NaN result counts as the canonical NaN, which is what the runtime library gives.
"""

import functools

import numpy as np
import wasmtime

from wasmjax.wasm import runtime

BITS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
INTEGER = {"i32": "i32", "i64": "i64", "f32": "i32", "f64": "i64"}
FRACTION_BITS = {"f32": 23, "f64": 52}
INFINITE = {"f32": 0x7F80_0000, "f64": 0x7FF0_0000_0000_0000}
CANONICAL = {"f32": 0x7FC0_0000, "f64": 0x7FF8_0000_0000_0000}

_UNARY = "sqrt ceil floor trunc nearest abs neg".split()
_BINARY = "add sub mul div min max copysign".split()
COMPARISONS = "eq ne lt gt le ge".split()
SIGN_OPERATORS = [f"{t}.{name}" for t in ("f32", "f64") for name in ("abs", "neg", "copysign")]
"""What keeps the bits of a NaN."""


def _signatures():
    out = {}
    for t in ("f32", "f64"):
        out |= {f"{t}.{name}": ((t,), t) for name in _UNARY}
        out |= {f"{t}.{name}": ((t, t), t) for name in _BINARY}
        out |= {f"{t}.{name}": ((t, t), "i32") for name in COMPARISONS}
        for i in ("i32", "i64"):
            for sign in "su":
                out[f"{t}.convert_{i}_{sign}"] = ((i,), t)
                out[f"{i}.trunc_{t}_{sign}"] = ((t,), i)
                out[f"{i}.trunc_sat_{t}_{sign}"] = ((t,), i)
    return out | {"f64.promote_f32": (("f32",), "f64"), "f32.demote_f64": (("f64",), "f32")}


SIGNATURES: dict[str, tuple[tuple[str, ...], str]] = _signatures()
"""Floating-point operators: (operand types, result type)."""

ROUTINES = [name for name in SIGNATURES if name not in SIGN_OPERATORS and not name.endswith(".sub")]
"""Those that the runtime library has."""


# --- operands: arrays of bits ---


def edges(type_):
    """Numbers at the ends of every case that matters: exponents and fractions, both signs."""
    width = BITS[type_]
    if type_ not in FRACTION_BITS:
        powers = [(1 << bit) + delta for bit in range(width + 1) for delta in (-2, -1, 0, 1, 2)]
        numbers = {sign * power % (1 << width) for power in powers for sign in (1, -1)}
        return np.array(sorted(numbers), np.uint64)
    p = FRACTION_BITS[type_]
    bias = (1 << (width - p - 2)) - 1
    exponents = {0, 1, 2, 3, 2 * bias - 1, 2 * bias, 2 * bias + 1, width - 1, width, width + 1, p}
    exponents |= {bias + k for k in (-p - 2, -p, -2, -1, 0, 1, 2, 30, 31, 32, 62, 63, 64)}
    exponents |= {bias + k for k in (p - 1, p, p + 1)}
    exponents |= {3 * (bias + 1) // 4 + k for k in (-1, 0)}
    exponents |= {5 * (bias + 1) // 4 + k for k in (-1, 0)}
    one = 1 << p
    fractions = {0, 1, 2, 3, one - 1, one - 2, one // 4, one // 3, one // 2 - 1, one // 2}
    fractions |= {one // 2 + 1}
    return np.array(
        [
            sign << (width - 1) | exponent << p | fraction
            for sign in (0, 1)
            for exponent in sorted(exponents)
            for fraction in sorted(fractions)
        ],
        np.uint64,
    )


def drawn(type_, count, rng):
    """Random numbers, many of them with few bits, or near a power of two."""
    width = BITS[type_]
    bits = rng.integers(0, 1 << 64, count, np.uint64)
    kind, shift = rng.integers(0, 6, count), rng.integers(0, 64, count).astype(np.uint64)
    if type_ not in FRACTION_BITS:
        bits >>= shift
        near = (np.uint64(1) << shift) + rng.integers(-3, 4, count).astype(np.uint64)
        bits = np.where(kind < 2, near, bits)
        bits = np.where(rng.integers(0, 2, count) == 0, np.uint64(0) - bits, bits)
        return bits & np.uint64((1 << width) - 1)
    p = FRACTION_BITS[type_]
    bias, ones = (1 << (width - p - 2)) - 1, np.uint64((1 << p) - 1)
    shift %= np.uint64(p + 1)
    fraction = bits & ones
    fraction = np.where(kind == 1, fraction >> shift, fraction)
    fraction = np.where(kind == 2, fraction << shift & ones, fraction)
    fraction = np.where(kind == 3, fraction >> shift ^ ones, fraction)
    usual = np.clip(bias + rng.integers(-p - 5, p + 6, count), 0, 2 * bias + 1)
    exponent = np.where(kind > 3, rng.integers(0, 2 * bias + 2, count), usual).astype(np.uint64)
    return bits >> np.uint64(63) << np.uint64(width - 1) | exponent << np.uint64(p) | fraction


def near(type_, numbers, rng):
    """For every number one that is not much larger or smaller, or equal but for a few bits."""
    width, p = BITS[type_], FRACTION_BITS[type_]
    other = drawn(type_, len(numbers), rng) & np.uint64((1 << p) - 1 | 1 << (width - 1))
    other >>= rng.integers(0, p, len(numbers)).astype(np.uint64)
    distance = rng.integers(-p - 6, p + 7, len(numbers)) << p
    mask = np.uint64((1 << width) - 1)
    return (numbers.astype(np.int64) + distance).astype(np.uint64) & mask ^ other


def operands(name, count, seed=1):
    """Random operands of an operator, an array for each; the same ones for the same seed."""
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    types, _ = SIGNATURES[name]
    a = drawn(types[0], count, rng)
    if len(types) == 1:
        return (a,)
    half = count // 2
    return a, np.concatenate([near(types[1], a[:half], rng), drawn(types[1], count - half, rng)])


def edge_operands(name):
    """All edges, or all pairs of them."""
    types, _ = SIGNATURES[name]
    numbers = edges(types[0])
    if len(types) == 1:
        return (numbers,)
    return np.repeat(numbers, len(numbers)), np.tile(numbers, len(numbers))


def trap(name, bits):
    """The trap that an operand makes, or None."""
    if len(without_traps(name, (np.array([bits], np.uint64),))[0]):
        return None
    type_ = SIGNATURES[name][0][0]
    is_nan = bits % (1 << (BITS[type_] - 1)) > INFINITE[type_]
    return "invalid conversion to integer" if is_nan else "integer overflow"


def without_traps(name, arrays):
    """The operands that make no trap."""
    if ".trunc_" not in name or "_sat_" in name:
        return arrays
    width, kind = int(name[1:3]), "f4" if SIGNATURES[name][0][0] == "f32" else "f8"
    low, high = (-(2.0 ** (width - 1)), 2.0 ** (width - 1)) if name[-1] == "s" else (0, 2.0**width)
    with np.errstate(invalid="ignore"):  # signaling NaNs
        whole = np.trunc(arrays[0].astype(f"u{kind[1]}").view(kind).astype(np.float64))
    return (arrays[0][(whole >= low) & (whole < high)],)


def bits_of(type_, number):
    """A number as a value of a type."""
    kind = {"f32": "f4", "f64": "f8"}.get(type_)
    return int(np.array(number, kind).view(f"u{kind[1]}") if kind else number)


# --- a module that applies an operator to a table ---

OPERANDS, RESULTS = 1024, 65536  # where rows of two operands lie, and where results go


def table_module(name, arrays):
    """WebAssembly text: `all` applies an operator to every row, `one` to operands given as bits.

    Args:
      arrays: the operands, at most 4,000 of each.
    """
    types, result = SIGNATURES[name]
    rows = np.zeros((len(arrays[0]), 2), "<u8")
    for k, array in enumerate(arrays):
        rows[:, k] = array
    content = "".join(f"\\{byte:02x}" for byte in rows.tobytes())
    i = "(local.get $i)"
    loads = [
        f"({type_}.load offset={OPERANDS + 8 * k} (i32.shl {i} (i32.const 4)))"
        for k, type_ in enumerate(types)
    ]
    given = [
        f"({type_}.reinterpret_{INTEGER[type_]} (local.get {k}))"
        if type_[0] == "f"
        else f"(local.get {k})"
        for k, type_ in enumerate(types)
    ]
    to, value = INTEGER[result], f"({name} {' '.join(given)})"
    return f"""(module (memory (export "memory") 2)
      (data (i32.const {OPERANDS}) "{content}")
      (func (export "one") (param {" ".join(INTEGER[t] for t in types)}) (result {to})
        {value if to == result else f"({to}.reinterpret_{result} {value})"})
      (func (export "all") (local $i i32)
        (loop $next
          ({result}.store offset={RESULTS} (i32.shl {i} (i32.const 3)) ({name} {" ".join(loads)}))
          (local.set $i (i32.add {i} (i32.const 1)))
          (br_if $next (i32.lt_u {i} (i32.const {len(rows)}))))))"""


def table_results(name, memory, count):
    """The results that `all` left in the memory's content, as bits."""
    results = np.frombuffer(memory, "<u8", count, RESULTS)
    return results & np.uint64((1 << BITS[SIGNATURES[name][1]]) - 1)


# --- natively ---

_PRIMITIVES = """(module
  (func (export "narrow") (param i64) (result i32) (i32.wrap_i64 (local.get 0)))
  (func (export "trap_invalid_conversion") (drop (i32.trunc_f32_s (f32.const nan))))
  (func (export "trap_overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))))"""
_ROWS = 1 << 16  # at a time
_RESULTS = 16 * _ROWS


@functools.cache
def _loop(name, call):
    """Applies an operator to the rows in memory: the operator itself, or a library's function."""
    types, result = SIGNATURES[name]
    bits = [INTEGER[type_] for type_ in types]
    loads = [f"({t}.load offset={8 * k} (local.get $i))" for k, t in enumerate(bits)]
    to = INTEGER[result]
    imported = ""
    if call:
        library = runtime.find(name)
        imported = f'(import "library" "{name}" (func $f (param {" ".join(bits)}) (result {to})))'
        value = f"(call $f {' '.join(loads)})"
    else:
        given = [
            load if type_ == t else f"({type_}.reinterpret_{t} {load})"
            for type_, t, load in zip(types, bits, loads, strict=True)
        ]
        value = f"({name} {' '.join(given)})"
        if result != to:
            value = f"({to}.reinterpret_{result} {value})"
    text = f"""(module {imported} (memory (export "memory") {3 * _RESULTS // (2 << 16)})
      (func (export "run") (param $end i32) (local $i i32)
        (block $done (loop $next
          (br_if $done (i32.eq (local.get $i) (local.get $end)))
          ({to}.store offset={_RESULTS} (i32.shr_u (local.get $i) (i32.const 1)) {value})
          (local.set $i (i32.add (local.get $i) (i32.const 16)))
          (br $next)))))"""
    store = wasmtime.Store(wasmtime.Engine())
    linker = wasmtime.Linker(store.engine)
    if call:
        for module, code in (
            (runtime.PSEUDO_MODULE, _PRIMITIVES),
            ("library", runtime.binary(library.name)),
        ):
            instance = linker.instantiate(store, wasmtime.Module(store.engine, code))
            linker.define_instance(store, module, instance)
    exports = linker.instantiate(store, wasmtime.Module(store.engine, text)).exports(store)
    return store, exports


def _apply(name, arrays, call):
    store, exports = _loop(name, call)
    out = []
    for start in range(0, len(arrays[0]), _ROWS):
        rows = np.zeros((min(_ROWS, len(arrays[0]) - start), 2), np.uint64)
        for k, array in enumerate(arrays):
            rows[:, k] = array[start : start + _ROWS]
        exports["memory"].write(store, rows.tobytes())
        exports["run"](store, rows.nbytes)
        content = exports["memory"].read(store, _RESULTS, _RESULTS + 8 * len(rows))
        results = np.frombuffer(bytes(content), np.uint64)
        out.append(results & np.uint64((1 << BITS[SIGNATURES[name][1]]) - 1))
    return np.concatenate(out)


def native(name, *arrays):
    """What wasmtime's own operator gives for arrays of operands, none of which traps."""
    results = _apply(name, arrays, False)
    type_ = SIGNATURES[name][1]
    if type_ in FRACTION_BITS and name not in SIGN_OPERATORS:
        magnitude = results & np.uint64((1 << (BITS[type_] - 1)) - 1)
        results = np.where(magnitude > INFINITE[type_], np.uint64(CANONICAL[type_]), results)
    return results


def compiled(name, *arrays):
    """What the runtime library's function gives, run by wasmtime."""
    return _apply(name, arrays, True)
