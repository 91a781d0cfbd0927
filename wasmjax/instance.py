"""Running modules: an instance is a token sequence, an invocation is a turn of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from wasmjax.engine.decode import Engine, Session
from wasmjax.host import HostFunction
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.contents import read_values
from wasmjax.machine.describe import trap_message
from wasmjax.machine.program import Program, Registers, invocation, prompt, registers_of
from wasmjax.machine.specialize import without_code
from wasmjax.machine.tokens import columns
from wasmjax.values import bits_of, signed, value_of
from wasmjax.wasm import layout
from wasmjax.wasm.lower import FunctionEntry, Lowered
from wasmjax.wasm.types import FuncType

_COLUMN = columns(WASM)
_KINDS = isa.KIND


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run did.

    Attributes:
      exit_code: the program's exit status; None if it trapped or ran out of steps.
      trap: the trap's standard message, or None.
      stdout, stderr: what it wrote.
      steps: VM steps, one token each. prompt_tokens: tokens of the prompt.
      seconds: wall time of the steps, compilation apart. compile_seconds: compilation.
      out_of_steps: whether the step limit ended it.
    """

    exit_code: int | None
    trap: str | None
    stdout: bytes
    stderr: bytes
    steps: int
    prompt_tokens: int
    seconds: float
    compile_seconds: float
    out_of_steps: bool = False


class Trap(RuntimeError):
    """A call ended in a trap; the message is the standard one."""


class OutOfSteps(RuntimeError):
    """A call did not end within its step limit."""


