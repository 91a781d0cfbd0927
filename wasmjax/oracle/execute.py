"""Plain integer executor of the token stream: the reference every engine is compared with.

It reads the same prompt array and emits the same tokens as the transformer, with Python integers
and nothing else: no floats, no circuit, no weights. An instruction token is decoded once into a
closure; a step then costs a few Python calls. Tokens are packed into arrays in bulk.
"""

from collections.abc import Callable

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.program import Registers
from wasmjax.machine.tokens import columns, fields
from wasmjax.oracle import alu

_KIND = isa.KIND
_NONE, _SLOT, _TRAP, _CODE = _KIND["none"], _KIND["slot"], _KIND["trap"], _KIND["code"]
_STORE_SIZE = {_KIND[f"mem{size}"]: size for size in (1, 2, 4, 8)}
_MASK32 = 0xFFFF_FFFF
_PAGE = 65536
_CHUNK = 1 << 16  # steps whose records are held as Python objects before they become an array

_OUT_OF_BOUNDS = isa.TRAP["out of bounds memory access"]
_EXHAUSTED = isa.TRAP["call stack exhausted"]


class OracleError(Exception):
    """The program left the machine: no instruction, a field out of range, a limit passed.

    Attributes:
      step: index of the generated token that could not be emitted; None while feeding tokens.
    """

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message if step is None else f"step {step}: {message}")
        self.step = step


class _Refused(Exception):
    """An `OracleError` whose step number the raiser does not know."""


class _Slots(dict[int, int]):
    """Slot values; an address never written reads as zero (address -1 is the BOS token's)."""

    def __init__(self, strict: bool):
        super().__init__()
        self.strict = strict

    def __missing__(self, address: int) -> int:
        if self.strict and address != -1:
            raise _Refused(f"slot {address} is read but was never written")
        return 0


class _Node:
    """A place in the program: the instruction at one ip, as a function of sp, fp and depth."""

    __slots__ = ("ip", "step")

    step: "_Step"

    def __init__(self, ip: tuple[int, ...]):
        self.ip = ip


class _Outcome:
    """All of a token but its value and address bytes, and what follows it."""

    __slots__ = ("depth", "fp", "frame", "kind", "limit", "next", "row", "sp", "store")

    def __init__(self, kind: int, store: bool, limit: int, row: int, next_node: _Node):
        self.kind = kind
        self.store = store  # address bytes are those of a byte address, not of a slot
        self.limit = limit  # exclusive, of the address
        self.row = row  # template of the token
        self.next = next_node
        self.sp = self.fp = self.depth = 0
        self.frame = False  # fp or depth changes


_Record = tuple[_Outcome, int, int]  # outcome, value, address: one token
_Step = Callable[[int, int, int], _Record]  # of sp, fp, depth
_Read = Callable[[int, int], int]  # of sp, fp


class _Instruction:
    """The fields of an instruction token.

    Attributes:
      op, control: operation and its control columns.
      operands: per letter of "abcd" (base, offset).
      imm: the immediate; dsp, next, target, aux: as in the token (digit tuples, bytes).
    """

    def __init__(self, config: MachineConfig, row: np.ndarray):
        column = columns(config)
        cell = {name: int(row[index]) for name, index in column.items()}
        if not cell["op"]:
            raise _Refused("the token at ip is no instruction")
        self.op = config.instructions[cell["op"] - 1]
        self.control = isa.OPS[self.op]
        self.operands = {x: (cell[f"base_{x}"], cell[f"offset_{x}"]) for x in "abcd"}
        self.imm = sum(cell[f"v{k}"] << 8 * k for k in range(config.value_bytes))
        self.dsp = cell["dsp"]
        self.next = tuple(cell[f"next{k}"] for k in range(config.ip_digits))
        self.target = tuple(cell[f"target{k}"] for k in range(config.ip_digits))
        self.aux = tuple(cell.get(f"aux{k}", 0) for k in range(4))

    def column(self, name: str) -> int:
        return self.control.get(name, 0)


