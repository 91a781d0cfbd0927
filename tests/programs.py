"""Machine-level programs that the tests of the oracle and of the engines share.

None needs an invocation: they start at instruction 0, with sp = fp = `stack_base`, as soon as
`machine.program.prompt` has been fed. All of them end in a halt.
"""

import dataclasses
import random
from collections.abc import Sequence

from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.program import NO_DESTINATION, NOWHERE, Instruction, Program, Slot, TableEntry

PAGES = Slot("abs", 0)
"""Where these programs keep the memory size in pages."""
LIMITS = Slot("abs", 1)
"""Where they keep the call limits: depth in bytes 0 and 1, slots in bytes 2 and 3."""


def sp(offset: int) -> Slot:
    return Slot("sp", offset)


def fp(offset: int) -> Slot:
    return Slot("fp", offset)


def absolute(address: int) -> Slot:
    return Slot("abs", address)


def make_program(
    instructions: Sequence[Instruction],
    *,
    slots: dict[int, int] | None = None,
    memory: dict[int, int] | None = None,
    table: dict[int, TableEntry] | None = None,
    inputs: bytes = b"",
    stack_base: int = 0,
) -> Program:
    """A program whose last instruction is the halt."""
    assert instructions[-1].op == "halt"
    return Program(
        tuple(instructions),
        {} if slots is None else slots,
        {} if memory is None else memory,
        {} if table is None else table,
        inputs,
        stack_base,
        len(instructions) - 1,
    )