class Exit(RuntimeError):
    """A call ended because the program called proc_exit; `code` is its exit status."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the program exited with status {code}")
        self.code = code


class Instance:
    """A module in its own token sequence: every call is a further turn of it.

    Args:
      max_steps: most VM steps of its start function.
      folded: whether the engine's weights hold the code.
      session: an empty one of the engine; None: a new one.

    Attributes:
      lowered: the program. session: the token sequence and its cache.
      hosts: the functions of the host, by the numbers that requests have.
    """

    def __init__(
        self,
        engine: Engine,
        lowered: Lowered,
        hosts: Sequence[HostFunction] = (),
        max_steps: int | None = None,
        folded: bool = False,
        session: Session | None = None,
    ) -> None:
        self.engine, self.lowered, self.hosts = engine, lowered, hosts
        self.session = Session(engine) if session is None else session
        program = without_code(lowered.program) if folded else lowered.program
        self._prompt = prompt(WASM, program)
        if lowered.start is not None:
            Run(self, lowered.start, ()).value(max_steps)

    def call(self, name: str, *args: int, max_steps: int | None = None) -> tuple[int, ...]:
        """Calls an export with integers, signed or unsigned; integer results are signed.

        Floating-point arguments and results are raw bits.

        Raises:
          KeyError: if there is no such function. TypeError: if the arguments do not fit it.
          Trap: with the trap's standard message. Exit: if the program exits.
          OutOfSteps: after max_steps. EngineError: if a limit of the machine would be passed.
        """
        bits = self.call_bits(name, *args, max_steps=max_steps)
        types = self.function(name).type.results
        return tuple(signed(value, t) for value, t in zip(bits, types, strict=True))

    def call_bits(self, name: str, *args: int, max_steps: int | None = None) -> tuple[int, ...]:
        """Calls an export; results are raw bits, unsigned. Raises what `call` does."""
        entry = self.function(name)
        results = entry.type.results
        first = self._run(entry, argument_bits(entry, args)).value(max_steps)
        if len(results) < 2:
            return (first,) * len(results)
        base = self.lowered.program.stack_base
        return (first, *self.slots(base + 1, len(results) - 1))

    def function(self, name: str) -> FunctionEntry:
        """An exported function. Raises KeyError if there is none of that name."""
        if name not in self.lowered.exports:
            raise KeyError(f"the module exports no function {name!r}")
        return self.lowered.exports[name]

    def slots(self, first: int, count: int) -> list[int]:
        """Bits of `count` stack slots (docs/tokens.md), after the program has stopped."""
        return [int(bits) for bits in self._read("slot", np.arange(first, first + count))]

    def memory(self, offset: int, length: int) -> bytes:
        """Bytes of the memory.

        Raises:
          IndexError: if they are out of its bounds.
        """
        size = self.memory_pages * layout.PAGE
        if offset < 0 or length < 0 or offset + length > size:
            raise IndexError(f"bytes {offset}..{offset + length} of a memory of {size} bytes")
        offset += self.lowered.memory_base * layout.PAGE
        first = offset // 8
        words = self._read("mem8", np.arange(first, -(-(offset + length) // 8)) * 8)
        return words.astype("<u8").tobytes()[offset - 8 * first :][:length]

    @property
    def memory_pages(self) -> int:
        """Current size of the memory in 64-KiB pages."""
        return self.slots(layout.MEMORY_PAGES_SLOT, 1)[0] - self.lowered.memory_base

    def global_value(self, name: str) -> int:
        """The value of an exported global, signed; floating point as raw bits.

        Raises:
          KeyError: if there is no such global.
        """
        if name not in self.lowered.global_exports:
            raise KeyError(f"the module exports no global {name!r}")
        slot, type_ = self.lowered.global_exports[name]
        return signed(self.slots(slot, 1)[0], type_)

    def _run(self, entry: FunctionEntry, args: Sequence[int]) -> Run:
        return Run(self, entry, args)

    def _flush(self) -> None:
        """Makes sure that the cache holds all there is."""
        if self.session.tokens == 0:
            self._nothing()

    def _nothing(self) -> None:
        """An invocation of nothing, which halts at once."""
        nothing = FunctionEntry("", FuncType((), ()), self.lowered.program.halt, 0, 1)
        Run(self, nothing, ()).value(None)

    def _read(self, kind: str, addresses_N: np.ndarray) -> np.ndarray:
        self._flush()
        return read_values(WASM, self.session.stored, kind, addresses_N)

    def invoke(self, entry: FunctionEntry, args: Sequence[int]) -> int:
        """Feeds what comes before an invocation, and its tokens; returns how many."""
        before = self._unfed()
        totals = self.session.totals + before.sum(axis=0, dtype=np.int64)
        turn = invocation_of(self.lowered.program, registers_of(WASM, totals), entry, args)
        self.fed = np.concatenate([before, turn])
        self.session.feed(self.fed)
        return len(self.fed)

    def _unfed(self) -> np.ndarray:
        """The tokens that the next invocation follows and that were not fed yet, int32 [n, F]."""
        return self._prompt if self.session.tokens == 0 else self._prompt[:0]


class Run:
    """One invocation on its way.

    A function of the host may end it, by raising `Trap` or `Exit`; whatever else it raises comes
    out of the methods that run.

    Attributes:
      prompt: the tokens fed for it, int32 [n, F]. steps: VM steps so far.
      last: the last token that the stop rule keeps, int32 [F].
    """

    def __init__(self, instance: Instance, entry: FunctionEntry, args: Sequence[int]) -> None:
        self.instance = instance
        instance.invoke(entry, args)
        self.prompt = instance.fed
        self.steps = 0
        self.last: np.ndarray | None = None
        self._raised: Trap | Exit | None = None

    def tokens(self, max_steps: int | None, keep_all: bool = False) -> Iterator[np.ndarray]:
        """Kept tokens chunk by chunk, int32 [n, F]. Raises EngineError at a machine limit."""
        budget = 2**31 - 1 if max_steps is None else max_steps
        start, goes_on = self.steps, True
        while goes_on:
            left = budget - (self.steps - start)
            for steps, kept in self.instance.session.generate(left, keep_all):
                self.steps += steps
                if len(kept):
                    self.last = kept[-1]
                yield kept
            goes_on = self.stopped and self.last is not None and asks_host(self.last)
            if goes_on:
                assert self.last is not None
                session, host = self.instance.session, self.instance.hosts[value_of(self.last)]
                try:
                    session.feed(host.answer(session.totals, session.stored))
                except (Trap, Exit) as ended:
                    self._raised = ended
                    return

    @property
    def stopped(self) -> bool:
        """Whether the machine halted or trapped."""
        return self.instance.session.stopped

    @property
    def trap(self) -> str | None:
        """The message of the trap that ended the run, if one did."""
        if self._raised is not None:
            return str(self._raised) if isinstance(self._raised, Trap) else None
        if not self.stopped or self.last is None:
            return None
        if self.last[_COLUMN["kind"]] != _KINDS["trap"]:
            return None
        return trap_message(int(self.last[_COLUMN["code"]]), self.unsupported)

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Names behind the trap codes of what is not supported."""
        return self.instance.lowered.program.unsupported

    @property
    def exit_code(self) -> int | None:
        """proc_exit's argument, 0 after a return; None while running and after a trap."""
        if isinstance(self._raised, Exit):
            return self._raised.code
        if not self.stopped or self.last is None or self.trap is not None:
            return None
        exited = self.last[_COLUMN["code"]] == isa.EXITED
        return value_of(self.last) & 0xFFFFFFFF if exited else 0

    def value(self, max_steps: int | None) -> int:
        """Runs to the return; the first result's bits. Raises Trap, Exit, OutOfSteps."""
        for _ in self.tokens(max_steps):
            pass
        if self._raised is not None:
            raise self._raised
        if self.trap is not None:
            raise Trap(self.trap)
        if not self.stopped or self.last is None:
            raise OutOfSteps(f"no return within {self.steps:,} steps")
        if self.last[_COLUMN["code"]] == isa.EXITED:
            raise Exit(self.exit_code or 0)
        return value_of(self.last)

    def finish(
        self, max_steps: int | None, on_output: Callable[[int, bytes], None] | None = None
    ) -> Result:
        """Runs a WASI program to its end; `on_output` gets (1 or 2, bytes) as they appear."""
        engine = self.instance.engine
        compiled = engine.compile_seconds
        start = time.perf_counter()
        out = {1: bytearray(), 2: bytearray()}
        for kept in self.tokens(max_steps):
            for number, data in outputs(kept):
                out[number] += data
                if on_output is not None:
                    on_output(number, data)
        compiled = engine.compile_seconds - compiled
        return Result(
            self.exit_code,
            self.trap,
            bytes(out[1]),
            bytes(out[2]),
            self.steps,
            len(self.prompt),
            time.perf_counter() - start - compiled,
            compiled,
            not self.stopped,
        )


