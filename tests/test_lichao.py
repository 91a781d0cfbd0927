"""The tree behind the hull cache: hard-max attention over any integer keys, compared exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmjax.cache import lichao, wide
from wasmjax.cache.lichao import Domain

CAPACITY = 64
EDGES = [0, 1, -1, 2**16, -(2**16), 2**31 - 1, -(2**31), 2**16 - 1, 65535 * 3]
INT32 = st.sampled_from(EDGES) | st.integers(-(2**31), 2**31 - 1)
INT64 = st.sampled_from([0, 1, -1, 2**32, -(2**32), 2**62]) | st.integers(-(2**62), 2**62 - 1)


def pair(values):
    numbers = [value % 2**64 for value in values]
    hi = np.array([n >> 32 for n in numbers], np.uint32).astype(np.int32)
    return jnp.asarray(hi), jnp.asarray(np.array([n % 2**32 for n in numbers], np.uint32))


def back(a):
    return [(int(h) << 32 | int(low)) for h, low in zip(*map(np.asarray, a), strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(INT32, INT32), min_size=4, max_size=4))
def test_products(pairs):
    a, b = (jnp.asarray([p[k] for p in pairs], jnp.int32) for k in (0, 1))
    assert back(wide.multiply(a, b)) == [x * y for x, y in pairs]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(INT64, INT64), min_size=4, max_size=4), st.integers(0, 31))
def test_sums(pairs, shift):
    a, b = (pair([p[k] for p in pairs]) for k in (0, 1))
    wrap = lambda x: (x + 2**63) % 2**64 - 2**63  # noqa: E731
    assert back(wide.add(a, b)) == [wrap(x + y) for x, y in pairs]
    assert back(wide.subtract(a, b)) == [wrap(x - y) for x, y in pairs]
    for bits in (shift, jnp.full(len(pairs), shift, jnp.int32)):
        assert back(wide.shift_left(a, bits)) == [wrap(x << shift) for x, _ in pairs]
    assert np.asarray(wide.negative(a)).tolist() == [x < 0 for x, _ in pairs]


@pytest.mark.parametrize("x", [0, 1, -1, 2**24, -(2**24), 2**40 * 3, -(2**40) * 3, -(2**62)])
def test_floats(x):
    assert back(wide.from_float(jnp.asarray([float(x)], jnp.float32))) == [x]


@functools.cache
def functions(domain, trees=1):
    """Jitted insertion into one tree of several, and queries of all."""

    def insert(nodes, made, number, slope, intercept, wanted, tree):
        offset = tree * (CAPACITY + 1)
        row = lichao.line(number, slope, intercept)
        return lichao.insert(nodes, made, row, wanted, offset, CAPACITY, domain)

    def query(nodes, x):
        offsets = np.repeat(np.arange(trees) * (CAPACITY + 1), len(x) // trees)
        return lichao.query(nodes, x, offsets, [domain] * len(x))

    return jax.jit(insert, static_argnums=6), jax.jit(query)


def brute(lines, x, shift=0):
    """Number of the line that is highest at x 2^-shift, the latest among equals."""
    best = max(range(len(lines)), key=lambda n: (lines[n][0] * x + (lines[n][1] << shift), n))
    return best


def check(lines, queries, domain):
    insert, query = functions(domain)
    nodes, made = lichao.empty(CAPACITY + 1), jnp.int32(0)
    xs = jnp.asarray(queries, jnp.int32)
    for number, (slope, intercept) in enumerate(lines):
        hi, lo = pair([intercept])
        nodes, made = insert(
            nodes, made, jnp.int32(number), jnp.int32(slope), (hi[0], lo[0]), jnp.array(True), 0
        )
        assert int(made) <= number + 1
        # a line that is not wanted changes nothing
        again, same = insert(
            nodes, made, jnp.int32(number + 1), jnp.int32(slope), (hi[0], lo[0]),
            jnp.array(False), 0,
        )  # fmt: skip
        assert int(same) == int(made)
        np.testing.assert_array_equal(again[:CAPACITY], nodes[:CAPACITY])
    got = np.asarray(query(nodes, xs)).tolist()
    assert got == [brute(lines, x, domain.shift) for x in queries]


SMALL, LARGE, FINE = Domain(-40, 41), Domain(-(2**29), 2**29), Domain(-(2**20), 2**20, 8)
RANGES = {SMALL: (8, 200), LARGE: (2**30, 2**61), FINE: (2**25, 2**52)}


@pytest.mark.parametrize("domain", [SMALL, LARGE, FINE], ids=["small", "large", "fine"])
def test_any_keys_and_queries(domain):
    """As full hard-max attention: random keys, equal ones among them, all queries at the edges."""
    slopes, rises = RANGES[domain]

    @settings(max_examples=120, deadline=None)
    @given(st.data())
    def run(data):
        slope = st.integers(-slopes, slopes) | st.integers(-3, 3)
        rise = st.integers(-rises, rises) | st.integers(-5, 5)
        lines = data.draw(st.lists(st.tuples(slope, rise), min_size=1, max_size=CAPACITY - 1))
        lines += data.draw(st.lists(st.sampled_from(lines), max_size=CAPACITY - len(lines)))
        x = st.integers(domain.lo, domain.hi - 1) | st.integers(-3, 3)
        queries = data.draw(st.lists(x, min_size=14, max_size=14))
        check(lines, [*queries, domain.lo, domain.hi - 1], domain)

    run()


def test_parabola_keys_find_the_latest_at_an_address():
    """The machine's keys: (2j, -j^2), addresses written again and again."""
    rng = np.random.default_rng(0)
    domain = Domain(-1, 2**23)
    for _ in range(20):
        span = int(rng.choice([4, 40, 2**22]))
        addresses = [int(a) for a in rng.integers(0, span, CAPACITY)]
        lines = [(2 * j, -j * j) for j in addresses]
        asked = [*addresses[:12], -1, 0, span, 2**23 - 1]
        check(lines, asked, domain)


