"""The hull KV cache: hard-max attention in logarithmic time, for any integer keys.

Where the indexed cache reads an address off a key, this one compares scores, as attention does:
each store keeps its members' keys in a tree of lines (`lichao`), a query (x, 1) descends it to the
highest line at x, the latest among equals. Keys on the certified parabola come as integers j, from
which k2 = -j^2 is computed in 64 bits; others as they are, as long as float32 holds them exactly.
Uniform heads are integer running sums.

Shapes: S stores, C columns of a store, R nodes of all trees, E outputs of a layer.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import lichao, wide
from wasmjax.cache.layout import StoreLayout, bucket, read_columns, running_means
from wasmjax.cache.lichao import COLUMNS, Domain
from wasmjax.model.heads import CertificateError, Heads, Store
from wasmjax.model.own import OwnEvaluator
from wasmjax.model.symbolic import Row, Symbolic

_EXACT = 2.0**24
"""Integers that float32 holds exactly."""
_FINEST = 8
"""Bits after the point of queries whose unit is not known: none comes that near to a tie."""
_WIDEST = 1 << 29
"""Bound of a domain."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class HullState:
    """Contents of the cache.

    Attributes:
      nodes: int32 [R, 6], the trees of all stores one after the other (`lichao`).
      values: per family of stores, [stores, capacity + 1, C]; the last row is a dummy.
      made: int32 [S], nodes of every tree. members: int32 [S], rows of every store.
      sums: int32 [M], running sums of the uniform heads.
      need: int32 [S], rows that a refused write would have needed (0: none refused).
      beyond: int32, 1 + the store whose last key or query was none that can be compared exactly.
    """

    nodes: jax.Array
    values: tuple[jax.Array, ...]
    made: jax.Array
    members: jax.Array
    sums: jax.Array
    need: jax.Array
    beyond: jax.Array