def asks_host(token_F: np.ndarray) -> bool:
    """Whether a stop token asks for a function of the host."""
    return bool(token_F[_COLUMN["kind"]] == _KINDS["host"])


def outputs(tokens_NxF: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Output of a run of tokens in order: (1 for stdout or 2 for stderr, bytes)."""
    kind, byte = tokens_NxF[:, _COLUMN["kind"]], tokens_NxF[:, _COLUMN["v0"]]
    number = np.where(kind == _KINDS["out"], 1, np.where(kind == _KINDS["err"], 2, 0))
    rows = np.flatnonzero(number)
    for piece in np.split(rows, np.flatnonzero(np.diff(number[rows])) + 1):
        if piece.size:
            yield int(number[piece[0]]), byte[piece].astype(np.uint8).tobytes()


def invocation_of(
    program: Program, now: Registers, entry: FunctionEntry, args: Sequence[int]
) -> np.ndarray:
    """The tokens that call a function with argument bits, int32 [n, F].

    Args:
      now: sums over everything before.

    Raises:
      ValueError: if something does not fit the machine's fields.
    """
    return invocation(
        WASM,
        program,
        now,
        entry=entry.entry,
        args=args,
        header=entry.header,
        frame_size=entry.frame_size,
    )


def argument_bits(entry: FunctionEntry, args: Sequence[int]) -> list[int]:
    """Arguments of a call as unsigned bits.

    Raises:
      TypeError: if there are too few or too many, or one does not fit its type.
    """
    name, params = entry.name, entry.type.params
    if len(args) != len(params):
        raise TypeError(f"{name} takes {len(params)} argument(s), not {len(args)}")
    return bits_of(name, params, args)
