"""The tour: a run of `tour.wasm`, the steps of it that chapters speak of, and what they look at."""

import dataclasses
import functools
import importlib.resources
from collections.abc import Iterator
from typing import Any

import numpy as np

from wasmjax.cache.hull import HullCache
from wasmjax.explore import hull
from wasmjax.explore.exploration import Exploration
from wasmjax.explore.record import Tape
from wasmjax.machine import isa
from wasmjax.model.heads import certify
from wasmjax.vm import Machine, load

_FOLDER = importlib.resources.files("wasmjax.explore")


def record(machine: Machine) -> Exploration:
    """Runs the tour's program to its end."""
    tape = Tape(machine.engine)
    module = load((_FOLDER / "tour.wasm").read_bytes())
    run = machine.start(module, ["tour.wasm"], session=tape)
    exploration = Exploration(machine, run, tape, "tour.wasm", [])
    exploration.finish(None)
    return exploration


def source() -> str:
    """The program as text."""
    return (_FOLDER / "tour.wat").read_text()


@dataclasses.dataclass(frozen=True)
class _Step:
    step: int
    note: str
    function: str
    kind: str
    value: int


class Tour:
    """What the chapters need of the tour's run.

    Attributes:
      moments: step by name. run: the exploration.
    """

    def __init__(self, run: Exploration) -> None:
        self.run = run
        steps = [*self._steps()]

        def find(note: str = "", value: int | None = None, after: int = -1, **wanted: str) -> int:
            for s in steps:
                if s.step <= after or not s.note.startswith(note):
                    continue
                if value is not None and s.value != value:
                    continue
                if all(getattr(s, name) == text for name, text in wanted.items()):
                    return s.step
            raise ValueError(f"the tour has no step {note} {value} {wanted}")

        m: dict[str, int] = {"start": 0}
        m["loop"] = find("local.set", 3, function="squares")
        m["square"] = find("i32.mul", 25)
        m["mul42"] = find("i32.mul", 42)
        m["store42"] = find("i32.store", 42)
        m["load42"] = find("i32.load", 42)
        m["store7"] = find("i32.store", 7, after=m["load42"])
        m["load7"] = find("i32.load", 7)
        m["three"] = find("i32.const 3", after=m["load7"])
        m["five"] = find("i32.const 5", after=m["three"])
        m["call"] = find("call", after=m["five"])
        m["add"] = find("i32.add", 8, function="add")
        m["return"] = find("return", after=m["add"])
        m["digit"] = find("i32.add", ord("8"), after=m["return"])
        m["store8"] = find("i32.store8", after=m["digit"])
        m["print"] = find(value=ord("8"), kind="out")
        m["end"] = steps[-1].step
        self.moments = m

    def _steps(self) -> Iterator[_Step]:
        run = self.run
        program = run.run.instance.lowered.program
        functions = run.info()["functions"]
        for step in range(run.record.steps):
            index = run.record.index_of(step)
            ip = int(run.state.registers(index - 1, index).ip[0])
            row = run.record.rows(index, index + 1)
            inside = [f["name"] for f in functions if f["entry"] <= ip]
            yield _Step(
                step,
                program.instructions[ip].note,
                inside[-1] if inside else "",
                isa.KINDS[int(run.state.column(row, "kind")[0])],
                int(run.state.fields(row, "v", 8)[0]),
            )

    def before(self, moment: str) -> int:
        """The token whose successor a moment's step generates."""
        return self.run.record.index_of(self.moments[moment]) - 1

    def record(self) -> dict[str, Any]:
        """Moments, lookups and scenes."""
        return {
            "source": source(),
            "moments": self.moments,
            "lookups": self.lookups,
            "scenes": self.scenes,
            "tokens": self.tokens,
            "fans": self.fans,
        }

    def head(self, name: str) -> int:
        """Number of a head by its name, as `Explainer.names` has it."""
        return self.run.explainer.names.index(name)

    # -- what single chapters look at ---------------------------------------------------------

    @functools.cached_property
    def lookups(self) -> list[dict[str, Any]]:
        """Chapter 1: five keys that one real query scores."""
        out = []
        for title, moment, head, same in (
            ("five stack slots, asked by i32.add", "add", "operand a[0]", False),
            ("five words of memory, asked by i32.load", "load42", "memory bank 0[0]", False),
            ("five instructions, asked by the instruction pointer", "add", "fetch[0]", False),
            ("five writes to one slot: the newest wins", "square", "operand a[0]", True),
        ):
            index, number = self.before(moment), self.head(head)
            explainer = self.run.explainer
            found = explainer.explain(np.array([index]))
            space = self._space(number)
            address, token = explainer.writes[space].until(index)
            asked = round(found.query[0, number, 0] / found.query[0, number, 1])
            if same:
                chosen = np.flatnonzero(address == asked)[-5:]
            else:
                latest = {int(a): k for k, a in enumerate(address)}
                near = sorted(latest, key=lambda a: (abs(a - asked), a))[:5]
                chosen = np.array([latest[a] for a in sorted(near)])
            out.append(
                {
                    "title": title,
                    "moment": moment,
                    "index": index,
                    "head": number,
                    "query": found.query[0, number].tolist(),
                    "answered": int(found.answered[0, number]),
                    "address": address[chosen].tolist(),
                    "token": token[chosen].tolist(),
                    "key": explainer.keys(space, token[chosen]).tolist(),
                }
            )
        return out

    @functools.cached_property
    def scenes(self) -> list[dict[str, Any]]:
        """Chapter 4: keys of a space at a moment, and which of them the hull cache looks at."""
        explainer = self.run.explainer
        symbolic = explainer.symbolic
        cache = HullCache(symbolic, certify(symbolic, general=True))
        out = []
        for title, moment, head in (
            ("the stack, when i32.add reads an operand", "add", "operand a[0]"),
            ("memory bank 0, when 42 is loaded", "load42", "memory bank 0[0]"),
            ("the program, when i32.add is fetched", "add", "fetch[0]"),
            ("the table of arithmetic", "add", "carry digit 0[0]"),
        ):
            index, number = self.before(moment), self.head(head)
            space = self._space(number)
            found = explainer.explain(np.array([index]))
            address, token = explainer.writes[space].until(index)
            layer, key_head = next(
                explainer.heads[n] for n in range(len(explainer.heads)) if self._space(n) == space
            )
            forms = symbolic.layers[layer].k[key_head]
            store = next(
                n
                for n, s in enumerate(cache.heads.stores)
                if symbolic.layers[s.key.layer].k[s.key.head] == forms
            )
            domain = cache.domains[store]
            nodes = hull.plant(address, domain)
            unit = 1 << min(domain.shift, 1)  # half addresses where the tree knows them
            low, high = int(address.min()) - 1, int(address.max()) + 1
            asked = range(low * unit, high * unit + 1)
            scale = (1 << domain.shift) // unit
            out.append(
                {
                    "title": title,
                    "moment": moment,
                    "index": index,
                    "head": number,
                    "space": space,
                    "query": found.query[0, number].tolist(),
                    "answered": int(found.answered[0, number]),
                    "address": address.tolist(),
                    "token": token.tolist(),
                    "key": explainer.keys(space, token).tolist(),
                    "low": low,
                    "unit": unit,
                    "visits": [hull.visits(nodes, domain, x * scale) for x in asked],
                }
            )
        return out

    @functools.cached_property
    def tokens(self) -> list[dict[str, Any]]:
        """Chapter 2: tokens to look into, each with the head that reads it later."""
        record = self.run.record
        code = self.before("add")
        fetched = int(
            self.run.explainer.explain(np.array([code])).answered[0, self.head("fetch[0]")]
        )
        return [
            {
                "title": "i32.store writes 42 to memory",
                "index": record.index_of(self.moments["store42"]),
                "head": self.head("memory bank 0[0]"),
                "reader": self.before("load42"),
            },
            {
                "title": "i32.add writes 8 to the stack",
                "index": record.index_of(self.moments["add"]),
                "head": self.head("operand a[0]"),
                "reader": self.before("return"),
            },
            {
                "title": "the instruction i32.add, a token of the prompt",
                "index": fetched,
                "head": self.head("fetch[0]"),
                "reader": code,
            },
        ]

    @functools.cached_property
    def fans(self) -> dict[str, dict[str, list]]:
        """Chapter 5: queries of a head in every step, and the different keys that answered."""
        record = self.run.record
        steps = np.arange(record.index_of(0) - 1, record.index_of(self.moments["end"]))
        found = self.run.explainer.explain(steps)
        out = {}
        for name in ("fetch[0]", "operand a[0]", "memory bank 0[0]"):
            number = self.head(name)
            keys = np.unique(found.key[:, number], axis=0)
            out[name] = {"queries": found.query[:, number].tolist(), "keys": keys.tolist()}
        return out

    def indices(self) -> np.ndarray:
        """Tokens whose heads the chapters show, ascending."""
        record = self.run.record
        first = next(begin for begin, _, _, generated in record.parts() if generated)
        extra = [token["index"] for token in self.tokens]
        return np.unique([*extra, *range(first - 1, record.tokens)])

    def _space(self, head: int) -> int:
        explainer = self.run.explainer
        pair = explainer.heads[head]
        for group in explainer.groups:
            if group.layer == pair[0] and pair[1] in group.heads:
                return -1 if group.space is None else group.space
        raise AssertionError
