"""The softmax cache's horizon: nothing fails within it, and what lies beyond it does fail."""

import dataclasses

import jax
import numpy as np
import pytest

import programs
from wasmjax.circuit.language import Circuit, Vocabulary
from wasmjax.circuit.weights import compile_circuit
from wasmjax.engine.decode import Engine, EngineError, Session, Stop
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import WASM
from wasmjax.machine.program import prompt
from wasmjax.model.heads import CertificateError
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.vm import stop_rule

WRITE, ASK, STOP_KIND = 0, 1, 2
VALUES = 29


def reader(addresses: int, eps: float):
    """A transformer that writes `v` at `a`, and answers an asking token with the latest there."""
    fields = (
        Vocabulary("kind", 0, 3, True),
        Vocabulary("v", 0, VALUES, True),
        Vocabulary("a", 0, addresses, False),
    )
    circuit = Circuit(fields)
    address = circuit.number("a")
    square = circuit.wire("a^2", circuit.reglu("a^2", address, address))
    asks = circuit.embed("asks", "kind", lambda kind: float(kind != WRITE))
    space = circuit.parabola("space", address, square, asks, 0, addresses - 1, eps)
    (found,) = circuit.read("read", space, address, [circuit.number("v")])
    circuit.emit("kind", circuit.embed("one", "kind", lambda kind: 1.0))
    circuit.emit("v", found)
    return compile_circuit(circuit).weights


def engine_of(weights, dtype, guarded=True, name="packed"):
    engine = Engine(weights, Stop(0, (STOP_KIND,), ()), name, "softmax", chunk=8, dtype=dtype)
    if not guarded:
        engine.cache.reach = [np.full_like(reach, 1e9) for reach in engine.cache.reach]
        engine.cache.max_tokens = 2**24
    return engine


def answers(engine, writes, asked):
    """What asking for each address gives after all writes (address, value)."""
    session = Session(engine)
    session.feed(np.array([[WRITE, value, address] for address, value in writes], np.int32))
    out = []
    for address in asked:
        session.feed(np.array([[ASK, 0, address]], np.int32))
        (made,) = [kept for _, kept in session.generate(1, keep_all=True)]
        out.append(int(made[0, 1]))
    return out


def hardest(rng, most, tokens, asked):
    """Addresses that are written one token after the other, with neighbours that come last."""
    writes = [(int(a), int(rng.integers(VALUES))) for a in rng.integers(0, most + 1, tokens)]
    tail = []
    for address in asked:
        tail += [(address, 3), (address, 5), (max(address - 1, 0), 7), (min(address + 1, most), 9)]
    return writes[: tokens - len(tail)] + tail


def expected(writes, asked):
    latest = dict(writes)
    return [latest[address] for address in asked]


CASES = [("float32", -10, 4096), ("float32", -12, 4096), ("float64", -38, 1 << 15)]


@pytest.mark.parametrize(("dtype", "log2", "size"), CASES)
def test_addresses(dtype, log2, size):
    weights = reader(size, 2.0**log2)
    # Losers must vanish for the smallest eps, too.
    weights = dataclasses.replace(weights, softmax_scale=2.0 ** (12 - log2))
    guarded, free = engine_of(weights, dtype), engine_of(weights, dtype, guarded=False)
    reach, tokens = int(np.concatenate(guarded.cache.reach).min()), 400
    assert reach < size / 8 and guarded.cache.max_tokens >= 512
    rng = np.random.default_rng(0)
    # Within: at random and at the very edge.
    for asked in (
        [reach - 1, reach // 2],
        sorted(rng.choice(np.arange(1, reach), 12, replace=False).tolist()),
    ):
        writes = hardest(rng, reach, tokens, asked)
        assert answers(guarded, writes, asked) == expected(writes, asked)
    # Beyond it is refused ...
    with pytest.raises(EngineError, match=f"softmax cache is exact in {dtype} up to"):
        answers(guarded, [(0, 1), (reach + 1, 2)], [0])
    # ... and rightly: without the guard something goes wrong, not far away.
    failed = []
    for address in range(reach + 1, 8 * reach, max(1, reach // 16)):
        writes = hardest(rng, size - 2, tokens, [address])
        if answers(free, writes, [address]) != expected(writes, [address]):
            failed.append(address)
    assert failed and min(failed) > reach, (reach, failed)


def test_tokens():
    """An old write, and a neighbour that is as much younger as the horizon allows."""
    weights = reader(64, 2.0**-8)
    guarded = engine_of(weights, "float32")
    most = guarded.cache.max_tokens
    assert most == 128

    def writes(tokens):
        return [(5, 1), *[(6, 2)] * (tokens - 1)]

    assert answers(guarded, writes(most - 2), [5]) == [1]
    with pytest.raises(EngineError, match="up to 128 tokens"):
        answers(guarded, writes(most + 1), [5])
    free = engine_of(weights, "float32", guarded=False)
    assert answers(free, writes(2 * most + 8), [5]) == [2]


@pytest.mark.parametrize(("dtype", "underflow"), [("float32", 104.0), ("float64", 746.0)])
def test_scale(dtype, underflow):
    """A loser's weight is 0 from the smallest scale that is accepted; far below, it shows."""
    weights = reader(8, 2.0**-8)
    least = 2 * underflow * 2.0**8
    enough = dataclasses.replace(weights, softmax_scale=1.01 * least)
    writes = [(3, 0), (3, 28), (3, 1)]
    assert answers(engine_of(enough, dtype), writes, [3]) == [1]
    with pytest.raises(CertificateError, match="softmax scale"):
        engine_of(dataclasses.replace(weights, softmax_scale=0.99 * least), dtype)
    with jax.enable_x64(dtype == "float64"):
        weight = np.asarray(jax.numpy.exp(jax.numpy.asarray(-underflow, dtype)))
        assert weight == 0
    mixed = engine_of(enough, dtype)
    mixed.cache.scale = 2.0**8
    assert answers(mixed, writes, [3]) != [1]


def test_sums():
    """Means of many tokens: the horizon ends where a sum of values would be rounded."""
    engine = Engine(build_machine(WASM).weights, stop_rule(), "packed", "softmax", dtype="float32")
    values = [engine.cache._bound(form) for form in engine.cache._uniform_values()]
    assert max(values) == WASM.frame_limit
    assert engine.cache.max_tokens == 2**24 // WASM.frame_limit


@pytest.mark.parametrize("name", ["packed", "dense"])
def test_a_machine_for_float32(name):
    """The universal machine with a coarser recency runs small programs in float32 softmax."""
    config = dataclasses.replace(WASM, eps_log2=(("slots", -10), ("memory", -10)))
    engine = Engine(build_machine(config).weights, stop_rule(), name, "softmax", dtype="float32")
    program = programs.fibonacci_small(WASM, 9)
    tokens, session = prompt(WASM, program), Session(engine)
    session.feed(tokens)
    made = np.concatenate([kept for _, kept in session.generate(200, keep_all=True)])
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    assert first_divergence(WASM, oracle.run(200), made) is None and session.stopped
