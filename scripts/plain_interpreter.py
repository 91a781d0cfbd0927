"""A plain vmapped JAX interpreter without a transformer: the yardstick of the batched engine.

It executes the same lowered programs (`wasmjax.machine.program.Program`), instruction by
instruction, with integer registers and 64-bit integer arithmetic, so its steps are the same steps.
One lane's step is `step`; `jax.vmap` and `lax.scan` do the rest. Under vmap a `lax.switch` becomes
"compute all, then select" anyway, so both ways to choose a result are here and the benchmark
reports the faster one. It needs `jax.enable_x64`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.instance import FunctionEntry
from wasmjax.machine import isa
from wasmjax.machine.program import Program

PAGE = 65536
_COLUMNS = (
    "op",
    "next",
    "target",
    "dsp",
    "aux",
    "type_id",
    *"abcd",
    *(f"base_{x}" for x in "abcd"),
)
_AT = {name: index for index, name in enumerate(_COLUMNS)}
_BASE = {"abs": 0, "sp": 1, "fp": 2}
_OPS = tuple(isa.OPS)
_NUMBER = {name: index for index, name in enumerate(_OPS)}
_RUNNING, _RETURNED, _EXITED, _TRAP = range(4)

State = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Code:
    """Programs end to end: instructions [N, columns], immediates uint64 [N], table [T, 3]."""

    instructions: np.ndarray
    immediates: np.ndarray
    table: np.ndarray
    inputs: np.ndarray
    starts: list[tuple[int, int, int]]


def pack(programs: Sequence[Program]) -> Code:
    """Programs as arrays; `starts` are their first instruction, table entry and input byte."""
    rows: list[list[int]] = []
    immediates: list[int] = []
    table: list[tuple[int, int, int]] = []
    inputs = bytearray()
    starts = []
    for program in programs:
        starts.append((len(rows), len(table), len(inputs)))
        for index, ins in enumerate(program.instructions):
            row = [0] * len(_COLUMNS)
            row[_AT["op"]] = _NUMBER[ins.op]
            row[_AT["next"]] = index + 1 if ins.next is None else ins.next
            row[_AT["target"]] = ins.target or 0
            row[_AT["dsp"]], row[_AT["type_id"]] = ins.dsp, ins.type_id or 0
            row[_AT["aux"]] = ins.aux - (1 << 32 if ins.aux >> 31 else 0)
            for letter, slot in zip("abcd", (ins.a, ins.b, ins.c, ins.d), strict=True):
                row[_AT[letter]], row[_AT[f"base_{letter}"]] = slot.offset, _BASE[slot.base]
            rows.append(row)
            immediates.append(ins.imm)
        size = max(program.table, default=-1) + 1
        entries = [program.table.get(k) for k in range(size)]
        table += [(e.entry, e.type_id, e.code) if e else (0, 0, 0) for e in entries]
        inputs += program.inputs
    return Code(
        np.array(rows, np.int32),
        np.array(immediates, np.uint64),
        np.array(table or [(0, 0, 0)], np.int32),
        np.frombuffer(bytes(inputs) or b"\0", np.uint8),
        starts,
    )


def initial(
    program: Program, start: tuple[int, int, int], entry: FunctionEntry, slots: int, memory: int
) -> dict[str, np.ndarray]:
    """A lane about to call `entry` without arguments. Slot -1, which reads zero, comes last."""
    slots_S = np.zeros(slots + 1, np.uint64)
    for address, value in program.slots.items():
        slots_S[address] = value
    slots_S[program.stack_base + entry.header] = program.halt
    memory_M = np.zeros(memory // 8 + 2, np.uint64)
    for address, word in program.memory.items():
        memory_M[address // 8] = word
    numbers = {
        "ip": entry.entry,
        "sp": program.stack_base + entry.frame_size,
        "fp": program.stack_base,
        "depth": 1,
        "status": _RUNNING,
        "code": 0,
        "steps": 0,
    }
    state = {name: np.int32(value) for name, value in numbers.items()}
    bases = dict(zip(("ip0", "table0", "input0"), map(np.int32, start), strict=True))
    return state | bases | {"slots": slots_S, "memory": memory_M.view(np.uint8)}


def _results(a: jax.Array, b: jax.Array, c: jax.Array, loaded: jax.Array) -> dict[str, jax.Array]:
    """Every operation's result that is not a plain move of B."""
    out: dict[str, Any] = {}
    for width, unsigned, signed in ((32, jnp.uint32, jnp.int32), (64, jnp.uint64, jnp.int64)):
        x, y = a.astype(unsigned), b.astype(unsigned)
        sx, sy = x.astype(signed), y.astype(signed)
        turn = y & unsigned(width - 1)
        back = unsigned(width) - turn & unsigned(width - 1)
        rotl = x << turn | jnp.where(turn > 0, x >> back, 0)
        rotr = x >> turn | jnp.where(turn > 0, x << back, 0)
        lowest = x & (~x + unsigned(1))
        ctz = unsigned(width - 1) - jax.lax.clz(lowest)
        group = {
            "add": x + y,
            "sub": x - y,
            "mul": x * y,
            "and": x & y,
            "or": x | y,
            "xor": x ^ y,
            "shl": x << turn,
            "shr_u": x >> turn,
            "shr_s": sx >> turn.astype(signed),
            "rotl": rotl,
            "rotr": rotr,
            "eq": x == y,
            "ne": x != y,
            "lt_u": x < y,
            "gt_u": x > y,
            "le_u": x <= y,
            "ge_u": x >= y,
            "lt_s": sx < sy,
            "gt_s": sx > sy,
            "le_s": sx <= sy,
            "ge_s": sx >= sy,
            "clz": jax.lax.clz(x),
            "ctz": jnp.where(x == 0, unsigned(width), ctz),
            "popcnt": jax.lax.population_count(x),
            "extend8_s": b.astype(jnp.int8).astype(signed),
            "extend16_s": b.astype(jnp.int16).astype(signed),
        }
        for name, value in group.items():
            # Signed results of 32 bits must not sign-extend into the upper half.
            out[f"i{width}.{name}"] = value.astype(unsigned).astype(jnp.uint64)
        for bits in (8, 16, 32):
            if bits >= width:
                continue
            narrow = loaded.astype(f"int{bits}").astype(signed).astype(unsigned)
            out[f"i{width}.load{bits}_s"] = narrow.astype(jnp.uint64)
            out[f"i{width}.load{bits}_u"] = loaded & jnp.uint64((1 << bits) - 1)
        out[f"i{width}.load"] = loaded & jnp.uint64((1 << width) - 1)
    out["i64.extend32_s"] = b.astype(jnp.int32).astype(jnp.int64).astype(jnp.uint64)
    out["i32.wrap_i64"] = b & jnp.uint64(0xFFFFFFFF)
    out["select"] = jnp.where(c.astype(jnp.uint32) != 0, a, b)
    out["return_value"] = a
    return out


