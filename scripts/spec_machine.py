"""What the official test suite runs on: stores of a machine, on an engine or on the oracle."""

from __future__ import annotations

import pathlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import wasmjax
import wasmjax.spectest
from wasmjax.engine.decode import EngineError
from wasmjax.instance import Exit, OutOfSteps, Trap
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns
from wasmjax.oracle.execute import Oracle, OracleError
from wasmjax.store import Store, StoreInstance
from wasmjax.wasm.errors import DecodeError, UnsupportedError
from wasmjax.wasm.lower import InstantiationError, LinkError
from wasmjax.wasm.types import Module

VERSIONS: dict[str, Literal["1.0", "2.0"]] = {"1.0": "1.0", "extensions": "2.0"}
"""The version of WebAssembly that decides what a failed instantiation leaves behind, by group."""

_SHARED_GROWTH = 16
"""Pages by which memories may grow that share a store and have no maximum."""

_COLUMN = columns(WASM)


@dataclass(frozen=True)
class Outcome:
    """How something ended.

    Attributes:
      kind: "returned", "trap", "refused" (decoding or validation), "unsupported" (a feature, or a
        limit of the machine), "unlinkable", "uninstantiable" (a segment is out of bounds), "exit",
        "steps" (too many), "limit" (of the engine) or "crash" (a bug).
      text: what it said. bits: what was returned, unsigned. value: the instance that was made.
    """

    kind: str
    text: str = ""
    bits: tuple[int, ...] = ()
    value: Any = None


class SpecMachine:
    """Stores and instances for scripts: all that is known of wasmjax's interface to modules.

    Args:
      machine: its engine runs the sequences. group: of scripts; see `VERSIONS`.
      oracle: the integer oracle runs them instead. max_steps: of an invocation.
    """

    def __init__(
        self,
        machine: wasmjax.Machine,
        group: str,
        oracle: bool = False,
        max_steps: int = 2_000_000,
        max_prompt: int | None = None,
        fuse: bool = False,
    ) -> None:
        self.machine, self.version = machine, VERSIONS[group]
        self.oracle, self.max_steps, self.max_prompt = oracle, max_steps, max_prompt
        self.fuse = fuse

    def load(self, binary: bytes) -> Outcome:
        """Decodes and validates; `value` is the module."""
        return attempt(lambda: Outcome("returned", value=wasmjax.load(binary)))

    def store(self, spectest: bool, several: bool) -> Store:
        """A new token sequence.

        Args:
          spectest: with the module `spectest`. several: for several modules, which share the room;
            a script's only module may grow its memory as far as there is any.
        """
        growth = _SHARED_GROWTH if several or spectest else WASM.memory_pages
        store = self.machine.store(version=self.version, growth=growth, fuse=self.fuse)
        if self.oracle:
            store.session = OracleSession(self.max_steps)  # type: ignore[assignment]
        if spectest:
            wasmjax.spectest.define(store)
        return store

    def instantiate(self, store: Store, module: Module) -> Outcome:
        """Adds an instance to a store and runs its start function; `value` is the instance."""
        return attempt(lambda: Outcome("returned", value=store.instantiate(module, self.max_steps)))

    def register(self, store: Store, name: str, instance: StoreInstance) -> Outcome:
        """Makes an instance's exports importable."""
        return attempt(lambda: Outcome("returned", value=store.register(name, instance)))

    def invoke(self, instance: StoreInstance, name: str, bits: Sequence[int]) -> Outcome:
        """Calls an export."""
        if self.max_prompt is not None and instance.store.prompt_tokens > self.max_prompt:
            return Outcome("limit", f"a prompt of {instance.store.prompt_tokens:,} tokens")
        return attempt(
            lambda: Outcome(
                "returned", bits=instance.call_bits(name, *bits, max_steps=self.max_steps)
            )
        )

    def get(self, instance: StoreInstance, name: str) -> Outcome:
        """Reads an exported global."""
        return attempt(lambda: Outcome("returned", bits=(instance.global_bits(name),)))

    def invoke_all(self, calls: Sequence[tuple[Module, str, Sequence[int]]]) -> Iterator[Outcome]:
        """Calls exports, every one in an instance of its own, many at a time (a batch)."""
        jobs = [
            wasmjax.Job(
                module,
                call=name,
                call_args=tuple(bits),
                max_steps=self.max_steps,
                max_pages=WASM.memory_pages,
                fuse=self.fuse,
            )
            for module, name, bits in calls
        ]
        for result in self.machine.run_batch(jobs):
            if result.outcome == "return":
                yield Outcome("returned", bits=result.results or ())
            else:
                kind = {"step limit": "steps", "refused": "crash"}.get(
                    result.outcome, result.outcome
                )
                yield Outcome(kind, result.trap or result.error or result.outcome)


