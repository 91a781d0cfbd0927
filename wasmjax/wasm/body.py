"""Lowering of one function body: structured control and stack code to flat instructions.

Every operand's place is known when lowering, so `sp` need not follow each push and pop: `_height`
is where the operand stack ends (an offset from fp), `_sp` where sp really is at this point, and
whatever comes next makes up the difference. So `drop` costs no step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.program import NO_DESTINATION, NOWHERE, Slot, table_aux
from wasmjax.wasm import division, layout, operators
from wasmjax.wasm.assemble import TABLE_SPACE, Code, Draft, Label
from wasmjax.wasm.frames import (
    Frame,
    block_type,
    header_offset,
    labels,
    locals_to_zero,
    number,
)
from wasmjax.wasm.scope import Callee, Scope, TablePlace
from wasmjax.wasm.types import Function, FuncType, Immediate, Instr, MemArg

Immediates = tuple[Immediate, ...]

_MEMORY_BYTES = WASM.memory_pages * layout.PAGE
_LIMITS = Slot("abs", layout.LIMITS_SLOT)


@dataclass(slots=True)
class _Block:
    """A structured control instruction around the current one.

    Attributes:
      kind: "function", "block", "loop" or "if".
      base: height below the values that a branch to it passes.
      arity: how many values those are.
      sp: where sp must be on arrival at the label.
      otherwise: an if's label of the else arm, until that is bound.
      params: number of values an if's else arm starts with.
    """

    kind: str
    base: int
    arity: int
    sp: int
    label: Label = field(default_factory=Label)
    otherwise: Label | None = None
    results: int = 0
    params: int = 0


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of a step: what is in a slot, or (slot NOWHERE) a constant.

    Attributes:
      note: the instruction that pushed it, for traces, where a step reads it in its place.
    """

    slot: Slot
    imm: int = 0
    note: str = ""

    @property
    def constant(self) -> bool:
        """Whether it is a number that no slot holds; zero is one that can be read."""
        return self.slot == NOWHERE and self.imm != 0


