"""The public face: WebAssembly modules in, their output out, by way of a transformer.

vm = wasmjax.Machine()
result = vm.run(wasmjax.load("collatz.wasm"), args=["27"])
vm.instantiate(wasmjax.load("fib.wasm")).call("fib", 20)    # -> (6765,)
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from wasmjax.batch.jobs import Job, JobResult
from wasmjax.batch.run import Batch
from wasmjax.batch.schedule import Options
from wasmjax.batch.traces import Trace
from wasmjax.circuit.weights import Names, compile_circuit
from wasmjax.engine.decode import CacheName, Engine, EngineError, EngineName, Session, Stop
from wasmjax.engine.lanes import LanesEngine, make_mesh
from wasmjax.host import HostFunction, Imports, signatures
from wasmjax.instance import Exit, Instance, OutOfSteps, Result, Run, Trap
from wasmjax.machine import isa
from wasmjax.machine.build import build_circuit
from wasmjax.machine.config import WASM
from wasmjax.machine.specialize import require
from wasmjax.machine.tokens import columns
from wasmjax.model.explain import StepExplanation, explain
from wasmjax.model.transformer import Transformer
from wasmjax.store import Store
from wasmjax.wasm.lower import Lowered, lower
from wasmjax.wasm.types import Module
from wasmjax.wasm.validate import load_bytes


def load(source: str | os.PathLike[str] | bytes) -> Module:
    """Decodes and validates a WebAssembly binary, given as bytes or as a path.

    Raises:
      OSError: if the file cannot be read.
      wasmjax.wasm.errors.DecodeError: one line that names what is wrong and where.
    """
    data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
    return load_bytes(data)


def stop_rule() -> Stop:
    """The machine's end-of-sequence tokens, and the ones a host wants to see."""
    seen = (*isa.STOP_KINDS, isa.KIND["out"], isa.KIND["err"])
    return Stop(columns(WASM)["kind"], isa.STOP_KINDS, seen)


