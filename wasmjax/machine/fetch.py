"""Instruction pointer, fetch and operand reads: the first three layers."""

from wasmjax.circuit.language import ZERO, Affine, Circuit, total
from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.spaces import Spaces, Tables
from wasmjax.machine.state import Bytes, Step
from wasmjax.machine.tokens import columns

STACK_LIMIT = 1 << 16


def build_step(circuit: Circuit, config: MachineConfig, spaces: Spaces, tables: Tables) -> Step:
    """Running sums, the instruction at ip, and the operands it names."""
    sums = _sums(circuit, config)
    ip = [sums[f"ip{k}"] for k in range(config.ip_digits)]
    fetched = _fetch(circuit, config, spaces, ip)
    operand = {}
    for name in "abcd":
        operand[name] = (
            circuit.reglu(f"{name} from sp", fetched[f"base_{name} is sp"], sums["sp"])
            + (
                circuit.reglu(f"{name} from fp", fetched[f"base_{name} is fp"], sums["fp"])
                if "fp" in sums
                else ZERO
            )
            + fetched[f"offset_{name}"]
        )
    slots = spaces.by_name["slots"]
    a = Bytes.of(circuit.read("operand a", slots, operand["a"], spaces.value.flat()))
    slot_b = Bytes.of(circuit.read("operand b", slots, operand["b"], spaces.value.flat()))
    immediate = Bytes.of([fetched[f"imm.{k}"] for k in range(len(spaces.value.flat()))])
    low = spaces.value.byte[:4]
    c = circuit.read("operand c", slots, operand["c"], low)
    control = {name[3:]: signal for name, signal in fetched.items() if name.startswith("op.")}
    return Step(
        circuit,
        config,
        ip,
        sums["sp"],
        sums.get("fp", ZERO),
        sums.get("depth", ZERO),
        control,
        [fetched[f"next{k}"] for k in range(config.ip_digits)],
        [fetched[f"target{k}"] for k in range(config.ip_digits)],
        [fetched[name] for name in columns(config) if name.startswith("aux")],
        fetched.get("aux0 word", ZERO),
        fetched["dsp"],
        a,
        slot_b + immediate,
        c,
        _destination(circuit, config, tables, operand["d"]),
    )


def _sums(circuit: Circuit, config: MachineConfig) -> dict[str, Affine]:
    bounds = {f"ip{k}": (0, config.digit - 1) for k in range(config.ip_digits)}
    unit = config.digit ** (config.ip_digits - 1)
    top = min(config.digit, -(-config.code_limit // unit)) - 1
    bounds[f"ip{config.ip_digits - 1}"] = (0, top)
    limit = min(STACK_LIMIT, config.digit**config.address_digits)
    bounds |= {name: (0, limit) for name in ("sp", "fp", "depth") if name in columns(config)}
    values = {name: circuit.number(name) for name in bounds}
    return circuit.running_sum("registers", values, bounds)


def _fetch(
    circuit: Circuit, config: MachineConfig, spaces: Spaces, ip: list[Affine]
) -> dict[str, Affine]:
    """The instruction at ip: control columns, immediates, operand descriptors, targets."""
    values: dict[str, Affine] = {}
    for column in isa.CONTROLS:
        word = [0, *(isa.OPS[op].get(column, 0) for op in config.instructions)]
        if any(word):
            values[f"op.{column}"] = circuit.embed(f"op.{column}", "op", word.__getitem__)
    for k, signal in enumerate(spaces.value.flat()):
        values[f"imm.{k}"] = signal
    for name in "abcd":
        for base, table in (("sp", (0.0, 1.0, 0.0)), ("fp", (0.0, 0.0, 1.0))):
            signal = circuit.embed(f"base_{name} is {base}", f"base_{name}", table.__getitem__)
            values[f"base_{name} is {base}"] = signal
        values[f"offset_{name}"] = circuit.number(f"offset_{name}")
    names = ["dsp", *(name for name in columns(config) if name.startswith("aux"))]
    names += [f"{name}{k}" for name in ("next", "target") for k in range(config.ip_digits)]
    for name in names:
        values[name] = circuit.number(name)
    if "memory" in config.spaces:
        values["aux0 word"] = circuit.embed("aux0 word", "aux0", lambda v: v >> 3)
    query = total(config.digit**k * digit for k, digit in enumerate(ip))
    answers = circuit.read("fetch", spaces.by_name["code"], query, list(values.values()))
    return dict(zip(values, answers, strict=True))


def _destination(
    circuit: Circuit, config: MachineConfig, tables: Tables, address: Affine
) -> list[Affine]:
    """The digits of the destination slot."""
    if config.address_digits == 1:
        return [address]
    wire = circuit.wire("destination", address)
    high = tables.divide("destination high", wire, 8)
    return [wire - 256 * high, high]
