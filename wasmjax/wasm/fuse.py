"""Operand fusion: the same function in fewer steps.

Stack code pushes every operand and pops every result. A machine step names its operands and its
destination, so that operators can read locals and constants in place and write locals directly;
this pass drops the moves. It takes functions that neither call nor use memory or globals.

Slots become numbered values: definitions that reach a common use are one value. A value with one
definition never changes, so what copies it can be replaced by it wherever it is read. Values are
slots again in the end, each its own, since frames have room; sp need not follow anything and is
moved by the return alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from wasmjax.machine.program import NO_DESTINATION, NOWHERE, Slot
from wasmjax.wasm import operators
from wasmjax.wasm.assemble import Code, Draft, Label
from wasmjax.wasm.frames import Frame

_BRANCHES = frozenset({"br_if", "br_unless"})
_ENDS = frozenset({"return", "return_value", "trap"})
_PURE = (
    operators.BINARY
    | operators.COUNTS
    | frozenset(operators.EXTENSIONS.values())
    | {"move", "select"}
)
_TURNED = {"eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
_OPPOSITE = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}
_LOW_HALVES = frozenset({"i32.add", "i32.sub", "i32.mul"})  # all they read of their operands
_COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor"})


Origins = dict[int | None, "_Node"]
"""Values -> the one node that writes each."""


class Unfusable(ValueError):
    """The function does something that this pass does not follow."""


def fuse(code: Code, frame: Frame, entry: Label) -> Code:
    """A function's code in fewer steps. `entry` is bound in the new code instead.

    Raises:
      Unfusable: if the function calls, jumps by tables, uses memory or globals or has several
        results.
    """
    if len(frame.type.results) > 1:
        raise Unfusable("several results")
    function = _Function(code, frame, entry)
    while function.simplify() | function.drop_unread() | function.merge():
        pass
    return function.code(entry)


def copy(code: Code, entry: Label, new_entry: Label) -> Code:
    """The same code once more, with `new_entry` in it for `entry`."""
    out = dataclasses.replace(code, drafts=[], base=0)
    labels = {id(entry): new_entry}

    def renewed(label: Label | None) -> Label | None:
        if label is None:
            return None
        new = labels.setdefault(id(label), Label())
        new.code, new.position, new.used = out, label.position, label.used
        return new

    renewed(entry)
    for draft in code.drafts:
        after, target = renewed(draft.after), renewed(draft.target)
        out.drafts.append(dataclasses.replace(draft, after=after, target=target))
    return out


@dataclasses.dataclass(slots=True)
class _Node:
    """An instruction whose operands are values; None is none.

    Attributes:
      next: the node that follows; None at an end. target: the one that a taken branch goes to.
      gone: it does nothing any more.
      live: the values that are read after it, before they are written.
    """

    op: str
    draft: Draft
    a: int | None
    b: int | None
    c: int | None
    d: int | None
    imm: int
    next: int | None
    target: int | None
    gone: bool = False
    live: frozenset[int] = frozenset()

    @property
    def reads(self) -> set[int]:
        return {value for value in (self.a, self.b, self.c) if value is not None}

    @property
    def successors(self) -> list[int]:
        return [index for index in (self.next, self.target) if index is not None]

    @property
    def relation(self) -> str:
        """The comparison it is: eq, ne, lt, gt, le or ge."""
        name = self.op.partition(".")[2].partition("_")[0]
        return name if name in _TURNED else ""

    def rename(self, old: int, new: int) -> None:
        """Puts one value in the place of another."""
        self.a, self.b, self.c, self.d = (
            new if value == old else value for value in (self.a, self.b, self.c, self.d)
        )
        if old in self.live:
            self.live = self.live - {old} | {new}


class _Function:
    def __init__(self, code: Code, frame: Frame, entry: Label):
        self._frame = frame
        self._first = _position(entry)
        heights = _heights(code, frame, self._first)
        self._nodes = [_node(draft, k, heights.get(k)) for k, draft in enumerate(code.drafts)]
        self._n_params = frame.header + 1  # the header is given too
        self._number_values()

    # --- the graph ---

    def _resolve(self, index: int) -> int:
        """The node that acts first from here on."""
        while self._nodes[index].gone:
            following = self._nodes[index].next
            assert following is not None
            index = following
        return index

    def _order(self) -> list[int]:
        """Acting nodes that can be reached, in the order of the code."""
        found = set()
        pending = [self._resolve(self._first)]
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                node = self._nodes[index]
                node.next = None if node.next is None else self._resolve(node.next)
                node.target = None if node.target is None else self._resolve(node.target)
                pending += node.successors
        return sorted(found)

    def _number_values(self) -> None:
        """Turns slots into values: definitions of a slot that reach a common use are one."""
        order = self._order()
        # definition k < n_params: the k-th slot as the caller leaves it; else a node's
        reaching: dict[int, dict[int, frozenset[int]]] = {index: {} for index in order}
        reaching[order[0]] = {slot: frozenset({slot}) for slot in range(self._n_params)}
        pending = [order[0]]
        while pending:
            index = pending.pop()
            node = self._nodes[index]
            after = dict(reaching[index])
            if node.d is not None:
                after[node.d] = frozenset({self._n_params + index})
            for following in node.successors:
                there = reaching[following]
                merged = {
                    slot: there.get(slot, frozenset()) | after.get(slot, frozenset())
                    for slot in {*there, *after}
                }
                if merged != there:
                    reaching[following] = merged
                    pending.append(following)
        values = _Sets()
        for index in order:
            for slot in self._nodes[index].reads:
                for definition in reaching[index][slot]:
                    values.join(min(reaching[index][slot]), definition)
        for index in order:
            node = self._nodes[index]
            for letter in "abc":
                slot = getattr(node, letter)
                if slot is not None:
                    setattr(node, letter, values.first(min(reaching[index][slot])))
            if node.d is not None:
                node.d = values.first(self._n_params + index)

    def _find_live(self) -> list[_Node]:
        """Sets `live` of all acting nodes, which it returns."""
        order = self._order()
        entering: dict[int, frozenset[int]] = dict.fromkeys(order, frozenset())
        changed = True
        while changed:
            changed = False
            for index in reversed(order):
                node = self._nodes[index]
                node.live = frozenset().union(*(entering[k] for k in node.successors))
                now = node.live - {node.d} | node.reads
                if now != entering[index]:
                    entering[index], changed = now, True
        return [self._nodes[index] for index in order]

    # --- passes; each says whether it changed something ---

    def simplify(self) -> bool:
        """Reads what was copied, and constants, where they come from."""
        nodes = [self._nodes[index] for index in self._order()]
        writes = Counter(node.d for node in nodes)
        writes.update(range(self._n_params))
        reads = Counter(value for node in nodes for value in (node.a, node.b, node.c))
        # Values that never change, made of such: they may be made again anywhere after.
        origins: Origins = {
            node.d: node
            for node in nodes
            if node.d is not None and all(writes[value] == 1 for value in (node.d, *node.reads))
        }
        changed = False
        for node in nodes:
            before = node.op, node.a, node.b, node.c, node.imm
            for letter in "abc":
                origin = origins.get(getattr(node, letter))
                if origin is None or origin.b is None:
                    continue
                if origin.op == "move" or (
                    origin.op == "i32.wrap_i64" and node.op in _LOW_HALVES and letter != "c"
                ):
                    setattr(node, letter, origin.b)
            _take_constants(node, origins)
            _take_condition(node, origins, reads)
            if node.op == "i32.wrap_i64" and _is_small(origins.get(node.b)):
                node.op = "move"
            changed |= before != (node.op, node.a, node.b, node.c, node.imm)
        return changed

    def drop_unread(self) -> bool:
        """Drops what writes a value that nobody reads, or copies one to itself."""
        changed = False
        for node in self._find_live():
            itself = node.op == "move" and node.d == node.b and node.b is not None
            if node.op in _PURE and (node.d not in node.live or itself):
                node.gone = changed = True
        return changed

    def merge(self) -> bool:
        """Makes one value of two, one copied to the other, that are never needed at once."""
        nodes, changed = self._find_live(), False
        for move in nodes:
            if move.op == "move" and move.b is not None and move.d is not None:
                low, high = sorted((move.b, move.d))
                if low != high and not self._interfere(low, high, move, nodes):
                    for node in nodes:
                        node.rename(high, low)
                    move.gone = changed = True
        return changed

    def _interfere(self, low: int, high: int, move: _Node, nodes: list[_Node]) -> bool:
        """Whether one is written, by other than the move, while the other is still needed."""
        return high < self._n_params or any(
            (node.d == low and high in node.live) or (node.d == high and low in node.live)
            for node in nodes
            if node is not move
        )

    # --- the result ---

    def code(self, entry: Label) -> Code:
        """The acting nodes as code."""
        order = self._order()
        positions = {index: k for k, index in enumerate(order)}
        out = Code(reachable=False)
        labels: dict[int, Label] = {}

        def label(index: int) -> Label:
            new = labels.setdefault(index, Label())
            new.code, new.position, new.used = out, positions[index], True
            return new

        slots = {value: value for value in range(self._n_params)}
        for k, index in enumerate(order):
            node = self._nodes[index]
            if node.d is not None:
                slots.setdefault(node.d, len(slots))
            follows = node.next is None or positions[node.next] == k + 1
            draft = dataclasses.replace(
                node.draft,
                op=node.op,
                a=_slot(node.a, slots),
                b=_slot(node.b, slots),
                c=_slot(node.c, slots),
                d=NO_DESTINATION if node.d is None else _slot(node.d, slots),
                imm=node.imm,
                dsp=0,
                after=None if follows or node.next is None else label(node.next),
                target=None if node.target is None else label(node.target),
            )
            if node.op in ("return", "return_value"):
                n_results = len(self._frame.type.results)
                draft.dsp = n_results - self._frame.size
                draft.d = Slot("fp", 0) if n_results else NO_DESTINATION
            out.drafts.append(draft)
        entry.alias = None
        entry.code, entry.position = out, positions[self._resolve(self._first)]
        return out


class _Sets:
    """Disjoint sets of numbers, each named by its smallest member."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def first(self, number: int) -> int:
        while number in self._parents:
            number = self._parents[number]
        return number

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.first(a), self.first(b)))
        if low != high:
            self._parents[high] = low


