"""Jobs and their results, as Python objects and as JSON lines (docs/batch.md)."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from wasmjax.wasm.lower import DEFAULT_CALL_DEPTH
from wasmjax.wasm.types import Module

OUTCOMES = ("exit", "return", "trap", "step limit", "refused", "limit", "host error")
"""How a job ends: the program exited, or the export returned; it trapped; it used up its steps; it
was refused, since it cannot be run; a limit of the machine was reached; a function of the host
raised."""


class JobError(ValueError):
    """A line of a jobs file that is no job; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a module.

    Attributes:
      module: a binary (bytes), its path, or a module that was loaded.
      args: arguments of `_start` after the program's own name, which is "program".
      stdin: what it reads. env: "NAME=value" strings.
      call: an export to call instead of `_start`. call_args: its arguments: integers, signed or
        unsigned; floating point as raw bits.
      max_steps: most VM steps.
      seed, clock, max_pages, call_depth, fuse: as in `wasmjax.wasm.lower`.
      id: anything that JSON can hold; it is passed on to the result.
    """

    module: bytes | str | os.PathLike[str] | Module
    args: tuple[str, ...] = ()
    stdin: bytes = b""
    env: tuple[str, ...] = ()
    call: str | None = None
    call_args: tuple[int, ...] = ()
    max_steps: int | None = None
    seed: int = 0
    clock: int = 0
    max_pages: int | None = None
    call_depth: int = DEFAULT_CALL_DEPTH
    id: Any = None
    fuse: bool = False


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a job did.

    Attributes:
      index: number of the job. outcome: one of OUTCOMES.
      exit_code: of an exit. results: of a return, integers signed, floating point as raw bits.
      trap: the trap's standard message.
      error: one line on what was refused, which limit was reached, or what was raised.
      stdout, stderr: what it wrote, to the end or to where it was stopped.
      steps: VM steps. prompt_tokens: tokens of its prompt (further turns included).
      id: the job's.
    """

    index: int
    outcome: str
    exit_code: int | None = None
    results: tuple[int, ...] | None = None
    trap: str | None = None
    error: str | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    steps: int = 0
    prompt_tokens: int = 0
    id: Any = None

    def to_json(self) -> str:
        """One line, without a newline. Equal results are equal text."""
        record: dict[str, Any] = {"index": self.index}
        if self.id is not None:
            record["id"] = self.id
        record["outcome"] = self.outcome
        for name in ("exit_code", "results", "trap", "error"):
            value = getattr(self, name)
            if value is not None:
                record[name] = value
        for name in ("stdout", "stderr"):
            data = getattr(self, name)
            if data:
                record |= _text(name, data)
        record |= {"steps": self.steps, "prompt_tokens": self.prompt_tokens}
        return json.dumps(record)

    @classmethod
    def from_json(cls, line: str) -> JobResult:
        """The inverse of `to_json`."""
        record = json.loads(line)
        for name in ("stdout", "stderr"):
            if f"{name}_base64" in record:
                record[name] = base64.b64decode(record.pop(f"{name}_base64"))
            elif name in record:
                record[name] = record[name].encode()
        if "results" in record:
            record["results"] = tuple(record["results"])
        return cls(**record)


def _text(name: str, data: bytes) -> dict[str, str]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


_KINDS: dict[str, type | tuple[type, ...]] = {
    "module": str,
    "args": list,
    "stdin": str,
    "stdin_base64": str,
    "env": list,
    "call": str,
    "call_args": list,
    "max_steps": int,
    "seed": int,
    "clock": int,
    "max_memory_pages": int,
    "call_depth": int,
    "fuse": bool,
    "id": object,
}
_DEEPEST = 100
"""Levels of an id: few enough to be written wherever it is passed on."""
_ITEMS: dict[str, type] = {"args": str, "env": str, "call_args": int}


def read_jobs(path: str | os.PathLike[str]) -> list[Job]:
    """Jobs of a file with one JSON object a line; module paths are relative to its folder.

    Raises:
      OSError: if it cannot be read. JobError: naming the first line that is no job.
    """
    file = pathlib.Path(path)
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError:
        raise JobError("it is not UTF-8 text") from None
    return list(_jobs(text, file.parent))


def _jobs(text: str, folder: pathlib.Path) -> Iterator[Job]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield parse_job(json.loads(line), folder)
        except json.JSONDecodeError as error:
            raise JobError(f"line {number}: no JSON: {error.msg}") from None
        except JobError as error:
            raise JobError(f"line {number}: {error}") from None
        except RecursionError:
            raise JobError(f"line {number}: nested too deeply") from None
        except ValueError:  # Python's own limit
            raise JobError(f"line {number}: an integer has too many digits") from None


def _is_plain(value: Any, depth: int) -> bool:
    """Whether what was read as JSON can be written as JSON, and nests no deeper."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_plain(item, depth - 1) for item in inner)


def parse_job(record: Any, folder: pathlib.Path) -> Job:
    """A job from its JSON object. Raises JobError."""
    if not isinstance(record, dict):
        raise JobError("a job is a JSON object")
    for name, value in record.items():
        if name not in _KINDS:
            raise JobError(f"a job has no {name!r}; it has {', '.join(_KINDS)}")
        plain = isinstance(value, bool) and name not in ("id", "fuse")
        if not isinstance(value, _KINDS[name]) or plain:
            raise JobError(f"{name} is of the wrong type")
        items = value if isinstance(value, list) and name in _ITEMS else ()
        if not all(type(item) is _ITEMS[name] for item in items):
            raise JobError(f"{name} holds something of the wrong type")
    if not _is_plain(record.get("id"), _DEEPEST):
        raise JobError("id is nested too deeply, or holds a number that JSON has not")
    if "module" not in record:
        raise JobError("a job needs a module")
    if "stdin" in record and "stdin_base64" in record:
        raise JobError("stdin and stdin_base64 exclude each other")
    if record.get("max_steps", 1) < 1:
        raise JobError("max_steps must be at least 1")
    for value in (record.get("stdin", ""), *record.get("args", ()), *record.get("env", ())):
        if not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
            raise JobError("a lone surrogate is no text")
    stdin = record.get("stdin", "").encode()
    if "stdin_base64" in record:
        try:
            stdin = base64.b64decode(record["stdin_base64"], validate=True)
        except ValueError:
            raise JobError("stdin_base64 is no base64") from None
    return Job(
        module=folder / record["module"],
        args=tuple(record.get("args", ())),
        stdin=stdin,
        env=tuple(record.get("env", ())),
        call=record.get("call"),
        call_args=tuple(record.get("call_args", ())),
        max_steps=record.get("max_steps"),
        seed=record.get("seed", 0),
        clock=record.get("clock", 0),
        max_pages=record.get("max_memory_pages"),
        call_depth=record.get("call_depth", DEFAULT_CALL_DEPTH),
        fuse=record.get("fuse", False),
        id=record.get("id"),
    )