# --- one operation at a time ---


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation on immediates.

    Attributes:
      op: an operation that goes on with the next instruction.
      a, b, c: operand values.
      aux: the instruction's side immediate.
      immediate: give B as the instruction's immediate, not in a slot.
    """

    op: str
    a: int = 0
    b: int = 0
    c: int = 0
    aux: int = 0
    immediate: bool = False


def row_instructions(row: Row) -> list[Instruction]:
    """Moves the operands into slots above sp, executes, pushes the result."""
    control = isa.OPS[row.op]
    out = [Instruction("move", b=NOWHERE, imm=row.a, d=sp(1))]
    if not row.immediate:
        out.append(Instruction("move", b=NOWHERE, imm=row.b, d=sp(2)))
    out.append(Instruction("move", b=NOWHERE, imm=row.c, d=sp(3)))
    writes = control.get("kind") == isa.KIND["slot"]
    out.append(
        Instruction(
            row.op,
            a=sp(1),
            b=NOWHERE if row.immediate else sp(2),
            c=sp(3),
            d=sp(0) if writes else NO_DESTINATION,
            imm=row.b if row.immediate else 0,
            dsp=1,
            aux=row.aux,
            note=row.op,
        )
    )
    return out


def op_rows_program(
    config: MachineConfig,
    rows: Sequence[Row],
    *,
    memory: dict[int, int] | None = None,
    inputs: bytes = b"",
    stack_base: int = 4,
) -> Program:
    """Executes every row; the result of row i is left in slot `stack_base` + i.

    Rows that write no slot (stores, outputs) leave that slot as it is. A row that traps ends the
    program.

    Raises:
      ValueError: if the rows do not fit the machine's instruction or slot addresses.
    """
    instructions = [ins for row in rows for ins in row_instructions(row)]
    instructions.append(Instruction("halt"))
    if len(instructions) > config.digit**config.ip_digits:
        raise ValueError(f"{len(rows)} rows need {len(instructions)} instructions")
    if stack_base + len(rows) + 4 > config.digit ** min(2, config.address_digits):
        raise ValueError(f"{len(rows)} rows need as many slots")
    return make_program(instructions, memory=memory, inputs=inputs, stack_base=stack_base)


def operand_width(op: str) -> int:
    """Bits of the operands an operation is meant for: 64 unless its name says less."""
    if op.startswith("i8."):
        return 8
    return 32 if op.startswith("i32.") and op != "i32.wrap_i64" else 64


# --- random straight-line programs ---

_WINDOW = 6  # slots above the stack base that a random program works on
_GLOBALS = 4  # slots before it that are written too, after the hidden ones
_INPUTS = 16
_ACCESSED = 256  # bytes of memory that it accesses, across a page's start


class _Drawer:
    """Draws instructions and keeps track of which slots hold values, of what width, and of sp."""

    def __init__(self, config: MachineConfig, rng: random.Random, stack_base: int):
        self.config, self.rng = config, rng
        self.base = self.sp = stack_base
        self.widths: dict[int, int] = {}  # slot -> bits of its value
        self.bases = ["abs", "sp"] + ["fp"] * any(
            "depth" in isa.OPS[op] for op in config.instructions
        )

    def name(self, address: int) -> Slot:
        """Some way to name a slot."""
        base = self.rng.choice(self.bases)
        return Slot(base, address - {"abs": 0, "sp": self.sp, "fp": self.base}[base])

    def operand(self, width: int) -> Slot:
        """A slot with a value of at most `width` bits, or none."""
        known = [address for address, bits in self.widths.items() if bits <= width]
        if not known or self.rng.random() < 0.1:
            return NOWHERE
        return self.name(self.rng.choice(known))

    def right(self, width: int) -> tuple[Slot, int]:
        """Operand B and the immediate: one of the two."""
        if self.rng.random() < 0.3:
            return NOWHERE, random_operand(self.rng, width)
        return self.operand(width), 0

    def move_sp(self) -> int:
        """What a step adds to sp, which stays in the window."""
        goal = self.base + self.rng.randrange(_WINDOW)
        return goal - self.sp if self.rng.random() < 0.3 else 0

    def known(self, value: int) -> tuple[Slot, Instruction]:
        """Some slot and the move that puts `value` there."""
        address = self.rng.choice(list(self.widths))
        self.widths[address] = 32
        slot = self.name(address)
        return slot, Instruction("move", b=NOWHERE, imm=value, d=slot)

    def draw(self, op: str, index: int) -> list[Instruction]:
        """The operation at instruction `index`, after a move that prepares its address."""
        control, rng = isa.OPS[op], self.rng
        width = min(operand_width(op), 8 * self.config.value_bytes)
        result = 32 if op.startswith("i32.") else width
        a, c = self.operand(width), self.operand(32)
        b, imm = self.right(width)
        aux, before = 0, []
        if control.get("mem"):
            c, size = PAGES, control["size_minus_1"] + 1
            address = 65536 - _ACCESSED // 2 + rng.randrange(_ACCESSED - size)
            aux = rng.choice([0, rng.randrange(address), address])
            a, move = self.known(address - aux)
            before = [move]
        elif control.get("input"):
            a, move = self.known(rng.randrange(_INPUTS))
            before = [move]
        branches = control.get("branch") or control.get("branch_not")
        dsp, d = self.move_sp(), NO_DESTINATION
        if control.get("kind") == isa.KIND["slot"]:
            # Often one of the operands; sp is that before the step.
            written = rng.choice([*self.widths, self.base + rng.randrange(_WINDOW)])
            d = self.name(written)
            self.widths[written] = result
        self.sp += dsp
        target = index + 1 if branches else None  # both ways lead to the next instruction
        return [
            *before,
            Instruction(op, a=a, b=b, c=c, d=d, imm=imm, dsp=dsp, target=target, aux=aux, note=op),
        ]


def random_operand(rng: random.Random, width: int) -> int:
    """A value of `width` bits, often an edge case."""
    mask = (1 << width) - 1
    edges = [0, 1, 2, mask, mask >> 1, (mask >> 1) + 1, 255 & mask, 256 & mask, width - 1, width]
    return rng.choice([rng.choice(edges) & mask, rng.getrandbits(width), rng.getrandbits(8) & mask])


def straight_line_ops(config: MachineConfig) -> list[str]:
    """The machine's operations that go on with the next instruction, whatever the operands."""
    return [
        op
        for op in config.instructions
        if not {"call", "ret", "table", "code"} & isa.OPS[op].keys()
        and isa.OPS[op].get("kind") not in isa.STOP_KINDS
    ]


