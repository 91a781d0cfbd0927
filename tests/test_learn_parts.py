"""Learnability: attention, metrics, references, data. Known answers only; nothing is trained."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wasmjax.learn import metrics, suite
from wasmjax.learn.arms import Arm
from wasmjax.learn.attention import KINDS, argmax, entmax, hard, softmax
from wasmjax.learn.model import forward, random_params
from wasmjax.learn.tasks import t4_arithmetic
from wasmjax.learn.tasks.base import CAUSES

SMALL = {
    "T1.free": {"addresses": 8, "length": 24, "reads": 8},
    "T1.scalar": {"addresses": 8, "length": 24, "reads": 8},
    "T1.parabola": {"addresses": 8, "length": 24, "reads": 8},
    "T1.head": {"addresses": 8, "length": 24, "reads": 8},
    "T2.mixture": {"addresses": 4, "length": 24, "reads": 8},
    "T3": {"places": 8, "steps": 16},
    "T4.add.ffn": {},
    "T4.xor.ffn": {},
    "T4.shl.ffn": {},
    "T4.lt.ffn": {},
    "T4.add.table": {},
    "T4.or.table": {},
    "T5": {"programs": 64, "held_out": 64, "steps": 12},
}


@functools.partial(jax.jit, static_argnames=("task", "kind", "keep"))
def outcome(task, params, data, kind="softmax", keep=False):
    out = forward(params, data.tokens, task.shape, kind, task.beta, data.target.shape[1], keep)
    return out.logits, out.attended


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def drawn_data(task, sequences, scale=1, seed=1):
    keys = jax.random.split(jax.random.key(seed), sequences)
    return jax.vmap(lambda k: task.sample(k, scale))(keys)


def drawn_params(task):
    return jax.jit(random_params, static_argnums=1)(jax.random.key(0), task.shape)


def sorted_entmax(score):
    """The definition by sorting (Peters et al. 2019, algorithm 2)."""
    z = np.sort(score / 2)[::-1]
    k = np.arange(1, len(z) + 1)
    mean, square = np.cumsum(z) / k, np.cumsum(z * z) / k
    delta = (1 - k * (square - mean**2)) / k
    tau = mean - np.sqrt(np.maximum(delta, 0))
    support = (tau <= z).sum()
    return np.maximum(score / 2 - tau[support - 1], 0) ** 2


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_entmax_is_the_definition(scale):
    rng = np.random.default_rng(0)
    score = scale * rng.standard_normal((20, 50))
    found = np.asarray(entmax(jnp.asarray(score, jnp.float32)))
    expected = np.stack([sorted_entmax(row) for row in score])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.allclose(found.sum(-1), 1, atol=1e-6)


def test_entmax_known_values():
    np.testing.assert_allclose(entmax(jnp.array([0.0, 0.0, 0.0, 0.0])), 0.25, atol=1e-6)
    # A gap of 2 or more leaves one key: relu((0 - 2) / 2 + 1)^2 = 0.
    np.testing.assert_allclose(entmax(jnp.array([2.0, 0.0])), [1.0, 0.0], atol=1e-6)
    masked = entmax(jnp.array([0.0, -jnp.inf, 0.0]))
    np.testing.assert_allclose(masked, [0.5, 0.0, 0.5], atol=1e-6)


def test_entmax_gradient():
    score = jnp.array([0.3, -0.2, 0.9, -4.0, 0.1])
    weight = jnp.array([1.0, 2.0, -1.0, 5.0, 0.5])
    value = lambda s: (entmax(s) * weight).sum()  # noqa: E731
    found = jax.grad(value)(score)
    step = 1e-2
    for k in range(len(score)):
        # Central differences of the definition, in float64.
        both = [
            sorted_entmax(np.asarray(score, np.float64) + sign * step * np.eye(5)[k])
            @ np.asarray(weight, np.float64)
            for sign in (1, -1)
        ]
        assert found[k] == pytest.approx((both[0] - both[1]) / (2 * step), abs=2e-3)
    assert found[3] == 0  # outside the support


def test_hard_attention_forwards_and_backwards():
    score, weight = jnp.array([1.0, 3.0, 2.0]), jnp.array([1.0, 5.0, -2.0])
    np.testing.assert_allclose(hard(score), [0, 1, 0], atol=1e-6)
    through = jax.grad(lambda s: (hard(s) * weight).sum())(score)
    np.testing.assert_allclose(through, jax.grad(lambda s: (softmax(s) * weight).sum())(score))
    assert np.abs(through).min() > 0
    # Ties share, also those that rounding made: a zero query averages.
    np.testing.assert_array_equal(argmax(jnp.zeros(4)), 0.25)
    near = jnp.float32(-1000) * jnp.array([1 + 2**-23, 1, 1 + 2**-18, jnp.inf], jnp.float32)
    np.testing.assert_array_equal(argmax(near), [0.5, 0.5, 0, 0])


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (5, 10, (0.2366, 0.7634)), (0, 0, (0, 1))],
)
def test_wilson(successes, trials, expected):
    assert metrics.wilson(successes, trials) == pytest.approx(expected, abs=5e-5)


def test_wilson_of_a_million():
    assert metrics.wilson(0, 10**6) == pytest.approx((0, 3.8415e-6), rel=1e-4)


def test_tally():
    tally = metrics.Tally()
    wrong = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    asked = np.ones((3, 4), bool)
    cause = np.full((3, 4), CAUSES.index("branch"))
    cause[1, 1] = CAUSES.index("fetch")
    tally.add(wrong, asked, cause)
    found = tally.summary()
    assert found["tokens"] == 12 and found["wrong"] == 3
    assert found["exact_rollout"] == pytest.approx(1 / 3)
    assert found["first_divergence_median"] == 3
    assert found["first_divergence_p90"] is None  # a sequence without an error never diverges
    assert found["causes"] == {"fetch": 1, "branch": 1}


def moved(params, key):
    """The same function: heads and neurons permuted, everything rescaled that may be."""
    rng = np.random.default_rng(key)
    blocks = []
    for block in params["blocks"]:
        b = {name: np.asarray(x, np.float64) for name, x in block.items()}
        h, n = rng.permutation(len(b["w_q"])), rng.permutation(len(b["w_gate"]))
        for name in ("w_q", "w_k", "w_v"):
            b[name] = b[name][h]
        b["w_o"] = b["w_o"][:, h]
        b["w_gate"], b["w_in"], b["w_out"] = b["w_gate"][n], b["w_in"][n], b["w_out"][:, n]
        q, v = (np.exp(rng.standard_normal(len(h))) for _ in range(2))
        b["w_q"], b["w_k"] = b["w_q"] * q[:, None, None], b["w_k"] / q[:, None, None]
        b["w_v"], b["w_o"] = b["w_v"] * v[:, None, None], b["w_o"] / v[None, :, None]
        g, i = np.exp(rng.standard_normal(len(n))), rng.choice([-2.0, 0.5], len(n))
        b["w_gate"], b["w_in"] = b["w_gate"] * g[:, None], b["w_in"] * i[:, None]
        b["w_out"] = b["w_out"] / (g * i)
        blocks.append(b)
    unembedding = {name: 3.0 * np.asarray(x) for name, x in params["unembedding"].items()}
    return {**params, "blocks": blocks, "unembedding": unembedding}


@pytest.mark.parametrize("name", ["T1.scalar", "T3", "T5"])
def test_distance_of_a_moved_copy_is_zero(name):
    task = suite.build(name, SMALL[name])
    reference = task.reference().params
    copy = moved(reference, 3)
    assert metrics.distance(copy, reference) == pytest.approx(0, abs=1e-6)
    drawn = drawn_params(task)
    assert 0.2 < metrics.distance(drawn, reference) <= 1
    # And it is the same function.
    data = drawn_data(task, 4)
    copied = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), copy)
    answers = [outcome(task, params, data)[0] for params in (reference, copied)]
    assert metrics.function_distance(answers[0], answers[0]) == (0, 0)
    assert metrics.function_distance(answers[1], answers[0])[1] == 0


def test_barrier():
    task = suite.build("T3", SMALL["T3"])
    reference = task.reference().params
    data = drawn_data(task, 4)

    def loss(params):
        logits, _ = outcome(task, params, data)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits["move"]), data.target, -1).mean()

    height, losses = metrics.barrier(loss, reference, reference, 5)
    assert height == pytest.approx(0, abs=1e-6) and len(losses) == 5
    drawn = drawn_params(task)
    height, losses = metrics.barrier(loss, drawn, reference, 5)
    assert losses[-1] < 0.1 < losses[0]
    assert height == max(losses) - max(losses[0], losses[-1])


def test_alignment_brings_a_permuted_copy_home():
    task = suite.build("T3", SMALL["T3"])
    reference = task.reference().params
    permuted = metrics.align(moved(reference, 5), reference)
    original = moved(reference, 5)
    for mine, theirs in zip(original["blocks"], permuted["blocks"], strict=True):
        for h in range(len(mine["w_v"])):
            a, b = (np.asarray(x["w_v"][h], np.float64).ravel() for x in (mine, theirs))
            assert a @ b == pytest.approx(np.linalg.norm(a) * np.linalg.norm(b), abs=1e-6)


@pytest.mark.parametrize("name", list(SMALL))
def test_construction_is_exact_and_of_order_one(name):
    task = suite.build(name, SMALL[name])
    reference = task.reference().params
    with_heads = [s for s, h in zip(task.shape.sharp, task.shape.heads, strict=True) if h]
    kinds = KINDS if name in ("T1.free", "T2.mixture", "T3") else ["softmax"]
    for scale in (1, 4):
        data = drawn_data(task, 8, scale, 2)
        for kind in kinds:
            logits, attended = outcome(task, reference, data, kind, keep=True)
            sharp = [a for a, s in zip(attended, with_heads, strict=True) if s]
            wrong, asked, cause = metrics.judge(logits, sharp, data, task.judged)
            assert not wrong.any() and asked.any()
            # Where a token had to be read, some head is on it: nothing is called a fetch error.
            fetched = np.asarray(cause) == CAUSES.index("fetch")
            assert not (fetched & np.asarray(asked) & np.asarray(data.read >= 0)).any()
    tops = [np.abs(x).max() for x in jax.tree.leaves(reference["embedding"])]
    assert max(tops) <= 2


@pytest.mark.parametrize("name", ["T1.free", "T2.mixture", "T3", "T5"])
def test_data_depend_on_the_key_alone(name):
    task = suite.build(name, SMALL[name])
    one, again, other = (drawn_data(task, 1, 1, k) for k in (0, 0, 1))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(one.tokens) != np.asarray(other.tokens)).any()


def test_reads_ask_for_what_was_written():
    task = suite.build("T1.free", SMALL["T1.free"])
    example = task.sample(jax.random.key(3), 2)
    tokens = np.asarray(example.tokens)
    assert len(tokens) == 2 * 24 + 8
    for t, row in enumerate(tokens[-8:]):
        (writer,) = [x for x in tokens[:48] if x[0] == 1 and x[1] == row[1]]
        assert writer[2] == example.target[t, 0]
        np.testing.assert_array_equal(tokens[example.read[t]], writer)


def test_latest_write_is_the_latest():
    task = suite.build("T2.dense", {**SMALL["T2.mixture"]})
    example = task.sample(jax.random.key(3), 1)
    tokens = np.asarray(example.tokens)
    repeated = 0
    for t, row in enumerate(tokens[-8:]):
        writers = [x for x in tokens[:24] if x[0] == 1 and x[1] == row[1]]
        repeated += len(writers) > 1
        assert writers[-1][2] == example.target[t, 0]
    assert repeated


def test_moves_follow_the_program():
    task = suite.build("T3", SMALL["T3"])
    tokens = np.asarray(task.sample(jax.random.key(4), 4).tokens)
    target = np.asarray(task.sample(jax.random.key(4), 4).target)[:, 0] - 7
    code, trace = tokens[1:9], tokens[9:]
    ip, jumps = 0, 0
    for step, move in zip(trace, target, strict=True):
        _, _, following, to, branches, _, _ = code[ip]
        expected = to if branches and step[5] else following
        assert move == expected
        ip += expected
        jumps += expected != 1
        assert 0 <= ip < 8
    assert jumps > 5


def test_units_of_arithmetic():
    a, b, c = (jnp.array(x) for x in ([250, 200, 3], [10, 200, 9], [1, 0, 0]))
    expected = {
        "add": ([5, 144, 12], [1, 1, 0]),
        "and": ([10, 200, 1], [0, 0, 0]),
        "or": ([250, 200, 11], [0, 0, 0]),
        "xor": ([240, 0, 10], [0, 0, 0]),
        "shl": ([232, 200, 6], [0, 0, 0]),
        "lt": ([0, 0, 1], [0, 0, 0]),
    }
    for unit, answer in expected.items():
        value, carry = t4_arithmetic.answer(unit, a, b, c)
        assert (value.tolist(), carry.tolist()) == answer
    assert sum(len(x.tokens) * 64 for x in t4_arithmetic.every_input("lt", "ffn")) == 2**17


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match="there is no task T9"):
        suite.build("T9", {})
    with pytest.raises(ValueError, match=r"task T1\.free"):
        suite.build("T1.free", {"adresses": 3})
    with pytest.raises(ValueError, match="unknown attention"):
        Arm("x", attention="soft")
    with pytest.raises(ValueError, match="unknown supervision"):
        Arm("x", supervision="none")


def test_score_distance_is_free_of_scale_and_offset():
    rng = np.random.default_rng(0)
    score = rng.standard_normal((6, 6))
    assert metrics.score_distance(3 * score + rng.standard_normal((6, 1)), score) < 1e-12
    assert metrics.score_distance(-score, score) == pytest.approx(1)
    assert math.isclose(
        metrics.score_distance(score, rng.standard_normal((6, 6))), 0.5, abs_tol=0.3
    )