class Machine:
    """A transformer that executes WebAssembly.

    Args:
      engine: "packed" or "dense". cache: "indexed", "hull" or "softmax".
      model: the transformer; None: the universal WebAssembly machine, constructed here.
      names: what its parts are called, for `explain`.
      chunk: most steps per call on the device; output is streamed chunk by chunk.
      dtype: see `wasmjax.engine.decode.Engine`.

    Attributes:
      model: the transformer whose parameters every engine executes.
      engine: what executes them.
      program: digest of the program that the weights hold (`wasmjax specialize`); "": none.

    Raises:
      CertificateError, ReadoutError, EngineError: if the model's weights cannot be executed
        exactly.
    """

    def __init__(
        self,
        engine: EngineName = "packed",
        cache: CacheName = "indexed",
        model: Transformer | None = None,
        names: Names | None = None,
        chunk: int = 8192,
        dtype: str | None = None,
    ) -> None:
        use_compilation_cache()
        if model is None:
            model, names = _universal()
        self.model, self.names = model, names
        self.program = names.program if names is not None else ""
        self.engine = Engine(model.weights(), stop_rule(), engine, cache, chunk, dtype)
        self._lanes_engines: dict[tuple[jax.sharding.Mesh, bool], LanesEngine] = {}

    def run(
        self,
        module: Module,
        args: Sequence[str] = (),
        *,
        max_steps: int | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
        imports: Imports | None = None,
        **inputs: Any,
    ) -> Result:
        """Runs a WASI program from `_start` to its end.

        Args:
          args: arguments after the program's own name, which is "program".
          max_steps: most VM steps; None: as many as the engine can do exactly.
          on_output: called with (1 or 2, bytes) as output appears.
          imports: functions of the host that the module may import, (module, name) -> function.
          inputs: stdin (bytes), environ ("NAME=value" strings), and the other keyword arguments
            of `wasmjax.wasm.lower.lower`: fuse, seed, clock, max_pages, call_depth.

        Raises:
          ValueError, LinkError, InstantiationError: if the module cannot be run.
          EngineError: if a limit of the machine would be passed.
        """
        running = self.start(module, ["program", *args], imports, **inputs)
        return running.finish(max_steps, on_output)

    def start(
        self,
        module: Module,
        argv: Sequence[str],
        imports: Imports | None = None,
        *,
        session: Session | None = None,
        **inputs: Any,
    ) -> Run:
        """Prepares a WASI program; argv includes its own name, `session` is as for `instantiate`.

        Raises what `run` does.
        """
        hosts = imports or {}
        lowered = self._lowered(module, hosts, args=argv, **inputs)
        entry = lowered.exports.get("_start")
        if entry is None:
            raise ValueError("the module exports no function _start")
        if entry.type.params or entry.type.results:
            raise ValueError("_start must take and return nothing")
        return Run(self._instance(lowered, hosts, session=session), entry, ())

    def instantiate(
        self,
        module: Module,
        *,
        imports: Imports | None = None,
        max_steps: int | None = None,
        session: Session | None = None,
        **inputs: Any,
    ) -> Instance:
        """An instance whose exports can be called; its state persists between calls.

        Args:
          imports, inputs: as for `run`. max_steps: of its start function.
          session: an empty session of this machine's engine to run in; None: a new one.

        Raises:
          Trap, Exit, OutOfSteps: if its start function does. Else what `run` raises.
        """
        hosts = imports or {}
        return self._instance(self._lowered(module, hosts, **inputs), hosts, max_steps, session)

    def _lowered(self, module: Module, hosts: Imports, **inputs: Any) -> Lowered:
        lowered = lower(module, signatures(hosts), **inputs)
        require(lowered.program.instructions, self.program)
        return lowered

    def _instance(
        self,
        lowered: Lowered,
        hosts: Imports,
        max_steps: int | None = None,
        session: Session | None = None,
    ) -> Instance:
        folded = bool(self.program)
        return Instance(self.engine, lowered, [*hosts.values()], max_steps, folded, session)

    def store(self, **options: Any) -> Store:
        """A store for several modules that import from each other, or from Python.

        Args:
          options: those of `wasmjax.store.Store`.

        Raises:
          ValueError: if the weights hold a program.
        """
        if self.program:
            raise ValueError("the weights hold a program: there is no room for others")
        return Store(self.engine, **options)

    def trace(self, run: Run, max_steps: int | None = None) -> Iterator[np.ndarray]:
        """Every token of a run, chunk by chunk, int32 [n, F]."""
        return run.tokens(max_steps, keep_all=True)

    def run_batch(self, jobs: Sequence[Job], **options: Any) -> Iterator[JobResult]:
        """Runs many jobs, many at a time; results come in the order of the jobs.

        Args:
          jobs: see `wasmjax.batch.Job`.
          options: those of `batch`.

        Raises:
          EngineError: if the lanes do not fit the devices' memory. Else what `batch` raises.
        """
        return self.batch(jobs, **options).results()

    def batch(
        self,
        jobs: Sequence[Job],
        *,
        lanes: int | None = None,
        chunk: int | None = None,
        memory_bytes: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        keep_tokens: bool = False,
        **options: Any,
    ) -> Batch:
        """Prepares a batch; `results()` runs it.

        Args:
          lanes: jobs that run at the same time; None: as many as are useful and fit.
          chunk: most steps between looks at the lanes; None: adapts.
          memory_bytes: memory of a device to use; None: most of what is free.
          mesh: devices, one axis named "lanes"; None: all devices.
          keep_tokens: keep every token, for `traces` and `on_trace`.
          options: those of `wasmjax.batch.run.Batch`: checkpoints, traces, progress, imports.

        Raises:
          ValueError: if a number is out of range. OSError: if a folder cannot be used.
          JobError: if the checkpoint belongs to another batch.
        """
        for name, value in (("lanes", lanes), ("chunk", chunk), ("memory_bytes", memory_bytes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        engine = self.lanes_engine(mesh, keep_tokens)
        options["program"] = self.program
        return Batch(engine, jobs, Options(lanes, chunk, memory_bytes), **options)

    def traces(self, jobs: Sequence[Job], **options: Any) -> Iterator[Trace]:
        """Runs many jobs and keeps their tokens; traces come as jobs end.

        Args:
          options: those of `batch`. With `traces=FOLDER` they are written there as well.
        """
        if options.get("checkpoint") is not None and options.get("traces") is None:
            # Traces come in the order in which jobs end: what was handed out is not known.
            raise ValueError("traces of a batch with checkpoints need a folder (traces=)")
        found: list[Trace] = []
        batch = self.batch(jobs, keep_tokens=True, on_trace=found.append, **options)
        for _ in batch.results():
            yield from found
            found.clear()

    def lanes_engine(
        self, mesh: jax.sharding.Mesh | None = None, keep_tokens: bool = False
    ) -> LanesEngine:
        """What executes batches on a mesh (made once for each)."""
        mesh = make_mesh() if mesh is None else mesh
        key = mesh, keep_tokens
        if key not in self._lanes_engines:
            self._lanes_engines[key] = LanesEngine(
                self.engine.weights, self.engine.stop, mesh, keep_all=keep_tokens
            )
        return self._lanes_engines[key]

    def explain(self, run: Run, step: int) -> StepExplanation:
        """Step number `step` (from 0) of a fresh run, head by head.

        Raises:
          IndexError: if the run ends before.
        """
        tokens = [run.prompt]
        made = 0
        for kept in run.tokens(step, keep_all=True):
            tokens.append(kept)
            made += len(kept)
        if made < step or run.stopped:
            raise IndexError(f"the program ends after {made} steps")
        sequence = np.concatenate(tokens)
        return explain(self.engine.weights, self.names, sequence, self.engine.symbolic)


def _universal() -> tuple[Transformer, Names]:
    """The universal machine. Not kept, unlike `build_machine`'s: weights take 200 MB each time."""
    built = compile_circuit(build_circuit(WASM))
    return Transformer(built.weights), built.names


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
    "Exit",
    "HostFunction",
    "Instance",
    "Job",
    "JobResult",
    "Machine",
    "OutOfSteps",
    "Result",
    "Run",
    "Trap",
    "load",
]
