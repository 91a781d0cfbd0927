"""The first place where two token streams differ."""

import dataclasses

import numpy as np

from wasmjax.machine.config import MachineConfig
from wasmjax.machine.describe import describe
from wasmjax.machine.tokens import columns, fields

LENGTH = "length"
"""The `Divergence.field` of streams of which one is a beginning of the other."""


@dataclasses.dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference of two token streams.

    Attributes:
      step: index of the first token that differs, or where the shorter stream ends.
      field: first field that differs, in token order; `LENGTH` if a token is missing.
      expected, actual: its two values, or the two lengths.
      others: names of further fields that differ in the same token.
      expected_record, actual_record: both tokens as `describe` shows them ("" if missing).
    """

    step: int
    field: str
    expected: int
    actual: int
    others: tuple[str, ...] = ()
    expected_record: str = ""
    actual_record: str = ""

    def __str__(self) -> str:
        if self.field == LENGTH:
            head = (
                f"step {self.step}: one stream ends here: "
                f"expected {self.expected} tokens, got {self.actual}"
            )
        else:
            head = f"step {self.step}: field {self.field}: "
            head += f"expected {self.expected}, got {self.actual}"
        if self.others:
            head += f" (also: {', '.join(self.others)})"
        lines = [head]
        if self.expected_record:
            lines.append(f"  expected {self.expected_record}")
        if self.actual_record:
            lines.append(f"  actual   {self.actual_record}")
        return "\n".join(lines)


def first_divergence(
    config: MachineConfig, expected_TxF: np.ndarray, actual_TxF: np.ndarray
) -> Divergence | None:
    """Compares two token streams of one machine.

    Args:
      expected_TxF, actual_TxF: integer tokens [T, F]; the two T may differ.

    Returns:
      The first difference, or None if the streams are equal.

    Raises:
      ValueError: if an array does not hold tokens of this machine.
    """
    width = len(fields(config))
    expected, actual = np.asarray(expected_TxF), np.asarray(actual_TxF)
    for name, tokens in (("expected", expected), ("actual", actual)):
        if tokens.ndim != 2 or tokens.shape[1] != width:
            raise ValueError(f"{name} tokens must be [T, {width}], not {tokens.shape}")
    common = min(len(expected), len(actual))
    differs = (expected[:common] != actual[:common]).any(axis=1)
    step = int(differs.argmax()) if differs.any() else common

    def record(tokens: np.ndarray) -> str:
        return describe(config, tokens[step], step).strip() if step < len(tokens) else ""

    if step < common:
        names = [
            field.name
            for field, same in zip(fields(config), expected[step] == actual[step], strict=True)
            if not same
        ]
        index = columns(config)[names[0]]
        return Divergence(
            step,
            names[0],
            int(expected[step, index]),
            int(actual[step, index]),
            tuple(names[1:]),
            record(expected),
            record(actual),
        )
    if len(expected) == len(actual):
        return None
    return Divergence(
        step, LENGTH, len(expected), len(actual), (), record(expected), record(actual)
    )