class Oracle:
    """Executes a token stream.

    Args:
      config: the machine.
      strict: refuse steps whose result depends on a slot never written (the transformer answers
        with the nearest slot written, the oracle with 0: a front end must not let it matter).

    Raises:
      ValueError: if the machine has memory and digits that are not bytes.
    """

    def __init__(self, config: MachineConfig, strict: bool = False):
        if "memory" in config.spaces and config.digit != 256:
            raise ValueError("a machine with memory needs 256-valued digits")
        self.config = config
        self.stopped = False
        """Whether the last token (fed or generated) was a stop token."""
        self.steps = 0
        """Tokens generated so far."""
        self._fields = fields(config)
        self._column = columns(config)
        self._slots = _Slots(strict)
        self._memory = bytearray()
        self._inputs: dict[int, int] = {}
        self._table: dict[int, tuple[tuple[int, ...], int, int]] = {}  # ip digits, type id, code
        self._code: dict[int, np.ndarray] = {}
        self._output = {_KIND["out"]: bytearray(), _KIND["err"]: bytearray()}
        self._sp = self._fp = self._depth = 0
        self._nodes: dict[tuple[int, ...], _Node] = {}
        self._templates = np.zeros((64, len(self._fields)), np.int32)
        self._n_templates = 0
        self._last: _Record | np.ndarray | None = None
        self._slot_limit = config.digit ** min(2, config.address_digits)
        digits = [self._fields[self._column[f"a{k}"]].hi for k in range(config.address_digits)]
        self._store_limit = min(
            config.memory_pages * _PAGE, 1 + sum(hi << 8 * k for k, hi in enumerate(digits))
        )
        self._node = self._node_at((0,) * config.ip_digits)

    # --- what a caller sees ---

    def feed(self, tokens_NxF: np.ndarray) -> None:
        """Appends given tokens: a prompt, an invocation, or an engine's own tokens.

        Args:
          tokens_NxF: integers, columns as in `machine.tokens.fields`.

        Raises:
          OracleError: if the shape is wrong, a value lies outside its field, or an address
            outside the memory (which leaves the tokens before it written).
        """
        tokens = np.array(tokens_NxF)  # a copy: code rows are kept
        if tokens.ndim != 2 or tokens.shape[1] != len(self._fields):
            raise OracleError(f"tokens must be [N, {len(self._fields)}], not {tokens.shape}")
        if not len(tokens):
            return
        self._check_ranges(tokens)
        column, config = self._column, self.config
        kinds = tokens[:, column["kind"]].tolist()
        values = _numbers(tokens[:, [column[f"v{k}"] for k in range(config.value_bytes)]])
        a = tokens[:, [column[f"a{k}"] for k in range(config.address_digits)]].astype(np.int64)
        positional = (a @ config.digit ** np.arange(a.shape[1])).tolist()
        in_bytes = (a @ 256 ** np.arange(a.shape[1])).tolist()
        total = tokens.sum(axis=0, dtype=np.int64)
        ip = tuple(now + int(total[column[f"ip{k}"]]) for k, now in enumerate(self._node.ip))
        self._sp += int(total[column["sp"]])
        if "fp" in column:
            self._fp += int(total[column["fp"]])
        if "depth" in column:
            self._depth += int(total[column["depth"]])
        for i, kind in enumerate(kinds):
            if kind == _SLOT:
                self._slots[positional[i]] = values[i]
            elif kind == _CODE:
                self._code[positional[i]] = tokens[i]
                self._nodes.clear()  # what is decoded may be stale
            elif kind == _KIND["table"]:
                entry = tuple(values[i] >> 8 * k & 255 for k in range(config.ip_digits))
                self._table[in_bytes[i]] = entry, values[i] >> 24 & 0xFFFF, values[i] >> 40 & 255
            elif kind == _KIND["input"]:
                self._inputs[in_bytes[i]] = values[i] & 255
            elif kind in _STORE_SIZE or kind in self._output:
                try:
                    self._write(kind, in_bytes[i], values[i])
                except _Refused as error:
                    raise OracleError(f"fed token {i}: {error}") from None
        self._node = self._node_at(ip)
        self.stopped = kinds[-1] in isa.STOP_KINDS
        self._last = tokens[-1].astype(np.int32)

    def step(self) -> np.ndarray:
        """Generates one token, int32 [F].

        Raises:
          OracleError: if the machine has stopped or cannot take the step.
        """
        if self.stopped:
            raise OracleError("the machine has stopped: feed an invocation first", self.steps)
        log: list[_Record] = []
        self._advance(1, log)
        return self._pack(log)[0]

    def run(self, max_steps: int, keep: bool = True) -> np.ndarray:
        """Generates tokens up to a stop token or `max_steps`, whichever comes first.

        A machine that has stopped generates nothing until tokens are fed.

        Args:
          keep: whether to return the tokens. Without, only state and outputs are kept.

        Returns:
          int32 [T, F], the stop token included; [0, F] without `keep`.

        Raises:
          OracleError: if a step cannot be taken; the state is that before the step.
        """
        end = self.steps + max_steps
        chunks = [np.zeros((0, len(self._fields)), np.int32)]
        while self.steps < end and not self.stopped:
            log: list[_Record] | None = [] if keep else None
            self._advance(min(_CHUNK, end - self.steps), log)
            if log:
                chunks.append(self._pack(log))
        return np.concatenate(chunks)

    @property
    def registers(self) -> Registers:
        """The running sums over all tokens so far."""
        return Registers(self._node.ip, self._sp, self._fp, self._depth)

    @property
    def last_token(self) -> np.ndarray | None:
        """The last token fed or generated, int32 [F]; None before the first."""
        return self._pack([self._last])[0] if isinstance(self._last, tuple) else self._last

    @property
    def stdout(self) -> bytes:
        """The bytes of all tokens of kind out."""
        return bytes(self._output[_KIND["out"]])

    @property
    def stderr(self) -> bytes:
        """The bytes of all tokens of kind err."""
        return bytes(self._output[_KIND["err"]])

    def slot(self, address: int) -> int:
        """The value of a slot (0 if never written)."""
        return self._slots.get(address, 0)

    def memory(self, address: int, size: int) -> bytes:
        """`size` bytes of memory from a byte address (0 where never written)."""
        return bytes(self._memory[address : address + size]).ljust(size, b"\0")

    # --- steps ---

    def _advance(self, count: int, log: list[_Record] | None) -> None:
        """Takes up to `count` steps, stopping after a stop token."""
        slots, node, record = self._slots, self._node, self._last
        sp, fp, depth = self._sp, self._fp, self._depth
        end = self.steps + count
        done = self.steps
        try:
            while done < end:
                new = node.step(sp, fp, depth)
                outcome, value, address = new
                if not 0 <= address < outcome.limit:
                    raise _Refused(self._bad_address(outcome, address))
                kind = outcome.kind
                if kind == _SLOT:
                    slots[address] = value
                elif kind != _NONE:
                    self._write(kind, address, value)
                    self.stopped = kind in isa.STOP_KINDS
                if log is not None:
                    log.append(new)
                record = new
                done += 1
                sp += outcome.sp
                if outcome.frame:
                    fp += outcome.fp
                    depth += outcome.depth
                node = outcome.next
                if self.stopped:
                    break
        except _Refused as error:
            raise OracleError(str(error), done) from None
        finally:
            self._last = record
            self._node, self.steps = node, done
            self._sp, self._fp, self._depth = sp, fp, depth

    def _write(self, kind: int, address: int, value: int) -> None:
        """The effect of a token other than a slot write on memory and outputs."""
        size = _STORE_SIZE.get(kind)
        if size is not None:
            memory, end = self._memory, address + size
            if end > self._store_limit:
                raise _Refused(
                    f"byte {address} is outside the machine's memory ({self._store_limit} bytes)"
                )
            if end > len(memory):
                memory.extend(
                    bytes(max(end, min(2 * len(memory), self._store_limit)) - len(memory))
                )
            memory[address:end] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        elif kind in self._output:
            self._output[kind].append(value & 255)

    def _bad_address(self, outcome: _Outcome, address: int) -> str:
        space = "byte address" if outcome.store else "slot address"
        names = "a0" if self.config.address_digits == 1 else "a0, a1, ..."
        return f"fields {names}: {space} {address} is outside 0..{outcome.limit - 1}"

    # --- tokens ---

    def _check_ranges(self, tokens: np.ndarray) -> None:
        lo = np.array([field.lo for field in self._fields])
        hi = np.array([field.hi for field in self._fields])
        bad = np.argwhere((tokens < lo) | (tokens > hi))
        if len(bad):
            row, index = (int(x) for x in bad[0])
            field = self._fields[index]
            raise OracleError(
                f"fed token {row}: field {field.name}: {tokens[row, index]} is outside "
                f"{field.lo}..{field.hi}"
            )

    def _pack(self, log: list[_Record]) -> np.ndarray:
        """Tokens of step records, int32 [T, F]."""
        config, column = self.config, self._column
        out = self._templates[[outcome.row for outcome, _, _ in log]]
        values = np.array([value for _, value, _ in log], np.uint64)
        addresses = np.array([address for _, _, address in log], np.int64)
        base = np.array([256 if outcome.store else config.digit for outcome, _, _ in log])
        for k in range(config.value_bytes):
            out[:, column[f"v{k}"]] = values >> np.uint64(8 * k) & np.uint64(255)
        for k in range(config.address_digits):
            out[:, column[f"a{k}"]] = addresses % base
            addresses = addresses // base
        return out

    def _template(self, values: dict[str, int]) -> int:
        """The row of a new template token; fields the machine lacks must be zero."""
        row = np.zeros(len(self._fields), np.int32)
        for name, value in values.items():
            index = self._column.get(name)
            field = None if index is None else self._fields[index]
            if field is None:
                if value:
                    raise _Refused(f"field {name}: this machine's tokens have none ({value})")
                continue
            if not field.lo <= value <= field.hi:
                raise _Refused(f"field {name}: {value} is outside {field.lo}..{field.hi}")
            row[index] = value
        if self._n_templates == len(self._templates):
            self._templates = np.concatenate([self._templates, np.zeros_like(self._templates)])
        self._templates[self._n_templates] = row
        self._n_templates += 1
        return self._n_templates - 1

    # --- decoding ---

    def _node_at(self, ip: tuple[int, ...]) -> _Node:
        """The node of an ip, given as digit sums (they need not be canonical digits)."""
        node = self._nodes.get(ip)
        if node is None:
            new = node = self._nodes[ip] = _Node(ip)

            def decode_first(sp: int, fp: int, depth: int) -> _Record:
                new.step = self._decode(ip)
                return new.step(sp, fp, depth)

            node.step = decode_first
        return node

    def _outcome(
        self,
        ins: _Instruction,
        ip: tuple[int, ...],
        delta: tuple[int, ...],
        *,
        kind: int | None = None,
        code: int = 0,
        fp: int = 0,
    ) -> _Outcome:
        """An outcome of `ins` at `ip` whose ip deltas are `delta`."""
        kind = ins.column("kind") if kind is None else kind
        depth = ins.column("depth")
        values = {"kind": kind, "code": code, "sp": ins.dsp, "fp": fp, "depth": depth}
        values |= {f"ip{k}": change for k, change in enumerate(delta)}
        store = bool(ins.column("store"))
        out = _Outcome(
            kind,
            store,
            self._store_limit if store else self._slot_limit,
            self._template(values),
            self._node_at(tuple(i + d for i, d in zip(ip, delta, strict=True))),
        )
        out.sp, out.fp, out.depth = ins.dsp, fp, depth
        out.frame = bool(fp or depth)
        return out

    def _address(self, ins: _Instruction, letter: str) -> _Read:
        base, offset = ins.operands[letter]
        if base == 0:
            return lambda sp, fp: offset
        if base == 1:
            return lambda sp, fp: sp + offset
        return lambda sp, fp: fp + offset

    def _operand(self, ins: _Instruction, letter: str) -> _Read:
        """The value of slot operand A or C."""
        slots = self._slots
        base, offset = ins.operands[letter]
        if base == 0:
            return lambda sp, fp: slots[offset]
        if base == 1:
            return lambda sp, fp: slots[sp + offset]
        return lambda sp, fp: slots[fp + offset]

    def _operand_b(self, ins: _Instruction) -> _Read:
        """Slot operand B plus the immediate, byte by byte."""
        read, imm, count = self._operand(ins, "b"), ins.imm, self.config.value_bytes
        if not imm:
            return read
        if ins.operands["b"] == (0, -1):
            return lambda sp, fp: imm

        def plus_immediate(sp: int, fp: int) -> int:
            value = read(sp, fp)
            for k in range(count):
                total = (value >> 8 * k & 255) + (imm >> 8 * k & 255)
                if total > 255:
                    raise _Refused(f"byte {k} of B plus the immediate is {total}")
            return value + imm

        return plus_immediate

    def _value(self, ins: _Instruction) -> _Read:
        """The value an operation other than a load computes."""
        a, b, c = self._operand(ins, "a"), self._operand_b(ins), self._operand(ins, "c")
        op = ins.op
        if op in alu.BINARY or op in alu.COUNT or op in alu.EXTEND:
            width = int(op[1 : op.index(".")])
            if width > 8 * self.config.value_bytes:
                raise _Refused(f"{op} needs values of {width // 8} bytes")
        if op in alu.BINARY:
            binary = alu.BINARY[op]
            return lambda sp, fp: binary(a(sp, fp), b(sp, fp))
        if op in alu.COUNT:
            count = alu.COUNT[op]
            return lambda sp, fp: count(a(sp, fp))
        if op in alu.EXTEND:
            extend = alu.EXTEND[op]
            return lambda sp, fp: extend(b(sp, fp))
        if ins.column("input"):
            inputs = self._inputs

            def read_input(sp: int, fp: int) -> int:
                index = a(sp, fp) & 0xFFFFFF
                byte = inputs.get(index)
                if byte is None:  # the transformer would answer with the nearest byte
                    raise _Refused(f"there is no input byte {index}")
                return byte

            return read_input
        mask = sum(
            ins.column(name) * lanes
            for name, lanes in (
                ("pass0", 0xFF),
                ("pass1", 0xFF00),
                ("pass23", 0xFFFF_0000),
                ("pass47", _MASK32 << 32),
            )
        )
        if not mask:
            return lambda sp, fp: 0
        if ins.column("select") == 2:
            return lambda sp, fp: a(sp, fp) & mask
        if ins.column("select") == 1:
            return lambda sp, fp: (a(sp, fp) if c(sp, fp) & _MASK32 else b(sp, fp)) & mask
        return lambda sp, fp: b(sp, fp) & mask

    def _decode(self, ip: tuple[int, ...]) -> _Step:
        index = sum(digit * self.config.digit**k for k, digit in enumerate(ip))
        row = self._code.get(index)
        if row is None:
            raise _Refused(f"there is no instruction at {index}")
        ins = _Instruction(self.config, row)
        if ins.column("mem"):
            return self._load_or_store(ins, ip)
        if ins.column("branch") or ins.column("branch_not"):
            return self._branch(ins, ip)
        if ins.column("call") or ins.column("ret") or ins.column("table"):
            return self._transfer(ins, ip)
        code = ins.aux[0] if ins.column("code") else 0
        outcome = self._outcome(ins, ip, ins.next, code=code)
        value, d = self._value(ins), self._address(ins, "d")
        return lambda sp, fp, depth: (outcome, value(sp, fp), d(sp, fp))

    def _branch(self, ins: _Instruction, ip: tuple[int, ...]) -> _Step:
        through, taken = (self._outcome(ins, ip, delta) for delta in (ins.next, ins.target))
        if ins.column("branch_not"):
            through, taken = taken, through
        c, d, value = self._operand(ins, "c"), self._address(ins, "d"), self._value(ins)
        return lambda sp, fp, depth: (
            taken if c(sp, fp) & _MASK32 else through,
            value(sp, fp),
            d(sp, fp),
        )

    def _load_or_store(self, ins: _Instruction, ip: tuple[int, ...]) -> _Step:
        memory = self._memory
        size = ins.column("size_minus_1") + 1
        offset = sum(byte << 8 * k for k, byte in enumerate(ins.aux))
        a, c, d = self._operand(ins, "a"), self._operand(ins, "c"), self._address(ins, "d")
        good = self._outcome(ins, ip, ins.next)
        bad = self._outcome(ins, ip, ins.next, kind=_TRAP, code=_OUT_OF_BOUNDS)
        if ins.column("store"):
            value = self._value(ins)

            def store(sp: int, fp: int, depth: int) -> _Record:
                address = (a(sp, fp) & _MASK32) + offset
                if address + size > _PAGE * (c(sp, fp) & 0xFFFF):
                    return bad, 0, 0
                return good, value(sp, fp), address

            return store

        # i32.load8_s: the fill of a negative number is everything between the two widths.
        sign = fill = 0
        if ins.op.endswith("_s"):
            sign, fill = 1 << (8 * size - 1), (1 << int(ins.op[1:3])) - (1 << 8 * size)

        def load(sp: int, fp: int, depth: int) -> _Record:
            address = (a(sp, fp) & _MASK32) + offset
            if address + size > _PAGE * (c(sp, fp) & 0xFFFF):
                return bad, 0, d(sp, fp)
            value = int.from_bytes(memory[address : address + size], "little")
            return good, value | fill if value & sign else value, d(sp, fp)

        return load

    def _transfer(self, ins: _Instruction, ip: tuple[int, ...]) -> _Step:
        """Calls, returns and table jumps: outcomes depend on B, the table entry, the limits."""
        a, b, c = self._operand(ins, "a"), self._operand_b(ins), self._operand(ins, "c")
        d, value, table = self._address(ins, "d"), self._value(ins), self._table
        calls, returns, looks_up = (ins.column(name) for name in ("call", "ret", "table"))
        last, base = ins.aux[0] + 256 * ins.aux[1], ins.aux[2] + 256 * ins.aux[3]
        type_id = ins.target[0] + 256 * ins.target[1] if ins.column("type_check") else None
        known: dict[tuple[int, tuple[tuple[int, ...], int, int] | None, bool], _Outcome] = {}

        def build(
            link: int, entry: tuple[tuple[int, ...], int, int] | None, exhausted: bool
        ) -> _Outcome:
            delta, kind, code = ins.next, None, 0
            goal: tuple[int, ...] = ()
            if returns:
                goal = tuple(link >> 8 * k & 255 for k in range(len(ip)))
            elif entry is not None:
                goal = entry[0]
                if type_id is not None and entry[1] != type_id:
                    kind, code = _TRAP, entry[2]
            if goal:
                delta = tuple(
                    n + g - i for n, g, i in zip(delta, goal, ip, strict=True)
                )  # next is zero
            if exhausted:  # comes before the type check
                kind, code = _TRAP, _EXHAUSTED
            fp = (calls - returns) * (link >> 24)
            return self._outcome(ins, ip, delta, kind=kind, code=code, fp=fp)

        def transfer(sp: int, fp: int, depth: int) -> _Record:
            link = b(sp, fp) & 0xFF_FFFF_FFFF if calls or returns else 0
            entry = None
            if looks_up:
                at = base + min(a(sp, fp) & _MASK32, last)
                entry = table.get(at)
                if entry is None:
                    raise _Refused(f"there is no table entry {at}")
            exhausted = False
            if calls:
                limits = c(sp, fp)
                exhausted = depth >= limits & 0xFFFF or sp >= limits >> 16 & 0xFFFF
            key = link, entry, exhausted
            outcome = known.get(key)
            if outcome is None:
                outcome = known[key] = build(*key)
            return outcome, value(sp, fp), d(sp, fp)

        return transfer


def _numbers(bytes_NxB: np.ndarray) -> list[int]:
    """Little-endian bytes as Python integers."""
    padded = np.zeros((len(bytes_NxB), 8), np.uint8)
    padded[:, : bytes_NxB.shape[1]] = bytes_NxB
    return padded.view("<u8")[:, 0].tolist()
