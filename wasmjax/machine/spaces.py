"""Address spaces: what a token's emitted fields make of its keys and values."""

import dataclasses
from collections.abc import Callable

from wasmjax.circuit.language import Affine, Circuit, Space, total
from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.state import Bytes

CENTRE = 128
"""Arithmetic table keys are j - 128, so that fractional queries stay exact in float32."""

BANKS = 8
_STORES = {1: "mem1", 2: "mem2", 4: "mem4", 8: "mem8"}


@dataclasses.dataclass(frozen=True)
class Bank:
    """One of the eight memory banks: byte addresses equal to its number modulo 8."""

    space: Space
    value: Affine
    own_address: Affine


@dataclasses.dataclass(frozen=True)
class Spaces:
    """All address spaces of a machine and the values of a token in them."""

    by_name: dict[str, Space]
    value: Bytes
    banks: list[Bank]


def token_value(circuit: Circuit, config: MachineConfig) -> Bytes:
    """The value bytes of a token, with nibbles and the word part from the embedding."""
    fields = [f"v{k}" for k in range(config.value_bytes)]
    return Bytes(
        [circuit.number(field) for field in fields],
        [circuit.embed(f"{field}.high", field, lambda v: v >> 4) for field in fields],
        circuit.embed("v0.word", "v0", lambda v: v >> 3),
    )


def _is(circuit: Circuit, *kinds: str) -> Affine:
    wanted = {isa.KIND[kind] for kind in kinds}
    return circuit.embed(f"is {'/'.join(kinds)}", "kind", lambda kind: float(kind in wanted))


def _outsider(circuit: Circuit, name: str, *kinds: str) -> Affine:
    wanted = {isa.KIND[kind] for kind in kinds}
    return circuit.embed(f"{name}.outsider", "kind", lambda kind: float(kind not in wanted))


def _square(circuit: Circuit, name: str, address: Affine) -> Affine:
    """address^2 for addresses from -1 on."""
    return circuit.wire(
        name, circuit.reglu(name, address, address) + circuit.reglu(f"{name} of -1", -address)
    )


def build_spaces(circuit: Circuit, config: MachineConfig) -> Spaces:
    """Keys and values of every space; BOS is the member at address -1."""
    eps = {name: 2.0**log2 for name, log2 in config.eps_log2}
    bos = _is(circuit, "bos")
    digits = [circuit.number(f"a{k}") for k in range(min(3, config.address_digits))]
    address = circuit.wire(
        "address", total(config.digit**k * a for k, a in enumerate(digits)) - bos
    )
    square = _square(circuit, "address^2", address)
    members = {"code": "code", "slots": "slot", "table": "table", "input": "input"}
    by_name = {
        name: circuit.parabola(
            name,
            address,
            square,
            _outsider(circuit, name, members[name], "bos"),
            -1,
            int(address.range.hi),
            eps.get(name, 0.0),
        )
        for name in config.spaces
        if name in members
    }
    by_name["arith"] = _arithmetic(circuit)
    value = token_value(circuit, config)
    banks = _banks(circuit, config, value, bos, eps) if "memory" in config.spaces else []
    return Spaces(by_name, value, banks)


def _row(function: Callable[[int], float]) -> Callable[[int], float]:
    """A function of a table row's number from the field `row` (0: not a table token)."""
    return lambda row: function(row - 1) if row else 0.0


def _arithmetic(circuit: Circuit) -> Space:
    return circuit.parabola(
        "arith",
        circuit.embed("row.key", "row", _row(lambda j: j - CENTRE)),
        circuit.embed("row.key^2", "row", _row(lambda j: (j - CENTRE) ** 2)),
        _outsider(circuit, "arith", "arith"),
        -CENTRE,
        255 - CENTRE,
    )


class Tables:
    """Lookups in the arithmetic table: functions of 0..255, one feature each."""

    def __init__(self, circuit: Circuit, space: Space) -> None:
        self._circuit, self._space = circuit, space
        self._features: dict[str, Affine] = {}

    def lookup(
        self, name: str, query: Affine, functions: dict[str, Callable[[int], float]]
    ) -> list[Affine]:
        """functions(i) for the i in 0..255 nearest to `query` (an address 0..255)."""
        for key, function in functions.items():
            if key not in self._features:
                self._features[key] = self._circuit.embed(f"row.{key}", "row", _row(function))
        values = [self._features[key] for key in functions]
        return self._circuit.read(name, self._space, query - CENTRE, values)

    def divide(self, name: str, x: Affine, bits: int) -> Affine:
        """floor(x / 2^bits) for 0 <= x < 2^(bits + 8): the half offset avoids every tie."""
        query = (x - (2**bits - 1) / 2) * 2.0**-bits
        return self.lookup(name, query, {"identity": float})[0]


def _banks(
    circuit: Circuit,
    config: MachineConfig,
    value: Bytes,
    bos: Affine,
    eps: dict[str, float],
) -> list[Bank]:
    """Rotates the value into the banks that a store touches (88 neurons)."""
    digits = [circuit.number(f"a{k}") for k in range(1, config.address_digits)]
    low = circuit.embed("a0.word", "a0", lambda a: a >> 3)
    word = circuit.wire("word", low + total(32 * 256**k * a for k, a in enumerate(digits)) - bos)

    def bank(name: str, holds: Callable[[int], bool]) -> Affine:
        return circuit.embed(name, "a0", lambda a: float(holds(a & 7)))

    bank_is = [bank(f"bank is {q}", q.__eq__) for q in range(BANKS)]
    # A byte that wrapped past bank 7 lies in the next word.
    wrapped = [bank(f"bank > {b}", b.__lt__) for b in range(BANKS)]
    width = {w: _is(circuit, kind) for w, kind in _STORES.items()}
    banks = []
    for b in range(BANKS):
        rotated = [
            circuit.reglu(f"bank {b} byte {(b - q) % 8}", bank_is[q], value.byte[(b - q) % 8])
            for q in range(BANKS)
        ]
        byte = circuit.wire(f"bank {b} value", total(rotated), (0, 255), "exactly one bank_is is 1")
        touched = width[8] + total(
            circuit.reglu(
                f"bank {b} touched by {w}",
                total(bank_is[(b - i) % 8] for i in range(w)) + width[w] - 1,
            )
            for w in (1, 2, 4)
        )
        outsider = circuit.wire(
            f"bank {b} outsider", 1 - touched - bos, (0, 1), "one width, and BOS stores nothing"
        )
        own = word + wrapped[b]
        square = _square(circuit, f"bank {b} address^2", own)
        space = circuit.parabola(
            f"memory{b}", own, square, outsider, -1, int(own.range.hi), eps.get("memory", 0.0)
        )
        banks.append(Bank(space, byte, own))
    return banks
