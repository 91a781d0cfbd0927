"""The hull cache on transformers whose keys lie on no parabola, against hard-max attention."""

import numpy as np
import pytest

import onengine
import wasmjax
from lowering import compile_wat
from onlanes import generate
from wasmjax.circuit.weights import Vocabulary, Weights
from wasmjax.engine.decode import Engine, Stop
from wasmjax.model.heads import CertificateError

HEADS, WIDTH = 6, 12
ONE, X, Y, Z, OUT = 0, 1, 2, 3, 4
FIELDS = (
    Vocabulary("kind", 0, 3, True),
    Vocabulary("x", -9, 19, True),
    Vocabulary("y", -9, 19, True),
    Vocabulary("z", 0, 31, True),
)
STOP = Stop(0, (2,), (2,))  # a kind that nothing generates


def parabola(field: Vocabulary, at: int) -> np.ndarray:
    """Rows whose largest logit is that of the value in coordinate `at`."""
    values = field.lo + np.arange(field.size, dtype=np.float64)
    rows = np.zeros((field.size, WIDTH))
    rows[:, at], rows[:, ONE] = 2 * values, -(values**2)
    return rows


def draw(rng, scale=1, query=(-3, 4)) -> Weights:
    """Three heads with drawn integer queries and keys; each one's value becomes the next field."""
    embedding = [np.zeros((field.size, WIDTH)) for field in FIELDS]
    embedding[0][:, ONE] = 1
    for field, rows, at in zip(FIELDS[1:], embedding[1:], (X, Y, Z), strict=True):
        rows[:, at] = field.lo + np.arange(field.size)
    w_q, w_k, w_v = (np.zeros((1, HEADS, 2, WIDTH)) for _ in range(3))
    w_o = np.zeros((1, WIDTH, HEADS, 2))
    for head, source in enumerate((X, Y, Z)):
        w_q[0, head, 0, [ONE, X, Y, Z]] = rng.integers(*query, 4)
        w_q[0, head, 1, ONE] = rng.choice([1, 2, 8])
        w_k[0, head, 0, [ONE, X, Y, Z]] = scale * rng.integers(-4, 5, 4)
        w_k[0, head, 1, [ONE, X, Y, Z]] = scale * rng.integers(-30, 31, 4)
        w_v[0, head, 0, source] = 1
        w_o[0, OUT + head, head, 0] = 1
    none = np.zeros((1, 1, WIDTH))
    unembedding = [np.zeros((3, WIDTH)), *map(parabola, FIELDS[1:], range(OUT, OUT + 3))]
    kinds = np.arange(3.0)
    unembedding[0][:, ONE] = 2 * kinds - kinds**2  # kind 1, always
    return Weights(
        FIELDS, embedding, np.zeros(WIDTH), w_q, w_k, w_v, w_o, none, none,
        np.zeros((1, WIDTH, 1)), unembedding, 2.0**30,
    )  # fmt: skip


def expected(weights: Weights, prompt: np.ndarray, steps: int) -> np.ndarray:
    """Plain hard-max attention in Python integers; the latest of equals."""
    tokens = prompt.tolist()
    for _ in range(steps):
        after = [1]
        for head, source in enumerate((1, 2, 3)):
            residual = [[1, *token[1:]] for token in tokens]

            def project(matrix, vector, head=head):
                rows = matrix[0, head, :, : Z + 1].astype(int).tolist()
                return [sum(w * x for w, x in zip(row, vector, strict=True)) for row in rows]

            q = project(weights.w_q, residual[-1])
            keys = [project(weights.w_k, vector) for vector in residual]
            best = max(range(len(tokens)), key=lambda t: (q[0] * keys[t][0] + q[1] * keys[t][1], t))
            after.append(tokens[best][source])
        tokens.append(after)
    return np.array(tokens[len(prompt) :])


