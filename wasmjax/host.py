"""Functions of the host: Python callables that modules import.

A call is a token of kind "host", which ends generation; the parameters lie in the callee's frame,
and the answer is fed as tokens that write its results there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wasmjax.machine.config import WASM
from wasmjax.machine.contents import Stored, read_values
from wasmjax.machine.program import registers_of, write_slot
from wasmjax.machine.tokens import token
from wasmjax.values import bits_of, signed
from wasmjax.wasm.lower import HostImport
from wasmjax.wasm.types import FuncType, ValType


@dataclasses.dataclass(frozen=True)
class HostFunction:
    """A function of the host.

    Attributes:
      params, results: "i32", "i64", "f32" or "f64" each.
      function: called with integers (signed; floating point as raw bits), returns what it results
        in: nothing, one integer or several. It may raise `Trap` or `Exit`.

    Raises:
      ValueError: if a type is none of these.
    """

    params: Sequence[str]
    results: Sequence[str]
    function: Callable[..., Any]

    def __post_init__(self) -> None:
        _ = self.type

    @property
    def type(self) -> FuncType:
        """Its type."""
        return FuncType(tuple(map(ValType, self.params)), tuple(map(ValType, self.results)))

    @property
    def name(self) -> str:
        """For messages and traces."""
        return getattr(self.function, "__name__", "host function")

    def call(self, bits: Sequence[int]) -> list[int]:
        """Calls it with unsigned bits; its results as such.

        Raises:
          TypeError: if its results are not of their types. Else what the function raises.
        """
        result = self.function(*map(signed, bits, self.type.params))
        several = result if isinstance(result, tuple | list) else (result,)
        results = [] if result is None else [*several]
        return bits_of(f"what {self.name} returns", self.type.results, results)

    def answer(self, totals_F: np.ndarray, stored: Stored) -> np.ndarray:
        """Calls it for a token that asks for it; the tokens that answer, int32 [n, F].

        Args:
          totals_F: per field the sum over all tokens so far. stored: what the cache holds.

        Raises:
          What `call` raises.
        """
        frame = registers_of(WASM, totals_F).fp
        addresses = frame + np.arange(len(self.params))
        results = self.call([int(bits) for bits in read_values(WASM, stored, "slot", addresses)])
        tokens = [write_slot(WASM, frame + k, value) for k, value in enumerate(results)]
        return np.stack(tokens or [token(WASM)])


Imports = Mapping[tuple[str, str], HostFunction]
"""What functions of the host are imported as: (module, name)."""


def signatures(imports: Imports) -> tuple[HostImport, ...]:
    """What lowering needs to know; the number of a request is the position here."""
    return tuple((*name, function.type) for name, function in imports.items())


__all__ = ["HostFunction", "Imports", "signatures"]
