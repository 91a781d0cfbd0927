"""The hull cache's search on real keys: which of them a query looks at, in the cache's own tree."""

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import lichao, wide
from wasmjax.cache.lichao import Domain


def plant(address_N: np.ndarray, domain: Domain) -> np.ndarray:
    """The tree (`cache.lichao`) of keys (2j, -j^2), inserted in this order; int32 [N + 1, 6].

    Line number n is the n-th key.
    """
    capacity = 1 << max(4, (len(address_N) - 1).bit_length())
    padded = np.zeros(capacity, np.int32)
    padded[: len(address_N)] = address_N

    def insert(carry: tuple, key: tuple) -> tuple:
        nodes, made = carry
        number, j, wanted = key
        line = lichao.line(number, 2 * j, wide.multiply(j, -j))
        return lichao.insert(nodes, made, line, wanted, 0, capacity, domain), None

    @jax.jit
    def build(j: jax.Array, n: jax.Array) -> jax.Array:
        number = jnp.arange(capacity, dtype=jnp.int32)
        start = (lichao.empty(capacity + 1), jnp.int32(0))
        (nodes, _), _ = jax.lax.scan(insert, start, (number, j, number < n))
        return nodes

    return np.asarray(build(jnp.asarray(padded), jnp.int32(len(address_N))))


def visits(nodes: np.ndarray, domain: Domain, x: int) -> list[int]:
    """Numbers of the lines that `lichao.query` compares on its way down to x."""
    out, node, lo, hi = [], 0, domain.lo, domain.hi
    x = min(max(x, domain.lo), domain.hi - 1)
    while True:
        here = nodes[node]
        if here[lichao.NUMBER] >= 0:
            out.append(int(here[lichao.NUMBER]))
        middle = (lo + hi) >> 1
        right = x > middle
        node = int(here[lichao.RIGHT if right else lichao.LEFT])
        if not node or x == middle:
            return out
        lo, hi = (middle + 1, hi) if right else (lo, middle)
