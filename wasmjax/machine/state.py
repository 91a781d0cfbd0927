"""What every unit of the machine works on: the fetched instruction and its operands."""

import dataclasses

from wasmjax.circuit.language import ZERO, Affine, Circuit
from wasmjax.machine.config import MachineConfig


@dataclasses.dataclass(frozen=True)
class Bytes:
    """A value as bytes, with the features that its embedding carries along for free.

    Attributes:
      byte: per byte, its number. high: per byte, its high nibble. word: byte 0 divided by 8.
    """

    byte: list[Affine]
    high: list[Affine]
    word: Affine

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(
            [x + y for x, y in zip(self.byte, other.byte, strict=True)],
            [x + y for x, y in zip(self.high, other.high, strict=True)],
            self.word + other.word,
        )

    def flat(self) -> list[Affine]:
        return [*self.byte, *self.high, self.word]

    @staticmethod
    def of(signals: list[Affine]) -> "Bytes":
        n = (len(signals) - 1) // 2
        return Bytes(signals[:n], signals[n : 2 * n], signals[2 * n])


@dataclasses.dataclass(frozen=True)
class Step:
    """The current step after fetch and operand reads (all signals of the current token).

    Attributes:
      circuit, config: what is being built.
      ip: digits of the instruction pointer (running sums). sp, fp, depth: running sums.
      control: control columns of the fetched operation; `flag` reads them.
      next, target, aux: digits of the fetched instruction; aux_word: aux0 divided by 8.
      dsp: its stack delta.
      a, b: operands; c: low bytes of operand C.
      address: digits of the destination slot's address.
    """

    circuit: Circuit
    config: MachineConfig
    ip: list[Affine]
    sp: Affine
    fp: Affine
    depth: Affine
    control: dict[str, Affine]
    next: list[Affine]
    target: list[Affine]
    aux: list[Affine]
    aux_word: Affine
    dsp: Affine
    a: Bytes
    b: Bytes
    c: list[Affine]
    address: list[Affine]

    def flag(self, name: str) -> Affine:
        """A control column; zero if no operation of this machine sets it."""
        return self.control.get(name, ZERO)

    def has(self, *names: str) -> bool:
        return any(name in self.control for name in names)


Lanes = list[Affine]
"""Contributions to the value's bytes; units add into them."""