class HullCache(StoreLayout):
    """The layout of a hull cache. Immutable; holds no contents.

    Raises:
      CertificateError: if a query is no multiple of a unit that its domain has room for, and
        rounding it to one could change which key is nearest.
    """

    name = "hull"
    x64 = False

    def __init__(self, symbolic: Symbolic, heads: Heads) -> None:
        super().__init__(symbolic, heads)
        self.domains = [self._domain(number) for number in range(len(heads.stores))]
        # Families of both kinds in one list.
        self._written = len(self.families(True))

    def _domain(self, number: int) -> Domain:
        """Where a store's tree is asked. Beyond the addresses of a parabola the nearest is the
        last one, so that queries may be clipped."""
        store = self.heads.stores[number]
        reads = [read for read in self.heads.reads if read.store == number]
        finest = [_FINEST if r.unit == 0 else max(0, -int(np.log2(r.unit))) for r in reads]
        room = _FINEST
        if store.second is None:
            room = max(0, int(np.log2(_WIDEST / (2 + max(store.hi, -store.lo)))))
        shift = min(max(finest, default=0), room)
        for read in reads:
            rounded = read.unit < 2.0**-shift
            # Between keys on a parabola a query decides half-way; between others, anywhere.
            if rounded and (store.second is not None or read.margin <= 2.0 ** -(shift + 1)):
                name = f"layer {read.layer} head {read.query.head}"
                raise CertificateError(f"{name}: its query is no multiple of 2^-{shift}")
        if store.second is not None:
            return Domain(-_WIDEST, _WIDEST, shift)
        return Domain((store.lo - 1) << shift, (store.hi + 1 << shift) + 1, shift)

    # -- what the engine projects ---------------------------------------------------------

    def rows(self, layer: int) -> list[Row]:
        """Rows of the projections that `attend` takes, in order."""
        out = [read.query for read in self.reads(layer)]
        out += [mean.value for mean in self.means(layer)]
        for number in self._inserts(layer):
            store = self.heads.stores[number]
            out += [store.key, store.member, *store.columns]
        return out

    # -- execution ------------------------------------------------------------------------

    def attend(
        self, layer: int, state: HullState, y: jax.Array, count: jax.Array, active: jax.Array
    ) -> tuple[list[jax.Array], HullState]:
        """Writes the current token's keys and values, then answers its queries."""
        reads, means = self.reads(layer), self.means(layer)
        state = self._write(layer, state, y[len(reads) + len(means) :], active)
        out = []
        if reads:
            chosen, state = self._ask(layer, state, y[: len(reads)], active)
            for plan, _ in self.grouped(layer):
                array = state.values[self._family(plan.store[0])]
                row = chosen[plan.query]
                dummy = array.shape[1] - 1
                out.append(read_columns(array, plan, jnp.where(row < 0, dummy, row)))
        if means:
            values = y[len(reads) : len(reads) + len(means)]
            mean, sums = running_means(self.heads, means, state.sums, values, count, active)
            out.append(mean)
            state = dataclasses.replace(state, sums=sums)
        return out, state

    def _ask(
        self, layer: int, state: HullState, query_Q: jax.Array, active: jax.Array
    ) -> tuple[jax.Array, HullState]:
        """Rows that win the queries of a layer."""
        stores = [read.store for read in self.reads(layer)]
        domains = [self.domains[number] for number in stores]
        offsets = self._offsets(state)
        scaled = query_Q * np.array([2.0**domain.shift for domain in domains], np.float32)
        # Outside of an open domain nothing is known.
        open_ = np.array([self.heads.stores[number].second is not None for number in stores])
        far = open_ & (jnp.abs(scaled) >= _WIDEST) & active
        beyond = jnp.max(jnp.where(far, 1 + np.array(stores, np.int32), 0))
        x = jnp.round(jnp.clip(scaled, -_WIDEST, _WIDEST)).astype(jnp.int32)
        chosen = lichao.query(state.nodes, x, offsets[stores], domains)
        return chosen, dataclasses.replace(state, beyond=jnp.maximum(state.beyond, beyond))

    def _write(self, layer: int, state: HullState, y: jax.Array, active: jax.Array) -> HullState:
        """Inserts the current token into the stores whose first reads are in this layer."""
        inserts = self._inserts(layer)
        if not inserts:
            return state
        stores = [self.heads.stores[number] for number in inserts]
        starts = np.cumsum([0] + [2 + len(store.columns) for store in stores])
        key, second = y[starts[:-1]], y[starts[:-1] + 1]
        slope, intercept, member, exact = _lines(stores, key, second)
        member &= active
        at = state.members[np.array(inserts)]
        room = np.array([self._capacity(state, number) for number in inserts], np.int32)
        written = member & exact & (at < room)
        lines = lichao.line(at, slope, intercept)
        nodes, values, offsets = state.nodes, list(state.values), self._offsets(state)
        made = []
        for i, number in enumerate(inserts):
            nodes, count = lichao.insert(
                nodes, state.made[number], lines[i], written[i], int(offsets[number]),
                int(room[i]), self.domains[number],
            )  # fmt: skip
            made.append(count)
            family, position = self._family(number), self.places[number].position
            array = values[family]
            new = y[starts[i] + 2 : starts[i + 1]].astype(array.dtype)[None, None, :]
            place = jnp.int32(position), jnp.where(written[i], at[i], room[i]), jnp.int32(0)
            values[family] = jax.lax.dynamic_update_slice(array, new, place)

        # Trees only grow: 0 where none was touched.
        made_now = self.spread(inserts, jnp.stack(made), 0)
        refused = jnp.where(member & exact & (at >= room), at + 1, 0)
        broken = jnp.where(member & ~exact, 1 + np.array(inserts, np.int32), 0)
        return dataclasses.replace(
            state,
            nodes=nodes,
            values=tuple(values),
            made=jnp.maximum(state.made, made_now),
            members=state.members + self.spread(inserts, written.astype(jnp.int32), 0),
            need=jnp.maximum(state.need, self.spread(inserts, refused, 0)),
            beyond=jnp.maximum(state.beyond, jnp.max(broken)),
        )

    def _family(self, number: int) -> int:
        place = self.places[number]
        return place.family if place.rewritable else self._written + place.family

    def _capacity(self, state: HullState, number: int) -> int:
        return state.values[self._family(number)].shape[1] - 1

    def _offsets(self, state: HullState) -> np.ndarray:
        """Where every store's tree begins, [S]."""
        rows = [self._capacity(state, number) + 1 for number in range(len(self.places))]
        return np.cumsum([0, *rows[:-1]])

    def commit(self, old: HullState, new: HullState, ok: jax.Array) -> HullState:
        """`new` if the token was accepted; else what is left of `old`: a line that was inserted
        meanwhile is inserted again, under the same number, when the token is repeated."""
        return dataclasses.replace(
            new,
            members=jnp.where(ok, new.members, old.members),
            sums=jnp.where(ok, new.sums, old.sums),
        )

    def problem(self, state: HullState) -> jax.Array:
        """Non-zero if the last token's keys or queries could not be compared exactly."""
        return state.beyond

    def explain(self, state: HullState) -> str:
        """What `problem` means."""
        number = int(state.beyond) - 1
        return f"a key or query of store {number} is no integer that the hull compares exactly"

    def full(self, state: HullState) -> jax.Array:
        """Whether the last token did not fit."""
        return jnp.any(state.need > 0)

    # -- the host's side ------------------------------------------------------------------

    def stored(
        self, state: HullState, tokens_NxF: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies where tokens would write: their own values and the ones now there, [N, C].

        C runs over the columns of the parabola stores that the tokens are members of. Addresses
        that were never written answer like the first member.
        """
        values = OwnEvaluator(self.symbolic, tokens_NxF, count)
        form = self.symbolic.projection
        own = [np.zeros((len(tokens_NxF), 0))]
        found = [np.zeros((len(tokens_NxF), 0))]
        for number, store in enumerate(self.heads.stores):
            if store.second is not None:
                continue
            if not (values.form(form(store.member)) > -store.far / 2).all():
                continue
            address = np.rint(values.form(form(store.key))).astype(np.int64)
            chosen, slopes = self._winners(state, number, address)
            there = slopes == 2 * address
            place = self.places[number].position
            rows = np.asarray(state.values[self._family(number)][place])
            own.append(np.stack([values.form(form(c)) for c in store.columns], axis=1))
            found.append(rows[np.where(there, chosen, 0)])
        return np.concatenate(own, axis=1), np.concatenate(found, axis=1)

    def _winners(
        self, state: HullState, number: int, address_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows that answer queries for addresses, and the slopes of their keys."""
        domain, first = self.domains[number], int(self._offsets(state)[number])
        # In powers of two, so that few shapes are compiled.
        x = np.zeros(1 << (len(address_N) - 1).bit_length(), np.int32)
        x[: len(address_N)] = address_N << domain.shift
        offsets = np.full(len(x), first)
        chosen = lichao.query(state.nodes, jnp.asarray(x), offsets, [domain] * len(x))
        keys = np.asarray(state.nodes[first : first + int(state.made[number])])
        slope_of = np.zeros(1 + keys[:, lichao.NUMBER].max(initial=0), np.int64)
        slope_of[keys[:, lichao.NUMBER]] = keys[:, lichao.SLOPE]
        rows = np.asarray(chosen)[: len(address_N)]
        return rows, slope_of[rows]

    def default_capacities(self) -> list[int]:
        """Members of every store to make room for at first."""
        return [4096] * len(self.places)

    def room_for(self, tokens: int) -> list[int]:
        """Capacities that are enough for so many tokens."""
        return [tokens] * len(self.places)

    def empty(self, least: Sequence[int]) -> HullState:
        """A cache without tokens, with room for at least so many members per store."""
        values = []
        for rewritable in (True, False):
            for family in self.families(rewritable):
                rows = bucket(max(least[number] for number in family))
                columns = len(self.heads.stores[family[0]].columns)
                values.append(jnp.zeros((len(family), rows + 1, columns), jnp.float32))
        made, members, need = (jnp.zeros(len(self.places), jnp.int32) for _ in range(3))
        sums = jnp.zeros(len(self.heads.means), jnp.int32)
        nodes, beyond = jnp.zeros((0, COLUMNS), jnp.int32), jnp.zeros((), jnp.int32)
        state = HullState(nodes, tuple(values), made, members, sums, need, beyond)
        rows = sum(self._capacity(state, number) + 1 for number in range(len(self.places)))
        return dataclasses.replace(state, nodes=lichao.empty(rows))

    def grow(self, state: HullState, least: Sequence[int]) -> HullState:
        """The same contents with room for at least `least` members per store."""
        now = [self._capacity(state, number) for number in range(len(self.places))]
        wanted = [max(pair) for pair in zip(now, least, strict=True)]
        if wanted == now:
            return state
        grown = self.empty(wanted)
        old, new = self._offsets(state), self._offsets(grown)
        nodes = np.array(grown.nodes)
        for number, made in enumerate(np.asarray(state.made).tolist()):
            nodes[new[number] : new[number] + made] = np.asarray(
                state.nodes[old[number] : old[number] + made]
            )
        values = tuple(
            array.at[:, : before.shape[1] - 1].set(before[:, :-1])
            for array, before in zip(grown.values, state.values, strict=True)
        )
        return dataclasses.replace(state, nodes=jnp.asarray(nodes), values=values)

    def _inserts(self, layer: int) -> list[int]:
        return [n for n in range(len(self.heads.stores)) if self.first_layer(n) == layer]


def _lines(
    stores: Sequence[Store], key: jax.Array, second: jax.Array
) -> tuple[jax.Array, wide.Wide, jax.Array, jax.Array]:
    """Slopes and intercepts of a token's keys, whether it is a member, whether they are exact."""
    squares = jnp.array([store.second is None for store in stores])
    far = np.array([min(store.far, 2.0**100) for store in stores], np.float32)
    bounded = jnp.clip(jnp.round(key), -_EXACT, _EXACT).astype(jnp.int32)
    parabola = wide.multiply(bounded, -bounded)
    # A recency term, which the order of members stands for, is less than a unit.
    floor = jnp.floor(second)
    other = wide.from_float(jnp.clip(floor, -_EXACT, _EXACT))
    held = (jnp.abs(key) < _EXACT) & (jnp.abs(floor) < _EXACT) & (jnp.round(key) == key)
    slope = jnp.where(squares, 2 * bounded, bounded)
    high, low = (jnp.where(squares, p, o) for p, o in zip(parabola, other, strict=True))
    return slope, (high, low), ~squares | (second > -far / 2), squares | held
