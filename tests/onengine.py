"""Lowered modules on an engine beside the oracle: both must generate the same tokens.

State (slots, memory, output) is read from the oracle; equal tokens are what makes it the engine's.
"""

import functools

import numpy as np
import wasmtime

import wasmjax
from lowering import Machine, Outcome, Reference, compile_wat
from wasmjax.engine.decode import CacheName, EngineName, Session
from wasmjax.machine.config import WASM
from wasmjax.machine.program import prompt
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import lower
from wasmjax.wasm.types import Module
from wasmjax.wasm.validate import load_bytes

RAN: set[str] = set()
"""Operators of the modules that a test has run on an engine, beside the oracle: the README's table
is made of what passing tests leave here (scripts/support_table.py)."""


def note(module: Module) -> None:
    """Takes note of a module that is run."""
    RAN.update(instr.name for function in module.functions for instr in function.body)


@functools.cache
def machine(engine: EngineName = "packed", cache: CacheName = "indexed") -> wasmjax.Machine:
    """The universal machine, made and compiled once for all tests of a process."""
    return wasmjax.Machine(engine, cache)


class Twins(Oracle):
    """An oracle and a session, fed alike, which are to generate the same tokens."""

    def __init__(self, session: Session):
        super().__init__(WASM)
        self.session = session
        self._unfed: list[np.ndarray] = []

    def feed(self, tokens_NxF: np.ndarray) -> None:
        super().feed(tokens_NxF)
        self._unfed.append(tokens_NxF)

    def run(self, max_steps: int, keep: bool = True) -> np.ndarray:
        self.session.feed(np.concatenate(self._unfed))
        self._unfed = []
        start, chunks = self.steps, []
        for steps, actual in self.session.generate(max_steps, keep_all=True):
            before = self.steps - start
            expected = super().run(steps)
            divergence = first_divergence(WASM, expected, actual)
            assert divergence is None, f"after {before} steps: {divergence}"
            if keep:
                chunks.append(expected)
        assert self.stopped == self.session.stopped
        return np.concatenate(chunks) if chunks else np.zeros((0, 0), np.int32)


class OnEngine(Machine):
    """A lowered module as in `lowering.Machine`, on an engine and the oracle."""

    def __init__(
        self,
        binary: bytes,
        engine: EngineName = "packed",
        cache: CacheName = "indexed",
        **inputs,
    ):
        module = load_bytes(binary)
        note(module)
        self.lowered = lower(module, **inputs)
        self.oracle = Twins(Session(machine(engine, cache).engine))
        self.oracle.feed(prompt(WASM, self.lowered.program))
        self.steps = 0
        if self.lowered.start is not None:
            self.started = self.call(self.lowered.start, [])


def globals_of(machine: Machine) -> dict[str, int]:
    """Exported globals as bits."""
    return {
        name: machine.oracle.slot(slot)
        for name, (slot, _) in machine.lowered.global_exports.items()
    }


def reference_globals(reference: Reference) -> dict[str, int]:
    """Exported globals as bits; integers only."""
    out = {}
    for name, item in reference.exports.items():
        if isinstance(item, wasmtime.Global):
            width = int(str(item.type(reference.store).content)[1:])
            out[name] = item.value(reference.store) % (1 << width)
    return out


def assert_same_state(machine: Machine, reference: Reference) -> None:
    """Exported memory (its size included) and globals are equal."""
    assert globals_of(machine) == reference_globals(reference)
    if "memory" in reference.exports:
        assert machine.pages == reference.pages
        size = 65536 * reference.pages
        got, want = (np.frombuffer(x.memory(size), np.uint8) for x in (machine, reference))
        wrong = np.flatnonzero(got != want)
        at = {int(k): (int(got[k]), int(want[k])) for k in wrong[:8]}
        assert not wrong.size, f"{wrong.size} bytes of memory differ (got, want): {at}"


def outcomes(
    machine: Machine, reference: Reference, *calls: tuple
) -> list[tuple[tuple, Outcome, Outcome]]:
    """Calls `(export, *args)` in order: those that end differently, with (got, want)."""
    wrong = []
    for name, *args in calls:
        want = reference.invoke(name, *args)
        got = machine.invoke(name, *args)
        if got != want:
            wrong.append(((name, *args), got, want))
    return wrong


def check_on_engine(text: str, *calls: tuple) -> OnEngine:
    """Calls end alike and leave the same state on packed/indexed and in wasmtime."""
    binary = compile_wat(text)
    machine, reference = OnEngine(binary), Reference(binary)
    assert outcomes(machine, reference, *calls) == []
    assert_same_state(machine, reference)
    return machine