def _position(label: Label) -> int:
    return label.final().position


def _heights(code: Code, frame: Frame, first: int) -> dict[int, int]:
    """Where sp is before every instruction that can be reached, as an offset from fp."""
    heights: dict[int, int] = {}
    pending = [(first, frame.size)]
    while pending:
        index, height = pending.pop()
        if index in heights:
            continue
        heights[index] = height
        draft = code.drafts[index]
        if draft.op not in _PURE | _BRANCHES | _ENDS | {"jump"}:
            raise Unfusable(draft.op)
        if draft.target is not None:
            pending.append((_position(draft.target), height + draft.dsp))
        if draft.op not in _ENDS:
            after = index + 1 if draft.after is None else _position(draft.after)
            pending.append((after, height + draft.dsp))
    return heights


def _node(draft: Draft, index: int, height: int | None) -> _Node:
    """A node whose operands are slots, as offsets from fp; `height` is None if none reaches it."""

    def offset(slot: Slot) -> int | None:
        if height is None or slot in (NOWHERE, NO_DESTINATION):
            return None
        if slot.base == "abs":
            raise Unfusable("a global")
        return slot.offset + height * (slot.base == "sp")

    ends = draft.op in _ENDS
    after = index + 1 if draft.after is None else _position(draft.after)
    return _Node(
        draft.op,
        draft,
        a=offset(draft.a),
        b=offset(draft.b),
        c=offset(draft.c),
        d=None if ends else offset(draft.d),
        imm=draft.imm,
        next=None if ends else after,
        target=None if draft.target is None else _position(draft.target),
        gone=draft.op == "jump",
    )


