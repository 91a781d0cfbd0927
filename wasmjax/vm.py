"""The public face: WebAssembly modules in, their output out, by way of a transformer.

vm = wasmjax.Machine()
result = vm.run(wasmjax.load("collatz.wasm"), args=["27"])
vm.instantiate(wasmjax.load("add.wasm")).call("add", 3, 5)    # -> (8,)
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from wasmjax.engine.decode import CacheName, Engine, EngineError, EngineName, Session, Stop
from wasmjax.machine import isa
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import WASM
from wasmjax.machine.describe import trap_message
from wasmjax.machine.program import invocation, prompt, registers, registers_of
from wasmjax.machine.tokens import columns
from wasmjax.model.transformer import Transformer
from wasmjax.wasm.lower import FunctionEntry, Lowered, lower
from wasmjax.wasm.types import Module, ValType
from wasmjax.wasm.validate import load_bytes

_COLUMN = columns(WASM)
_KINDS = isa.KIND
_SIGNED_BITS = {ValType.I32: 32, ValType.I64: 64}


def load(source: str | os.PathLike[str] | bytes) -> Module:
    """Decodes and validates a WebAssembly binary, given as bytes or as a path.

    Raises:
      OSError: if the file cannot be read.
      wasmjax.wasm.errors.DecodeError: one line that names what is wrong and where.
    """
    data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    return load_bytes(data)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run did.

    Attributes:
      exit_code: the program's exit status; None if it trapped or ran out of steps.
      trap: the trap's standard message, or None.
      stdout, stderr: what it wrote.
      steps: VM steps, one token each. prompt_tokens: tokens of the prompt.
      seconds: wall time of the steps, compilation apart. compile_seconds: compilation.
      out_of_steps: whether `max_steps` ended it.
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


def stop_rule() -> Stop:
    """The machine's end-of-sequence tokens, and the ones a host wants to see."""
    return Stop(
        _COLUMN["kind"],
        isa.STOP_KINDS,
        (*isa.STOP_KINDS, _KINDS["out"], _KINDS["err"]),
    )


