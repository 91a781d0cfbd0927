"""Runs a module twice, lowered on the oracle and in wasmtime, for the tests of lowering."""

from dataclasses import dataclass

import wasmtime

from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.program import invocation, prompt
from wasmjax.machine.tokens import columns
from wasmjax.oracle.execute import Oracle
from wasmjax.wasm.lower import FunctionEntry, Lowered, lower
from wasmjax.wasm.validate import load_bytes

STEPS = 2_000_000
COLUMN = columns(WASM)
BITS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}


@dataclass(frozen=True)
class Trap:
    name: str


@dataclass(frozen=True)
class Exit:
    code: int


Outcome = list[int] | Trap | Exit


class Machine:
    """A lowered module on the oracle."""

    def __init__(self, binary: bytes, **inputs):
        self.lowered: Lowered = lower(load_bytes(binary), **inputs)
        self.oracle = Oracle(WASM)
        self.oracle.feed(prompt(WASM, self.lowered.program))
        self.steps = 0
        if self.lowered.start is not None:
            self.started = self.call(self.lowered.start, [])

    def invoke(self, name: str, *args: int) -> Outcome:
        """Results as unsigned bits, or how the call ended instead."""
        return self.call(self.lowered.exports[name], list(args))

    def call(self, function: FunctionEntry, args: list[int]) -> Outcome:
        oracle, program = self.oracle, self.lowered.program
        types = [BITS[type_.value] for type_ in function.type.params]
        bits = [arg & ((1 << width) - 1) for arg, width in zip(args, types, strict=True)]
        call = invocation(
            WASM, program, oracle.registers, entry=function.entry, args=bits,
            header=function.header, frame_size=function.frame_size,
        )  # fmt: skip
        oracle.feed(call)
        before = oracle.steps
        oracle.run(STEPS, keep=False)
        self.steps = oracle.steps - before
        assert oracle.stopped, f"{function.name} ran past {STEPS} steps"
        token = oracle.last_token
        assert token is not None
        value = sum(int(token[COLUMN[f"v{k}"]]) << 8 * k for k in range(8))
        if token[COLUMN["kind"]] == isa.KIND["trap"]:
            code = int(token[COLUMN["code"]])
            if code >= isa.UNSUPPORTED_BASE:
                return Trap(f"not yet supported: {program.unsupported[code - 32]}")
            return Trap(isa.TRAPS[code])
        assert token[COLUMN["kind"]] == isa.KIND["halt"]
        at = sum(digit << 8 * k for k, digit in enumerate(oracle.registers.ip))
        if at != program.halt:
            return Exit(value)
        assert oracle.registers.depth == 0
        assert oracle.registers.fp == program.stack_base
        assert oracle.registers.sp == program.stack_base + len(function.type.results)
        slots = [oracle.slot(program.stack_base + k) for k in range(len(function.type.results))]
        assert not slots or slots[0] == value
        return slots

    def memory(self, size: int) -> bytes:
        return self.oracle.memory(0, size)

    @property
    def pages(self) -> int:
        return self.oracle.slot(1)


_CODES = {
    wasmtime.TrapCode.UNREACHABLE: "unreachable",
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: "integer divide by zero",
    wasmtime.TrapCode.INTEGER_OVERFLOW: "integer overflow",
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: "out of bounds memory access",
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: "undefined element",
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: "uninitialized element",
    wasmtime.TrapCode.BAD_SIGNATURE: "indirect call type mismatch",
    wasmtime.TrapCode.STACK_OVERFLOW: "call stack exhausted",
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: "invalid conversion to integer",
}
_CONFIG = wasmtime.Config()
_CONFIG.cranelift_nan_canonicalization = True  # of arithmetic, as the runtime library does it
_ENGINE = wasmtime.Engine(_CONFIG)


class Reference:
    """The same module in wasmtime."""

    def __init__(self, binary: bytes):
        self.store = wasmtime.Store(_ENGINE)
        self.store.set_limits(memory_size=256 * 65536)
        linker = wasmtime.Linker(_ENGINE)
        instance = linker.instantiate(self.store, wasmtime.Module(_ENGINE, binary))
        self.exports = instance.exports(self.store)

    def invoke(self, name: str, *args: int) -> Outcome:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        type_ = function.type(self.store)
        params = [BITS[str(param)] for param in type_.params]
        signed = [_signed(arg, width) for arg, width in zip(args, params, strict=True)]
        try:
            out = function(self.store, *signed)
        except wasmtime.Trap as trap:
            return Trap(_CODES[trap.trap_code])
        values = out if isinstance(out, list) else [] if out is None else [out]
        widths = [BITS[str(result)] for result in type_.results]
        return [v & ((1 << width) - 1) for v, width in zip(values, widths, strict=True)]

    def memory(self, size: int) -> bytes:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return bytes(memory.read(self.store, 0, size))

    @property
    def pages(self) -> int:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return memory.size(self.store)


def _signed(value: int, width: int) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def compile_wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def check(text: str, *calls: tuple) -> Machine:
    """Every call `(export, *args)`, in order on one instance, ends alike in both."""
    binary = compile_wat(text)
    machine, reference = Machine(binary), Reference(binary)
    for name, *args in calls:
        expected = reference.invoke(name, *args)
        assert machine.invoke(name, *args) == expected, (name, args)
    return machine
