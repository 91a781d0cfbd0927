"""The weights are the machine: whatever is done to them, every engine follows, or refuses."""

import dataclasses
import functools
import itertools
import random

import numpy as np
import pytest

import onengine
import programs
from onlanes import generate
from random_transformers import STOP, draw
from wasmjax import vm
from wasmjax.cache import IndexedCache
from wasmjax.circuit.weights import Weights
from wasmjax.engine.decode import Engine, Stop
from wasmjax.engine.plan import build_plan
from wasmjax.machine import isa
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import SMALL, WASM
from wasmjax.machine.program import Instruction, prompt
from wasmjax.machine.tokens import columns
from wasmjax.model.heads import CertificateError, certify
from wasmjax.model.pack import pack, unpack
from wasmjax.model.readout import ReadoutError
from wasmjax.model.symbolic import Symbolic
from wasmjax.oracle.execute import Oracle

vm.use_compilation_cache()
SMALL_STOP = Stop(columns(SMALL)["kind"], isa.STOP_KINDS, isa.STOP_KINDS)


@functools.cache
def small_prompt() -> np.ndarray:
    return prompt(SMALL, programs.fibonacci_small(SMALL, 6))


def run(weights: Weights, name: str, stop: Stop, tokens: np.ndarray, steps: int, cache="indexed"):
    return generate(Engine(weights, stop, name, cache, chunk=16), tokens, steps)


# --- packing ---


@pytest.mark.parametrize("config", [SMALL, WASM], ids=["small", "wasm"])
def test_packing_is_exactly_invertible(config):
    for name, array in build_machine(config).weights.arrays().items():
        back = unpack(pack(array))
        assert back.dtype == array.dtype and back.shape == array.shape, name
        assert back.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("config", [SMALL, WASM], ids=["small", "wasm"])
def test_packed_weights_give_the_same_plan(config):
    """What engines execute is read off the packed rows: nothing is lost by packing."""
    weights = build_machine(config).weights
    again = {name: unpack(pack(array)) for name, array in weights.arrays().items()}
    embedding = [again[f"embedding.{field.name}"] for field in weights.vocabulary]
    unembedding = [again.get(f"unembedding.{field.name}") for field in weights.vocabulary]
    matrices = {name: array for name, array in again.items() if "embedding." not in name}
    restored = dataclasses.replace(
        weights, embedding=embedding, unembedding=unembedding, **matrices
    )
    plans = []
    for each in (weights, restored):
        symbolic = Symbolic(each)
        plans.append(build_plan(symbolic, IndexedCache(symbolic, certify(symbolic)), True))
    assert plans[0] == plans[1]


def test_signed_zeros_are_packed_and_weigh_nothing():
    matrix = np.array(
        [[[0.0, -0.0, 3.0], [0.0, 0.0, 0.0]], [[1e-300, 0.0, -2.0], [-0.0, 7.0, 0.0]]]
    )
    packed = pack(matrix)
    assert unpack(packed).tobytes() == matrix.tobytes()
    rows = [packed.row(i, j) for i, j in itertools.product(range(2), repeat=2)]
    assert rows == [[(2, 3.0)], [], [(0, 1e-300), (2, -2.0)], [(1, 7.0)]]


# --- one weight changed ---


def one_changed(weights: Weights, seed: int) -> tuple[str, Weights]:
    """A copy in which one non-zero weight is doubled, one larger, negated or zero.

    Consecutive seeds take the arrays in turn.
    """
    rng = random.Random(seed)
    arrays = weights.arrays()
    names = sorted(name for name, array in arrays.items() if array.any())
    name = names[seed % len(names)]
    array = arrays[name].copy()
    where = rng.choice([tuple(index) for index in np.argwhere(array)])
    old = float(array[where])
    array[where] = rng.choice([2 * old, old + 1, -old, 0.0])
    what = f"{name}{[int(i) for i in where]}: {old:g} -> {array[where]:g}"
    if name.startswith(("embedding.", "unembedding.")):
        part, field = name.split(".")
        column = [f.name for f in weights.vocabulary].index(field)
        tables = list(getattr(weights, part))
        tables[column] = array
        return what, dataclasses.replace(weights, **{part: tables})
    return what, dataclasses.replace(weights, **{name: array})


