#!/usr/bin/env python3
"""Division by the runtime library against division by attention.

    .venv/bin/python scripts/compare_division.py

A head over the 256 rows of the arithmetic table, keys (2j, -j^2), asked in the direction (R, D)
attends to the j nearest to R / D: one quotient digit to the base of 256, if its scores are exact.
Prints up to which divisor they are, what a division by such digits takes in steps, were they always
exact, and what the units for them add to every step of every program.
"""

import dataclasses
import random
import statistics
import sys

import numpy as np
import wasmtime

from wasmjax.cache.indexed import IndexedCache
from wasmjax.circuit.weights import compile_circuit
from wasmjax.engine.plan import build_plan
from wasmjax.machine.build import build_circuit
from wasmjax.machine.config import WASM, MachineConfig
from wasmjax.machine.program import invocation, prompt, registers
from wasmjax.model.heads import certify
from wasmjax.model.symbolic import Symbolic
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import lower
from wasmjax.wasm.validate import load_bytes

PAIRS = 2000
KEYS = np.arange(256)


def digit(R: np.ndarray, D: np.ndarray, dtype: type) -> np.ndarray:
    """floor(R / D) for R < 256 D by attention: the query (2R - D + 1, 2D) makes nearest floor."""
    R, D = R.astype(dtype), D.astype(dtype)
    x, y = 2 * R - D + 1, 2 * D
    scores = x[:, None] * (2 * KEYS).astype(dtype) - y[:, None] * (KEYS**2).astype(dtype)
    return np.argmax(scores, axis=1)


def exact_up_to(dtype: type, most: int) -> int:
    """Bits of divisors for which all digits tried are right, nearest misses among them."""
    rng = np.random.default_rng(0)
    for bits in range(1, most + 1):
        D = rng.integers(1 << (bits - 1), 1 << bits, 4000)
        q = rng.integers(0, 256, 4000)
        for rest in (np.zeros_like(D), D - 1, rng.integers(0, 1 << 62, 4000) % D):
            if (digit(q * D + rest, D, dtype) != q).any():
                return bits - 1
    return most


def by_digits(n: int, d: int, width: int) -> tuple[int, int]:
    """Quotient and machine steps of a long division, one digit a step.

    Generous: words are as long as need be, nothing tests for zero."""
    count, q = 2, 0  # call and return
    shift = width - 8
    D = d << shift
    count += 1
    while True:
        found = n // D  # the digit
        n -= found * D
        count += 3
        if shift == width - 8:
            q = found
        else:
            q = q << 8 | found
            count += 2
        if shift == 0:
            return q, count
        D >>= 8
        shift -= 8
        count += 1


def by_routine(width: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Steps of the runtime library, call and return included."""
    t = f"i{width}"
    text = f"""(module (func (export "f") (param {t} {t}) (result {t})
        ({t}.div_u (local.get 0) (local.get 1))))"""
    lowered = lower(load_bytes(bytes(wasmtime.wat2wasm(text))))
    entry, out = lowered.exports["f"], []
    tokens = prompt(WASM, lowered.program)
    for n, d in pairs:
        oracle = Oracle(WASM)
        call = invocation(
            WASM, lowered.program, registers(WASM, tokens), entry=entry.entry, args=(n, d),
            header=entry.header, frame_size=entry.frame_size,
        )  # fmt: skip
        oracle.feed(np.concatenate([tokens, call]))
        oracle.run(10_000, keep=False)
        assert oracle.last_token is not None
        out.append(oracle.steps - 4)  # two operands, return, halt
    return out


def terms_of(config: MachineConfig) -> tuple[int, int]:
    """Terms of a packed step, and layers."""
    symbolic = Symbolic(compile_circuit(build_circuit(config)).weights)
    plan = build_plan(symbolic, IndexedCache(symbolic, certify(symbolic)), generated_only=True)
    return plan.count_terms(), len(plan.layers)


def main() -> int:
    single, double = exact_up_to(np.float32, 40), exact_up_to(np.float64, 56)
    print(f"digits are exact for divisors of {single} bits in float32, {double} bits in float64")
    rng = random.Random(0)
    for width in (32, 64):
        pairs = [
            (rng.getrandbits(rng.randint(1, width)), max(1, rng.getrandbits(rng.randint(1, width))))
            for _ in range(PAIRS)
        ]
        taken = []
        for n, d in pairs:
            q, count = by_digits(n, d, width)
            assert q == n // d
            taken.append(count)
        routine = by_routine(width, pairs[:200])
        print(
            f"i{width}.div_u: routine {min(routine)} to {max(routine)} steps, median "
            f"{statistics.median(routine):.0f}; digits by attention {statistics.median(taken):.0f}"
        )
    whole, layers = terms_of(WASM)
    without = tuple(op for op in WASM.instructions if not op.endswith(".mul"))
    plain, fewer = terms_of(dataclasses.replace(WASM, instructions=without))
    print(
        f"a step sums {whole} terms in {layers} layers, {plain} in {fewer} without the multiplier: "
        f"a quotient needs {whole - plain} terms or so for every digit, a product to subtract"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
