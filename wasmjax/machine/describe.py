"""Readable step records: what a token says, in words."""

from collections.abc import Sequence

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.tokens import columns


def describe(
    config: MachineConfig,
    token: np.ndarray,
    step: int,
    instruction_note: str = "",
    unsupported: Sequence[str] = (),
) -> str:
    """One line for a person: what a token wrote and where the program goes.

    Args:
      token: integers [F].
      step: number to show.
      instruction_note: what was executed; an emitted token does not say it.
      unsupported: names behind the trap codes from `isa.UNSUPPORTED_BASE` on.

    Returns:
      Such as `    17  i32.add           -> slot 12 = 8`; a jump adds `, ip -5`.
    """
    cell = {name: int(token[index]) for name, index in columns(config).items()}
    parts = [part for part in (_effect(config, cell, unsupported), _movement(config, cell)) if part]
    line = f"{step:>7}  {instruction_note:<16}"
    if parts:
        line += f"  -> {', '.join(parts)}"
    return line.rstrip()


def _number(cell: dict[str, int], name: str, count: int, base: int = 256) -> int:
    return sum(cell[f"{name}{k}"] * base**k for k in range(count))


def trap_message(code: int, unsupported: Sequence[str] = ()) -> str:
    """The words for a trap's code."""
    extra = code - isa.UNSUPPORTED_BASE
    if extra >= 0:
        name = unsupported[extra] if extra < len(unsupported) else f"code {code}"
        return f"not yet supported: {name}"
    return isa.TRAPS[code] if 0 < code < len(isa.TRAPS) else f"unknown code {code}"


def _effect(config: MachineConfig, cell: dict[str, int], unsupported: Sequence[str]) -> str:
    kind = isa.KINDS[cell["kind"]] if 0 <= cell["kind"] < len(isa.KINDS) else "unknown kind"
    value = _number(cell, "v", config.value_bytes)
    in_bytes = _number(cell, "a", config.address_digits)
    positional = _number(cell, "a", config.address_digits, config.digit)
    if kind == "none":
        return ""
    if kind == "slot":
        return f"slot {positional} = {value}"
    if kind.startswith("mem"):
        size = int(kind.removeprefix("mem"))
        return f"{kind} {in_bytes:#x} = {value & ((1 << 8 * size) - 1)}"
    if kind in ("out", "err"):
        byte = value & 255
        shown = f" {chr(byte)!r}" if 32 <= byte < 127 else ""
        return f"{kind} {byte}{shown}"
    if kind == "trap":
        return f"trap: {trap_message(cell['code'], unsupported)}"
    if kind == "code":
        op = cell["op"]
        name = config.instructions[op - 1] if 0 < op <= len(config.instructions) else f"op {op}"
        return f"code {positional}: {name}"
    if kind in ("table", "input"):
        return f"{kind} {in_bytes} = {value}"
    if kind == "halt":
        return f"halt {value}"
    if kind == "arith":
        return f"arith {cell['row'] - 1}"
    return kind


def _movement(config: MachineConfig, cell: dict[str, int]) -> str:
    """Where the program goes, if not to the next instruction."""
    out = []
    if cell.get("depth"):
        out.append("call" if cell["depth"] > 0 else "return")
    move = _number(cell, "ip", config.ip_digits, config.digit)
    if move not in (0, 1):  # 1 is the usual, 0 a stop or a prompt token
        out.append(f"ip {move:+d}")
    return ", ".join(out)
