"""Random sparse transformers that never came from the compiler: weights drawn entry by entry.

Heads are uniform or read one of two address spaces; what is read, what is written where, which
coordinates are shared, scales, idle heads and dead neurons are drawn. Small integer weights keep
every number exact in float32. The prompt writes every address of both spaces.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from wasmjax.circuit.weights import Vocabulary, Weights
from wasmjax.engine.decode import Stop

PLACES = 8  # addresses of each space
ONCE = 1  # the kind of tokens in the space that only the prompt writes
KINDS = (2, 3, 4, 5)  # the kinds of generated tokens; some are members of the other space
FAR = 4096.0
LIMIT = 40.0  # bound of sums
STOP = Stop(0, (6,), (6,))  # a kind that nothing generates


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A transformer and prompts for it; `clipped`: every output stays in its vocabulary."""

    weights: Weights
    prompts: list[np.ndarray]
    clipped: bool


@dataclasses.dataclass(frozen=True)
class Held:
    """What a residual coordinate, or a sum of some, holds.

    Attributes:
      bound: of its magnitude. own: whether it depends on its token alone (as keys and values of
        indexed heads must). exact: whether it is an integer (sums over tokens are not quite).
    """

    bound: float
    own: bool = True
    exact: bool = True

    def plus(self, other: "Held", weight: float = 1.0) -> "Held":
        bound = self.bound + abs(weight) * other.bound
        return Held(bound, self.own and other.own, self.exact and other.exact)


def draw(seed: int) -> Drawn:
    """The transformer of this seed; one in five has an output that may leave its vocabulary."""
    return _Drawer(seed).draw(clipped=seed % 5 > 0)


