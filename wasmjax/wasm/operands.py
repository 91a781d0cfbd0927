"""Lowering with operand fusion: what local.get, global.get and constants push is read in place.

A machine step names its operands and its destination, so an operator can take operands straight
from a local, a global or its own immediate, and write a local directly. `FusedLowering` keeps
values that were only pushed as *deferred*: they have a height on the operand stack, but nothing is
in their slot until something needs them there (a join of control flow, a call's arguments), or
until what they read is about to change.
"""

from __future__ import annotations

from wasmjax.machine.program import NOWHERE, Slot
from wasmjax.wasm import operators
from wasmjax.wasm.assemble import Draft
from wasmjax.wasm.body import BodyLowering, Immediates, Operand
from wasmjax.wasm.frames import number
from wasmjax.wasm.types import Instr

_COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor", "eq", "ne"})
_IN_PLACE = (
    operators.NO_STEP
    | operators.EXTENSIONS.keys()
    | operators.LOADS.keys()
    | operators.STORES.keys()
    | {"drop", "unreachable", "memory.size"}
)
"""Instructions that read nothing, or take their operands as they are."""
_TURNED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


class FusedLowering(BodyLowering):
    """Lowers one body into fewer steps than `BodyLowering`."""

    def _begin(self) -> None:
        self._deferred: dict[int, Operand] = {}
        self._producer: tuple[Draft, int] | None = None  # the last push, and its value's height

    # --- deferred values ---

    def _at(self, height: int) -> Slot:
        operand = self._deferred.get(height)
        return super()._at(height) if operand is None else operand.slot

    def _place(self, height: int) -> None:
        """Puts a deferred value into its slot."""
        operand = self._deferred.pop(height, None)
        if operand is not None:
            draft = Draft("move", b=operand.slot, d=super()._at(height), imm=operand.imm)
            draft.note = operand.note
            self._code.emit(draft)

    def _place_all(self, keep: int = 0) -> None:
        """Places what is deferred, but for the topmost `keep` values if they are slots."""
        for height in sorted(self._deferred):
            if height < self._height - keep or self._deferred[height].constant:
                self._place(height)

    def _place_readers(self, slot: Slot) -> None:
        """Places what reads a slot that is about to change."""
        for height in sorted(self._deferred):
            if self._deferred[height].slot == slot:
                self._place(height)

    def _forget(self) -> None:
        """Drops what has left the stack."""
        for height in [h for h in self._deferred if h >= self._height]:
            del self._deferred[height]

    def _push(self, op: str, pops: int, **values: object) -> None:
        base = self._height - pops
        for height in [h for h in self._deferred if h >= base]:
            del self._deferred[height]
        super()._push(op, pops, **values)
        self._producer = self._code.drafts[-1], self._height - 1

    # --- instructions ---

    def _instruction(self, name: str, immediates: Immediates) -> None:
        if name in operators.CONSTANTS:
            self._defer(NOWHERE, number(immediates))
        elif name == "local.get":
            self._defer(Slot("fp", self._frame.local(number(immediates))))
        elif name == "global.get":
            self._defer(Slot("abs", self._scope.global_slot(number(immediates))))
        elif name in ("local.set", "local.tee"):
            to = Slot("fp", self._frame.local(number(immediates)))
            self._assign(to, tee=name == "local.tee")
        elif name == "global.set":
            self._assign(Slot("abs", self._scope.global_slot(number(immediates))))
        elif name in operators.BINARY:
            self._binary(name)
        else:
            self._prepare(name)
            super()._instruction(name, immediates)
        self._forget()

    def _prepare(self, name: str) -> None:
        """Places what an instruction needs in its slot."""
        if not self._code.reachable:  # an else or end after code that never gets there
            self._deferred.clear()
            return
        if name in _IN_PLACE:
            return
        if name == "select":
            self._place_constant(3)
            self._place_constant(1)
            return
        if name in operators.COUNTS or name.endswith(".eqz") or name[4:] in ("abs", "neg"):
            self._place_constant(1)
            self._annotate(self._deferred.get(self._height - 1))
        elif name in ("if", "br_if", "br_table"):
            self._place_constant(1)
            self._place_all(keep=1)
        elif name == "return" or (name == "end" and len(self._blocks) == 1):
            # Several results are moved onto parameters that deferred ones may read.
            joined = self._blocks[0].label.used and name == "end"
            several = len(self._frame.type.results) > 1
            self._place_all(keep=0 if joined or several else 1)
        else:
            self._place_all()

    def _defer(self, slot: Slot, imm: int = 0) -> None:
        self._deferred[self._height] = Operand(slot, imm, self._note)
        self._height += 1

    def _take(self, position: int) -> Operand:
        height = self._height - position
        operand = self._deferred.get(height)
        self._annotate(operand)
        return operand or Operand(super()._at(height))

    def _annotate(self, operand: Operand | None) -> None:
        if operand is not None:
            self._note += f" <- {operand.note}"

    def _place_constant(self, position: int) -> None:
        """Places an operand if it is a constant, where a step takes a slot only."""
        operand = self._deferred.get(self._height - position)
        if operand is not None and operand.constant:
            self._place(self._height - position)

    def _binary(self, name: str) -> None:
        type_, _, operation = name.partition(".")
        relation, _, sign = operation.partition("_")
        right = self._deferred.get(self._height - 1)
        left = self._deferred.get(self._height - 2)
        swaps = relation in _TURNED or operation in _COMMUTATIVE
        swapped = False
        if left is not None and left.constant:
            if swaps and not (right is not None and right.constant):
                swapped = True
            else:
                self._place(self._height - 2)
        a, b = self._take(2), self._take(1)
        if swapped:
            a, b = b, a
            relation = _TURNED.get(relation, relation)
            name = f"{type_}.{relation}" + (f"_{sign}" if sign else "")
        self._push(name, 2, a=a.slot, b=b.slot, imm=b.imm)

    def _constant_address(self, position: int, most: int) -> int:
        height = self._height - position
        address = self._deferred.get(height)
        if address is None or not address.constant:
            return 0
        if address.imm > most:
            self._place(height)
            return 0
        self._deferred[height] = Operand(NOWHERE, 0, address.note)
        return address.imm

    def _assign(self, to: Slot, tee: bool = False) -> None:
        """Writes the top value to a local or global."""
        top = self._height - 1
        operand = self._deferred.get(top)
        if operand is not None:
            if operand.slot != to:
                del self._deferred[top]
                self._place_readers(to)
                self._annotate(operand)
                self._emit("move", top, d=to, b=operand.slot, imm=operand.imm)
            self._height = top
        elif self._forwards(to, top):
            assert self._producer is not None
            draft = self._producer[0]
            draft.d = to
            draft.note += f" -> {self._note}"
            self._height = top
        else:
            self._place_readers(to)
            self._emit("move", top, d=to, b=super()._at(top))
        self._producer = None
        if tee:  # what was written is still the top value, and is read from there
            read = operand if operand is not None and operand.slot == NOWHERE else None
            self._deferred[top] = read or Operand(to, 0, self._note)
            self._height = top + 1

    def _forwards(self, to: Slot, top: int) -> bool:
        """Whether the step that made the top value may write it to `to` instead."""
        if self._producer is None or self._producer[1] != top:
            return False
        draft = self._producer[0]
        at_end = bool(self._code.drafts) and self._code.drafts[-1] is draft
        if not at_end or self._code.at_label:
            return False
        return all(operand.slot != to for operand in self._deferred.values())

    def _divides(self, instr: Instr, following: Instr) -> bool:
        if following.name in operators.DIVISIONS and instr.name in operators.CONSTANTS:
            self._place(self._height - 1)
            self._producer = None
            return super()._divides(instr, following)
        return False
