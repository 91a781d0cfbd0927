"""Signed 64-bit integers as pairs of 32-bit ones, for JAX without x64.

A number is (hi int32, lo uint32), hi 2^32 + lo. Everything wraps modulo 2^64.
"""

import jax
import jax.numpy as jnp

Wide = tuple[jax.Array, jax.Array]


def multiply(a: jax.Array, b: jax.Array) -> Wide:
    """The product of two int32 arrays."""
    low, u_a, u_b = jnp.uint32(0xFFFF), a.astype(jnp.uint32), b.astype(jnp.uint32)
    a0, a1, b0, b1 = u_a & low, u_a >> 16, u_b & low, u_b >> 16
    part = a0 * b0
    middle = a1 * b0 + (part >> 16)
    other = a0 * b1 + (middle & low)
    hi = a1 * b1 + (middle >> 16) + (other >> 16)
    lo = (other << 16) | (part & low)
    # The high half of the product of the unsigned numbers, corrected for signs.
    hi = hi - jnp.where(a < 0, u_b, jnp.uint32(0)) - jnp.where(b < 0, u_a, jnp.uint32(0))
    return hi.astype(jnp.int32), lo


def add(a: Wide, b: Wide) -> Wide:
    """a + b."""
    lo = a[1] + b[1]
    return a[0] + b[0] + (lo < a[1]).astype(jnp.int32), lo


def subtract(a: Wide, b: Wide) -> Wide:
    """a - b."""
    return a[0] - b[0] - (a[1] < b[1]).astype(jnp.int32), a[1] - b[1]


def negative(a: Wide) -> jax.Array:
    """Whether a < 0."""
    return a[0] < 0


def zero(a: Wide) -> jax.Array:
    """Whether a == 0."""
    return (a[0] == 0) & (a[1] == 0)


def shift_left(a: Wide, bits: int | jax.Array) -> Wide:
    """a 2^bits, 0 <= bits < 32; `bits` is one for all, or an array."""
    up = jnp.asarray(bits, jnp.uint32)
    carried = jnp.where(up > 0, a[1] >> ((32 - up) & 31), 0)
    lo = a[1] << up
    hi = (a[0].astype(jnp.uint32) << up) | carried
    return hi.astype(jnp.int32), lo


def from_float(x: jax.Array) -> Wide:
    """An integer that a float array holds, of magnitude below 2^63."""
    upper = jnp.floor(x / 2.0**16)
    hi = jnp.floor(upper / 2.0**16)
    lo16 = (x - upper * 2.0**16).astype(jnp.int32).astype(jnp.uint32)
    mid16 = (upper - hi * 2.0**16).astype(jnp.int32).astype(jnp.uint32)
    return hi.astype(jnp.int32), (mid16 << 16) | lo16