def prompt_of(rng) -> np.ndarray:
    columns = [rng.integers(f.lo, f.lo + f.size, 40) for f in FIELDS[1:]]
    return np.stack([np.zeros(40, np.int64), *columns], axis=1).astype(np.int32)


@pytest.mark.parametrize("engine", ["packed", "dense"])
@pytest.mark.parametrize("seed", range(4))
def test_any_integer_keys(engine, seed):
    rng = np.random.default_rng(seed)
    scale = [1, 1, 2**-6, 2**12][seed]
    weights, prompt = draw(rng, scale), prompt_of(rng)
    with pytest.raises(CertificateError):
        Engine(weights, STOP, engine, "indexed")
    made = Engine(weights, STOP, engine, "hull", chunk=16)
    tokens, refusal = generate(made, prompt, 24)
    whole = draw(np.random.default_rng(seed))
    np.testing.assert_array_equal(tokens, expected(whole, prompt, 24))
    assert refusal == ""


def test_what_float32_does_not_hold_is_refused():
    """A key beyond 2^24, or a query beyond its domain, could be rounded."""
    rng = np.random.default_rng(1)
    weights = draw(rng)
    weights.w_k[0, 0, 1, X] = 2**22 + 1
    _, refusal = generate(Engine(weights, STOP, "packed", "hull", chunk=16), prompt_of(rng), 4)
    assert "key or query of store" in refusal
    weights = draw(rng, query=(2**27, 2**27 + 1))
    _, refusal = generate(Engine(weights, STOP, "packed", "hull", chunk=16), prompt_of(rng), 4)
    assert "key or query of store" in refusal


def test_queries_must_have_a_constant_second_component():
    weights = draw(np.random.default_rng(2))
    weights.w_q[0, 1, 1, X] = 1
    with pytest.raises(CertificateError, match="layer 0 head 1: the second query component"):
        Engine(weights, STOP, "packed", "hull")
    weights = draw(np.random.default_rng(2))
    weights.w_k[0, 2, 0, X] = 2.0**-60
    with pytest.raises(CertificateError, match="layer 0 head 2: its keys are no multiples"):
        Engine(weights, STOP, "packed", "hull")


def test_queries_that_would_be_rounded_are_refused():
    weights = draw(np.random.default_rng(2))
    weights.w_q[0, 0, 0, X] = 2.0**-9
    weights.w_q[0, 0, 1, ONE] = 1
    with pytest.raises(CertificateError, match="layer 0 head 0: its query is no multiple of 2"):
        Engine(weights, STOP, "packed", "hull")
    # As fine as it may be.
    rng = np.random.default_rng(2)
    weights, prompt = draw(rng), prompt_of(rng)
    for head in range(3):
        weights.w_q[0, head, 0, [ONE, X, Y, Z]] *= 2.0**-8
        weights.w_q[0, head, 1, ONE] = 1
    tokens, _ = generate(Engine(weights, STOP, "packed", "hull", chunk=16), prompt, 12)
    whole = draw(np.random.default_rng(2))
    for head in range(3):
        whole.w_q[0, head, 1, ONE] = 2.0**8
    np.testing.assert_array_equal(tokens, expected(whole, prompt, 12))


def test_memory_is_read_back():
    text = """(module (memory (export "memory") 1) (global (export "g") (mut i32) (i32.const 5))
      (func (export "f") (param i32) (result i32)
        (loop $l
          (i64.store (i32.mul (local.get 0) (i32.const 12)) (i64.const -2))
          (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (i32.load8_u (i32.const 132))))"""
    machine = onengine.machine("packed", "hull")
    instance = machine.instantiate(wasmjax.load(compile_wat(text)))
    assert instance.call("f", 12) == (254,)
    want = bytearray(160)
    for k in range(1, 13):
        want[12 * k : 12 * k + 8] = b"\xfe" + b"\xff" * 7
    assert instance.memory(0, 160) == want
    assert instance.global_value("g") == 5
