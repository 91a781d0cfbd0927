"""Token fields: a token is a tuple of small integers, one per field.

`docs/tokens.md` describes every field for people; a test keeps the two in step.
"""

import dataclasses
import functools

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig

VERSION = 1
"""Version of the token format (docs/tokens.md)."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a token.

    Attributes:
      name: unique name.
      lo, hi: inclusive range of its values; vocabulary index is value - lo.
      emitted: whether a generated token can hold a value other than 0 here.
    """

    name: str
    lo: int
    hi: int
    emitted: bool

    @property
    def size(self) -> int:
        return self.hi - self.lo + 1


def _digits(name: str, count: int, lo: int, hi: int, emitted: bool) -> list[Field]:
    return [Field(f"{name}{k}", lo, hi, emitted) for k in range(count)]


@functools.cache
def fields(config: MachineConfig) -> tuple[Field, ...]:
    """The fields of `config`'s tokens, in the order of a token's columns."""
    top, frame = config.digit - 1, config.frame_limit
    out = [Field("kind", 0, len(isa.KINDS) - 1, True)]
    out += _digits("v", config.value_bytes, 0, 255, True)
    out += _digits("a", config.address_digits, 0, top, True)
    if config.address_digits == 4:  # memories are capped, so the last digit is small
        out[-1] = Field("a3", 0, (config.memory_pages * 65536 - 1) // 256**3, True)
    out += [Field("code", 0, config.codes - 1, True)]
    out += _digits("ip", config.ip_digits, -top, top, True)
    out += [Field("sp", -frame, frame, True)]
    if any(isa.OPS[op].get("depth") for op in config.instructions):
        out += [Field("fp", -frame, frame, True), Field("depth", -1, 1, True)]
    # Only prompt tokens hold something in the fields below.
    out += [Field("op", 0, len(config.instructions), False)]  # 0: no instruction
    for operand in "abcd":
        out += [Field(f"base_{operand}", 0, 2, False)]
        out += [Field(f"offset_{operand}", -frame, frame, False)]
    out += [Field("dsp", -frame, frame, False)]
    out += _digits("next", config.ip_digits, -top, top, False)
    out += _digits("target", config.ip_digits, -top, top, False)
    if "memory" in config.spaces:
        out += _digits("aux", 4, 0, 255, False)
    else:
        out += [Field("aux0", 0, config.codes - 1, False)]
    out += [Field("row", 0, 256, False)]
    return tuple(out)


@functools.cache
def columns(config: MachineConfig) -> dict[str, int]:
    """Field name -> column of a token array."""
    return {field.name: column for column, field in enumerate(fields(config))}


def digits(value: int, count: int, base: int = 256) -> tuple[int, ...]:
    """Base-`base` digits of a non-negative integer, least significant first.

    Raises:
      ValueError: if `value` does not fit.
    """
    if not 0 <= value < base**count:
        raise ValueError(f"{value} does not fit {count} digits of base {base}")
    return tuple((value // base**k) % base for k in range(count))


def token(config: MachineConfig, **values: int) -> np.ndarray:
    """One token (int32 [n_fields]); fields not named are 0.

    Raises:
      ValueError: if a field is unknown or a value lies outside its range.
    """
    column = columns(config)
    out = np.zeros(len(column), np.int32)
    for name, value in values.items():
        if name not in column:
            raise ValueError(f"this machine's tokens have no field '{name}'")
        field = fields(config)[column[name]]
        if not field.lo <= value <= field.hi:
            raise ValueError(f"field {name}: {value} is outside {field.lo}..{field.hi}")
        out[column[name]] = value
    return out
