"""Flat code under construction: drafts of instructions, labels, jump threading.

A `br` or the jump over an `else` costs no step where the instruction before it can name the target
as its successor, and a label that only leads to a jump becomes another name of that jump's target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wasmjax.machine.program import NO_DESTINATION, NOWHERE, Instruction, Slot, table_aux

TABLE_SPACE = 65536
"""Entries of the table space: its addresses have two digits."""

# What follows is not decided by `next` alone.
_CALLS = frozenset({"call", "call_indirect"})
_BRANCHES = frozenset({"br_if", "br_unless"})
_NEVER_FALLS = frozenset({"jump_table", "return", "return_value", "trap", "halt"})


class Label:
    """A place in the code.

    Attributes:
      code: the code it is bound in; None until then.
      position: index in that code.
      alias: the label it is another name of, if any.
      used: whether anything refers to it.
    """

    __slots__ = ("alias", "code", "position", "used")

    def __init__(self) -> None:
        self.code: Code | None = None
        self.position = 0
        self.alias: Label | None = None
        self.used = False

    def final(self) -> Label:
        """The label this one stands for."""
        label = self
        while label.alias is not None:
            label = label.alias
        return label

    def index(self) -> int:
        """The instruction index. All code must have been placed (`Code.base`)."""
        label = self.final()
        assert label.code is not None, "a label was never bound"
        return label.code.base + label.position


@dataclass(slots=True)
class Draft:
    """An `Instruction` whose targets are still labels; see there for the fields not told here.

    Attributes:
      after: where execution goes on: the next instruction, or where a call returns to.
        None: the instruction after this one.
      target: where a taken branch goes, or a call's entry.
      table: labels that jump_table chooses from.
      fp_delta: a call's distance from the caller's frame to the callee's.
    """

    op: str
    a: Slot = NOWHERE
    b: Slot = NOWHERE
    c: Slot = NOWHERE
    d: Slot = NO_DESTINATION
    imm: int = 0
    dsp: int = 0
    aux: int = 0
    type_id: int | None = None
    note: str = ""
    after: Label | None = None
    target: Label | None = None
    table: tuple[Label, ...] = ()
    fp_delta: int = 0

    @property
    def straight(self) -> bool:
        """Whether what follows depends on `after` and dsp alone."""
        return self.op not in _CALLS and self.op not in _BRANCHES and self.op not in _NEVER_FALLS

    def reach(self) -> int:
        """The largest stack offset or delta in it, which `MachineConfig.frame_limit` bounds."""
        offsets = (abs(slot.offset) for slot in (self.a, self.b, self.c, self.d))
        return max(abs(self.dsp), self.fp_delta, *offsets)


@dataclass
class Code:
    """One function's code under construction.

    Attributes:
      drafts: the instructions.
      base: index of the first one in the program, once placed.
      reachable: whether execution can reach the end of `drafts`.
    """

    drafts: list[Draft] = field(default_factory=list)
    base: int = 0
    reachable: bool = True
    _here: list[Label] = field(default_factory=list)  # labels bound to the end
    _last: Draft | None = None  # the instruction that falls through to the end, if one does

    @property
    def at_label(self) -> bool:
        """Whether a label names the end of the code."""
        return bool(self._here)

    def emit(self, draft: Draft) -> None:
        """Appends an instruction."""
        self.drafts.append(draft)
        self._here = []
        self.reachable = draft.op not in _NEVER_FALLS
        self._last = draft if self.reachable else None
        for label in (draft.target, *draft.table):
            if label is not None:
                label.used = True

    def bind(self, label: Label) -> None:
        """Makes `label` name the end of the code, which becomes reachable."""
        label.code, label.position = self, len(self.drafts)
        self._here.append(label)
        self.reachable = True

    def move_sp(self, dsp: int) -> None:
        """Adds `dsp` to sp, in the instruction before if only this path goes through it."""
        if not dsp:
            return
        if self._last is not None and self._last.straight and not self._here:
            self._last.dsp += dsp
        else:
            self.emit(Draft("jump", dsp=dsp, note="sp"))

    def jump(self, label: Label, dsp: int = 0) -> None:
        """Adds `dsp` to sp and goes to `label`, at no step's cost where possible."""
        self.move_sp(dsp)
        label.used = True
        if label.final() in self._here:  # a loop of no instructions needs one
            self.emit(Draft("jump", note="br"))
        for other in self._here:
            other.alias = label
        if self._last is not None:
            self._last.after = label
        self._here, self._last, self.reachable = [], None, False

    def reach(self) -> int:
        """The largest stack offset or delta of any instruction."""
        return max((draft.reach() for draft in self.drafts), default=0)


@dataclass(frozen=True, slots=True)
class Assembled:
    """Final instructions, and the jump tables' table space entries from the given base on."""

    instructions: tuple[Instruction, ...]
    tables: tuple[int, ...]


def assemble(codes: Sequence[Code], table_base: int, first: int = 0) -> Assembled:
    """Places the codes one after the other and resolves their labels.

    Args:
      codes: every function's code; other code that they refer to has been placed before.
      table_base: first free index of the table space, in which the jump tables must fit.
      first: index of the first instruction.
    """
    base = first
    for code in codes:
        code.base = base
        base += len(code.drafts)
    tables: list[int] = []
    out: list[Instruction] = []
    for code in codes:
        for draft in code.drafts:
            out.append(_resolve(draft, first + len(out), table_base + len(tables)))
            tables += [label.index() for label in draft.table]
    return Assembled(tuple(out), tuple(tables))


def _resolve(draft: Draft, index: int, table_base: int) -> Instruction:
    after = index + 1 if draft.after is None else draft.after.index()
    goal = None if draft.target is None else draft.target.index()
    imm, aux = draft.imm, draft.aux
    follow = None if after == index + 1 else after
    if draft.op in _CALLS:
        imm = after | draft.fp_delta << 24
        follow, goal = goal, None
    if draft.table:
        aux = table_aux(table_base, len(draft.table) - 1)
    return Instruction(
        draft.op, draft.a, draft.b, draft.c, draft.d, imm, draft.dsp, follow, goal, aux,
        draft.type_id, draft.note,
    )  # fmt: skip
