"""Values between Python, their bits, and tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns
from wasmjax.wasm.types import ValType

_FIRST_BYTE = columns(WASM)["v0"]
_SIGNED_BITS = {ValType.I32: 32, ValType.I64: 64}


def value_of(token_F: np.ndarray) -> int:
    """The value a token writes, as unsigned bits."""
    eight = token_F[_FIRST_BYTE : _FIRST_BYTE + 8]
    return int.from_bytes(eight.astype(np.uint8).tobytes(), "little")


def bits_of(name: str, types: Sequence[ValType], values: Sequence[int]) -> list[int]:
    """Values, signed or unsigned, as unsigned bits; floating point is raw bits already.

    Raises:
      TypeError: if there are too few or too many, or one does not fit its type.
    """
    if len(values) != len(types):
        raise TypeError(f"{name}: {len(values)} value(s) instead of {len(types)}")
    return [_bits(name, value, type_) for value, type_ in zip(values, types, strict=True)]


def _bits(name: str, value: int, type_: ValType) -> int:
    width = 32 if type_ in (ValType.I32, ValType.F32) else 64
    if not isinstance(value, int) or not -(1 << width - 1) <= value < 1 << width:
        raise TypeError(f"{name}: {value!r} does not fit {type_.value}")
    return value & (1 << width) - 1


def signed(bits: int, type_: ValType) -> int:
    """Integer bits as a signed number; floating-point bits as they are."""
    width = _SIGNED_BITS.get(type_)
    if width is None:
        return bits
    return bits - (1 << width) if bits >> width - 1 & 1 else bits
