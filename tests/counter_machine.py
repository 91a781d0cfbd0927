"""A second circuit, which is not WebAssembly: a counter machine with a vocabulary of its own.

Registers hold 0..63. An instruction adds one to a register, takes one away (zero stays zero),
jumps if a register is zero, or halts. A token writes a register or nothing, and moves the
instruction pointer; the prompt holds the program and the first value of every register.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from wasmjax.circuit.language import Circuit, Space, Vocabulary
from wasmjax.circuit.weights import Compiled, compile_circuit
from wasmjax.engine.decode import Stop

PLACES = 16  # registers, and instructions of a program
TOP = 63  # largest value of a register

NOTHING, WRITES, HALTS, BEGINS, CODE = range(5)  # what a token does: the field "act"
INC, DEC, JZ, HALT = range(1, 5)  # the field "op"; 0: the token is no instruction

VOCABULARY = (
    Vocabulary("act", 0, 5, True),
    Vocabulary("place", 0, PLACES, True),  # of the register it writes, of the instruction it is
    Vocabulary("value", 0, TOP + 1, True),
    Vocabulary("move", 1 - PLACES, 2 * PLACES - 1, True),  # of the instruction pointer
    Vocabulary("op", 0, 5, False),
    Vocabulary("register", 0, PLACES, False),
    Vocabulary("jump", 1 - PLACES, 2 * PLACES - 1, False),  # its move if the register is zero
)
FIELD = {field.name: index for index, field in enumerate(VOCABULARY)}
STOP = Stop(FIELD["act"], (HALTS,), (HALTS, WRITES))


@dataclasses.dataclass(frozen=True)
class Instruction:
    op: int
    register: int = 0
    target: int = 0  # of a jump


def build() -> Compiled:
    """The machine as a circuit, compiled."""
    c = Circuit(VOCABULARY)
    begins = c.embed("begins", "act", lambda act: float(act == BEGINS))
    place = c.wire("place", c.number("place") - begins)  # the first token is a member at -1
    square = c.wire("place^2", c.reglu("place^2", place, place) + c.reglu("(-1)^2", -place))

    def space(name: str, member: int, eps: float = 0.0) -> Space:
        outside = c.embed(f"{name}.outside", "act", lambda act: float(act not in (member, BEGINS)))
        return c.parabola(name, place, square, outside, -1, PLACES - 1, eps)

    ip = c.running_sum("ip", {"ip": c.number("move")}, {"ip": (0, PLACES - 1)})["ip"]
    kinds = [c.embed(f"op {op}", "op", lambda op, k=op: float(op == k)) for op in (INC, DEC, JZ)]
    inc, dec, jz, is_halt, register, jump = c.read(
        "fetch",
        space("program", CODE),
        ip,
        [
            *kinds,
            c.embed("op halt", "op", lambda op: float(op == HALT)),
            c.number("register"),
            c.number("jump"),
        ],
    )
    registers = space("registers", WRITES, 2.0**-16)
    (value,) = c.read("register", registers, register, [c.number("value")])
    writes = inc + dec
    positive = c.step("value > 0", value, 1)
    unchanged = c.reglu("unchanged", writes, value)
    less = c.reglu("less", positive + dec - 1)
    taken = c.reglu("taken", jz - positive, jump - 1)
    c.emit("act", WRITES * writes + HALTS * is_halt)
    c.emit("place", c.reglu("written", writes, register))
    c.emit("value", unchanged + inc - less)
    c.emit("move", 1 - is_halt + taken)
    return compile_circuit(c)


def token(**values: int) -> np.ndarray:
    out = np.zeros(len(VOCABULARY), np.int32)
    for name, value in values.items():
        out[FIELD[name]] = value
    return out


def prompt(program: Sequence[Instruction], registers: Sequence[int]) -> np.ndarray:
    """The program, then the first value of every register."""
    rows = [token(act=BEGINS)]
    for at, ins in enumerate(program):
        jump = ins.target - at if ins.op == JZ else 0
        rows.append(token(act=CODE, place=at, op=ins.op, register=ins.register, jump=jump))
    values = [*registers, *[0] * (PLACES - len(registers))]
    rows += [token(act=WRITES, place=at, value=value) for at, value in enumerate(values)]
    return np.stack(rows)


def interpret(program: Sequence[Instruction], registers: Sequence[int]) -> np.ndarray:
    """The tokens that the machine generates, by a plain interpreter."""
    values = [*registers, *[0] * (PLACES - len(registers))]
    at, rows = 0, []
    while True:
        ins = program[at]
        move = 1
        if ins.op == HALT:
            rows.append(token(act=HALTS))
            return np.stack(rows)
        if ins.op == JZ:
            if values[ins.register] == 0:
                move = ins.target - at
            rows.append(token(move=move))
        else:
            change = 1 if ins.op == INC else -min(1, values[ins.register])
            values[ins.register] += change
            value = values[ins.register]
            rows.append(token(act=WRITES, place=ins.register, value=value, move=1))
        at += move


def add() -> list[Instruction]:
    """r0 += r1; r1 = 0. Register 15 stays zero: it makes a jump unconditional."""
    return [
        Instruction(JZ, 1, 4),
        Instruction(DEC, 1),
        Instruction(INC, 0),
        Instruction(JZ, 15, 0),
        Instruction(HALT),
    ]


def multiply() -> list[Instruction]:
    """r2 += r0 * r1, by way of r3; r0 = 0."""
    return [
        Instruction(JZ, 0, 13),
        Instruction(DEC, 0),
        Instruction(JZ, 1, 7),  # 2: r1 into r2 and r3
        Instruction(DEC, 1),
        Instruction(INC, 2),
        Instruction(INC, 3),
        Instruction(JZ, 15, 2),
        Instruction(JZ, 3, 0),  # 7: r3 back into r1
        Instruction(DEC, 3),
        Instruction(INC, 1),
        Instruction(JZ, 15, 7),
        Instruction(HALT),
        Instruction(HALT),
        Instruction(DEC, 14),  # 13: zero stays zero
        Instruction(HALT),
    ]