class _Drawer:
    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.layers, self.heads, self.ffn = int(rng.integers(2, 5)), 24, 192
        self.width = 2 * self.heads
        self.vocabulary = (
            Vocabulary("kind", 0, 7, True),
            Vocabulary("place", 0, PLACES, True),
            Vocabulary("x", -3, int(rng.integers(5, 9)), True),
            Vocabulary("y", 0, int(rng.integers(3, 9)), True),
            Vocabulary("given", -2, 5, False),
        )
        layers, heads, width, ffn = self.layers, self.heads, self.width, self.ffn
        self.w_q, self.w_k, self.w_v = (np.zeros((layers, heads, 2, width)) for _ in range(3))
        self.w_o = np.zeros((layers, width, heads, 2))
        self.w_gate, self.w_in = (np.zeros((layers, ffn, width)) for _ in range(2))
        self.w_out = np.zeros((layers, width, ffn))
        self.position = np.zeros(width)
        self.embedding = [np.zeros((field.size, width)) for field in self.vocabulary]
        self.unembedding: list[np.ndarray | None] = [None] * len(self.vocabulary)
        self.free = rng.permutation(width).tolist()
        self.one, self.count, self.place, self.square, self.given_once, self.stranger = (
            self.free.pop() for _ in range(6)
        )
        self.members = rng.permutation(KINDS)[: rng.integers(1, len(KINDS))].tolist()
        # Besides those above: before the phase that is drawn, and with what it writes.
        self.before: dict[int, Held] = {}
        self.after: dict[int, Held] = {}

    def draw(self, clipped: bool) -> Drawn:
        rng = self.rng
        self.embed()
        for layer in range(self.layers):
            last = layer == self.layers - 1
            heads = rng.permutation(self.heads).tolist()
            neurons = rng.permutation(self.ffn).tolist()
            self.before = dict(self.after)
            for head in heads[: rng.integers(1, 4)]:
                self.read(layer, head)
            means = [] if last else self.means(layer, heads[4])
            self.idle(layer, heads[5:8])
            self.before = dict(self.after)
            for mean in means:
                self.sum(layer, neurons.pop(), mean)
            for _ in range(rng.integers(1, 5)):
                self.neuron(layer, neurons.pop())
            self.linear(layer, neurons.pop())
            self.dead(layer, neurons.pop())
            if last:
                raw = -1 if clipped else int(rng.integers(2, 4))
                for field in range(4):
                    self.output(layer, field, neurons, clipped=field != raw)
        weights = Weights(
            self.vocabulary, self.embedding, self.position,
            self.w_q, self.w_k, self.w_v, self.w_o, self.w_gate, self.w_in, self.w_out,
            self.unembedding, 2.0 ** int(rng.integers(30, 35)),
        )  # fmt: skip
        return Drawn(weights, [self.prompt() for _ in range(4)], clipped)

    # -- embedding and prompt ---------------------------------------------------------------

    def feature(self, field: int, at: int, function: Callable[[int], float]) -> None:
        spec = self.vocabulary[field]
        self.embedding[field][:, at] += [function(spec.lo + i) for i in range(spec.size)]

    def embed(self) -> None:
        self.feature(0, self.one, lambda kind: 1)
        self.position[self.count] = 1
        self.feature(1, self.place, lambda j: j)
        self.feature(1, self.square, lambda j: j * j)
        self.feature(0, self.given_once, lambda kind: kind != ONCE)
        self.feature(0, self.stranger, lambda kind: kind not in self.members)
        for field, spec in enumerate(self.vocabulary):
            table = self.rng.integers(-2, 3, spec.size)
            for function in (lambda v: v, lambda v, t=table, lo=spec.lo: t[v - lo]):
                at = self.free.pop()
                self.feature(field, at, function)
                self.after[at] = Held(float(np.abs(self.embedding[field][:, at]).max()))

    def prompt(self) -> np.ndarray:
        """Members of both spaces at every address, and some strangers.

        The last token comes as if it had been generated: it is in no space that only the prompt
        writes, and has nothing in fields that are never emitted.
        """
        rng = self.rng
        kinds = [ONCE] * PLACES + rng.choice(self.members, 2 * PLACES).tolist() + [0] * 4
        rows = np.stack([rng.integers(f.lo, f.lo + f.size, len(kinds)) for f in self.vocabulary], 1)
        rows[:, 0] = kinds
        rows[: 2 * PLACES, 1] = [*range(PLACES), *range(PLACES)]
        last = rng.integers([f.lo for f in self.vocabulary], [f.lo + 1 for f in self.vocabulary])
        last[0], last[-1] = rng.choice(KINDS), 0
        return np.concatenate([rng.permutation(rows), last[None]])

    # -- rows -------------------------------------------------------------------------------

    def row(
        self, among: Iterable[int], limit: float = LIMIT, most: int = 3
    ) -> tuple[np.ndarray, Held]:
        """Small weights on up to `most` coordinates and the constant."""
        out, held = np.zeros(self.width), Held(0.0)
        for at in self.rng.permutation(list(among))[: self.rng.integers(1, most + 1)].tolist():
            weight = float(self.rng.choice([-2, -1, 1, 1, 2]))
            if held.plus(self.before[at], weight).bound <= limit:
                out[at], held = weight, held.plus(self.before[at], weight)
        out[self.one] = constant = float(self.rng.integers(-2, 3))
        return out, held.plus(Held(1.0), constant)

    def exact(self) -> list[int]:
        return [at for at, held in self.before.items() if held.exact]

    def own(self) -> list[int]:
        return [at for at, held in self.before.items() if held.own]

    def write(self, held: Held) -> int:
        """A coordinate for what a phase writes: often one that holds something already."""
        shared = [
            at
            for at, holds in self.after.items()
            if holds.exact and holds.plus(held).bound <= LIMIT
        ]
        if shared and held.exact and (len(self.free) < 10 or self.rng.random() < 0.4):
            at = int(self.rng.choice(shared))
            self.after[at] = self.after[at].plus(held)
        else:
            at = self.free.pop()
            self.after[at] = held
        return at

    # -- attention --------------------------------------------------------------------------

    def read(self, layer: int, head: int) -> None:
        """A head that looks something up at a place that depends on all tokens so far."""
        rng = self.rng
        q, k = 2.0 ** rng.integers(-2, 3), 2.0 ** rng.choice([0, 0, 0, -2, 2])
        query, _ = self.row(self.before)
        if rng.random() < 0.3:  # fractions that never tie
            query = query / 2
            query[self.one] += 0.25
        self.w_q[layer, head, 0] = q * query
        self.w_q[layer, head, 1, self.one] = q
        self.w_k[layer, head, 0, self.place] = 2 * k
        self.w_k[layer, head, 1, self.square] = -k
        if rng.random() < 0.5:
            self.w_k[layer, head, 1, self.given_once] = -k * FAR
        else:
            self.w_k[layer, head, 1, self.stranger] = -k * FAR
            self.w_k[layer, head, 1, self.count] = k * 2.0**-14
        for component in range(rng.integers(1, 3)):
            weight = float(rng.choice([-1, 1, 2]))
            self.w_v[layer, head, component], held = self.row(self.own(), limit=10)
            at = self.write(Held(abs(weight) * held.bound, own=False))
            self.w_o[layer, at, head, component] = weight

    def means(self, layer: int, head: int) -> list[int]:
        """A uniform head: the means of its values over all tokens."""
        uniform = self.w_k if self.rng.random() < 0.5 else self.w_q  # the other is zero
        uniform[layer, head] = [self.row(self.own())[0] for _ in range(2)]
        out = [self.free.pop() for _ in range(self.rng.integers(1, 3))]
        for component, at in enumerate(out):
            self.w_v[layer, head, component], _ = self.row(self.own(), limit=3)
            self.w_o[layer, at, head, component] = 1
        return out

    def idle(self, layer: int, heads: list[int]) -> None:
        """Heads that look at something and say nothing."""
        for head in heads:
            self.w_q[layer, head, 0], _ = self.row(self.before)
            self.w_k[layer, head, 1], _ = self.row(self.before)
            if self.rng.random() < 0.5:
                self.w_v[layer, head, 0], _ = self.row(self.before)
            else:
                self.w_o[layer, self.rng.integers(self.width), head, 1] = 1

    # -- feed-forward -----------------------------------------------------------------------

    def sum(self, layer: int, neuron: int, mean: int) -> None:
        """A mean times the count of tokens; only queries read it."""
        at = self.free.pop()
        self.w_gate[layer, neuron, self.count] = 1
        self.w_in[layer, neuron, mean] = 1
        self.w_out[layer, at, neuron] = 1
        self.after[at] = Held(5.0, own=False, exact=False)

    def neuron(self, layer: int, neuron: int) -> None:
        among = self.own() if self.rng.random() < 0.5 else self.exact()
        self.w_gate[layer, neuron], gate = self.row(among, limit=8)
        self.w_in[layer, neuron], value = self.row(among, limit=4)
        held = Held(gate.bound * value.bound, gate.own and value.own)
        for _ in range(self.rng.integers(1, 3)):
            self.w_out[layer, self.write(held), neuron] = self.rng.choice([-1.0, 1.0])

    def linear(self, layer: int, neuron: int) -> None:
        """A neuron whose gate is constant: it adds a sum of coordinates to another one."""
        self.w_gate[layer, neuron, self.one] = 1
        self.w_in[layer, neuron], held = self.row(self.exact(), limit=20)
        self.w_out[layer, self.write(held), neuron] = self.rng.choice([-1.0, 1.0])

    def dead(self, layer: int, neuron: int) -> None:
        """Never active, or without a reader."""
        if self.rng.random() < 0.5:
            self.w_gate[layer, neuron, self.one] = -1
            self.w_out[layer, self.rng.integers(self.width), neuron] = 1
        else:
            self.w_gate[layer, neuron], _ = self.row(self.exact())
        self.w_in[layer, neuron], _ = self.row(self.exact())

    def output(self, layer: int, field: int, neurons: list[int], clipped: bool) -> None:
        """Logits a (2 v x - v^2) + b; x is a sum of coordinates folded into the vocabulary.

        Unless it is `clipped`, a neuron is added that is active now and then.
        """
        spec = self.vocabulary[field]
        lo, hi = spec.lo, spec.lo + spec.size - 1
        if field == 0:
            lo, hi = KINDS[0], KINDS[-1]
        context = [at for at, held in self.before.items() if held.exact and not held.own]
        row, held = self.row(context or self.exact(), limit=60, most=6)
        at = self.free.pop()
        # A zigzag between 0 and hi - lo, which starts at or below the least sum.
        span = hi - lo
        start = -span * -(-int(held.bound) // span)
        for k, bend in enumerate(range(start, int(held.bound) + 1, span)):
            neuron = neurons.pop()
            self.w_gate[layer, neuron] = row
            self.w_gate[layer, neuron, self.one] -= bend
            self.w_in[layer, neuron, self.one] = 1
            self.w_out[layer, at, neuron] = 1 if k == 0 else 2 * (-1) ** k
        if not clipped:
            neuron = neurons.pop()
            self.w_gate[layer, neuron], _ = self.row(self.exact())
            self.w_gate[layer, neuron, self.one] -= 4
            self.w_in[layer, neuron, self.one] = 1
            self.w_out[layer, at, neuron] = 1
        x = np.zeros(self.width)
        x[at], x[self.one] = 1, lo
        one = np.eye(self.width)[self.one]
        v = (spec.lo + np.arange(spec.size, dtype=np.float64))[:, None]
        anything, _ = self.row(self.exact())
        self.unembedding[field] = 2.0 ** self.rng.integers(-1, 3) * (
            2 * v * x - v**2 * one + anything
        )
