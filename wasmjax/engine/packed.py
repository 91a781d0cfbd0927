"""The packed engine: every sum of the step as constant-index gathers and multiply-adds.

A form of k terms becomes k gathers from the pool of entries computed so far; forms are bucketed
by k. The pool grows by concatenation, one piece per phase: XLA on the CPU would fuse in-place
updates of one buffer into their consumers and compute producers again and again (measured).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import Cache, CacheState
from wasmjax.engine.plan import Level, Plan, build_plan, terms
from wasmjax.model.symbolic import ONE, Form, Neuron, Symbolic

_BUCKETS = (0, 1, 2, 4, 8)
"""Forms are padded to one of these many terms; longer ones to the longest of their bucket."""


@dataclasses.dataclass(frozen=True)
class _Terms:
    """n forms of up to k terms: positions [n, k] in the pool, weights [n, k], constants [n]."""

    position: np.ndarray
    weight: np.ndarray
    constant: np.ndarray

    def __call__(self, pool: jax.Array) -> jax.Array:
        constant = jnp.asarray(self.constant, pool.dtype)
        width = self.position.shape[1]
        if width > _BUCKETS[-1]:
            gathered = pool.at[self.position].get(mode="promise_in_bounds")
            return jnp.sum(gathered * jnp.asarray(self.weight, pool.dtype), axis=1) + constant
        out = constant
        for j in range(width):
            gathered = pool.at[self.position[:, j]].get(mode="promise_in_bounds")
            out = out + gathered * jnp.asarray(self.weight[:, j], pool.dtype)
        return out


class _Layout:
    """Positions of entries in the pool."""

    def __init__(self) -> None:
        self.position: dict[int, int] = {}

    def place(self, entries: list[int]) -> None:
        for entry in entries:
            self.position[entry] = len(self.position)

    def terms(self, forms: list[Form]) -> _Terms:
        width = max(map(terms, forms), default=0)
        position = np.zeros((len(forms), width), np.int32)
        weight = np.zeros((len(forms), width))
        constant = np.array([form.get(ONE, 0.0) for form in forms])
        for i, form in enumerate(forms):
            places = sorted((self.position[e], w) for e, w in form.items() if e != ONE)
            for j, (p, w) in enumerate(places):
                position[i, j], weight[i, j] = p, w
        return _Terms(position, weight, constant)


def _bucket(form: Form) -> int:
    count = terms(form)
    return next((size for size in _BUCKETS if count <= size), _BUCKETS[-1] + 1)


class _Sums:
    """Forms bucketed by length; results come in bucket order (`order`)."""

    def __init__(self, layout: _Layout, forms: list[Form]) -> None:
        self.order = sorted(range(len(forms)), key=lambda i: _bucket(forms[i]))
        buckets: dict[int, list[Form]] = {}
        for i in self.order:
            buckets.setdefault(_bucket(forms[i]), []).append(forms[i])
        self.parts = [layout.terms(bucket) for bucket in buckets.values()]
        self.inverse = np.argsort(np.array(self.order, np.int64))

    def __call__(self, pool: jax.Array) -> jax.Array:
        return jnp.concatenate([part(pool) for part in self.parts])

    def in_order(self, pool: jax.Array) -> jax.Array:
        return self(pool)[self.inverse]


class _Neurons:
    """relu(gate) * value, bucketed by the lengths of both."""

    def __init__(self, layout: _Layout, neurons: list[Neuron]) -> None:
        buckets: dict[tuple[int, int], list[Neuron]] = {}
        for neuron in neurons:
            buckets.setdefault((_bucket(neuron.gate), _bucket(neuron.value)), []).append(neuron)
        self.parts = []
        self.entries = []
        for _, members in sorted(buckets.items()):
            self.parts.append(
                (
                    layout.terms([neuron.gate for neuron in members]),
                    layout.terms([neuron.value for neuron in members]),
                )
            )
            self.entries += [neuron.entry for neuron in members]

    def __call__(self, pool: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [jax.nn.relu(gate(pool)) * value(pool) for gate, value in self.parts]
        )


class Packed:
    """One step of a transformer, packed. Built once per set of weights and cache layout.

    Attributes:
      plan: what it computes. fields: vocabulary indices of the emitted fields, in output order.
    """

    name = "packed"

    def __init__(self, symbolic: Symbolic, cache: Cache, dtype: type = jnp.float32) -> None:
        # Only the indexed cache has a prefill of its own; others see prompt tokens step by step.
        self.plan = build_plan(symbolic, cache, generated_only=cache.name == "indexed")
        self.symbolic, self.cache, self.dtype = symbolic, cache, dtype
        self.fields = [readout.field for readout in self.plan.readouts]
        layout = _Layout()
        self._inputs = self._input_plan(layout, self.plan)
        self._layers = []
        for layer in self.plan.layers:
            wires = [self._level(layout, level) for level in layer.wires]
            rows = _Sums(layout, layer.rows) if layer.rows else None
            layout.place(layer.outputs)
            ffn_wires = [self._level(layout, level) for level in layer.ffn_wires]
            neurons = _Neurons(layout, layer.neurons) if layer.neurons else None
            layout.place(neurons.entries if neurons else [])
            self._layers.append((wires, rows, ffn_wires, neurons))
        self._final = [self._level(layout, level) for level in self.plan.final_wires]
        self._readout = _Sums(layout, [readout.form for readout in self.plan.readouts])
        self._lo = np.array([readout.lo for readout in self.plan.readouts])
        self._hi = np.array([readout.hi for readout in self.plan.readouts])

    def params(self) -> None:
        """Positions and weights are constants of the step: nothing to pass."""
        return None

    def __call__(
        self, params: None, token: jax.Array, count: jax.Array, state: CacheState, active: jax.Array
    ) -> tuple[jax.Array, jax.Array, CacheState]:
        """One step.

        Args:
          token: the current token's field values, int32 [F]. count: tokens including it.
          state: cache state. active: whether the step counts.

        Returns:
          Values of the emitted fields (int32), whether each was within 1/2 of one, new state.
        """
        del params
        pool = self._embed(token, count)
        for number, (wires, rows, ffn_wires, neurons) in enumerate(self._layers):
            for level in wires:
                pool = jnp.concatenate([pool, level(pool)])
            if rows is not None:
                y = rows.in_order(pool)
                out, state = self.cache.attend(number, state, y, count, active)
                pool = jnp.concatenate([pool, out.astype(pool.dtype)])
            for level in ffn_wires:
                pool = jnp.concatenate([pool, level(pool)])
            if neurons is not None:
                pool = jnp.concatenate([pool, neurons(pool)])
        for level in self._final:
            pool = jnp.concatenate([pool, level(pool)])
        x = self._readout.in_order(pool)
        value = jnp.clip(jnp.round(x), self._lo, self._hi)
        return value.astype(jnp.int32), jnp.abs(x - value) < 0.5, state

    def _level(self, layout: _Layout, level: Level) -> _Sums:
        sums = _Sums(layout, [form for _, form in level])
        layout.place([level[i][0] for i in sums.order])
        return sums

    def _input_plan(self, layout: _Layout, plan: Plan) -> tuple:
        """Positions of values in the token; flat table and offsets of non-linear columns."""
        entries, vocabulary = self.symbolic.entries, self.symbolic.weights.vocabulary
        values = [e for e in plan.inputs if entries[e].kind == "value"]
        columns = [e for e in plan.inputs if entries[e].kind == "column"]
        counts = [e for e in plan.inputs if entries[e].kind == "count"]
        tables, offset, start = [], [], 0
        for e in columns:
            tables.append(np.array(entries[e].table))
            offset.append(start - vocabulary[entries[e].index[0]].lo)
            start += len(tables[-1])
        layout.place(values + columns + counts)
        value_fields = np.array([entries[e].index[0] for e in values], np.int32)
        column_fields = np.array([entries[e].index[0] for e in columns], np.int32)
        table = np.concatenate(tables) if tables else np.zeros(1)
        return value_fields, column_fields, np.array(offset, np.int32), table, bool(counts)

    def _embed(self, token: jax.Array, count: jax.Array) -> jax.Array:
        value_fields, column_fields, offset, table, counted = self._inputs
        parts = [token[value_fields].astype(self.dtype)]
        if len(column_fields):
            at = token[column_fields] + offset
            parts.append(jnp.asarray(table, self.dtype).at[at].get(mode="promise_in_bounds"))
        if counted:
            parts.append(count.astype(self.dtype)[None])
        return jnp.concatenate(parts)
