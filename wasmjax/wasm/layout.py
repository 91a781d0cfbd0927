"""Where lowered programs keep things: slot numbers of the globals, order of the input space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Hidden globals, one slot each from address 0 on. The runtime library imports them by these names
# (all but `limits`, which only calls read).
LIMITS_SLOT = 0
"""Bytes 0 and 1: the call depth at which a call traps; bytes 2 and 3: the sp at which it does."""
MEMORY_PAGES_SLOT = 1
"""Where the (first) memory ends, in pages of the byte space."""
MEMORY_MAX_SLOT = 2
"""Up to where it may grow."""
CLOCK_SLOT = 10
"""Nanoseconds that the clock shows."""
RANDOM_SLOT = 11
"""State of the random number generator."""

HIDDEN_GLOBALS = (
    "limits",
    "memory_pages",
    "memory_max",
    "argc",
    "argv_bytes",
    "environc",
    "environ_bytes",
    "stdin_start",
    "stdin_end",
    "stdin_cursor",
    "clock",
    "random",
)
"""Names of the hidden globals, in the order of their slots."""

GLOBALS_BASE = 16
"""Slot of the module's first global; one for each passive data segment follows the last of them,
then the operand stack."""

PAGE = 65536
"""Bytes of a memory page."""

INPUT_LIMIT = 1 << 24
"""Bytes the input space can hold: its addresses have three digits."""

SLOT_LIMIT = 65536 - 2048
"""A call traps from this sp on: a frame header and a frame still fit below slot 65536."""


def hidden_slot(name: str) -> int:
    """The slot of a hidden global."""
    return HIDDEN_GLOBALS.index(name)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a program may ask its environment for.

    Attributes:
      data: the input space: arguments, environment variables (each ended by a zero byte), stdin,
        passive data segments.
      slots: the slots that describe it, slot -> value.
    """

    data: bytes
    slots: dict[int, int]


def lay_out_inputs(
    args: Sequence[str], environ: Sequence[str], stdin: bytes, segments: Mapping[int, bytes]
) -> Inputs:
    """The input space for a program's arguments, its `NAME=value` variables, its stdin and its
    passive data segments, slot -> bytes. A segment's slot holds where it begins in the upper half
    and its size in the lower one; data.drop makes it zero.

    Raises:
      ValueError: if a string holds a zero byte, or all of it exceeds the input space.
    """
    argv, variables = (_terminated(strings) for strings in (args, environ))
    start = len(argv) + len(variables)
    data = b"".join((argv, variables, stdin, *segments.values()))
    if len(data) > INPUT_LIMIT:
        raise ValueError(
            f"{len(data):,} bytes of input (arguments {len(argv):,}, environment "
            f"{len(variables):,}, stdin {len(stdin):,}, passive data segments "
            f"{len(data) - start - len(stdin):,}), more than the machine's {INPUT_LIMIT:,}"
        )
    values = {
        "argc": len(args),
        "argv_bytes": len(argv),
        "environc": len(environ),
        "environ_bytes": len(variables),
        "stdin_start": start,
        "stdin_end": start + len(stdin),
        "stdin_cursor": start,
    }
    slots = {hidden_slot(name): value for name, value in values.items()}
    begin = values["stdin_end"]
    for slot, segment in segments.items():
        slots[slot] = begin << 32 | len(segment)
        begin += len(segment)
    return Inputs(data, slots)


def _terminated(strings: Sequence[str]) -> bytes:
    encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
    for string in encoded:
        if 0 in string:
            raise ValueError(f"{string!r} holds a zero byte")
    return b"".join(string + b"\0" for string in encoded)
