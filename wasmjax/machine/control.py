"""Control flow: where ip goes, calls and returns, tables, traps."""

import dataclasses

from wasmjax.circuit.language import ZERO, Affine, total
from wasmjax.machine import isa
from wasmjax.machine.alu import condition
from wasmjax.machine.memory import Access
from wasmjax.machine.spaces import Spaces, Tables
from wasmjax.machine.state import Step

_TRAP = isa.KIND["trap"]
_OUT_OF_BOUNDS = isa.TRAP["out of bounds memory access"]
_EXHAUSTED = isa.TRAP["call stack exhausted"]


@dataclasses.dataclass(frozen=True)
class Flow:
    """Signals of the emitted control fields."""

    ip: list[Affine]
    fp: Affine
    kind: Affine
    code: Affine


def flow(step: Step, spaces: Spaces, tables: Tables, access: Access) -> Flow:
    """Deltas of the instruction pointer and frame pointer, the token's kind, the trap code."""
    c = step.circuit
    ip = list(step.next)
    if step.has("branch", "branch_not"):
        nz = condition(step)
        for k, (near, far) in enumerate(zip(step.next, step.target, strict=True)):
            ip[k] = ip[k] + c.reglu(f"branch {k}", step.flag("branch") + nz - 1, far - near)
            ip[k] = ip[k] + c.reglu(f"branch_not {k}", step.flag("branch_not") - nz, far - near)
    if step.has("ret"):
        for k, digit in enumerate(step.ip):
            ip[k] = ip[k] + c.reglu(f"return {k}", step.flag("ret"), step.b.byte[k] - digit)
    exhausted = _exhausted(step, tables)
    mismatch, entry_code = ZERO, ZERO
    if step.has("table"):
        entry, type_id, code = _table_entry(step, spaces)
        for k, digit in enumerate(step.ip):
            ip[k] = ip[k] + c.reglu(f"table {k}", step.flag("table"), entry[k] - digit)
        if step.has("type_check"):
            d = type_id - step.target[0] - 256 * step.target[1]
            same = c.wire(
                "type match",
                c.reglu("type match+", d + 1)
                - 2 * c.reglu("type match", d)
                + c.reglu("type match-", d - 1),
                (0, 1),
                "second difference of a ramp at integers",
            )
            gate = step.flag("type_check") - same - exhausted
            mismatch = c.reglu("type mismatch", gate)
            entry_code = c.reglu("type mismatch code", gate, code)
    kind = step.flag("kind")
    kind = kind + (_TRAP - isa.KIND["slot"]) * (exhausted + mismatch)  # calls write a slot
    code_out = entry_code + _EXHAUSTED * exhausted
    if access.trap.terms:
        kind = kind + c.reglu("memory trap kind", access.trap, _TRAP - step.flag("kind"))
        code_out = code_out + _OUT_OF_BOUNDS * access.trap
    if step.has("code"):
        code_out = code_out + c.reglu("trap code", step.flag("code"), step.aux[0])
    return Flow(ip, _frame(step), kind, code_out)


def _frame(step: Step) -> Affine:
    """What a call saved in the frame header, forwards or backwards."""
    if not step.has("call"):
        return ZERO
    c = step.circuit
    saved = step.b.byte[3] + 256 * step.b.byte[4]
    forward = c.reglu("frame forward", step.flag("call"), saved)
    return forward - c.reglu("frame back", step.flag("ret"), saved)


def _exhausted(step: Step, tables: Tables) -> Affine:
    """1 if a call would pass the depth or the slot limit (operand C).

    The sums are inexact, so they ask the table: nearest key rounds, and clips at both ends.
    """
    if not step.has("call"):
        return ZERO
    c = step.circuit
    reached = {"not negative": lambda j: float(j >= 128)}
    limits = (step.c[0] + 256 * step.c[1], step.c[2] + 256 * step.c[3])
    hits = total(
        tables.lookup(f"{name} limit", running - limit + 128, reached)[0]
        for name, running, limit in zip(
            ("depth", "slot"), (step.depth, step.sp), limits, strict=True
        )
    )
    both = 2 * step.flag("call") + hits
    return c.wire(
        "exhausted",
        c.reglu("exhausted", both - 2) - c.reglu("exhausted twice", both - 3),
        (0, 1),
        "at most two hits, and only in calls",
    )


def _table_entry(step: Step, spaces: Spaces) -> tuple[list[Affine], Affine, Affine]:
    """Entry digits, type id and trap code of table entry base + min(A, last)."""
    c, a = step.circuit, step.a.byte
    last = step.aux[0] + 256 * step.aux[1]
    base = step.aux[2] + 256 * step.aux[3]
    limit = step.config.table_limit
    # last <= limit, so any bit above 64 Ki puts the index beyond it.
    beyond = c.reglu("table index", last - a[0] - 256 * a[1] - limit * (a[2] + a[3]))
    value = spaces.value.byte
    read = c.read("table", spaces.by_name["table"], base + last - beyond, value[:6])
    return read[:3], read[3] + 256 * read[4], read[5]
