"""Flat programs and the prompt: what a front end hands to the machine.

A front end produces `Instruction`s and initial contents; `prompt` turns them into tokens.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.tokens import columns, digits, fields, token


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A stack address relative to a base: "abs" (0), "sp" or "fp"."""

    base: str
    offset: int


NOWHERE = Slot("abs", -1)
"""Reads as zero: the address of the BOS token, which nothing can write."""
NO_DESTINATION = Slot("abs", 0)
"""The destination of an instruction that writes no slot (its address fields are zero)."""

_BASES = {"abs": 0, "sp": 1, "fp": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One lowered instruction.

    Attributes:
      op: operation (a name of `isa.OPS`).
      a, b, c: operand slots. The bytes of `imm` are added to B's, so an immediate operand
        is `b=NOWHERE, imm=...`.
      d: destination slot.
      imm: immediate operand, 0 <= imm < 256^value_bytes.
      dsp: what the step adds to sp.
      next: index of the instruction that follows; None: the one after this.
      target: index that a taken br_if/br_unless goes to.
      aux: 4-byte side immediate: a load's or store's offset, a trap's code; for jump_table and
        call_indirect see `table_aux`.
      type_id: call_indirect's expected type id (in the `target` fields, which it does not use).
      note: what a person reads in the trace (the source instruction); never a token.
    """

    op: str
    a: Slot = NOWHERE
    b: Slot = NOWHERE
    c: Slot = NOWHERE
    d: Slot = NO_DESTINATION
    imm: int = 0
    dsp: int = 0
    next: int | None = None
    target: int | None = None
    aux: int = 0
    type_id: int | None = None
    note: str = ""


def table_aux(base: int, last: int) -> int:
    """The `aux` of jump_table/call_indirect: reads table entry base + min(A, last)."""
    return last | base << 16


@dataclasses.dataclass(frozen=True, slots=True)
class TableEntry:
    """One element of the table space.

    Attributes:
      entry: instruction index to go to.
      type_id: type id of a function; 0 for entries without one (ids start at 1).
      code: trap code when a type check fails on this entry.
    """

    entry: int
    type_id: int = 0
    code: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """Everything a prompt holds before the invocation.

    Attributes:
      instructions: flat code; index = instruction index.
      slots: initial slots (globals), address -> value.
      memory: initial memory words, byte address (multiple of 8) -> 8-byte value; zero words absent.
      table: table space, index -> entry.
      inputs: bytes of the input space.
      stack_base: first slot of the operand stack.
      halt: index of an instruction that halts (the return address of an invocation).
      unsupported: names behind trap codes `isa.UNSUPPORTED_BASE` + k.
    """

    instructions: tuple[Instruction, ...]
    slots: dict[int, int]
    memory: dict[int, int]
    table: dict[int, TableEntry]
    inputs: bytes
    stack_base: int
    halt: int
    unsupported: tuple[str, ...] = ()


def delta_digits(config: MachineConfig, source: int, target: int) -> list[int]:
    """Per-digit differences of two instruction indices (the running sums stay digits)."""
    here = digits(source, config.ip_digits, config.digit)
    there = digits(target, config.ip_digits, config.digit)
    return [t - h for h, t in zip(here, there, strict=True)]


def _numbered(name: str, values: Sequence[int]) -> dict[str, int]:
    return {f"{name}{k}": int(value) for k, value in enumerate(values)}


def _bytes(name: str, value: int, count: int) -> dict[str, int]:
    return _numbered(name, digits(value, count))


def encode_instruction(config: MachineConfig, index: int, ins: Instruction) -> np.ndarray:
    """The token of instruction `index`.

    Raises:
      ValueError: if the machine lacks the operation or a number does not fit its field.
    """
    if ins.op not in config.instructions:
        raise ValueError(f"this machine has no operation '{ins.op}'")
    follow = index + 1 if ins.next is None else ins.next
    values: dict[str, int] = {
        "kind": isa.KIND["code"],
        "op": 1 + config.instructions.index(ins.op),
        "dsp": ins.dsp,
    }
    values |= _numbered("a", digits(index, config.address_digits, config.digit))
    values |= _bytes("v", ins.imm, config.value_bytes)
    for name, slot in zip("abcd", (ins.a, ins.b, ins.c, ins.d), strict=True):
        values |= {f"base_{name}": _BASES[slot.base], f"offset_{name}": slot.offset}
    if not _stays(ins.op):
        values |= _numbered("next", delta_digits(config, index, follow))
    if ins.type_id is not None:
        values |= _numbered("target", digits(ins.type_id, 2))
    elif ins.target is not None:
        values |= _numbered("target", delta_digits(config, index, ins.target))
    aux_digits = sum(field.name.startswith("aux") for field in fields(config))
    values |= _bytes("aux", ins.aux, aux_digits)
    return token(config, **values)


def _stays(op: str) -> bool:
    """Whether `next` is zero: returns and table jumps emit absolute minus current digits, trap and
    halt stay put."""
    control = isa.OPS[op]
    ends = control.get("kind") in (isa.KIND["trap"], isa.KIND["halt"])
    return bool(control.get("ret") or control.get("table") or ends)


def write_slot(config: MachineConfig, address: int, value: int, **deltas: int) -> np.ndarray:
    """A token that writes a slot, with optional ip/sp/fp/depth deltas."""
    values = {"kind": isa.KIND["slot"]}
    values |= _numbered("a", digits(address, min(2, config.address_digits), config.digit))
    values |= _bytes("v", value, config.value_bytes)
    return token(config, **values, **deltas)


def prompt(config: MachineConfig, program: Program) -> np.ndarray:
    """The prompt of a program, int32 [n_tokens, n_fields], without an invocation.

    Segments in order: BOS, arithmetic table, code, table, memory (`prompt_code`), slots, input, and
    tokens that move sp and fp to the stack base (`prompt_inputs`).

    Raises:
      ValueError: if something does not fit the machine's fields.
    """
    return np.concatenate([prompt_code(config, program), prompt_inputs(config, program)])


def prompt_code(config: MachineConfig, program: Program) -> np.ndarray:
    """The part of the prompt that a module's runs have in common. Raises what `prompt` does."""
    if len(program.instructions) > config.code_limit:
        raise ValueError(
            f"{len(program.instructions):,} instructions exceed the machine's {config.code_limit:,}"
        )
    code, table = program.instructions, sorted(program.table.items())
    memory = sorted(program.memory.items())
    segment = _Segments(config, 1 + 256 + len(code) + len(table) + len(memory))
    segment("bos", 1)
    segment("arith", 256).put("row", np.arange(1, 257))
    _encode_code(segment("code", len(code)), code, 0)
    segment.table(table)
    rows = segment("mem8", len(memory))
    rows.put_digits("a", [address for address, _ in memory], 4)
    rows.put_digits("v", [word for _, word in memory], 8)
    return segment.tokens_NxF


def prompt_inputs(config: MachineConfig, program: Program) -> np.ndarray:
    """The part of the prompt that belongs to one run. Raises what `prompt` does."""
    slots, inputs = program.slots, program.inputs
    end = _move_registers(config, sp=program.stack_base, fp=program.stack_base)
    segment = _Segments(config, len(slots) + len(inputs) + len(end))
    segment.slots(slots)
    segment.input(0, inputs)
    if end:
        segment.tokens_NxF[len(slots) + len(inputs) :] = end
    return segment.tokens_NxF


def prompt_addition(
    config: MachineConfig,
    *,
    first: int,
    instructions: Sequence[Instruction],
    table: dict[int, TableEntry],
    writes: Iterable[tuple[int, bytes]],
    slots: dict[int, int],
    first_input: int,
    inputs: bytes,
) -> np.ndarray:
    """Tokens that add a module to a program that has begun, int32 [n_tokens, n_fields].

    Args:
      first: index of the first instruction. table: entries of the table space, new ones.
      writes: (address, bytes) of the byte space, in order. slots: values of slots.
      first_input: address of the first of `inputs` in the input space.

    Raises:
      ValueError: if something does not fit the machine's fields.
    """
    pieces = [piece for address, data in writes for piece in _aligned(address, data)]
    n = len(instructions) + len(table) + len(pieces) + len(slots) + len(inputs)
    segment = _Segments(config, n)
    _encode_code(segment("code", len(instructions)), instructions, first)
    segment.table(sorted(table.items()))
    rows = segment("mem8", len(pieces))
    rows.put("kind", [isa.KIND[f"mem{len(data)}"] for _, data in pieces])
    rows.put_digits("a", [address for address, _ in pieces], 4)
    rows.put_digits("v", [int.from_bytes(data, "little") for _, data in pieces], 8)
    segment.slots(slots)
    segment.input(first_input, inputs)
    return segment.tokens_NxF


def _aligned(address: int, data: bytes) -> Iterable[tuple[int, bytes]]:
    """A write of the byte space in pieces of 8 bytes where it can be, else of 1."""
    start = 0
    while start < len(data):
        at = address + start
        size = 8 if at % 8 == 0 and len(data) - start >= 8 else 1
        yield at, data[start : start + size]
        start += size


class _Segments:
    """Tokens under construction, segment by segment."""

    def __init__(self, config: MachineConfig, count: int) -> None:
        self.config = config
        self.tokens_NxF = np.zeros((count, len(fields(config))), np.int32)
        self._begin = 0

    def __call__(self, kind: str, count: int) -> "_Rows":
        """The next `count` tokens, of this kind."""
        rows = _Rows(self.config, self.tokens_NxF[self._begin : self._begin + count])
        rows.put("kind", [isa.KIND[kind]] * count)
        self._begin += count
        return rows

    def table(self, entries: Sequence[tuple[int, TableEntry]]) -> None:
        """Entries of the table space by index, in this order."""
        rows = self("table", len(entries))
        rows.put_digits("a", [index for index, _ in entries], 2)
        rows.put_digits("v", [entry.entry for _, entry in entries], 3)
        rows.put_digits("v", [entry.type_id for _, entry in entries], 2, first=3)
        rows.put("v5", [entry.code for _, entry in entries])

    def slots(self, slots: dict[int, int]) -> None:
        """Slots by ascending address."""
        config, values = self.config, sorted(slots.items())
        rows = self("slot", len(values))
        addresses = [address for address, _ in values]
        rows.put_digits("a", addresses, min(2, config.address_digits), config.digit)
        rows.put_digits("v", [value for _, value in values], config.value_bytes)

    def input(self, first: int, data: bytes) -> None:
        """Bytes of the input space from address `first` on."""
        rows = self("input", len(data))
        rows.put_digits("a", np.arange(first, first + len(data)), 3)
        rows.put("v0", np.frombuffer(data, np.uint8))


class _Rows:
    """Tokens under construction, one field of all of them at a time.

    Raises:
      ValueError: as `token` does.
    """

    def __init__(self, config: MachineConfig, rows_NxF: np.ndarray) -> None:
        self.config, self.rows_NxF = config, rows_NxF

    def put(self, name: str, values_N: Sequence[int] | np.ndarray) -> None:
        """Sets a field."""
        if not len(self.rows_NxF):
            return  # whether there is such a field or not
        column = columns(self.config).get(name)
        if column is None:
            raise ValueError(f"this machine's tokens have no field '{name}'")
        field = fields(self.config)[column]
        values_N = np.asarray(values_N, np.int64)
        bad = np.flatnonzero((values_N < field.lo) | (values_N > field.hi))
        if len(bad):
            value = values_N[bad[0]]
            raise ValueError(f"field {name}: {value} is outside {field.lo}..{field.hi}")
        self.rows_NxF[:, column] = values_N

    def put_digits(
        self,
        name: str,
        values_N: Sequence[int] | np.ndarray,
        count: int,
        base: int = 256,
        first: int = 0,
    ) -> None:
        """Sets the fields from `name` + `first` on to the values' digits."""
        for k, digit_N in enumerate(_all_digits(values_N, count, base), first):
            self.put(f"{name}{k}", digit_N)


def _all_digits(values_N: Sequence[int] | np.ndarray, count: int, base: int) -> list[np.ndarray]:
    """The `digits` of many integers: per digit, int64 [N]."""
    try:
        rest_N = np.array(values_N, np.uint64)
        fits = int(rest_N.max(initial=0)) < base**count
    except OverflowError:
        fits = False
    if not fits:
        for value in values_N:
            digits(int(value), count, base)
    out = []
    for _ in range(count):
        out.append((rest_N % np.uint64(base)).astype(np.int64))
        rest_N //= np.uint64(base)
    return out


def code_tokens(config: MachineConfig, code: Sequence[Instruction]) -> np.ndarray:
    """The tokens of instructions from index 0 on, int32 [N, n_fields]; as in `prompt`."""
    segment = _Segments(config, len(code))
    _encode_code(segment("code", len(code)), code, 0)
    return segment.tokens_NxF


def _encode_code(rows: _Rows, code: Sequence[Instruction], first: int) -> None:
    """What `encode_instruction` makes of each instruction, from index `first` on, all at once."""
    config = rows.config
    here_N = np.arange(first, first + len(code))
    number = {op: 1 + k for k, op in enumerate(config.instructions)}
    for ins in code:
        if ins.op not in number:
            raise ValueError(f"this machine has no operation '{ins.op}'")
    rows.put("op", [number[ins.op] for ins in code])
    rows.put("dsp", [ins.dsp for ins in code])
    rows.put_digits("a", here_N, config.address_digits, config.digit)
    rows.put_digits("v", [ins.imm for ins in code], config.value_bytes)
    for letter, slots in (
        ("a", [ins.a for ins in code]),
        ("b", [ins.b for ins in code]),
        ("c", [ins.c for ins in code]),
        ("d", [ins.d for ins in code]),
    ):
        rows.put(f"base_{letter}", [_BASES[slot.base] for slot in slots])
        rows.put(f"offset_{letter}", [slot.offset for slot in slots])

    here = _all_digits(here_N, config.ip_digits, config.digit)

    def put_deltas(name: str, goals: Iterable[int | None]) -> None:
        """Distances to instructions; 0 where there is no goal."""
        targets = [k if goal is None else goal for k, goal in enumerate(goals, first)]
        there = _all_digits(targets, config.ip_digits, config.digit)
        for k, (there_N, here_N) in enumerate(zip(there, here, strict=True)):
            rows.put(f"{name}{k}", there_N - here_N)

    stays = {op for op in number if _stays(op)}
    put_deltas(
        "next",
        (
            None if ins.op in stays else k if ins.next is None else ins.next
            for k, ins in enumerate(code, first + 1)
        ),
    )
    put_deltas("target", (None if ins.type_id is not None else ins.target for ins in code))
    typed = [k for k, ins in enumerate(code) if ins.type_id is not None]
    calls = _Rows(config, rows.rows_NxF[typed])  # a copy
    calls.put_digits("target", [code[k].type_id or 0 for k in typed], 2)
    rows.rows_NxF[typed] = calls.rows_NxF
    aux_digits = sum(field.name.startswith("aux") for field in fields(config))
    rows.put_digits("aux", [ins.aux for ins in code], aux_digits)


def _move_registers(config: MachineConfig, **deltas: int) -> list[np.ndarray]:
    """Tokens that change running sums by any amount, in steps a field can hold."""
    rows = []
    deltas = {name: delta for name, delta in deltas.items() if name in columns(config)}
    while any(deltas.values()):
        step = {}
        for name, delta in deltas.items():
            field = fields(config)[columns(config)[name]]
            step[name] = min(max(delta, field.lo), field.hi)
            deltas[name] -= step[name]
        rows.append(token(config, **step))
    return rows


@dataclasses.dataclass(frozen=True, slots=True)
class Registers:
    """The running sums over a token sequence: ip digits, sp, fp, call depth."""

    ip: tuple[int, ...]
    sp: int
    fp: int
    depth: int


def registers(config: MachineConfig, tokens_NxF: np.ndarray) -> Registers:
    """Sums the delta fields of a token sequence."""
    return registers_of(config, tokens_NxF.astype(np.int64).sum(axis=0))


def registers_of(config: MachineConfig, total: np.ndarray) -> Registers:
    """Picks the registers out of per-field sums over a token sequence, int [F]."""
    column = columns(config)
    return Registers(
        tuple(int(total[column[f"ip{k}"]]) for k in range(config.ip_digits)),
        int(total[column["sp"]]),
        int(total[column["fp"]]) if "fp" in column else 0,
        int(total[column["depth"]]) if "depth" in column else 0,
    )


def invocation(
    config: MachineConfig,
    program: Program,
    now: Registers,
    *,
    entry: int,
    args: Sequence[int],
    header: int,
    frame_size: int,
) -> np.ndarray:
    """The tokens that call a function: its arguments, then the frame header, which jumps.

    Args:
      now: sums over everything before (`registers`).
      entry: the function's (direct) entry.
      args: argument values as unsigned bits.
      header: slots between the frame's start and its header, max(parameters, results).
      frame_size: slots from the frame's start to the operand stack.

    Raises:
      ValueError: if something does not fit the machine's fields, or it has no calls (a machine
        without them starts at instruction 0 after its prompt).
    """
    if "depth" not in columns(config):
        raise ValueError("a machine without calls has no invocations")
    base = program.stack_base
    rows = _move_registers(config, sp=base - now.sp, fp=base - now.fp, depth=-now.depth)
    rows += [write_slot(config, base + k, value) for k, value in enumerate(args)]
    back = digits(program.halt, 3) + digits(0, 2)  # return ip, and by how much fp moves back
    there = digits(entry, config.ip_digits, config.digit)
    jump = [t - h for h, t in zip(now.ip, there, strict=True)]
    rows.append(
        write_slot(
            config,
            base + header,
            sum(digit << 8 * k for k, digit in enumerate(back)),
            sp=frame_size,
            depth=1,
            **_numbered("ip", jump),
        )
    )
    return np.stack(rows)