def _slot(value: int | None, slots: dict[int, int]) -> Slot:
    return NOWHERE if value is None else Slot("fp", slots[value])


def _constant(origin: _Node | None) -> int | None:
    """The number that a value is, if it is one."""
    return origin.imm if origin is not None and origin.op == "move" and origin.b is None else None


def _take_constants(node: _Node, origins: Origins) -> None:
    """Takes a constant operand as the immediate, which B has; A may change places with it."""
    a, b = _constant(origins.get(node.a)), _constant(origins.get(node.b))
    if b is not None and node.op in _PURE:
        node.b, node.imm = None, b
    if a == 0:
        node.a = None
    elif a is not None and node.b is not None:
        name = node.op.partition(".")[2]
        if node.relation:
            node.op = node.op.replace(node.relation, _TURNED[node.relation])
        elif name not in _COMMUTATIVE:
            return
        node.a, node.b, node.imm = node.b, None, a


def _take_condition(node: _Node, origins: Origins, reads: Counter) -> None:
    """Looks through a conversion or comparison with 0 at what a condition was made of, which is
    the low half of a slot whatever the upper half holds."""
    origin = origins.get(node.c)
    if origin is None:
        return
    against_zero = origin.op in ("i32.eq", "i32.ne") and origin.b is None and origin.imm == 0
    if origin.op == "i32.wrap_i64" and origin.b is not None:
        node.c = origin.b
    elif against_zero and origin.op == "i32.ne":
        node.c = origin.a
    elif against_zero and node.op in _BRANCHES:
        node.c = origin.a
        node.op = "br_unless" if node.op == "br_if" else "br_if"
    elif against_zero and node.imm == 0:
        node.c, node.a, node.b = origin.a, node.b, node.a
    elif origin.relation and reads[node.c] == 1 and node.op == "select":
        # a constant is taken by B alone: the opposite condition exchanges the two
        a = _constant(origins.get(node.a))
        if a is not None and node.b is not None:
            origin.op = origin.op.replace(origin.relation, _OPPOSITE[origin.relation])
            node.a, node.b, node.imm = node.b, None, a


def _is_small(origin: _Node | None) -> bool:
    """Whether a value is below 2^32."""
    if origin is None:
        return False
    type_, _, name = origin.op.partition(".")
    if type_ == "i32" or name in ("clz", "ctz", "popcnt") or origin.relation:
        return True
    if origin.b is not None:
        return False
    return origin.imm % 64 >= 32 if name == "shr_u" else name == "and" and origin.imm < 2**32
