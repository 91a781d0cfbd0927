"""T5: one step of a small machine, supervised by traces of random programs.

The tokens are the machine's own (`machine.tokens`), the truth is the oracle's, the reference is the
machine. MICRO moves bytes between slots, jumps and branches on them: nothing needs the arithmetic
table, whose 256 tokens are left out of the prompts, so that a CPU can train it. `config=SMALL`
(one-byte arithmetic) keeps them and is for GPUs.

Programs are drawn once with NumPy and kept; a key picks one of them. Training and held-out
programs come from different seeds.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.learn.model import live_shape
from wasmjax.learn.tasks.base import CAUSES, Example, Task
from wasmjax.machine import isa
from wasmjax.machine.build import build_circuit, build_machine
from wasmjax.machine.config import SMALL, MachineConfig
from wasmjax.machine.program import Instruction, Program, Slot, prompt
from wasmjax.machine.tokens import columns, fields
from wasmjax.oracle.execute import Oracle

MICRO = dataclasses.replace(
    SMALL,
    instructions=("move", "jump", "br_if", "br_unless", "halt", "out"),
    digit=16,
    frame_limit=7,
)
"""Moves, jumps and branches on one-byte slots."""

SLOTS = 4
CODE = 12
LONGEST = 8


@dataclasses.dataclass(frozen=True)
class Pool:
    """Traces: prompts of one length, the tokens that follow, and what each step fetched.

    Attributes:
      prompt: int32 [P, L0, F]. trace: int32 [P, T, F], zeros after the end. steps: int32 [P].
      ip: int32 [P, T], the instruction of each step. branches, reads: bool [P, T].
    """

    prompt: np.ndarray
    trace: np.ndarray
    steps: np.ndarray
    ip: np.ndarray
    branches: np.ndarray
    reads: np.ndarray


def random_program(config: MachineConfig, rng: np.random.Generator) -> Program:
    """CODE instructions on SLOTS slots; the last halts. Loops are likely, and may be endless."""
    arithmetic = [op for op in config.instructions if op.startswith("i8.")]
    code = []
    for index in range(CODE - 1):
        slot = lambda: Slot("abs", int(rng.integers(SLOTS)))  # noqa: E731
        value = int(rng.choice([0, 1, int(rng.integers(256))]))
        draw = rng.random()
        if draw < 0.25:
            code.append(Instruction("move", b=slot(), d=slot()))
        elif draw < 0.5:
            code.append(Instruction("move", imm=value, d=slot()))
        elif draw < 0.6 or (draw < 0.75 and not arithmetic):
            code.append(Instruction("out", b=slot()))
        elif draw < 0.75:
            op = str(rng.choice(arithmetic))
            code.append(Instruction(op, a=slot(), b=slot(), d=slot()))
        elif draw < 0.8:
            code.append(Instruction("jump", next=int(rng.integers(CODE))))
        else:
            op = str(rng.choice(["br_if", "br_unless"]))
            code.append(Instruction(op, c=slot(), target=int(rng.integers(CODE))))
        assert len(code) == index + 1
    code.append(Instruction("halt"))
    slots = {k: int(rng.choice([0, int(rng.integers(256))])) for k in range(SLOTS)}
    return Program(tuple(code), slots, {}, {}, b"", SLOTS, CODE - 1)


@functools.cache
def pool(config: MachineConfig, seed: int, programs: int, steps: int) -> Pool:
    """Random programs that run for at least a few steps, with their traces by the oracle."""
    rng = np.random.default_rng(seed)
    column = columns(config)
    keep_table = any(op.startswith("i8.") for op in config.instructions)
    prompts: list[np.ndarray] = []
    traces: list[np.ndarray] = []
    lengths: list[int] = []
    ips: list[np.ndarray] = []
    branches: list[np.ndarray] = []
    reads: list[np.ndarray] = []
    while len(prompts) < programs:
        program = random_program(config, rng)
        tokens = prompt(config, program)
        oracle = Oracle(config)
        oracle.feed(tokens)
        trace = oracle.run(steps)
        if len(trace) < 4:
            continue
        ip = np.concatenate([[0], np.cumsum(trace[:-1, column["ip0"]])])
        pad = steps - len(trace)
        if not keep_table:
            tokens = tokens[tokens[:, column["row"]] == 0]
        prompts.append(tokens)
        traces.append(np.pad(trace, ((0, pad), (0, 0))))
        lengths.append(len(trace))
        ops = [program.instructions[i] for i in ip]
        ips.append(np.pad(ip, (0, pad)))
        branches.append(np.pad([o.op.startswith("br") for o in ops], (0, pad)))
        reads.append(np.pad([o.op in ("move", "out", "br_if", "br_unless") for o in ops], (0, pad)))
    stack = lambda x, t: np.stack(x).astype(t)  # noqa: E731
    return Pool(
        stack(prompts, np.int32),
        stack(traces, np.int32),
        np.array(lengths, np.int32),
        stack(ips, np.int32),
        stack(branches, bool),
        stack(reads, bool),
    )


def task(
    config: MachineConfig = MICRO,
    steps: int = 24,
    programs: int = 2048,
    held_out: int = 1024,
    name: str = "T5",
    extra_heads: int = 0,
    extra_neurons: int = 0,
) -> Task:
    """The task. The learner has the construction's shape, and more if asked for."""
    weights = build_machine(config).weights
    live = live_shape(weights, count_unit=1 / 64)
    shape = dataclasses.replace(
        live,
        heads=tuple(h + extra_heads if h else 0 for h in live.heads),
        neurons=tuple(n + extra_neurons for n in live.neurons),
        signals=_signals(config),
    )
    column = columns(config)
    judged = tuple(f.name for f in fields(config) if f.emitted)
    lows = jnp.array([fields(config)[column[name]].lo for name in judged])
    picked = jnp.array([column[name] for name in judged])

    def sample(key: jax.Array, scale: int) -> Example:
        n = steps * scale
        made = pool(config, 1, programs, n) if scale == 1 else pool(config, scale, held_out, n)
        return pick(made, jax.random.randint(key, (), 0, len(made.prompt)))

    def pick(made: Pool, p: jax.Array) -> Example:
        before, after = jnp.asarray(made.prompt)[p], jnp.asarray(made.trace)[p]
        n = after.shape[0]
        tokens = jnp.concatenate([before, after[:-1]])
        asked = (jnp.arange(n) < jnp.asarray(made.steps)[p]).astype(jnp.float32)
        target = after[:, picked] - lows
        ip = jnp.asarray(made.ip)[p]
        cause = jnp.where(
            jnp.asarray(made.branches)[p],
            CAUSES.index("branch"),
            jnp.where(jnp.asarray(made.reads)[p], CAUSES.index("slot"), CAUSES.index("output")),
        )
        first_code = jnp.argmax(before[:, column["op"]] > 0)
        op = before[first_code + ip, column["op"]]
        signals = jnp.stack([ip / CODE, op / len(config.instructions)], -1)
        return Example(
            tokens,
            target,
            jnp.broadcast_to(asked[:, None], target.shape),
            after[:, picked] != 0,
            signals.astype(jnp.float32),
            cause,
            first_code + ip,
        )

    return Task(
        name,
        shape,
        judged,
        before_length(config),
        steps,
        sample,
        lambda: build_circuit(config),
        lambda tokens_LxF, n: tokens_LxF[-n:, picked] - lows,
        tail_grows=True,
        weights=lambda: weights,
        # Between addresses 0..15; a recency term of 2^-20 would be far sharper still.
        gap=32.0 * 2.0 ** -dict(config.eps_log2)["slots"],
        beta=2.0**20,
    )


def _signals(config: MachineConfig) -> tuple[tuple[str, int], ...]:
    del config
    return (("ip", 1), ("op", 2))


def before_length(config: MachineConfig) -> int:
    """Tokens of a prompt."""
    return int(pool(config, 1, 1, 8).prompt.shape[1])


KINDS = isa.KINDS