def check_changed(seed: int) -> bool:
    """Whether a changed weight showed. What may never happen is that the engines disagree.

    A change may be invisible: this program may not use the part, or a gate may clip it.
    """
    what, weights = one_changed(build_machine(SMALL).weights, seed)
    try:
        packed, packed_refusal = run(weights, "packed", SMALL_STOP, small_prompt(), 80)
    except (CertificateError, ReadoutError) as error:
        assert "layer" in str(error) or "field" in str(error), what
        if isinstance(error, CertificateError):
            # The certificate is about the weights, not about the engine.
            with pytest.raises(CertificateError):
                run(weights, "dense", SMALL_STOP, small_prompt(), 1)
        return True
    dense, dense_refusal = run(weights, "dense", SMALL_STOP, small_prompt(), 80)
    common = min(len(packed), len(dense))
    np.testing.assert_array_equal(packed[:common], dense[:common], err_msg=what)
    if len(packed) != len(dense):  # only a refusal makes one of them shorter
        assert packed_refusal if len(packed) < len(dense) else dense_refusal, what
    return bool(packed_refusal) or not np.array_equal(packed, unchanged())


@functools.cache
def unchanged() -> np.ndarray:
    tokens, refusal = run(build_machine(SMALL).weights, "packed", SMALL_STOP, small_prompt(), 80)
    assert not refusal
    return tokens


def test_any_changed_weight_changes_all_engines_alike():
    shown = sum(check_changed(seed) for seed in range(36))
    assert shown >= 12  # the test would see it


@pytest.mark.slow
def test_any_of_many_changed_weights_changes_all_engines_alike():
    assert sum(check_changed(seed) for seed in range(100, 500)) > 100


def test_a_query_that_can_tie_is_refused():
    """Half-way between two addresses softmax averages their values: no row of a cache does."""
    built = build_machine(SMALL)
    (head,) = (h for h, name in built.names.heads[1] if name == "fetch[0]")
    w_q = built.weights.w_q.copy()
    w_q[1, head, 1] *= 2  # asks for half the instruction pointer
    weights = dataclasses.replace(built.weights, w_q=w_q)
    with pytest.raises(CertificateError, match=f"layer 1 head {head}: its query can tie"):
        run(weights, "packed", SMALL_STOP, small_prompt(), 1)


# --- symmetries ---


def transformed(weights: Weights, seed: int, rescale: bool = True) -> Weights:
    """The same function: coordinates, heads and neurons permuted and scaled by powers of two."""
    rng = np.random.default_rng(seed)
    layers, heads, width, ffn = weights.shape

    def scales(*shape: int) -> np.ndarray:
        return 2.0 ** rng.integers(-2, 3, size=shape) if rescale else np.ones(shape)

    order, x = rng.permutation(width), scales(width)
    q, k, v = (w[..., order] for w in (weights.w_q, weights.w_k, weights.w_v))
    o = weights.w_o[:, order]
    gate, value = weights.w_gate[..., order], weights.w_in[..., order]
    out = weights.w_out[:, order]
    # A coordinate that is written x times as large is read with weights x times smaller.
    q, k, v, gate, value = (w / x for w in (q, k, v, gate, value))
    o, out = o * x[None, :, None, None], out * x[None, :, None]
    for layer in range(layers):
        h, n = rng.permutation(heads), rng.permutation(ffn)
        qk, vo, up, inner = scales(heads), scales(heads), scales(ffn), scales(ffn)
        q[layer] = (q[layer] * qk[:, None, None])[h]
        k[layer] = (k[layer] / qk[:, None, None])[h]
        v[layer] = (v[layer] * vo[:, None, None])[h]
        o[layer] = (o[layer] / vo[None, :, None])[:, h]
        gate[layer] = (gate[layer] * up[:, None])[n]
        value[layer] = (value[layer] * inner[:, None])[n]
        out[layer] = (out[layer] / (up * inner)[None, :])[:, n]
    return dataclasses.replace(
        weights,
        embedding=[table[:, order] * x for table in weights.embedding],
        position=weights.position[order] * x,
        w_q=q,
        w_k=k,
        w_v=v,
        w_o=o,
        w_gate=gate,
        w_in=value,
        w_out=out,
        unembedding=[None if u is None else u[:, order] / x for u in weights.unembedding],
    )


@pytest.mark.parametrize("engine", ["packed", "dense"])
@pytest.mark.parametrize("seed", range(3))
def test_permuted_and_rescaled_weights_give_the_same_tokens(engine, seed):
    weights = transformed(build_machine(SMALL).weights, seed, rescale=seed > 0)
    tokens, refusal = run(weights, engine, SMALL_STOP, small_prompt(), 80)
    assert not refusal
    np.testing.assert_array_equal(tokens, unchanged())