def random_straight_line(config: MachineConfig, rng: random.Random, n: int) -> Program:
    """`n` random instructions without jumps and traps, then a halt.

    Reads only slots that were written, 32-bit operations only 32-bit values, as lowered code does.
    Loads and stores lie on both sides of a page boundary. Every operation of the machine that
    fits occurs about equally often.

    Raises:
      ValueError: if `n` instructions do not fit the machine.
    """
    if n + 1 > config.digit**config.ip_digits:
        raise ValueError(f"{n} instructions do not fit the machine")
    limit = 8 * config.value_bytes
    base = 2 + _GLOBALS
    drawer = _Drawer(config, rng, base)
    slots = {PAGES.offset: 2}
    for address in range(2, base):
        width = rng.choice([32, 64]) if limit == 64 else limit
        slots[address] = random_operand(rng, width)
        drawer.widths[address] = width
    memory = {}
    if "memory" in config.spaces:
        start = 65536 - _ACCESSED // 2
        addresses = rng.sample(range(start, start + _ACCESSED, 8), 12)
        memory = {address: rng.getrandbits(64) | 1 for address in addresses}
    inputs = rng.randbytes(_INPUTS) if "input" in config.spaces else b""
    ops = straight_line_ops(config)
    instructions: list[Instruction] = []
    while len(instructions) < n:
        saved = dict(drawer.widths), drawer.sp
        drawn = drawer.draw(rng.choice(ops), len(instructions))
        if len(drawn) > n - len(instructions):
            drawer.widths, drawer.sp = saved
            drawn = drawer.draw("move", len(instructions))
        instructions += drawn
    instructions.append(Instruction("halt"))
    return make_program(instructions, slots=slots, memory=memory, inputs=inputs, stack_base=base)


# --- loops and calls ---


def counter_loop(config: MachineConfig, count: int) -> Program:
    """Writes count, count - 1, ..., 1 (low bytes) to stdout, then halts; 3 steps a round.

    For machines of any value width.
    """
    kind = "i8" if config.value_bytes == 1 else "i32"
    counter = absolute(2)
    return make_program(
        [
            Instruction("out", b=counter),
            Instruction(f"{kind}.sub", a=counter, b=NOWHERE, imm=1, d=counter),
            Instruction("br_if", c=counter, target=0),
            Instruction("halt", b=counter),
        ],
        slots={2: count},
        stack_base=3,
    )


def fibonacci_small(config: MachineConfig, n: int) -> Program:
    """Writes the first `n` Fibonacci numbers modulo 256 to stdout: a stack program with pushes.

    For machines of any value width.
    """
    kind = "i8" if config.value_bytes == 1 else "i32"
    this, following, left = absolute(2), absolute(3), absolute(4)
    return make_program(
        [
            Instruction("br_unless", c=left, target=8),
            Instruction("out", b=this),
            Instruction("move", b=following, d=sp(0), dsp=1),
            Instruction(f"{kind}.add", a=this, b=following, d=sp(0), dsp=1),
            Instruction("move", b=sp(-1), d=following, dsp=-1),
            Instruction("move", b=sp(-1), d=this, dsp=-1),
            Instruction(f"{kind}.sub", a=left, b=NOWHERE, imm=1, d=left),
            Instruction("jump", next=0),
            Instruction("halt", b=this),
        ],
        slots={2: 0, 3: 1, 4: n},
        stack_base=5,
    )


def frame_link(return_to: int, frame: int) -> int:
    """The immediate of a call: where to return to and by how much fp moves."""
    return return_to | frame << 24