def _choose(how: str, op: jax.Array, values: dict[str, jax.Array], default: jax.Array) -> jax.Array:
    names = list(values)
    if how == "select":
        result = default
        for name in names:
            result = jnp.where(op == _NUMBER[name], values[name], result)
        return result
    branch = np.zeros(len(_OPS), np.int32)
    for index, name in enumerate(names, 1):
        branch[_NUMBER[name]] = index
    branches: list[Callable] = [lambda: default]
    branches += [lambda value=values[name]: value for name in names]
    return jax.lax.switch(jnp.asarray(branch)[op], branches)


def _flags(*names: str) -> Callable[[jax.Array], jax.Array]:
    """Whether an operation has one of these control columns (a constant table)."""
    table = np.array([any(isa.OPS[op].get(name) for name in names) for op in _OPS])
    return lambda op: jnp.asarray(table)[op]


def step(code: dict[str, jax.Array], state: State, how: str) -> State:
    """One instruction of one lane."""
    active = state["status"] == _RUNNING
    at = state["ip0"] + state["ip"]
    ins = code["instructions"][at]
    op = ins[_AT["op"]]
    bases = jnp.stack([jnp.int32(0), state["sp"], state["fp"]])
    slots = state["slots"]
    last = slots.shape[0] - 1

    def address(letter: str) -> jax.Array:
        where = bases[ins[_AT[f"base_{letter}"]]] + ins[_AT[letter]]
        return jnp.where(where < 0, last, where)

    imm = code["immediates"][at]
    a, b, c = slots[address("a")], slots[address("b")] + imm, slots[address("c")]
    # -- memory: eight bytes from the address on
    size = jnp.asarray(np.array([1 + isa.OPS[o].get("size_minus_1", 0) for o in _OPS]))[op]
    aux = ins[_AT["aux"]].astype(jnp.uint32).astype(jnp.int64)
    byte = (a & jnp.uint64(0xFFFFFFFF)).astype(jnp.int64) + aux
    pages = (c & jnp.uint64(0xFFFF)).astype(jnp.int64)
    outside = _flags("mem")(op) & (byte + size > pages * PAGE)
    memory = state["memory"]
    room = memory.shape[0] - 8
    window = jnp.clip(byte, 0, room)
    shifts = jnp.arange(8, dtype=jnp.uint64) * 8
    bytes_8 = jax.lax.dynamic_slice(memory, (window,), (8,))
    loaded = jnp.sum(bytes_8.astype(jnp.uint64) << shifts)
    # -- input and table
    index = jnp.clip((a & jnp.uint64(0xFFFFFF)).astype(jnp.int32), 0, code["inputs"].shape[0] - 1)
    byte_in = code["inputs"].at[state["input0"] + index].get(mode="clip").astype(jnp.uint64)
    first = (aux >> 16).astype(jnp.int32)
    entry_at = first + jnp.minimum(a & jnp.uint64(0xFFFFFFFF), (aux & 0xFFFF).astype(jnp.uint64))
    entry = code["table"].at[state["table0"] + entry_at.astype(jnp.int32)].get(mode="clip")
    # -- the result
    value = _choose(how, op, _results(a, b, c, loaded) | {"input": byte_in}, b)
    # -- control
    taken = c.astype(jnp.uint32) != 0
    branches = (_flags("branch")(op) & taken) | (_flags("branch_not")(op) & ~taken)
    ip = jnp.where(branches, ins[_AT["target"]], ins[_AT["next"]])
    ip = jnp.where(_flags("table")(op), entry[0], ip)
    calls, returns = _flags("call")(op), _flags("ret")(op)
    ip = jnp.where(returns, (b & jnp.uint64(0xFFFFFF)).astype(jnp.int32), ip)
    moved = (b >> jnp.uint64(24) & jnp.uint64(0xFFFF)).astype(jnp.int32)
    fp = state["fp"] + jnp.where(calls, moved, jnp.where(returns, -moved, 0))
    depth = state["depth"] + calls.astype(jnp.int32) - returns.astype(jnp.int32)
    full = (state["depth"] >= (c & jnp.uint64(0xFFFF)).astype(jnp.int32)) | (
        state["sp"] >= (c >> jnp.uint64(16) & jnp.uint64(0xFFFF)).astype(jnp.int32)
    )
    wrong = _flags("type_check")(op) & (entry[1] != ins[_AT["type_id"]])
    trap = jnp.where(op == _NUMBER["trap"], (aux & 255).astype(jnp.int32), 0)
    trap = jnp.where(wrong, entry[2], trap)
    trap = jnp.where(calls & full, isa.TRAP["call stack exhausted"], trap)
    trap = jnp.where(outside, isa.TRAP["out of bounds memory access"], trap)
    halts = op == _NUMBER["halt"]
    exits = jnp.where(aux & 255 == isa.EXITED, _EXITED, _RETURNED)
    status = jnp.where(trap > 0, _TRAP, jnp.where(halts, exits, _RUNNING)).astype(jnp.int32)
    # -- writes; what is not written goes to the last slot or leaves the memory as it is
    kind = jnp.asarray(np.array([isa.OPS[o].get("kind", 0) for o in _OPS]))[op]
    writes = active & (kind == isa.KIND["slot"]) & (trap == 0)
    target = jnp.where(writes, address("d"), last)
    slots = slots.at[target].set(jnp.where(writes, value, 0))
    stores = active & _flags("store")(op) & ~outside
    keep = (jnp.arange(8) >= size) | ~stores
    new = jnp.where(keep, bytes_8, (b >> shifts).astype(jnp.uint8))
    memory = jax.lax.dynamic_update_slice(memory, new, (window,))
    outs = jnp.where(kind == isa.KIND["out"], 1, 0) + jnp.where(kind == isa.KIND["err"], 2, 0)

    def then(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(active, new, old)

    out = state | {
        "ip": then(ip, state["ip"]),
        "sp": then(state["sp"] + ins[_AT["dsp"]], state["sp"]),
        "fp": then(fp, state["fp"]),
        "depth": then(depth, state["depth"]),
        "status": then(status, state["status"]),
        "code": then(
            jnp.where(trap > 0, trap, (b & jnp.uint64(255)).astype(jnp.int32)), state["code"]
        ),
        "steps": state["steps"] + active.astype(jnp.int32),
        "slots": slots,
        "memory": memory,
    }
    if "output" in state:
        room = state["output"].shape[0] - 1
        row = jnp.where(active & (outs > 0), state["n_output"], room)
        out["output"] = (
            state["output"]
            .at[row]
            .set((outs * 256).astype(jnp.int32) + (b & jnp.uint64(255)).astype(jnp.int32))
        )
        out["n_output"] = state["n_output"] + (active & (outs > 0)).astype(jnp.int32)
    return out


def run_chunk(code: dict[str, jax.Array], lanes: State, steps: int, how: str) -> State:
    """`steps` steps of every lane; arrays of `lanes` have the lane axis first."""
    one = jax.vmap(lambda lane: step(code, lane, how))
    return jax.lax.fori_loop(0, steps, lambda _, lanes: one(lanes), lanes)