class Machine:
    """A transformer that executes WebAssembly.

    Args:
      engine: "packed" or "dense". cache: "indexed" or "softmax".
      model: the transformer; None: the universal WebAssembly machine, constructed here.
      chunk: most steps per call on the device; output is streamed chunk by chunk.

    Attributes:
      model: the transformer whose parameters every engine executes.
    """

    def __init__(
        self,
        engine: EngineName = "packed",
        cache: CacheName = "indexed",
        model: Transformer | None = None,
        chunk: int = 8192,
    ) -> None:
        use_compilation_cache()
        self.model = Transformer(build_machine(WASM).weights) if model is None else model
        self.engine = Engine(self.model.weights(), stop_rule(), engine, cache, chunk)

    def run(
        self,
        module: Module,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        environ: Sequence[str] = (),
        max_steps: int | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> Result:
        """Runs a WASI program from `_start` to its end.

        Args:
          args: arguments after the program's own name, which is "program".
          stdin: bytes of its standard input. environ: "NAME=value" strings.
          max_steps: most VM steps; None: as many as the engine can do exactly.
          on_output: called with (1 or 2, bytes) as output appears.

        Raises:
          ValueError, DecodeError: if the module has no `_start` or cannot be loaded.
          EngineError: if a limit of the machine would be passed.
        """
        run = self.start(module, ["program", *args], stdin=stdin, environ=environ)
        return run.finish(max_steps, on_output)

    def start(
        self,
        module: Module,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environ: Sequence[str] = (),
    ) -> "Run":
        """Prepares a WASI program; argv includes its own name. Raises what `run` does."""
        instance = Instance(self, lower(module, args=argv, environ=environ, stdin=stdin))
        entry = instance.lowered.exports.get("_start")
        if entry is None:
            raise ValueError("the module exports no function _start")
        if entry.type.params or entry.type.results:
            raise ValueError("_start must take and return nothing")
        return Run(instance, entry, ())

    def instantiate(self, module: Module) -> "Instance":
        """An instance whose exports can be called; its state persists between calls."""
        return Instance(self, lower(module))


class Instance:
    """A module in its own token sequence: every call is a further turn of it."""

    def __init__(self, machine: Machine, lowered: Lowered) -> None:
        self.machine, self.lowered = machine, lowered
        self.session = Session(machine.engine)
        self._prompt = prompt(WASM, lowered.program)
        if lowered.start is not None:
            _, trap, _ = Run(self, lowered.start, ()).collect(None)
            if trap is not None:
                raise Trap(trap)

    def call(self, name: str, *args: int, max_steps: int | None = None) -> tuple[int, ...]:
        """Calls an export with integers, signed or unsigned; results are signed.

        Raises:
          KeyError: if there is no such function. TypeError: if the arguments do not fit it.
          Trap: with the trap's standard message. OutOfSteps: after max_steps.
        """
        results = self.call_bits(name, *args, max_steps=max_steps)
        types = self._entry(name).type.results
        return tuple(_signed(bits, t) for bits, t in zip(results, types, strict=True))

    def call_bits(self, name: str, *args: int, max_steps: int | None = None) -> tuple[int, ...]:
        """Calls an export; arguments and results are raw bits. Raises what `call` does."""
        entry = self._entry(name)
        params = entry.type.params
        if len(args) != len(params):
            raise TypeError(f"{name} takes {len(params)} arguments, not {len(args)}")
        bits = [_bits(name, arg, t) for arg, t in zip(args, params, strict=True)]
        if len(entry.type.results) > 1:
            raise NotImplementedError("not yet supported: calls with several results")
        run = Run(self, entry, bits)
        token, trap, out_of_steps = run.collect(max_steps)
        if trap is not None:
            raise Trap(trap)
        if out_of_steps or token is None:
            raise OutOfSteps(f"{name} did not return within {max_steps} steps")
        return (value_of(token),) if entry.type.results else ()

    def _entry(self, name: str) -> FunctionEntry:
        if name not in self.lowered.exports:
            raise KeyError(f"the module exports no function {name!r}")
        return self.lowered.exports[name]

    def invoke(self, entry: FunctionEntry, args: Sequence[int]) -> int:
        """Feeds an invocation's tokens (after the prompt, the first time); returns how many."""
        fresh = self.session.tokens == 0
        now = registers(WASM, self._prompt) if fresh else registers_of(WASM, self.session.totals)
        turn = invocation(
            WASM,
            self.lowered.program,
            now,
            entry=entry.entry,
            args=args,
            header=entry.header,
            frame_size=entry.frame_size,
        )
        tokens = np.concatenate([self._prompt, turn]) if fresh else turn
        self.session.feed(tokens)
        return len(tokens)


class Run:
    """One invocation on its way."""

    def __init__(self, instance: Instance, entry: FunctionEntry, args: Sequence[int]) -> None:
        self.instance = instance
        self.prompt_tokens = instance.invoke(entry, args)
        self.steps = 0
        self.last: np.ndarray | None = None

    def tokens(self, max_steps: int | None, keep_all: bool = False) -> Iterator[np.ndarray]:
        """Kept tokens chunk by chunk, int32 [n, F]. Raises EngineError at a machine limit."""
        budget = 2**31 - 1 if max_steps is None else max_steps
        for steps, kept in self.instance.session.generate(budget, keep_all):
            self.steps += steps
            if len(kept):
                self.last = kept[-1]
            yield kept

    @property
    def stopped(self) -> bool:
        return self.instance.session.stopped

    def collect(self, max_steps: int | None) -> tuple[np.ndarray | None, str | None, bool]:
        """Runs to the end: last token, trap message, whether the steps ran out."""
        for _ in self.tokens(max_steps):
            pass
        return self.outcome()

    def outcome(self) -> tuple[np.ndarray | None, str | None, bool]:
        """The stop token, the trap's message if it is one, whether there is no stop token."""
        if not self.stopped or self.last is None:
            return None, None, True
        if self.last[_COLUMN["kind"]] == _KINDS["trap"]:
            unsupported = self.instance.lowered.program.unsupported
            return self.last, trap_message(int(self.last[_COLUMN["code"]]), unsupported), False
        return self.last, None, False

    def finish(
        self, max_steps: int | None, on_output: Callable[[int, bytes], None] | None = None
    ) -> Result:
        """Runs a WASI program to its end."""
        engine = self.instance.machine.engine
        compiled = engine.compile_seconds
        start = time.perf_counter()
        out = {1: bytearray(), 2: bytearray()}
        for kept in self.tokens(max_steps):
            for number, data in outputs(kept):
                out[number] += data
                if on_output is not None:
                    on_output(number, data)
        compiled = engine.compile_seconds - compiled
        token, trap, out_of_steps = self.outcome()
        exit_code = None
        if token is not None and trap is None:
            exited = token[_COLUMN["code"]] == isa.EXITED
            exit_code = value_of(token) & 0xFFFFFFFF if exited else 0
        return Result(
            exit_code,
            trap,
            bytes(out[1]),
            bytes(out[2]),
            self.steps,
            self.prompt_tokens,
            time.perf_counter() - start - compiled,
            compiled,
            out_of_steps,
        )


def outputs(tokens_NxF: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Output of a run of tokens in order: (1 for stdout or 2 for stderr, bytes)."""
    kind, byte = tokens_NxF[:, _COLUMN["kind"]], tokens_NxF[:, _COLUMN["v0"]]
    number = np.where(kind == _KINDS["out"], 1, np.where(kind == _KINDS["err"], 2, 0))
    rows = np.flatnonzero(number)
    for piece in np.split(rows, np.flatnonzero(np.diff(number[rows])) + 1):
        if piece.size:
            yield int(number[piece[0]]), byte[piece].astype(np.uint8).tobytes()


def value_of(token_F: np.ndarray) -> int:
    """The value a token writes, as unsigned bits."""
    start = _COLUMN["v0"]
    return int.from_bytes(token_F[start : start + 8].astype(np.uint8).tobytes(), "little")


def _bits(name: str, value: int, type_: ValType) -> int:
    width = 32 if type_ in (ValType.I32, ValType.F32) else 64
    if not -(1 << width - 1) <= value < 1 << width:
        raise TypeError(f"{name}: {value} does not fit {type_.value}")
    return value & (1 << width) - 1


def _signed(bits: int, type_: ValType) -> int:
    width = _SIGNED_BITS.get(type_)
    if width is None:
        return bits
    return bits - (1 << width) if bits >> width - 1 & 1 else bits


@functools.cache
def use_compilation_cache() -> None:
    """Keeps compiled steps on disk, unless the user has configured a place already."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    jax.config.update("jax_compilation_cache_dir", os.path.join(home, "wasmjax", "jit"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


__all__ = [
    "EngineError",
    "Instance",
    "Machine",
    "OutOfSteps",
    "Result",
    "Run",
    "Trap",
    "load",
]
