"""The whole machine as a circuit: fetch, operands, units, flow, emitted fields."""

import functools
from collections.abc import Sequence

from wasmjax.circuit.language import ZERO, Circuit, Vocabulary
from wasmjax.circuit.weights import Compiled, compile_circuit
from wasmjax.machine import alu
from wasmjax.machine.config import WASM, MachineConfig
from wasmjax.machine.control import flow
from wasmjax.machine.fetch import build_step
from wasmjax.machine.memory import memory
from wasmjax.machine.program import Instruction
from wasmjax.machine.shift import shifts
from wasmjax.machine.spaces import Tables, build_spaces
from wasmjax.machine.tokens import columns, fields


def vocabulary(config: MachineConfig) -> tuple[Vocabulary, ...]:
    """The machine's token fields as the network sees them."""
    return tuple(Vocabulary(f.name, f.lo, f.size, f.emitted) for f in fields(config))


def build_circuit(config: MachineConfig = WASM, code: Sequence[Instruction] = ()) -> Circuit:
    """One step of the machine: from the current token and all earlier ones to the next.

    Args:
      code: a program's instructions to fold into the weights; none: they come in the prompt.
    """
    circuit = Circuit(vocabulary(config), prune=bool(code))
    spaces = build_spaces(circuit, config)
    tables = Tables(circuit, spaces.by_name["arith"])
    step = build_step(circuit, config, spaces, tables, code)

    lanes = [ZERO] * config.value_bytes
    access = memory(step, spaces.banks, lanes)
    alu.moves(step, lanes, access.trap)
    alu.sign_extension(step, lanes)
    alu.add_subtract_multiply(step, tables, lanes)
    alu.bitwise(step, tables, lanes)
    alu.counts(step, tables, lanes)
    shifts(step, tables, lanes)
    if step.has("input"):
        low = step.a.byte
        address = low[0] + 256 * low[1] + 65536 * low[2]
        (byte,) = circuit.read("input", spaces.by_name["input"], address, spaces.value.byte[:1])
        alu.add_to(lanes, 0, circuit.reglu("input byte", step.flag("input"), byte))
    control = flow(step, spaces, tables, access)

    circuit.emit("kind", control.kind)
    for k, lane in enumerate(lanes):
        circuit.emit(f"v{k}", lane)
    for k, digit in enumerate(access.address):
        circuit.emit(f"a{k}", digit + step.address[k] if k < len(step.address) else digit)
    circuit.emit("code", control.code)
    for k, delta in enumerate(control.ip):
        circuit.emit(f"ip{k}", delta)
    circuit.emit("sp", step.dsp)
    if "fp" in columns(config):
        circuit.emit("fp", control.fp)
        circuit.emit("depth", step.flag("depth"))
    return circuit


@functools.cache
def build_machine(config: MachineConfig = WASM) -> Compiled:
    """The machine's circuit, compiled to dense weights."""
    return compile_circuit(build_circuit(config))