def recursive_sum(n: int, *, depth_limit: int = 1024, slot_limit: int = 60000) -> Program:
    """n + (n - 1) + ... + 1 by recursion: n + 1 nested calls. The halt token carries the sum.

    For the WebAssembly machine. A frame is [argument or result, header]; the callee's frame starts
    at the caller's slot fp + 2.
    """
    return make_program(
        [
            # sum(n), its argument at sp + 0, its header at sp + 1
            Instruction("move", b=NOWHERE, imm=n, d=sp(0)),
            Instruction("call", b=NOWHERE, c=LIMITS, d=sp(1), imm=frame_link(11, 0), dsp=2, next=2),
            Instruction("br_unless", c=fp(0), target=9),  # sum: 2
            Instruction("i32.sub", a=fp(0), b=NOWHERE, imm=1, d=fp(2)),
            Instruction("call", b=NOWHERE, c=LIMITS, d=fp(3), imm=frame_link(5, 2), dsp=2, next=2),
            Instruction("i32.add", a=fp(0), b=fp(2), d=sp(0), dsp=1),
            Instruction("return_value", a=sp(-1), b=fp(1), d=fp(0), dsp=-3),
            Instruction("trap", aux=isa.TRAP["unreachable"]),
            Instruction("trap", aux=isa.TRAP["unreachable"]),
            Instruction("return", b=fp(1), dsp=-2),  # sum(0) is its argument
            Instruction("trap", aux=isa.TRAP["unreachable"]),
            Instruction("halt", b=sp(0)),
        ],
        slots={LIMITS.offset: depth_limit | slot_limit << 16},
        stack_base=4,
    )


def indirect_call(index: int, type_id: int, *, depth_limit: int = 1024) -> Program:
    """Calls element `index` of a table of three: two functions and an uninitialized element.

    Element 0 (type 1) writes "a", element 1 (type 2) writes "b". The fourth entry stands for all
    indices beyond. Afterwards it writes "." and halts. For the WebAssembly machine.
    """
    mismatch = isa.TRAP["indirect call type mismatch"]
    return make_program(
        [
            Instruction("move", b=NOWHERE, imm=index, d=sp(0)),
            Instruction(
                "call_indirect",
                a=sp(0),
                b=NOWHERE,
                c=LIMITS,
                d=sp(1),
                imm=frame_link(6, 0),
                dsp=2,
                aux=3 | 5 << 16,
                type_id=type_id,
            ),
            Instruction("out", b=NOWHERE, imm=ord("a")),  # 2
            Instruction("return", b=fp(1), dsp=-2),
            Instruction("out", b=NOWHERE, imm=ord("b")),  # 4
            Instruction("return", b=fp(1), dsp=-2),
            Instruction("out", b=NOWHERE, imm=ord(".")),  # 6
            Instruction("halt"),
        ],
        slots={LIMITS.offset: depth_limit | 60000 << 16},
        table={
            5: TableEntry(2, 1, mismatch),
            6: TableEntry(4, 2, mismatch),
            7: TableEntry(0, 0, isa.TRAP["uninitialized element"]),
            8: TableEntry(0, 0, isa.TRAP["undefined element"]),
        },
        stack_base=4,
    )


def jump_by_table(index: int) -> Program:
    """`jump_table` over three entries of which the last is the default; writes "0", "1" or "d"."""
    return make_program(
        [
            Instruction("move", b=NOWHERE, imm=index, d=sp(0), dsp=1),
            Instruction("jump_table", a=sp(-1), dsp=-1, aux=2),
            Instruction("out", b=NOWHERE, imm=ord("0"), next=5),
            Instruction("out", b=NOWHERE, imm=ord("1"), next=5),
            Instruction("out", b=NOWHERE, imm=ord("d")),
            Instruction("halt"),
        ],
        table={0: TableEntry(2), 1: TableEntry(3), 2: TableEntry(4)},
        stack_base=4,
    )
