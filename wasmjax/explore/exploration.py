"""One recorded run and everything that a page asks of it, as bytes."""

import dataclasses
import json
from typing import Any

import numpy as np

from wasmjax.circuit.weights import Names
from wasmjax.explore.columns import pack
from wasmjax.explore.heads import Explained, Explainer
from wasmjax.explore.record import Tape
from wasmjax.explore.state import State
from wasmjax.instance import Run
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.describe import trap_message
from wasmjax.vm import EngineError, Machine

PAGE = 4096
"""Tokens, or instructions, of a page of data."""
OVERVIEW = 1024
"""Steps, or runs of steps, that an overview tells apart."""
_BASES = {"abs": 0, "sp": 1, "fp": 2}


class Exploration:
    """A run under exploration.

    Args:
      title: what people call it. args: the program's arguments.

    Attributes:
      record, state, explainer: its tokens, what they write, what the heads do.
      done: whether it has ended. ended: how, in words.
    """

    def __init__(self, machine: Machine, run: Run, tape: Tape, title: str, args: list[str]) -> None:
        engine = machine.engine
        self.machine, self.run, self.title, self.args = machine, run, title, args
        self.record = tape.record
        self.state = State(self.record, engine.emitted)
        self.explainer = Explainer(engine.weights, machine.names, engine.symbolic, self.record)
        self.done, self.ended = False, ""

    def finish(self, max_steps: int | None) -> None:
        """Runs to the end, indexing what was generated as it goes."""
        try:
            for _ in self.run.tokens(max_steps, keep_all=True):
                self.seal()
            self.ended = self._outcome(max_steps)
        except EngineError as error:
            self.ended = f"limit: {error}"
        self.seal()
        self.done = True

    def seal(self) -> None:
        """Indexes the blocks of tokens that are complete."""
        self.state.seal()
        self.explainer.seal()

    def _outcome(self, max_steps: int | None) -> str:
        if self.run.trap is not None:
            return f"trap: {self.run.trap}"
        if self.run.exit_code is None:
            return f"recording ended after {max_steps:,} steps (--max-steps)"
        return f"exit {self.run.exit_code}"

    # -- what the page asks for -------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """What the run is and how far it is."""
        lowered = self.run.instance.lowered
        program = lowered.program
        return {
            "title": self.title,
            "args": self.args,
            "tokens": self.record.tokens,
            "steps": self.record.steps,
            "done": self.done,
            "ended": self.ended,
            "parts": [[*part[:3], int(part[3])] for part in self.record.parts()],
            "instructions": len(program.instructions),
            "stackBase": program.stack_base,
            "memoryBase": lowered.memory_base * 65536,
            "halt": program.halt,
            "horizon": self.explainer.horizon,
            "unsupported": [*program.unsupported],
            "functions": [
                {
                    "name": entry.name,
                    "entry": entry.entry,
                    "header": entry.header,
                    "frame": entry.frame_size,
                    "params": len(entry.type.params),
                    "results": len(entry.type.results),
                }
                for entry in lowered.functions
            ],
        }

    def code(self, page: int) -> dict[str, Any]:
        """A page of instructions: notes, operations, operands, targets."""
        program = self.run.instance.lowered.program
        mine = program.instructions[page * PAGE : (page + 1) * PAGE]
        return {
            "note": [ins.note or ins.op for ins in mine],
            "op": [ins.op for ins in mine],
            "slots": [
                [v for slot in (i.a, i.b, i.c, i.d) for v in (_BASES[slot.base], slot.offset)]
                for i in mine
            ],
            "imm": [str(ins.imm) for ins in mine],
            "target": [-1 if ins.target is None else ins.target for ins in mine],
        }

    def tokens(self, page: int) -> bytes:
        """A page of tokens: emitted fields, and the registers before each one."""
        start = page * PAGE
        rows = self.record.rows(start, start + PAGE)
        after = self.state.registers(start, start + PAGE)
        first = self.state.registers(start - 1, start) if start else None

        def before(name: str) -> np.ndarray:
            initial = getattr(first, name) if first is not None else np.zeros(1, np.int64)
            values = np.concatenate([initial, getattr(after, name)])[: len(rows)]
            return values.astype(np.int32)

        value = self.state.fields(rows, "v", 8)
        deltas = ("ip0", "ip1", "ip2", "sp", "fp", "depth")
        return pack(
            kind=self.state.column(rows, "kind").astype(np.uint8),
            code=self.state.column(rows, "code").astype(np.uint8),
            low=(value & np.uint64(0xFFFFFFFF)).astype(np.uint32),
            high=(value >> np.uint64(32)).astype(np.uint32),
            address=self.state.fields(rows, "a", 4).astype(np.uint32),
            ip=before("ip"),
            sp=before("sp"),
            fp=before("fp"),
            depth=before("depth"),
            **{f"d_{name}": self.state.column(rows, name) for name in deltas},
        )

    def fed(self, page: int) -> bytes:
        """Every field of the tokens of a page that were fed, not generated."""
        start, stop = page * PAGE, min((page + 1) * PAGE, self.record.tokens)
        index = [
            np.arange(max(begin, start), min(begin + count, stop))
            for begin, _, count, generated in self.record.parts()
            if not generated
        ]
        indices = np.concatenate([*index, np.zeros(0, np.int64)]).astype(np.int64)
        rows = self.record.full(indices).astype(np.int16)
        return pack(index=indices.astype(np.uint32), rows=rows)

    def overview(self) -> bytes:
        """The whole run in at most OVERVIEW columns: deepest call, instruction pointers, output."""
        steps = self.record.steps
        width = max(1, -(-steps // OVERVIEW))
        count = -(-steps // width) if steps else 0
        depth, low, high, out = (np.zeros(count, np.int64) for _ in range(4))
        low[:] = np.iinfo(np.int32).max
        for begin, step, size, generated in self.record.parts():
            if not generated:
                continue
            for start in range(begin, begin + size, 1 << 20):
                stop = min(start + (1 << 20), begin + size)
                registers = self.state.registers(start - 1, stop - 1)
                rows = self.record.rows(start, stop)
                kind = self.state.column(rows, "kind")
                written = (kind == isa.KIND["out"]) | (kind == isa.KIND["err"])
                at = (step + np.arange(start - begin, stop - begin)) // width
                first = np.flatnonzero(np.diff(at, prepend=-1))
                at = at[first]
                depth[at] = np.maximum(depth[at], np.maximum.reduceat(registers.depth, first))
                low[at] = np.minimum(low[at], np.minimum.reduceat(registers.ip, first))
                high[at] = np.maximum(high[at], np.maximum.reduceat(registers.ip, first))
                out[at] += np.add.reduceat(written, first, dtype=np.int64)
        found = {"depth": depth, "low": low, "high": high, "out": out}
        arrays = {name: array.astype(np.int32) for name, array in found.items()}
        return pack(width=np.array([width], np.uint32), **arrays)

    def heads(self, indices: np.ndarray) -> bytes:
        """What the heads do after each of these tokens; the last axis runs over them."""
        return pack_explained(self.explainer.explain(indices))

    def slots(self, index: int, first: int, count: int) -> bytes:
        """Slots after token `index`, and the tokens that wrote them."""
        value, writer = self.state.slots(index, first, count)
        return pack(
            low=(value & np.uint64(0xFFFFFFFF)).astype(np.uint32),
            high=(value >> np.uint64(32)).astype(np.uint32),
            writer=writer.astype(np.int32),
        )

    def memory(self, index: int, first: int, count: int) -> bytes:
        """Bytes of the byte space after token `index`, and the tokens that wrote them."""
        byte, writer = self.state.memory(index, first, count)
        return pack(byte=byte, writer=writer.astype(np.int32))

    def output(self, index: int, most: int) -> bytes:
        """The last bytes of output up to token `index`."""
        stream, byte, token = self.state.output(index)
        return pack(
            total=np.array([len(byte)], np.uint32),
            stream=stream[-most:],
            byte=byte[-most:],
            token=token[-most:].astype(np.uint32),
        )

    def members(self, space: int) -> bytes:
        """All members of a key space: token, address, key, and the value of its first head."""
        explainer = self.explainer
        address, token = explainer.writes[space].until(self.record.tokens - 1)
        group = next(g for g in explainer.groups if g.space == space)
        forms = explainer.symbolic.layers[group.layer].v[group.heads[0]]
        own = explainer.own(token)
        return pack(
            token=token.astype(np.uint32),
            address=address.astype(np.int32),
            key=explainer.keys(space, token),
            value=np.stack([own.form(form) for form in forms], axis=1),
        )


def pack_explained(found: Explained) -> bytes:
    """The arrays of `Explained` with the steps last, so that what stays the same lies together."""

    def last(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 0, -1))

    order = np.argsort(found.neurons[:, 0], kind="stable")
    counts = np.bincount(found.neurons[:, 0], minlength=len(found.index))
    return pack(
        index=found.index.astype(np.uint32),
        answered=last(found.answered).astype(np.uint32),
        emitted=last(found.emitted).astype(np.int16),
        neuron=found.neurons[order, 1:].T.astype(np.uint16),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
        query=last(found.query),
        key=last(found.key),
        value=last(found.value),
        output=last(found.output),
        weight=last(found.weight),
        active=found.active[order].T,
        residual=last(found.residual),
    )


def model(machine: Machine, explainer: Explainer) -> dict[str, Any]:
    """The weights as far as the page shows them: every non-zero entry of the projections, names."""
    weights, names = machine.engine.weights, machine.names
    layers, heads, width, neurons = weights.shape
    total, nonzero = weights.count()
    group_of = {
        (group.layer, head): number
        for number, group in enumerate(explainer.groups)
        for head in group.heads
    }

    def entries(row: np.ndarray) -> list[list[float]]:
        return [[int(c), float(row[c])] for c in np.flatnonzero(row)]

    return {
        "shape": [layers, heads, width, neurons],
        "parameters": total,
        "nonzero": nonzero,
        "scale": weights.softmax_scale,
        "horizon": explainer.horizon,
        "fields": [
            {"name": f.name, "lo": f.lo, "size": f.size, "emitted": int(f.emitted)}
            for f in weights.vocabulary
        ],
        "kinds": [*isa.KINDS],
        "instructions": [*WASM.instructions],
        "traps": {code: trap_message(code) for code in range(1, len(isa.TRAPS))},
        "unsupportedBase": isa.UNSUPPORTED_BASE,
        "coordinates": _coordinates(names, layers, width),
        "position": entries(weights.position),
        "spaces": [
            {**dataclasses.asdict(space), "k1": None, "k2": None} for space in explainer.spaces
        ],
        "groups": [
            {"layer": group.layer, "space": -1 if group.space is None else group.space}
            for group in explainer.groups
        ],
        "heads": [
            {
                "layer": layer,
                "head": head,
                "name": name,
                "group": group_of[layer, head],
                "q": [entries(row) for row in weights.w_q[layer, head]],
                "k": [entries(row) for row in weights.w_k[layer, head]],
                "v": [entries(row) for row in weights.w_v[layer, head]],
                "o": [entries(weights.w_o[layer, :, head, c]) for c in range(2)],
            }
            for (layer, head), name in zip(explainer.heads, explainer.names, strict=True)
        ],
        "neurons": [
            [name for _, name in layer] for layer in (names.neurons if names is not None else [])
        ],
        "writes": [
            [entries(weights.w_out[layer, :, n]) for n in range(neurons)] for layer in range(layers)
        ],
    }


def _coordinates(names: Names | None, layers: int, width: int) -> list[list[str]]:
    """What each coordinate holds when layer 0, 1, ... reads it, and at the end, [D][L + 1].

    The next of its names counts from the layer on that follows the one that cleared it.
    """
    if names is None:
        return [[""] * (layers + 1)] * width
    in_turn: list[list[str]] = [[] for _ in range(width)]
    for slot, name in names.coordinates:
        in_turn[slot].append(name)
    cleared = [
        {int(name.split()[1]) for _, name in layer if name.startswith("clear ")}
        for layer in names.neurons
    ]
    out = []
    for c, known in enumerate(in_turn):
        turn = [sum(c in layer for layer in cleared[:stage]) for stage in range(layers + 1)]
        out.append([known[k] if k < len(known) else "" for k in turn])
    return out


def as_json(record: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(record, separators=(",", ":")).encode()
