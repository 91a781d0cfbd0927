"""Operand fusion: the same function in fewer steps.

Stack code pushes every operand and pops every result. A machine step names its operands and its
destination, so a pass over a lowered function lets operators read locals and constants in place and
write locals directly, and drops the moves. For functions that call none.

Every slot becomes an offset from fp, since sp need not follow the operand stack; only the return
still moves it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from wasmjax.machine.program import NO_DESTINATION, NOWHERE, Slot
from wasmjax.wasm import operators
from wasmjax.wasm.assemble import Code, Draft, Label
from wasmjax.wasm.frames import Frame

_BRANCHES = frozenset({"br_if", "br_unless"})
_ENDS = frozenset({"return", "return_value", "trap", "halt"})
_PURE = operators.BINARY | operators.COUNTS | frozenset(operators.EXTENSIONS.values()) | {
    "move",
    "select",
}  # fmt: skip

_COMPARISONS = {"eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
_COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor"})


class Unfusable(ValueError):
    """The function does something that this pass does not follow."""


def fuse(code: Code, frame: Frame, entry: Label) -> Code:
    """A function's code in fewer steps. `entry` is bound in the new code.

    Raises:
      Unfusable: if the function calls, jumps by tables or uses memory or globals.
    """
    graph = _Graph(code, frame, entry)
    while graph.propagate() | graph.drop_unread() | graph.write_in_place():
        pass
    return graph.code(entry)


@dataclasses.dataclass(slots=True)
class _Node:
    """An instruction; slots are offsets from fp, None is no slot.

    Attributes:
      next: the node that follows (None at an end). target: the one a branch goes to.
      gone: it does nothing any more.
      live: the slots that are read after it before they are written.
    """

    draft: Draft
    a: int | None
    b: int | None
    c: int | None
    d: int | None
    next: int | None
    target: int | None
    gone: bool = False
    live: frozenset[int] = frozenset()

    @property
    def op(self) -> str:
        return self.draft.op

    def reads(self) -> set[int]:
        return {slot for slot in (self.a, self.b, self.c) if slot is not None}

    def successors(self) -> Iterator[int]:
        for index in (self.next, self.target):
            if index is not None:
                yield index


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """What a slot holds: `what` is "copy" of a slot, "constant", or "not": whether the slot is 0."""

    what: str
    slot: int | None = None
    constant: int = 0


class _Graph:
    def __init__(self, code: Code, frame: Frame, entry: Label):
        self._frame = frame
        self._nodes: list[_Node] = []
        heights = _heights(code, frame, entry)
        for index, draft in enumerate(code.drafts):
            if draft.op not in _PURE | _BRANCHES | _ENDS | {"jump"}:
                raise Unfusable(draft.op)
            self._nodes.append(_node(draft, index, heights.get(index)))
        self._first = _position(entry)
        self._pass_jumps()

    def _pass_jumps(self) -> None:
        for node in self._nodes:
            node.gone = node.op == "jump"

    def _resolve(self, index: int) -> int:
        """The node that acts first from here on."""
        while self._nodes[index].gone:
            following = self._nodes[index].next
            assert following is not None
            index = following
        return index

    def _order(self) -> list[int]:
        """Acting nodes that can be reached."""
        found: dict[int, None] = {}
        pending = [self._resolve(self._first)]
        while pending:
            index = pending.pop()
            if index not in found:
                found[index] = None
                node = self._nodes[index]
                node.next = None if node.next is None else self._resolve(node.next)
                node.target = None if node.target is None else self._resolve(node.target)
                pending += node.successors()
        return sorted(found)

    def _blocks(self) -> list[list[int]]:
        """Runs of nodes that are only entered at their start, in code order."""
        order = self._order()
        entries = dict.fromkeys(order, 0)
        entries[self._resolve(self._first)] = 2
        for index in order:
            node = self._nodes[index]
            for following in node.successors():
                # the start of a run: after a branch, or where ways join
                entries[following] += 1 if node.target is None else 2
        blocks = []
        for start in (index for index in order if entries[index] != 1):
            block = [start]
            while True:
                node = self._nodes[block[-1]]
                if node.target is not None or node.next is None or entries[node.next] != 1:
                    break
                block.append(node.next)
            blocks.append(block)
        return blocks

    # --- passes; each says whether it changed something ---

    def propagate(self) -> bool:
        """Reads what a move copied, and constants, where they come from."""
        blocks = self._blocks()
        before: dict[int, list[int]] = {}
        last = {block[-1]: block for block in blocks}
        for index in last:
            for following in self._nodes[index].successors():
                before.setdefault(following, []).append(index)
        at_end: dict[int, tuple[dict[int, _Value], set[int]]] = {}
        changed = False
        for block in blocks:
            # what the only block before this one knew, if that was looked at already
            origin = before.get(block[0], [])
            start = block[0] != self._resolve(self._first) and len(origin) == 1
            known, small = at_end.get(origin[0], ({}, set())) if start else ({}, set())
            known, small = dict(known), set(small)
            for index in block:
                changed |= self._rewrite(self._nodes[index], known, small)
            at_end[block[-1]] = known, small
        return changed

    def _rewrite(self, node: _Node, known: dict[int, _Value], small: set[int]) -> bool:
        """One node, given what slots hold, and which of them less than 2^32."""
        before = (node.a, node.b, node.c, node.draft.imm, node.op)
        for letter in "abc":
            value = known.get(getattr(node, letter))
            if value is not None and value.what == "copy":
                setattr(node, letter, value.slot)
        _take_constants(node, known)
        _take_condition(node, known)
        if node.op == "i32.wrap_i64" and node.b in small:
            node.draft.op = "move"
        changed = before != (node.a, node.b, node.c, node.draft.imm, node.op)
        if node.d is not None:
            known.pop(node.d, None)
            for slot in [slot for slot, value in known.items() if value.slot == node.d]:
                del known[slot]
            value = _value(node)
            if value is not None and value.slot != node.d:
                known[node.d] = value
            is_small = _is_small(node, small)
            small.discard(node.d)
            if is_small:
                small.add(node.d)
        return changed

    def _find_live(self) -> list[int]:
        order = self._order()
        entering: dict[int, frozenset[int]] = dict.fromkeys(order, frozenset())
        results = frozenset(range(len(self._frame.type.results)))
        changed = True
        while changed:
            changed = False
            for index in reversed(order):
                node = self._nodes[index]
                live = frozenset().union(*(entering[k] for k in node.successors()))
                if node.op in ("return", "return_value"):
                    live = results
                node.live = live
                now = live - {node.d} | node.reads()
                if now != entering[index]:
                    entering[index] = now
                    changed = True
        return order

    def drop_unread(self) -> bool:
        """Drops what writes a slot that nobody reads, or moves one to itself."""
        changed = False
        for index in self._find_live():
            node = self._nodes[index]
            itself = node.op == "move" and node.d == node.b and not node.draft.imm
            if node.op in _PURE and (node.d not in node.live or itself):
                node.gone = changed = True
        return changed

    def write_in_place(self) -> bool:
        """Writes a value where a later move would put it."""
        self._find_live()
        return any([self._hoist(block, k) for block in self._blocks() for k in range(len(block))])

    def _hoist(self, block: list[int], at: int) -> bool:
        move = self._nodes[block[at]]
        source, to = move.b, move.d
        if move.gone or move.op != "move" or source is None or move.draft.imm:
            return False
        if source in move.live or to is None:
            return False
        between: list[_Node] = []
        for index in reversed(block[:at]):
            node = self._nodes[index]
            if node.gone:
                continue
            if node.d == source:
                if node.op not in _PURE:
                    return False
                node.d = to
                for user in between:
                    for letter in "abc":
                        if getattr(user, letter) == source:
                            setattr(user, letter, to)
                move.gone = True
                return True
            if to in node.reads() or node.d == to:
                return False
            between.append(node)
        return False

    # --- the result ---

    def code(self, entry: Label) -> Code:
        order = self._order()
        positions = {index: k for k, index in enumerate(order)}
        out = Code(reachable=False)
        labels: dict[int, Label] = {}

        def label(index: int) -> Label:
            if index not in labels:
                labels[index] = Label()
                labels[index].code, labels[index].position = out, positions[index]
                labels[index].used = True
            return labels[index]

        for k, index in enumerate(order):
            node = self._nodes[index]
            follows = node.next is None or positions[node.next] == k + 1
            draft = dataclasses.replace(
                node.draft,
                a=_slot(node.a),
                b=_slot(node.b),
                c=_slot(node.c),
                d=NO_DESTINATION if node.d is None else Slot("fp", node.d),
                dsp=0,
                after=None if follows or node.next is None else label(node.next),
                target=None if node.target is None else label(node.target),
            )
            if node.op in ("return", "return_value"):
                draft.dsp = len(self._frame.type.results) - self._frame.size
            out.drafts.append(draft)
        entry.alias = None
        entry.code, entry.position = out, positions[self._resolve(self._first)]
        return out


def _position(label: Label) -> int:
    return label.final().position


def _heights(code: Code, frame: Frame, entry: Label) -> dict[int, int]:
    """Where sp is before every instruction that can be reached, as an offset from fp."""
    heights: dict[int, int] = {}
    pending = [(_position(entry), frame.size)]
    while pending:
        index, height = pending.pop()
        if index in heights:
            continue
        heights[index] = height
        draft = code.drafts[index]
        if draft.target is not None:
            pending.append((_position(draft.target), height + draft.dsp))
        if draft.op not in _ENDS:
            after = index + 1 if draft.after is None else _position(draft.after)
            pending.append((after, height + draft.dsp))
    return heights


def _node(draft: Draft, index: int, height: int | None) -> _Node:
    def offset(slot: Slot) -> int | None:
        if slot.base == "abs":
            if slot not in (NOWHERE, NO_DESTINATION):
                raise Unfusable("a global")
            return None
        return slot.offset + (height or 0) * (slot.base == "sp")

    after: int | None = index + 1 if draft.after is None else _position(draft.after)
    return _Node(
        dataclasses.replace(draft),
        a=offset(draft.a),
        b=offset(draft.b),
        c=offset(draft.c),
        d=offset(draft.d),
        next=None if draft.op in _ENDS else after,
        target=None if draft.target is None else _position(draft.target),
    )


def _slot(offset: int | None) -> Slot:
    return NOWHERE if offset is None else Slot("fp", offset)


def _take_constants(node: _Node, known: dict[int, _Value]) -> None:
    """Takes operands that are constants as the immediate; A may change places with B for that."""
    a, b = known.get(node.a), known.get(node.b)  # type: ignore[arg-type]
    if b is not None and b.what == "constant" and node.op in _PURE and not node.draft.imm:
        node.b, node.draft.imm = None, b.constant
    if a is None or a.what != "constant":
        return
    if a.constant == 0:
        node.a = None
    elif node.b is not None and not node.draft.imm and _turned(node.op):
        node.draft.op = _turned(node.op)
        node.a, node.b, node.draft.imm = node.b, None, a.constant


def _turned(op: str) -> str:
    """The operator that does the same with its operands exchanged; "" if there is none."""
    type_, _, name = op.partition(".")
    relation, _, sign = name.partition("_")
    if relation in _COMPARISONS:
        return f"{type_}.{_COMPARISONS[relation]}" + (f"_{sign}" if sign else "")
    return op if name in _COMMUTATIVE else ""


def _take_condition(node: _Node, known: dict[int, _Value]) -> None:
    """Looks through a conversion or a comparison with 0 at what it was made of.

    A condition is the low half of a slot, whatever the upper half holds."""
    value = known.get(node.c)  # type: ignore[arg-type]
    if value is None:
        return
    if value.what == "low half" or value.what == "not zero":
        node.c = value.slot
    elif value.what == "zero" and node.op in _BRANCHES:
        node.c = value.slot
        node.draft.op = "br_unless" if node.op == "br_if" else "br_if"
    elif value.what == "zero" and node.op == "select" and not node.draft.imm:
        node.c = value.slot
        node.a, node.b = node.b, node.a


def _value(node: _Node) -> _Value | None:
    """What a node's destination holds after it, as far as it is of use."""
    imm = node.draft.imm
    if node.op == "move":
        return _Value("constant", None, imm) if node.b is None else _Value("copy", node.b)
    if node.op == "i32.wrap_i64" and node.b is not None:
        return _Value("low half", node.b)
    if node.op == "i32.eq" and node.a is not None and node.b is None and not imm:
        return _Value("zero", node.a)
    if node.op == "i32.ne" and node.a is not None and node.b is None and not imm:
        return _Value("not zero", node.a)
    return None


def _is_small(node: _Node, small: set[int]) -> bool:
    """Whether what it writes is below 2^32."""
    type_, _, name = node.op.partition(".")
    if type_ == "i32" or name in ("clz", "ctz", "popcnt") or name[:2] in _COMPARISONS:
        return True
    if node.op == "move":
        return node.draft.imm < 2**32 if node.b is None else node.b in small
    if node.b is None and name == "shr_u":
        return node.draft.imm >= 32
    return node.b is None and name == "and" and node.draft.imm < 2**32
