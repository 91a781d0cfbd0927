"""The numeric conformance vectors, which lie outside the repository.

They are looked for in $WASMJAX_VECTORS, then in ../shared/vectors beside the checkout.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NAN_CLASSES = ("nan:canonical", "nan:arithmetic")


class Value(NamedTuple):
    type: str
    bits: int | str  # a NaN class instead of bits, in results only

    def accepts(self, bits: int) -> bool:
        """Whether `bits` is this value or a member of this NaN class."""
        if isinstance(self.bits, int):
            return bits == self.bits
        sign, quiet_nan = {
            "f32": (1 << 31, 0x7FC0_0000),
            "f64": (1 << 63, 0x7FF8_0000_0000_0000),
        }[self.type]
        if self.bits == "nan:canonical":
            return bits & ~sign == quiet_nan
        return bits & quiet_nan == quiet_nan


class Row(NamedTuple):
    operation: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    trap: str | None

    def __str__(self) -> str:
        return f"{self.operation}({', '.join(f'{v.bits:x}' for v in self.operands)})"


def directory() -> Path:
    return Path(os.environ.get("WASMJAX_VECTORS") or ROOT.parent / "shared" / "vectors")


def missing() -> str | None:
    """Why the vectors cannot be read, or None if they can."""
    if (directory() / "i32.json").is_file():
        return None
    where = "$WASMJAX_VECTORS" if os.environ.get("WASMJAX_VECTORS") else "../shared/vectors"
    return f"no conformance vectors in {where} (set WASMJAX_VECTORS to their directory)"


def _value(pair: list[str]) -> Value:
    kind, bits = pair
    return Value(kind, bits if bits in NAN_CLASSES else int(bits, 16))


@cache
def load(name: str) -> tuple[Row, ...]:
    """The rows of a file: i32, i64, signext, f32, f64, conversions or satfloat."""
    rows = []
    for operation, operands, outcome in json.loads((directory() / f"{name}.json").read_text()):
        trap = outcome["trap"] if isinstance(outcome, dict) else None
        results = () if trap is not None else tuple(map(_value, outcome))
        rows.append(Row(operation, tuple(map(_value, operands)), results, trap))
    return tuple(rows)