def attempt(action: Callable[[], Outcome]) -> Outcome:
    """What an action ends in, exceptions included."""
    try:
        return action()
    except Trap as error:
        return Outcome("trap", str(error))
    except UnsupportedError as error:
        return Outcome("unsupported", _line(error), value=error.feature)
    except DecodeError as error:
        return Outcome("refused", _line(error))
    except LinkError as error:
        return Outcome("unlinkable", _line(error))
    except InstantiationError as error:
        return Outcome("uninstantiable", _line(error))
    except Exit as error:
        return Outcome("exit", _line(error))
    except OutOfSteps as error:
        return Outcome("steps", _line(error))
    except (EngineError, OracleError) as error:
        return Outcome("limit", _line(error))
    except Exception as error:
        # A bug of wasmjax is a failure of this command, and no reason not to run the others.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{pathlib.Path(frame.filename).name}:{frame.lineno}"
        return Outcome("crash", f"{type(error).__name__} at {where}: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class OracleSession:
    """A token sequence on the integer oracle, as a `Session` is one on an engine.

    Args:
      max_steps: most steps without an invocation's own limit.
    """

    def __init__(self, max_steps: int) -> None:
        self._oracle = Oracle(WASM)
        self._max_steps = max_steps
        self.tokens = 0

    def feed(self, tokens_NxF: np.ndarray) -> None:
        """Appends prompt tokens."""
        self._oracle.feed(tokens_NxF)
        self.tokens += len(tokens_NxF)

    @property
    def totals(self) -> np.ndarray:
        """Per field that moves a register, the sum over all tokens; 0 for others, int64 [F]."""
        totals = np.zeros(len(_COLUMN), np.int64)
        now = self._oracle.registers
        moved = {"sp": now.sp, "fp": now.fp, "depth": now.depth}
        moved |= {f"ip{k}": digit for k, digit in enumerate(now.ip)}
        for name, value in moved.items():
            totals[_COLUMN[name]] = value
        return totals

    @property
    def stopped(self) -> bool:
        """Whether the last token was a stop token."""
        return self._oracle.stopped

    def generate(self, max_steps: int, keep_all: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Generates until a stop token or `max_steps`; yields steps and the stop token."""
        assert not keep_all, "nothing here wants all tokens"
        before = self._oracle.steps
        self._oracle.run(min(max_steps, self._max_steps), keep=False)
        steps = self._oracle.steps - before
        self.tokens += steps
        last = self._oracle.last_token
        assert last is not None
        yield steps, last[None][: int(self.stopped)]

    def stored(self, tokens_NxF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What lies where tokens would write: their own values and those now there, [N, 8]."""
        value, address = _COLUMN["v0"], _COLUMN["a0"]
        found = []
        for row in tokens_NxF:
            at = row[address : address + WASM.address_digits]
            if row[_COLUMN["kind"]] == isa.KIND["slot"]:
                positional = sum(int(digit) * WASM.digit**k for k, digit in enumerate(at))
                bits = self._oracle.slot(positional)
                found.append(list(bits.to_bytes(8, "little")))
            else:
                byte = sum(int(digit) << 8 * k for k, digit in enumerate(at))
                found.append(list(self._oracle.memory(byte, 8)))
        return tokens_NxF[:, value : value + 8].astype(float), np.array(found, float).reshape(-1, 8)
