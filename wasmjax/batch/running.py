"""A job on its way, and how it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from wasmjax.batch.jobs import Job, JobResult
from wasmjax.batch.prepare import Prepared
from wasmjax.engine import decode
from wasmjax.engine.decode import MAX_TOKENS
from wasmjax.engine.fleet import Fleet
from wasmjax.engine.lanes import LIMITED
from wasmjax.instance import Exit, Trap, asks_host, outputs
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.contents import Stored, read_values
from wasmjax.machine.describe import trap_message
from wasmjax.machine.tokens import columns
from wasmjax.values import signed, value_of

OnTokens = Callable[[JobResult, np.ndarray, np.ndarray], None]
"""Called with a job's result, its prompt and its further tokens, [n, F]."""

_COLUMN = columns(WASM)


@dataclasses.dataclass
class Running:
    """A job on its way.

    Attributes:
      index: number of the job. job, prepared: what it is, and its program.
      left: steps it may still make. limited: whether it is the job that says so.
      out: stdout and stderr so far. steps: VM steps so far.
      tokens: tokens after the prompt so far, int16 [n, F], if they are kept.
    """

    index: int
    job: Job
    prepared: Prepared
    left: int
    limited: bool
    out: tuple[bytearray, bytearray] = dataclasses.field(
        default_factory=lambda: (bytearray(), bytearray())
    )
    steps: int = 0
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)

    @classmethod
    def new(cls, index: int, job: Job, prepared: Prepared) -> Running:
        """A job that has not begun."""
        horizon = MAX_TOKENS - prepared.prompt_tokens
        limited = job.max_steps is not None and job.max_steps <= horizon
        left = job.max_steps if limited and job.max_steps is not None else horizon
        return cls(index, job, prepared, left, limited)

    @property
    def begun(self) -> bool:
        """Whether it has made a step."""
        return self.steps > 0

    def make(self, steps: int, kept_NxF: np.ndarray | None, keep: bool) -> None:
        """Takes note of steps and of the tokens kept of them."""
        self.steps += steps
        if kept_NxF is None:
            return
        for number, data in outputs(kept_NxF):
            self.out[number - 1].extend(data)
        if keep:
            self.tokens.append(kept_NxF.astype(np.int16))

    def turn(self, tokens_NxF: np.ndarray, count: int, keep: bool) -> None:
        """Takes note of further tokens fed, after which there are `count`."""
        if keep:
            self.tokens.append(tokens_NxF.astype(np.int16))
        horizon = MAX_TOKENS - count
        if horizon < self.left:
            self.left, self.limited = horizon, False

    @property
    def further_results(self) -> int:
        """Results of its call that a halting token has no room for."""
        if self.job.call is None or self.prepared.turns:
            return 0
        types = self.prepared.lowered.exports[self.job.call].type.results
        return max(0, len(types) - 1)

    def goes_on(self, status: int, token_F: np.ndarray) -> bool:
        """Whether its cache is still needed after it stopped with this status and token."""
        if status == decode.FULL:
            return True
        if status == decode.STOPPED and asks_host(token_F):
            return True
        if status != decode.STOPPED or not _returned(token_F):
            return False
        return bool(self.prepared.turns) or self.further_results > 0

    def result(self, fleet: Fleet, lane: int, status: int) -> JobResult:
        """The result of a job that stopped in a lane with this status."""
        if status == LIMITED:
            return self.out_of_steps()
        if status == decode.OUT_OF_RANGE:
            what = "a field's value lies outside its vocabulary (machine limit)"
            return self._ended("limit", error=f"token {fleet.count(lane)}: {what}")
        if status == decode.REFUSED:
            what = fleet.problem(lane)
            return self._ended("limit", error=f"token {fleet.count(lane)}: {what}")
        token = fleet.token(lane)
        if token[_COLUMN["kind"]] == isa.KIND["trap"]:
            unsupported = self.prepared.lowered.program.unsupported
            message = trap_message(int(token[_COLUMN["code"]]), unsupported)
            return self._ended("trap", trap=message)
        if not _returned(token):
            return self._ended("exit", exit_code=value_of(token) & 0xFFFFFFFF)
        if self.job.call is None:
            return self._ended("exit", exit_code=0)
        return self.returned([value_of(token)])

    def several_results(self, token_F: np.ndarray, stored: Stored) -> JobResult:
        """The result of a call that returned several values: one in the token, others in slots."""
        base = self.prepared.lowered.program.stack_base
        addresses = base + 1 + np.arange(self.further_results)
        further = read_values(WASM, stored, "slot", addresses)
        return self.returned([value_of(token_F), *map(int, further)])

    def returned(self, bits: list[int]) -> JobResult:
        """The result of a call; `bits` may be longer than its results."""
        assert self.job.call is not None
        types = self.prepared.lowered.exports[self.job.call].type.results
        values = (signed(value, type_) for value, type_ in zip(bits, types, strict=False))
        return self._ended("return", results=tuple(values))

    def failed(self, error: Exception) -> JobResult:
        """The result of a job for which a function of the host raised."""
        if isinstance(error, Trap):
            return self._ended("trap", trap=str(error))
        if isinstance(error, Exit):
            return self._ended("exit", exit_code=error.code)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return self._ended("host error", error=what)

    def out_of_steps(self) -> JobResult:
        """The result of a job that has used up its steps."""
        if self.limited:
            return self._ended("step limit")
        what = f"the sequence reached {MAX_TOKENS} tokens, the exact limit"
        return self._ended("limit", error=what)

    def _ended(
        self,
        outcome: str,
        exit_code: int | None = None,
        results: tuple[int, ...] | None = None,
        trap: str | None = None,
        error: str | None = None,
    ) -> JobResult:
        return JobResult(
            self.index,
            outcome,
            exit_code,
            results,
            trap,
            error,
            bytes(self.out[0]),
            bytes(self.out[1]),
            self.steps,
            self.prepared.prompt_tokens,
            self.job.id,
        )


def _returned(token_F: np.ndarray) -> bool:
    """Whether a stop token is the return of what was invoked."""
    halts = token_F[_COLUMN["kind"]] == isa.KIND["halt"]
    return bool(halts and token_F[_COLUMN["code"]] == isa.RETURNED)
