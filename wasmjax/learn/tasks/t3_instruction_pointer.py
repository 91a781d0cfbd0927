"""T3: the instruction pointer as a cumulative sum, in programs that jump.

The prompt is a random program: every instruction says by how much it moves the instruction pointer,
branches have two answers. A step token says by how much the last step moved it, and brings the
condition for the next instruction from outside (the data path is left out). To emit the next
move is to sum all moves, fetch the instruction there, and choose.
"""

import jax
import jax.numpy as jnp

from wasmjax.circuit.language import Circuit, Vocabulary
from wasmjax.learn.model import Shape
from wasmjax.learn.tasks.base import CAUSES, Example, Task

BOS, CODE, STEP = range(3)


def vocabulary(places: int) -> tuple[Vocabulary, ...]:
    top = places - 1
    return (
        Vocabulary("kind", 0, 3, False),
        Vocabulary("a", 0, places, False),  # of an instruction
        Vocabulary("next", -top, 2 * top + 1, False),
        Vocabulary("target", -top, 2 * top + 1, False),
        Vocabulary("branches", 0, 2, False),
        Vocabulary("condition", 0, 2, False),
        Vocabulary("move", -top, 2 * top + 1, True),
    )


def circuit(places: int, count: int = 2**24) -> Circuit:
    """A uniform head, the product with the count, a parabola head group, one gate."""
    c = Circuit(vocabulary(places), count)
    address = c.number("a")
    square = c.wire("a^2", c.reglu("a^2", address, address))
    outsider = c.embed("outsider", "kind", lambda kind: float(kind != CODE))
    ip = c.running_sum("ip", {"ip": c.number("move")}, {"ip": (0, places - 1)})["ip"]
    space = c.parabola("program", address, square, outsider, 0, places - 1)
    following, target, branches = c.read(
        "fetch", space, ip, [c.number("next"), c.number("target"), c.number("branches")]
    )
    gate = branches + c.number("condition") - 1
    c.emit("move", following + c.reglu("taken", gate, target - following))
    return c


def task(
    places: int = 16,
    steps: int = 64,
    width: int = 24,
    heads: tuple[int, int] = (2, 4),
    neurons: tuple[int, int] = (8, 8),
) -> Task:
    """The task.

    Args:
      places: instructions of a program. steps: of a trace, for training.
      width, heads, neurons: of the learner, per layer.
    """
    length = 1 + places + steps
    shape = Shape(
        vocabulary(places),
        width,
        heads,
        neurons,
        (False, True),
        count_unit=1 / 64,
        signals=(("ip", 1), ("next", 2), ("target", 2), ("branches", 2)),
    )

    def sample(key: jax.Array, scale: int) -> Example:
        n = steps * scale
        keys = jax.random.split(key, 4)
        here = jnp.arange(places)
        draw = jax.random.uniform(keys[0], (places,))
        goal = jax.random.randint(keys[1], (2, places), 0, places)
        jumps, branches = draw < 0.2, draw > 0.7
        last = here == places - 1
        following = jnp.where(jumps | last, goal[0], here + 1) - here
        target = jnp.where(branches, goal[1] - here, 0)
        condition = jax.random.bernoulli(keys[2], 0.5, (n,)).astype(jnp.int32)

        def step(ip: jax.Array, c: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            move = jnp.where(branches[ip] & (c == 1), target[ip], following[ip])
            return ip + move, (ip, move)

        _, (ip, move) = jax.lax.scan(step, jnp.zeros((), here.dtype), condition)
        zero = jnp.zeros(places, int)
        code = jnp.stack(
            [zero + CODE, here, following, target, branches.astype(int), zero, zero], -1
        )
        moved = jnp.concatenate([jnp.zeros(1, move.dtype), move[:-1]])
        none = jnp.zeros(n, int)
        trace = jnp.stack([none + STEP, none, none, none, none, condition, moved], -1)
        tokens = jnp.concatenate([jnp.zeros((1, 7), int), code, trace]).astype(jnp.int32)
        fetched = jnp.stack([ip, following[ip], target[ip], branches[ip] * places], -1) / places
        cause = jnp.where(branches[ip], CAUSES.index("branch"), CAUSES.index("output"))
        return Example(
            tokens,
            (move + places - 1)[:, None],
            jnp.ones((n, 1)),
            (move != 1)[:, None],
            fetched.astype(jnp.float32),
            cause,
            1 + ip,
        )

    return Task(
        "T3",
        shape,
        ("move",),
        length,
        steps,
        sample,
        lambda: circuit(places),
        # The last step's move.
        lambda tokens_LxF, n: (tokens_LxF[-n:, 6] + places - 1)[:, None],
        tail_grows=True,
        beta=32.0 * places**2,
    )
