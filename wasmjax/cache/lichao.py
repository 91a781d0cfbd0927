"""A Li Chao tree: which of many lines is highest at x, the latest among equals, in O(log) each.

Attention with 2-D heads asks just that. A key (k1, k2) is the line k1 x + k2, a query (x, 1) asks
where it is highest. Every node of the tree holds one line and stands for an interval of x: the line
that is highest in its middle. A line that loses there can win on one side only, since two lines
cross once, and moves on to that child. Lines are compared by (value, number), lexicographically,
when they are inserted and when they are asked for.

Exact, without x64, for integers: |k1| < 2^30, |k2| 2^shift < 2^62, x in a domain [lo, hi) within
-2^30 .. 2^30 with |k1 - k1'| |x| < 2^62; x counts units of 2^-shift.

A tree is the rows [offset, offset + capacity] of a node array [R, 6], int32: number of the line,
k1, k2 (high and low half), left and right child (0: none, since the root, row 0, is nobody's). The
last row is a dummy. Arrays are static: inserting makes at most one node.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import wide

NUMBER, SLOPE, HIGH, LOW, LEFT, RIGHT = range(6)
COLUMNS = 6


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where a tree can be asked: lo <= x < hi, in units of 2^-shift."""

    lo: int
    hi: int
    shift: int = 0


def empty(rows: int) -> jax.Array:
    """Nodes of trees without lines."""
    return jnp.zeros((rows, COLUMNS), jnp.int32).at[:, NUMBER].set(-1)


def _low(row: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(row[..., LOW], jnp.uint32)


def _ahead(a: jax.Array, b: jax.Array, x: jax.Array, shift: jax.Array | int) -> jax.Array:
    """Whether the lines of rows a [..., 6] are before those of b at x: higher, or as high and
    later. `shift` is one for all, or an array."""
    slope = a[..., SLOPE] - b[..., SLOPE]
    rise = wide.subtract((a[..., HIGH], _low(a)), (b[..., HIGH], _low(b)))
    difference = wide.add(wide.multiply(slope, x), wide.shift_left(rise, shift))
    later = wide.zero(difference) & (a[..., NUMBER] > b[..., NUMBER])
    return (~wide.negative(difference) & ~wide.zero(difference)) | later


def line(number: jax.Array, slope: jax.Array, intercept: wide.Wide) -> jax.Array:
    """A row [6] without children."""
    none = jnp.zeros_like(number)
    low = jax.lax.bitcast_convert_type(intercept[1], jnp.int32)
    return jnp.stack([number, slope, intercept[0], low, none, none], axis=-1)


def insert(
    nodes: jax.Array,
    made: jax.Array,
    new: jax.Array,
    wanted: jax.Array,
    offset: int,
    capacity: int,
    domain: Domain,
) -> tuple[jax.Array, jax.Array]:
    """Inserts a line into the tree at `offset`.

    Args:
      nodes: [R, 6]. made: nodes of the tree so far. new: the line, [6]; its number is to be
        larger than all before. wanted: whether to insert it at all. There must be room.

    Returns:
      The nodes, and how many of this tree there are.
    """
    dummy = offset + capacity

    def read(nodes: jax.Array, node: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(nodes, (offset + node, 0), (1, COLUMNS))[0]

    def descend(carry: tuple) -> tuple:
        # The row comes with the carry: XLA would copy all nodes to read an old one after a write.
        nodes, here, node, lo, hi, current, _, _ = carry
        middle = (lo + hi) >> 1
        vacant = here[NUMBER] < 0
        wins = vacant | _ahead(current, here, middle, domain.shift)
        kept = jnp.where(wins, current[:LEFT], here[:LEFT])
        loser = jnp.where(wins, here, current).at[LEFT:].set(0)
        nodes = jax.lax.dynamic_update_slice(nodes, kept[None], (offset + node, 0))
        right = loser[SLOPE] > kept[SLOPE]
        lo, hi = jnp.where(right, middle + 1, lo), jnp.where(right, hi, middle)
        # A loser of the same slope never wins, and no x may be left where it could.
        on = ~vacant & (loser[SLOPE] != kept[SLOPE]) & (lo < hi)
        child = jnp.where(right, here[RIGHT], here[LEFT])
        makes = jnp.where(on & (child == 0), jnp.where(right, RIGHT, LEFT), 0)
        on &= child > 0
        node = jnp.where(on, child, node)
        return nodes, read(nodes, node), node, lo, hi, loser, on, makes

    zero = jnp.int32(0)
    bounds = jnp.int32(domain.lo), jnp.int32(domain.hi)
    start = (nodes, read(nodes, zero), zero, *bounds, new, wanted, zero)
    nodes, _, node, _, _, loser, _, makes = jax.lax.while_loop(lambda c: c[6], descend, start)
    # The new node, and its parent's pointer to it; dummies if there is none.
    made = jnp.where(wanted, jnp.maximum(made, 1), made)
    place = jnp.where(makes > 0, offset + made, dummy)
    nodes = jax.lax.dynamic_update_slice(nodes, loser[None], (place, zero))
    parent = jnp.where(makes > 0, offset + node, dummy)
    nodes = jax.lax.dynamic_update_slice(
        nodes, made[None, None], (parent, jnp.maximum(makes, LEFT))
    )
    return nodes, made + (makes > 0)


def query(
    nodes: jax.Array, x_Q: jax.Array, offset_Q: np.ndarray, domains: list[Domain]
) -> jax.Array:
    """Numbers of the lines that are highest at x, int32 [Q]; -1 where a tree is empty.

    Args:
      x_Q: int32, clipped to the domain. offset_Q: where each one's tree begins.
    """
    lo_Q = np.array([domain.lo for domain in domains], np.int32)
    hi_Q = np.array([domain.hi for domain in domains], np.int32)
    shifts = {domain.shift for domain in domains}
    shift: jax.Array | int = (
        shifts.pop()
        if len(shifts) == 1
        else jnp.asarray([domain.shift for domain in domains], jnp.int32)
    )
    x_Q = jnp.clip(x_Q, lo_Q, hi_Q - 1)
    first = jnp.asarray(offset_Q, jnp.int32)

    def descend(carry: tuple) -> tuple:
        node, lo, hi, best, on = carry
        here = nodes.at[first + node].get(mode="promise_in_bounds")
        better = on & (here[:, NUMBER] >= 0)
        better &= (best[:, NUMBER] < 0) | _ahead(here, best, x_Q, shift)
        best = jnp.where(better[:, None], here, best)
        middle = (lo + hi) >> 1
        right = x_Q > middle
        child = jnp.where(right, here[:, RIGHT], here[:, LEFT])
        lo, hi = jnp.where(right, middle + 1, lo), jnp.where(right, hi, middle)
        on &= (child > 0) & (x_Q != middle)
        return jnp.where(on, child, node), lo, hi, best, on

    none = jnp.zeros((len(domains), COLUMNS), jnp.int32).at[:, NUMBER].set(-1)
    node = jnp.zeros(len(domains), jnp.int32)
    start = (node, jnp.asarray(lo_Q), jnp.asarray(hi_Q), none, jnp.ones(len(domains), bool))
    *_, best, _ = jax.lax.while_loop(lambda c: jnp.any(c[4]), descend, start)
    return best[:, NUMBER]