def test_an_empty_tree_and_several_trees():
    insert, query = functions(SMALL, trees=2)
    nodes = lichao.empty(2 * (CAPACITY + 1))
    assert np.asarray(query(nodes, jnp.zeros(4, jnp.int32))).tolist() == [-1] * 4
    hi, lo = pair([3])
    row = jnp.int32(7), jnp.int32(2), (hi[0], lo[0]), jnp.array(True)
    nodes, made = insert(nodes, jnp.int32(0), *row, 1)
    assert int(made) == 1
    assert np.asarray(query(nodes, jnp.zeros(4, jnp.int32))).tolist() == [-1, -1, 7, 7]


def test_it_runs_under_vmap():
    rng = np.random.default_rng(1)
    domain, lanes, count = SMALL, 5, 20
    slopes = rng.integers(-9, 9, (lanes, count)).astype(np.int32)
    rises = rng.integers(-90, 90, (lanes, count)).astype(np.int32)
    x = np.arange(-8, 8, dtype=np.int32)

    def build(slope_N, rise_N):
        def add(n, carry):
            intercept = wide.from_float(rise_N[n].astype(jnp.float32))
            row = lichao.line(n, slope_N[n], intercept)
            return lichao.insert(*carry, row, jnp.array(True), 0, CAPACITY, domain)

        start = lichao.empty(CAPACITY + 1), jnp.int32(0)
        nodes, _ = jax.lax.fori_loop(0, count, add, start)
        return lichao.query(nodes, jnp.asarray(x), np.zeros(len(x), int), [domain] * len(x))

    got = jax.jit(jax.vmap(build))(slopes, rises)
    for lane in range(lanes):
        lines = [*zip(slopes[lane].tolist(), rises[lane].tolist(), strict=True)]
        assert np.asarray(got[lane]).tolist() == [brute(lines, v) for v in x.tolist()]
