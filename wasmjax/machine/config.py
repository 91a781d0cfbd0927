"""What a machine is made of: value width, instructions, address spaces, field ranges."""

import dataclasses

from wasmjax.machine import isa

SPACES = ("code", "slots", "memory", "table", "input")


@dataclasses.dataclass(frozen=True)
class MachineConfig:
    """One machine. Everything the circuit builder varies is here; nothing else is.

    Attributes:
      value_bytes: bytes of a value (8 for WebAssembly, 1 for small machines).
      instructions: operations the machine can execute (names of `isa.OPS`).
      spaces: address spaces it has; "code" and "slots" are always there.
      ip_digits: base-256 digits of an instruction index.
      address_digits: base-256 digits of a written address.
      digit: size of a digit field (256; smaller only for small machines).
      codes: number of trap codes.
      frame_limit: largest stack offset or stack delta one instruction can hold.
      code_limit: most instructions; bounds the error of ip, a sum of three inexact digits.
      memory_pages: most 64-KiB pages a memory may have (bounds the word index).
      table_limit: largest index `jump_table`/`call_indirect` clamps to.
      eps_log2: per space, log2 of the recency weight eps in k2 = -j^2 + eps t.
    """

    value_bytes: int = 8
    instructions: tuple[str, ...] = tuple(op for op in isa.OPS if not op.startswith("i8."))
    spaces: tuple[str, ...] = SPACES
    ip_digits: int = 3
    address_digits: int = 4
    digit: int = 256
    codes: int = 256
    frame_limit: int = 1279
    code_limit: int = 1 << 20
    memory_pages: int = 1024
    table_limit: int = 32000
    eps_log2: tuple[tuple[str, int], ...] = (("slots", -20), ("memory", -22))

    def __post_init__(self) -> None:
        unknown = [op for op in self.instructions if op not in isa.OPS]
        if unknown:
            raise ValueError(f"unknown machine operation: {unknown[0]}")
        for space in self.spaces:
            if space not in SPACES:
                raise ValueError(f"unknown address space: {space}")
        if not {"code", "slots"} <= set(self.spaces):
            raise ValueError("a machine needs the spaces 'code' and 'slots'")
        if self.value_bytes not in (1, 2, 4, 8):
            raise ValueError(f"value_bytes must be 1, 2, 4 or 8, not {self.value_bytes}")
        for op in self.instructions:
            if op.startswith("i8.") and self.value_bytes != 1:
                raise ValueError(f"operation {op} needs value_bytes=1")
            need = isa.required_space(op)
            if need is not None and need not in self.spaces:
                raise ValueError(f"operation {op} needs the address space '{need}'")


WASM = MachineConfig()
"""The universal WebAssembly machine."""

SMALL = MachineConfig(
    value_bytes=1,
    instructions=(
        "move", "i8.add", "i8.sub", "i8.eq", "i8.lt_u",
        "jump", "br_if", "br_unless", "trap", "halt", "out",
    ),
    spaces=("code", "slots"),
    ip_digits=1,
    address_digits=1,
    digit=64,
    codes=16,
    frame_limit=15,
)  # fmt: skip
"""One-byte values, a dozen instructions: for tests and learnability experiments."""