def test_the_universal_machine_permuted_and_rescaled():
    weights = transformed(build_machine(WASM).weights, 11)
    tokens = prompt(WASM, programs.random_straight_line(WASM, random.Random(3), 120))
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    expected = oracle.run(1000)
    got, refusal = run(weights, "packed", vm.stop_rule(), tokens, len(expected))
    assert not refusal
    np.testing.assert_array_equal(got, expected)


# --- transformers that no compiler made ---


def check_random_transformer(seed: int) -> None:
    """Every engine and cache generates the same tokens, and refuses the same one if any."""
    drawn = draw(seed)
    results = {}
    for name, cache in itertools.product(("dense", "packed"), ("softmax", "indexed")):
        engine = Engine(drawn.weights, STOP, name, cache, chunk=16)
        results[name, cache] = [generate(engine, prompt, 12) for prompt in drawn.prompts]
    for found in results.values():
        for (tokens, refusal), (expected, refused) in zip(
            found, results["dense", "softmax"], strict=True
        ):
            np.testing.assert_array_equal(tokens, expected)
            assert refusal == refused
            assert not (refusal and drawn.clipped)


@pytest.mark.parametrize("seed", range(7))
def test_random_transformers_agree(seed):
    check_random_transformer(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7, 60))
def test_many_random_transformers_agree(seed):
    check_random_transformer(seed)


# --- names and surgery ---


def test_everything_runs_with_all_names_deleted():
    """Engines are given weights alone; even the fields' names may be anything that is unique."""
    weights = build_machine(SMALL).weights
    nameless = tuple(
        dataclasses.replace(field, name=f"f{index}")
        for index, field in enumerate(weights.vocabulary)
    )
    bare = dataclasses.replace(weights, vocabulary=nameless)
    for engine in ("packed", "dense"):
        tokens, refusal = run(bare, engine, SMALL_STOP, small_prompt(), 80)
        assert not refusal
        np.testing.assert_array_equal(tokens, unchanged())


def without_bank(bank: int) -> Weights:
    built = build_machine(WASM)
    w_o = built.weights.w_o.copy()
    cut = 0
    for layer, heads in enumerate(built.names.heads):
        for head, name in heads:
            if name.startswith(f"memory bank {bank}["):
                w_o[layer, :, head] = 0
                cut += 1
    assert cut == 1
    return dataclasses.replace(built.weights, w_o=w_o)


@pytest.mark.parametrize(
    ("engine", "cache", "count"),
    [("packed", "indexed", 64), ("dense", "indexed", 64)]
    + [("packed", "softmax", 12), ("dense", "softmax", 12)],
)
def test_cutting_bank_3_breaks_the_loads_that_touch_it(engine, cache, count):
    """Exactly those: a load differs if and only if it reads a byte of that bank that is not 0."""
    rng = random.Random(9)
    stored = [rng.choice([0, rng.randrange(1, 256), rng.randrange(128, 256)]) for _ in range(72)]
    memory = {8 * k: int.from_bytes(stored[8 * k : 8 * k + 8], "little") for k in range(9)}
    loads = {op: isa.OPS[op]["size_minus_1"] + 1 for op in isa.OPS if ".load" in op}
    rows = [(rng.choice(list(loads)), rng.randrange(64), rng.randrange(64)) for _ in range(count)]
    rows = [(op, address, min(address, offset)) for op, address, offset in rows]
    code = []
    for i, (op, address, offset) in enumerate(rows):
        base, result = programs.absolute(20), programs.absolute(21 + i)
        code.append(Instruction("move", imm=address - offset, d=base))
        code.append(Instruction(op, a=base, aux=offset, c=programs.absolute(1), d=result))
    program = programs.make_program(
        [*code, Instruction("halt")],
        slots={1: 1},
        memory={address: word for address, word in memory.items() if word},
        stack_base=100,
    )
    tokens = prompt(WASM, program)
    oracle = Oracle(WASM)
    oracle.feed(tokens)
    expected = oracle.run(2 * count)
    whole, _ = generate(onengine.machine(engine, cache).engine, tokens, 2 * count)
    np.testing.assert_array_equal(whole, expected)
    broken, refusal = run(without_bank(3), engine, vm.stop_rule(), tokens, 2 * count, cache)
    assert not refusal
    differs = (broken != expected).any(axis=1)
    assert not differs[::2].any()
    touches = [
        any(stored[a] for a in range(address, address + loads[op]) if a % 8 == 3)
        for op, address, _ in rows
    ]
    assert differs[1::2].tolist() == touches
    assert any(touches) and not all(touches)