class BodyLowering:
    """Lowers one body into `code`.

    Args:
      function: the function.
      frame: its frame.
      scope: what its indices mean.
      code: where its instructions go; an entry label is bound there already.
    """

    def __init__(self, function: Function, frame: Frame, scope: Scope, code: Code):
        self._function = function
        self._frame = frame
        self._scope = scope
        self._code = code
        self._height = self._sp = frame.size
        n_results = len(function.type.results)
        self._blocks = [
            _Block("function", frame.size, n_results, frame.size + n_results, results=n_results)
        ]
        self._note = ""
        self._begin()

    def _begin(self) -> None:
        """For subclasses with state of their own."""

    def run(self) -> None:
        """Lowers the whole body."""
        for index in locals_to_zero(self._function):
            slot = Slot("fp", self._frame.local(index))
            self._code.emit(Draft("move", d=slot, note=f"local {index} = 0"))
        unreachable_depth = 0
        body = self._function.body
        divided = False
        for instr, following in zip(body, (*body[1:], body[-1]), strict=True):
            name = instr.name
            if divided:  # with the constant before
                divided = False
                continue
            if not self._code.reachable:  # skip up to this block's else or end
                if name in ("block", "loop", "if"):
                    unreachable_depth += 1
                    continue
                if unreachable_depth:
                    unreachable_depth -= name == "end"
                    continue
                if name not in ("else", "end"):
                    continue
            self._note = operators.describe(instr)
            divided = self._divides(instr, following)
            if not divided:
                self._instruction(name, instr.immediates)

    def _divides(self, instr: Instr, following: Instr) -> bool:
        """Lowers a constant and the division by it that follows, if they are that."""
        if following.name in operators.DIVISIONS and instr.name in operators.CONSTANTS:
            return self._divide(following.name, number(instr.immediates))
        return False

    # --- steps ---

    def _at(self, height: int) -> Slot:
        """The slot of the value at a height."""
        return Slot("sp", height - self._sp)

    def _take(self, position: int) -> Operand:
        """The operand at a position from the top (1: the top one)."""
        return Operand(self._at(self._height - position))

    def _constant_address(self, position: int, most: int) -> int:
        """The constant in an operand's place, if it is one, and at most so large; that operand is
        zero then."""
        del position, most
        return 0

    def _emit(self, op: str, height: int, d: Slot = NO_DESTINATION, **values: object) -> None:
        """A step after which the stack has `height` and sp is there."""
        draft = Draft(op, d=d, dsp=height - self._sp, note=self._note, **values)  # type: ignore[arg-type]
        self._code.emit(draft)
        self._height = self._sp = height

    def _push(self, op: str, pops: int, **values: object) -> None:
        """A step that pops `pops` operands and pushes one value."""
        height = self._height - pops
        self._emit(op, height + 1, d=self._at(height), **values)

    def _trap(self, code: int) -> None:
        self._code.emit(Draft("trap", aux=code, note=self._note))

    # --- instructions ---

    def _instruction(self, name: str, immediates: Immediates) -> None:
        if name in operators.NO_STEP:
            return
        handler = _HANDLERS.get(name)
        top, below = self._at(self._height - 1), self._at(self._height - 2)
        if handler is not None:
            handler(self, immediates)
        elif name in operators.BINARY:
            self._push(name, 2, a=below, b=top)
        elif name in operators.COUNTS:
            self._push(name, 1, a=top)
        elif name in operators.EXTENSIONS:
            operand = self._take(1)
            self._push(operators.EXTENSIONS[name], 1, b=operand.slot, imm=operand.imm)
        elif name in operators.CONSTANTS:
            self._push("move", 0, b=NOWHERE, imm=number(immediates))
        elif name in ("i32.eqz", "i64.eqz"):
            self._push(name[:3] + ".eq", 1, a=top, b=NOWHERE)
        elif name in operators.LOADS or name in operators.STORES:
            self._access(name, immediates)
        elif name in operators.LIBRARY:
            self._call(self._scope.library(name))
        elif name in operators.SIGN_CHANGES:
            self._change_sign(name)
        elif name in operators.SUBTRACTIONS:
            self._change_sign(f"{name[:3]}.neg")
            self._call(self._scope.library(operators.SUBTRACTIONS[name]))
        else:
            self._trap(self._scope.unsupported_code(name))

    def _access(self, name: str, immediates: Immediates) -> None:
        loads = name in operators.LOADS
        access = (operators.LOADS if loads else operators.STORES)[name]
        memarg = immediates[0]
        assert isinstance(memarg, MemArg)
        memory = self._scope.memory()
        aux, end = memory.base * layout.PAGE + memarg.offset, Slot("abs", memory.end_slot)
        if aux + access.size > _MEMORY_BYTES:
            self._trap(isa.TRAP["out of bounds memory access"])
            return
        position = 1 if loads else 2
        aux += self._constant_address(position, _MEMORY_BYTES - access.size - aux)
        a = self._take(position).slot
        if loads:
            self._push(access.op, 1, a=a, c=end, aux=aux)
        else:
            b = self._take(1)
            self._emit(access.op, self._height - 2, a=a, b=b.slot, imm=b.imm, c=end, aux=aux)

    def _change_sign(self, name: str) -> None:
        integer, sign = ("i32", 1 << 31) if name[:3] == "f32" else ("i64", 1 << 63)
        top = self._at(self._height - 1)
        if name[4:] == "abs":
            self._push(f"{integer}.and", 1, a=top, b=NOWHERE, imm=sign - 1)
        elif name[4:] == "neg":
            self._push(f"{integer}.xor", 1, a=top, b=NOWHERE, imm=sign)
        else:  # copysign
            for height, imm in ((self._height - 2, sign - 1), (self._height - 1, sign)):
                slot = self._at(height)  # after the step before, which may have moved sp
                self._emit(f"{integer}.and", self._height, d=slot, a=slot, b=NOWHERE, imm=imm)
            below, top = self._at(self._height - 2), self._at(self._height - 1)
            self._push(f"{integer}.or", 2, a=below, b=top)

    def _divide(self, name: str, divisor: int) -> bool:
        """Divides by a constant that was not pushed, if that takes no trap."""
        steps = division.by_constant(name, divisor)
        if steps is None:
            return False
        note = f"{name} by {self._note.split()[-1]}"
        base = self._height - 1

        def slot(place: int) -> Slot:
            return NOWHERE if place == division.ZERO else self._at(base + place)

        for step in steps:
            draft = Draft(step.op, a=slot(step.a), b=slot(step.b), d=slot(step.to), imm=step.imm)
            draft.note = note
            self._code.emit(draft)
        return True

    def _drop(self, immediates: Immediates) -> None:
        self._height -= 1

    def _select(self, immediates: Immediates) -> None:
        a, b, c = (self._take(k) for k in (3, 2, 1))
        self._push("select", 3, a=a.slot, b=b.slot, imm=b.imm, c=c.slot)

    def _local_get(self, immediates: Immediates) -> None:
        self._push("move", 0, b=Slot("fp", self._frame.local(number(immediates))))

    def _local_set(self, immediates: Immediates) -> None:
        self._copy_top(Slot("fp", self._frame.local(number(immediates))), 1)

    def _local_tee(self, immediates: Immediates) -> None:
        self._copy_top(Slot("fp", self._frame.local(number(immediates))), 0)

    def _global_get(self, immediates: Immediates) -> None:
        self._push("move", 0, b=Slot("abs", self._scope.global_slot(number(immediates))))

    def _global_set(self, immediates: Immediates) -> None:
        self._copy_top(Slot("abs", self._scope.global_slot(number(immediates))), 1)

    def _copy_top(self, to: Slot, pops: int) -> None:
        self._emit("move", self._height - pops, d=to, b=self._at(self._height - 1))

    def _memory_size(self, immediates: Immediates) -> None:
        memory = self._scope.memory()
        end = Slot("abs", memory.end_slot)
        if memory.base:
            self._push("i32.sub", 0, a=end, b=NOWHERE, imm=memory.base)
        else:
            self._push("move", 0, b=end)

    def _memory_init(self, immediates: Immediates) -> None:
        slot = self._scope.segment_slot(number(immediates))
        self._push("move", 0, b=NOWHERE if slot is None else Slot("abs", slot))
        self._call(self._scope.library("memory.init"))

    def _data_drop(self, immediates: Immediates) -> None:
        slot = self._scope.segment_slot(number(immediates))
        if slot is not None:
            self._emit("move", self._height, d=Slot("abs", slot), b=NOWHERE)

    def _table_init(self, immediates: Immediates) -> None:
        slot = self._scope.element_slot(number(immediates))
        self._push("move", 0, b=NOWHERE if slot is None else Slot("abs", slot))
        self._push("move", 0, b=NOWHERE, imm=self._scope.table().size)
        self._call(self._scope.table_library("table.init"))

    def _table_copy(self, immediates: Immediates) -> None:
        self._push("move", 0, b=NOWHERE, imm=self._scope.table().size)
        self._call(self._scope.table_library("table.copy"))

    def _elem_drop(self, immediates: Immediates) -> None:
        slot = self._scope.element_slot(number(immediates))
        if slot is not None:
            self._emit("move", self._height, d=Slot("abs", slot), b=NOWHERE)

    def _unreachable(self, immediates: Immediates) -> None:
        self._trap(isa.TRAP["unreachable"])

    # --- calls ---

    def _call_function(self, immediates: Immediates) -> None:
        function = self._scope.function(number(immediates))
        if isinstance(function, str):
            self._primitive(function)
        else:
            self._call(function)

    def _call(self, callee: Callee) -> None:
        base = self._height - len(callee.type.params)
        self._transfer("call", callee.type, base, callee.frame_size, target=callee.entry)

    def _call_indirect(self, immediates: Immediates) -> None:
        type_ = self._scope.type_at(number(immediates))
        table = self._scope.table()
        last = table.size  # base 0; the element at index `size` traps
        if table.address is not None:
            self._element(table, table.address)
            last = TABLE_SPACE - 1
        index = self._at(self._height - 1)
        # The callee's locals are not known here: its indirect entry makes room for them.
        self._transfer(
            "call_indirect",
            type_,
            self._height - 1 - len(type_.params),
            header_offset(type_) + 1,
            a=index,
            aux=table_aux(0, last),
            type_id=self._scope.type_id(type_),
        )

    def _element(self, table: TablePlace, address: int) -> None:
        """Replaces the element index on the stack by the table space index that it holds."""
        height, index = self._height, self._at(self._height - 1)
        self._push("i32.lt_u", 0, a=index, b=NOWHERE, imm=table.size)
        inside = Label()
        self._emit("br_if", height, c=self._at(height), target=inside)
        self._trap(isa.TRAP["undefined element"])
        self._code.bind(inside)
        self._height = self._sp = height
        self._push("i32.shl", 1, a=self._at(height - 1), b=NOWHERE, imm=2)
        end = Slot("abs", table.end_slot)
        self._push("i32.load", 1, a=self._at(height - 1), c=end, aux=address)

    def _transfer(
        self, op: str, type_: FuncType, base: int, frame_size: int, **values: object
    ) -> None:
        """A call whose callee's frame starts at height `base`."""
        header = self._at(base + header_offset(type_))
        self._emit(op, base + frame_size, d=header, c=_LIMITS, fp_delta=base, **values)
        self._height = self._sp = base + len(type_.results)

    def _primitive(self, name: str) -> None:
        """A function of the pseudo-module that is one machine step or none."""
        top = self._at(self._height - 1)
        if name in ("out", "err"):
            self._emit(name, self._height - 1, b=top)
        elif name == "input":
            self._push(name, 1, a=top)
        elif name == "halt":
            self._emit(name, self._sp, b=top, aux=isa.EXITED)
        elif name != "narrow":  # narrow: an i64 known to be below 2^32 is that i32's slot
            self._trap(isa.TRAP[name])

    # --- structured control ---

    def _block(self, immediates: Immediates) -> None:
        self._open("block", immediates)

    def _open(self, kind: str, immediates: Immediates) -> _Block:
        type_ = block_type(immediates)
        params, results = len(type_.params), len(type_.results)
        base = self._height - params
        arity = params if kind == "loop" else results
        block = _Block(kind, base, arity, base + arity, results=results, params=params)
        self._blocks.append(block)
        return block

    def _loop(self, immediates: Immediates) -> None:
        block = self._open("loop", immediates)
        block.sp = self._sp
        self._code.bind(block.label)

    def _if(self, immediates: Immediates) -> None:
        condition = self._at(self._height - 1)
        otherwise = Label()
        self._emit("br_unless", self._height - 1, c=condition, target=otherwise)
        self._open("if", immediates).otherwise = otherwise

    def _else(self, immediates: Immediates) -> None:
        block = self._blocks[-1]
        if self._code.reachable:
            self._code.jump(block.label, block.sp - self._sp)
        assert block.otherwise is not None
        self._code.bind(block.otherwise)
        block.otherwise = None
        self._height = self._sp = block.base + block.params

    def _end(self, immediates: Immediates) -> None:
        block = self._blocks.pop()
        joined = block.otherwise is not None or (block.kind != "loop" and block.label.used)
        reachable = self._code.reachable
        if block.kind == "function":
            if reachable and (not joined or self._sp != block.sp):
                self._emit_return()
                reachable = False
        if joined:
            if reachable:
                self._code.move_sp(block.sp - self._sp)
            if block.otherwise is not None:
                self._code.bind(block.otherwise)
            self._code.bind(block.label)
            self._sp = block.sp
        if joined or reachable:
            self._height = block.base + block.results
            if block.kind == "function":
                self._emit_return()

    def _branch(self, immediates: Immediates) -> None:
        self._branch_to(self._blocks[-1 - number(immediates)])

    def _branch_to(self, block: _Block) -> None:
        """Goes to a label unconditionally."""
        if block.kind == "function":
            self._emit_return()
            return
        source = self._height - block.arity
        if source != block.base:
            for k in range(block.arity):
                move = Draft("move", b=self._at(source + k), d=self._at(block.base + k))
                move.note = f"{self._note}: result {k}"
                self._code.emit(move)
        self._code.jump(block.label, block.sp - self._sp)

    def _in_place(self, block: _Block) -> bool:
        """Whether the values that a branch passes lie where its label expects them."""
        return block.arity == 0 or self._height - block.arity == block.base

    def _branch_if(self, immediates: Immediates) -> None:
        block = self._blocks[-1 - number(immediates)]
        condition = self._at(self._height - 1)
        self._height -= 1
        if self._in_place(block):
            height = self._height
            self._emit("br_if", block.sp, c=condition, target=block.label)
            self._height = height
            return
        skip = Label()
        self._emit("br_unless", self._height, c=condition, target=skip)
        sp = self._sp
        self._branch_to(block)
        self._code.bind(skip)
        self._sp = sp

    def _branch_table(self, immediates: Immediates) -> None:
        blocks = [self._blocks[-1 - depth] for depth in labels(immediates)]
        index = self._at(self._height - 1)
        self._height -= 1
        if len(blocks) - 1 > WASM.table_limit:
            self._trap(self._scope.unsupported_code(f"br_table of {len(blocks)} targets"))
            return
        # The jump leaves one sp for all targets; those that need another one, or values moved,
        # are reached over a few instructions of their own.
        direct = Counter(block.sp for block in blocks if self._in_place(block))
        sp = direct.most_common(1)[0][0] if direct else self._height
        detours: dict[int, tuple[_Block, Label]] = {}
        table = []
        for block in blocks:
            if self._in_place(block) and block.sp == sp:
                table.append(block.label)
            else:
                table.append(detours.setdefault(id(block), (block, Label()))[1])
        height = self._height
        self._emit("jump_table", sp, a=index, table=tuple(table))
        self._height = height
        for block, label in detours.values():
            self._code.bind(label)
            self._sp = sp
            self._branch_to(block)

    def _return(self, immediates: Immediates) -> None:
        self._emit_return()

    def _emit_return(self) -> None:
        """Moves the results to the frame's start and goes back to the caller."""
        header = Slot("fp", self._frame.header)
        n_results = len(self._frame.type.results)
        first = self._height - n_results
        for k in range(1, n_results):  # never over the header, which lies above all results
            move = Draft("move", b=self._at(first + k), d=Slot("fp", k), note=f"result {k}")
            self._code.emit(move)
        draft = Draft("return", b=header, dsp=n_results - self._sp, note="return")
        if n_results:
            draft.op, draft.a, draft.d = "return_value", self._at(first), Slot("fp", 0)
        self._code.emit(draft)


_HANDLERS: dict[str, Callable[[BodyLowering, Immediates], None]] = {
    "unreachable": BodyLowering._unreachable,
    "block": BodyLowering._block,
    "loop": BodyLowering._loop,
    "if": BodyLowering._if,
    "else": BodyLowering._else,
    "end": BodyLowering._end,
    "br": BodyLowering._branch,
    "br_if": BodyLowering._branch_if,
    "br_table": BodyLowering._branch_table,
    "return": BodyLowering._return,
    "call": BodyLowering._call_function,
    "call_indirect": BodyLowering._call_indirect,
    "drop": BodyLowering._drop,
    "select": BodyLowering._select,
    "local.get": BodyLowering._local_get,
    "local.set": BodyLowering._local_set,
    "local.tee": BodyLowering._local_tee,
    "global.get": BodyLowering._global_get,
    "global.set": BodyLowering._global_set,
    "memory.size": BodyLowering._memory_size,
    "memory.init": BodyLowering._memory_init,
    "data.drop": BodyLowering._data_drop,
    "table.init": BodyLowering._table_init,
    "table.copy": BodyLowering._table_copy,
    "elem.drop": BodyLowering._elem_drop,
}
