"""Instruction pointer, fetch and operand reads: the first three layers."""

from collections.abc import Callable, Sequence

from wasmjax.circuit.language import ZERO, Affine, Circuit, total
from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.program import Instruction, code_tokens
from wasmjax.machine.spaces import Spaces, Tables
from wasmjax.machine.state import Bytes, Step
from wasmjax.machine.tokens import columns, digits

STACK_LIMIT = 1 << 16


def build_step(
    circuit: Circuit,
    config: MachineConfig,
    spaces: Spaces,
    tables: Tables,
    code: Sequence[Instruction] = (),
) -> Step:
    """Running sums, the instruction at ip (in `code`, if there is any), and its operands."""
    sums = _sums(circuit, config)
    ip = [sums[f"ip{k}"] for k in range(config.ip_digits)]
    if code:
        fetched = _folded(circuit, config, tables, ip, code)
    else:
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
        _destination(circuit, config, tables, operand["d"], summed=not code),
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


Column = tuple[str, Callable[[int], float]]
"""A token field and a function of its value."""


def _columns(config: MachineConfig) -> dict[str, Column]:
    """What of an instruction's token a step needs: control columns, immediates, operand
    descriptors, targets."""
    out: dict[str, Column] = {}
    for column in isa.CONTROLS:
        word = [0, *(isa.OPS[op].get(column, 0) for op in config.instructions)]
        if any(word):
            out[f"op.{column}"] = "op", word.__getitem__
    fields = [f"v{k}" for k in range(config.value_bytes)]
    parts: list[Column] = [(field, float) for field in fields]
    parts += [(field, lambda v: v >> 4) for field in fields]
    for k, part in enumerate([*parts, ("v0", lambda v: v >> 3)]):  # the order of Bytes.flat
        out[f"imm.{k}"] = part
    for name in "abcd":
        for base, table in (("sp", (0.0, 1.0, 0.0)), ("fp", (0.0, 0.0, 1.0))):
            out[f"base_{name} is {base}"] = f"base_{name}", table.__getitem__
        out[f"offset_{name}"] = f"offset_{name}", float
    names = ["dsp", *(name for name in columns(config) if name.startswith("aux"))]
    names += [f"{name}{k}" for name in ("next", "target") for k in range(config.ip_digits)]
    out |= {name: (name, float) for name in names}
    if "memory" in config.spaces:
        out["aux0 word"] = "aux0", lambda v: v >> 3
    return out


def _fetch(
    circuit: Circuit, config: MachineConfig, spaces: Spaces, ip: list[Affine]
) -> dict[str, Affine]:
    """The instruction at ip, read from the prompt."""
    values: dict[str, Affine] = {}
    immediate = iter(spaces.value.flat())
    for name, (field, function) in _columns(config).items():
        if name.startswith("imm."):
            values[name] = next(immediate)
        elif name == field:
            values[name] = circuit.number(field)
        else:
            values[name] = circuit.embed(name, field, function)
    query = total(config.digit**k * digit for k, digit in enumerate(ip))
    answers = circuit.read("fetch", spaces.by_name["code"], query, list(values.values()))
    return dict(zip(values, answers, strict=True))


def _folded(
    circuit: Circuit,
    config: MachineConfig,
    tables: Tables,
    ip: list[Affine],
    code: Sequence[Instruction],
) -> dict[str, Affine]:
    """The instruction at ip, in the weights: a neuron for every one, which is 1 if it is there.

    The digits of ip are running sums, which are not quite exact; looked up in the arithmetic table
    they are, as one-hot features, and an instruction's neuron is the product of those of its own
    digits. Columns that are zero in the whole program do not exist: units that need them fall away.
    """
    tokens = code_tokens(config, code)
    column = columns(config)
    last = digits(len(code) - 1, config.ip_digits, config.digit)
    used = 1 + max((k for k, digit in enumerate(last) if digit), default=0)
    # Per place (a nibble of a digit) of an instruction's index: value -> feature.
    hot: list[dict[int, Affine]] = []
    for k in range(used):
        top = last[k] if k == used - 1 else config.digit - 1
        for shift, most in ((0, min(top, 15)), (4, top >> 4)):
            functions = {
                f"ip place {len(hot)} is {value}": _nibble_is(shift, value)
                for value in range(most + 1)
            }
            hot.append(dict(enumerate(tables.lookup(f"ip{k} >> {shift}", ip[k], functions))))
    neurons = []
    for index in range(len(code)):
        places = [n for d in digits(index, used, config.digit) for n in (d & 15, d >> 4)]
        ones = [features[value] for features, value in zip(hot, places, strict=True)]
        neurons.append(circuit.reglu(f"instruction {index}", total(ones) - (len(ones) - 1)))
    here = [next(iter(neuron.terms)) for neuron in neurons]
    out: dict[str, Affine] = {}
    for name, (field, function) in _columns(config).items():
        values = [float(function(int(value))) for value in tokens[:, column[field]]]
        if any(values):
            signal = Affine(dict(zip(here, values, strict=True)))
            bounds = min(0.0, *values), max(0.0, *values)
            out[name] = circuit.wire(name, signal, bounds, "one instruction is at ip")
        elif not name.startswith("op."):
            out[name] = ZERO
    return out


def _nibble_is(shift: int, value: int) -> Callable[[int], float]:
    return lambda row: float(row >> shift & 15 == value)


def _destination(
    circuit: Circuit, config: MachineConfig, tables: Tables, address: Affine, summed: bool
) -> list[Affine]:
    """The digits of the destination slot.

    Args:
      summed: give the address a coordinate of its own. Not if its offset is a sum over a program's
        instructions already: it is inexact, and would round once for each of them.
    """
    if config.address_digits == 1:
        return [address]
    wire = circuit.wire("destination", address) if summed else address
    high = tables.divide("destination high", wire, 8)
    return [wire - 256 * high, high]
