"""From jobs to token sequences: loading, lowering and the prompt's cache, each once per module."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence as Many

import numpy as np

from wasmjax.batch.jobs import Job
from wasmjax.cache.lanes import LanesCache
from wasmjax.engine.sequence import Prefix, Sequence, append, extend, stored
from wasmjax.host import Imports, signatures
from wasmjax.instance import argument_bits, invocation_of
from wasmjax.machine.config import WASM
from wasmjax.machine.program import (
    Program,
    prompt_code,
    prompt_inputs,
    registers,
    registers_of,
)
from wasmjax.machine.specialize import require
from wasmjax.values import value_of
from wasmjax.wasm.errors import DecodeError
from wasmjax.wasm.link import LinkError
from wasmjax.wasm.lower import (
    FunctionEntry,
    InstantiationError,
    Lowered,
    LoweredCode,
    bind,
    lower_code,
)
from wasmjax.wasm.types import Module
from wasmjax.wasm.validate import load_bytes

_MODULES, _PREFIXES = 512, 64
"""Lowered modules, and cached prompts, that are kept."""

_REFUSALS = (DecodeError, InstantiationError, LinkError, OSError, ValueError)


@dataclasses.dataclass
class Prepared:
    """A job that can run.

    Attributes:
      lowered: its program. turns: invocations that follow the first: (function, argument bits).
      sequence: prompt and first invocation. prompt_tokens: how many they are.
      prompt: those tokens, if they were asked for.
    """

    lowered: Lowered
    turns: list[tuple[FunctionEntry, Many[int]]]
    sequence: Sequence
    prompt_tokens: int
    prompt: np.ndarray | None = None


class Preparer:
    """Prepares jobs; what modules have in common is kept.

    Args:
      cache: layout of the caches to fill. keep_prompts: for `Prepared.prompt`.
      imports: functions of the host. folded: digest of the code that the weights hold; "": none.
    """

    def __init__(
        self,
        cache: LanesCache,
        keep_prompts: bool = False,
        imports: Imports | None = None,
        folded: str = "",
    ) -> None:
        self.cache, self.keep_prompts = cache, keep_prompts
        self._hosts, self._folded = list((imports or {}).values()), folded
        self._signatures = signatures(imports or {})
        self._code: collections.OrderedDict[bytes, LoweredCode | str] = collections.OrderedDict()
        self._alive: dict[int, Module] = {}
        self._prefixes: collections.OrderedDict[bytes, tuple[Prefix, np.ndarray]] = (
            collections.OrderedDict()
        )

    def prepare(self, jobs: Many[Job]) -> list[Prepared | str]:
        """Prepared jobs, or one line on why a job cannot run."""
        out: list[Prepared | str] = []
        begun: list[Prepared] = []
        pairs: list[tuple[Prefix, np.ndarray]] = []
        for job in jobs:
            try:
                key, code = self._lowered(job)
                lowered, turns = _bound(job, code)
                prefix, prefix_tokens = self._prefix(key, lowered.program)
                tail = _tail(prefix, lowered, *turns[0])
            except _REFUSALS as error:
                out.append(_line(error))
                continue
            prompt = np.concatenate([prefix_tokens, tail]) if self.keep_prompts else None
            # The sequence is filled in below, for all jobs at once.
            tokens = prefix.tokens + len(tail)
            begun.append(Prepared(lowered, turns[1:], None, tokens, prompt))  # type: ignore[arg-type]
            out.append(begun[-1])
            pairs.append((prefix, tail))
        for prepared, sequence in zip(begun, extend(self.cache, pairs), strict=True):
            prepared.sequence = sequence
        while len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return out

    def next_turn(self, prepared: Prepared, sequence: Sequence) -> np.ndarray:
        """Feeds the next invocation; returns its tokens, [n, F]."""
        entry, args = prepared.turns.pop(0)
        now = registers_of(WASM, sequence.totals)
        tokens = invocation_of(prepared.lowered.program, now, entry, args)
        return self._feed(prepared, sequence, tokens)

    def answer(self, prepared: Prepared, sequence: Sequence) -> np.ndarray:
        """Calls the function of the host that the current token asks for, and feeds its results.

        Raises:
          What the function raises.
        """
        host = self._hosts[value_of(sequence.token)]
        tokens = host.answer(sequence.totals, lambda probe: stored(self.cache, sequence, probe))
        return self._feed(prepared, sequence, tokens)

    def _feed(self, prepared: Prepared, sequence: Sequence, tokens: np.ndarray) -> np.ndarray:
        append(self.cache, sequence, tokens)
        prepared.prompt_tokens += len(tokens)
        return tokens

    def _lowered(self, job: Job) -> tuple[bytes, LoweredCode]:
        if not isinstance(job.module, bytes | str | os.PathLike | Module):
            raise ValueError("a module is bytes, a path or what wasmjax.load returns")
        if isinstance(job.module, Module):
            # Kept alive, so that no other module gets its id.
            self._alive[id(job.module)] = job.module
            data, key = None, id(job.module).to_bytes(8, "little")
        else:
            data = job.module if isinstance(job.module, bytes) else _read(job.module)
            key = hashlib.blake2b(data, digest_size=16).digest()
        key += bytes([bool(job.fuse)])
        if key not in self._code:
            try:
                module = job.module if data is None else load_bytes(data)
                assert isinstance(module, Module)
                code = lower_code(module, self._signatures, bool(job.fuse))
                self._code[key] = self._promptable(code)
            except _REFUSALS as error:
                self._code[key] = str(error)
            if len(self._code) > _MODULES:
                self._code.popitem(last=False)
        found = self._code[key]
        if isinstance(found, str):
            raise ValueError(found)
        return key, found

    def _promptable(self, code: LoweredCode) -> LoweredCode:
        require(code.instructions, self._folded)
        return dataclasses.replace(code, instructions=()) if self._folded else code

    def _prefix(self, key: bytes, program: Program) -> tuple[Prefix, np.ndarray]:
        if key not in self._prefixes:
            tokens = prompt_code(WASM, program)
            self._prefixes[key] = Prefix(self.cache, tokens), tokens
        self._prefixes.move_to_end(key)
        return self._prefixes[key]


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise OSError(f"{os.path.basename(path)}: {error.strerror or error}") from None


def _bound(job: Job, code: LoweredCode) -> tuple[Lowered, list[tuple[FunctionEntry, Many[int]]]]:
    """The program with its inputs, and what to invoke in turn. Raises what the front end does."""
    if job.max_steps is not None and job.max_steps < 1:
        raise ValueError("max_steps must be at least 1")
    if not all(isinstance(text, str) for text in (*job.args, *job.env)):
        raise ValueError("args and env are strings")
    if not isinstance(job.stdin, bytes):
        raise ValueError("stdin is bytes")
    numbers = (job.seed, job.clock, job.call_depth, *job.call_args)
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("seed, clock, call_depth and call_args are integers")
    lowered = bind(
        code,
        args=["program", *job.args],
        environ=job.env,
        stdin=job.stdin,
        clock=job.clock,
        seed=job.seed,
        call_depth=job.call_depth,
        max_pages=job.max_pages,
    )
    name = "_start" if job.call is None else job.call
    entry = lowered.exports.get(name)
    if entry is None:
        raise ValueError(f"the module exports no function {name!r}")
    if job.call is None and (entry.type.params or entry.type.results):
        raise ValueError("_start must take and return nothing")
    if job.call is None and job.call_args:
        raise ValueError("call_args without a call")
    turns: list[tuple[FunctionEntry, Many[int]]] = []
    if lowered.start is not None:
        turns.append((lowered.start, ()))
    try:
        bits = argument_bits(entry, job.call_args)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return lowered, [*turns, (entry, bits)]


def _tail(prefix: Prefix, lowered: Lowered, entry: FunctionEntry, args: Many[int]) -> np.ndarray:
    """The tokens of one run after the common ones: its inputs and the first invocation."""
    inputs = prompt_inputs(WASM, lowered.program)
    # The common tokens move nothing.
    turn = invocation_of(lowered.program, registers(WASM, inputs), entry, args)
    return np.concatenate([inputs, turn])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
