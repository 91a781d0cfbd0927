"""Decoding many sequences at once: the step of all lanes, and lanes that come and go.

A step advances every running lane by one token. The compiled chunk runs until so many steps are
made or so many lanes have stopped, whichever comes first; it depends on the capacities and the
number of lanes only. Over several devices the lanes are sharded: devices share nothing within a
chunk.

Shapes: B lanes (per device inside `shard_map`), F fields, E emitted fields, K kept tokens.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wasmjax.cache.indexed import IndexedCache
from wasmjax.cache.lanes import LanesCache, LanesState
from wasmjax.circuit.weights import Weights
from wasmjax.engine.decode import FULL, OUT_OF_RANGE, REFUSED, RUNNING, STOPPED, Stop
from wasmjax.engine.packed import Packed, Pieces, rows_set
from wasmjax.model.heads import certify
from wasmjax.model.symbolic import Symbolic

IDLE, LIMITED, PAUSED = range(5, 8)
"""Further reasons why a lane is not running: it is empty, its steps are used up, its kept tokens
must be fetched first."""

INNER = 32
"""Steps between looks at how many lanes have stopped."""

AXIS = "lanes"

Array = Any
"""A jax.Array on the devices; on the host an array of NumPy, or () where it is left out."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Lanes:
    """B token sequences on the device, lanes last (kept tokens and caches: lanes first).

    Attributes:
      token: current tokens, int32 [F, B]. count: tokens so far, these included, int32 [B].
      status: int32 [B]. left: steps that a lane may still make, int32 [B].
      cache: KV caches. totals: per emitted field the sum over all tokens modulo 2^32, int32 [E, B].
      kept: tokens kept since the chunk began, int16 [B, K + 1, E]; the last row is a dummy.
      n_kept, n_steps: how many were kept and made since then, int32 [B].
    """

    token: Array
    count: Array
    status: Array
    left: Array
    cache: LanesState
    totals: Array
    kept: Array
    n_kept: Array
    n_steps: Array


class LanesEngine:
    """A transformer ready to run many sequences.

    Args:
      weights: the transformer. stop: end-of-sequence rule.
      mesh: devices, one axis named "lanes"; None: all devices.
      kept: most tokens kept per lane and chunk (a lane that needs more pauses).
      keep_all: keep every token, not only those that the stop rule keeps.

    Attributes:
      cache: layout of the caches. step: what one step computes.
      compilations, compile_seconds: how many, and how long they took.

    Raises:
      CertificateError, ReadoutError: if the weights do not support indexed caches.
      ValueError: if an emitted field has values beyond 16 bits.
    """

    def __init__(
        self,
        weights: Weights,
        stop: Stop,
        mesh: Mesh | None = None,
        kept: int = 256,
        keep_all: bool = False,
    ) -> None:
        self.weights, self.stop, self.kept, self.keep_all = weights, stop, kept, keep_all
        self.mesh = make_mesh() if mesh is None else mesh
        self.symbolic = Symbolic(weights)
        self.cache = LanesCache(IndexedCache(self.symbolic, certify(self.symbolic)))
        self.step = Packed(self.symbolic, self.cache, jnp.float32, lanes=True)
        bounds = [(f.lo, f.lo + f.size) for f in weights.vocabulary if f.emitted]
        if any(lo < -(2**15) or hi > 2**15 for lo, hi in bounds):
            raise ValueError("an emitted field has values beyond 16 bits")
        self.compile_seconds = 0.0
        self.compilations = 0
        self._compiled: dict[tuple, jax.stages.Compiled] = {}

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return int(self.mesh.size)

    @functools.cached_property
    def emitted(self) -> np.ndarray:
        """Vocabulary indices of the emitted fields."""
        return np.array(self.step.fields)

    # -- one step -------------------------------------------------------------------------

    def advance(self, lanes: Lanes, pieces: Pieces) -> tuple[Lanes, Pieces]:
        """One step of every running lane."""
        flags, pieces = pieces[-1], pieces[:-1]
        active = lanes.status == RUNNING
        values, within, cache, pieces = self.step.of_lanes(
            lanes.token, lanes.count, lanes.cache, active, pieces
        )
        fits, problem = ~self.cache.full(cache), self.cache.problem(cache)
        # What everything below asks is written down: XLA on the CPU would compute it per use.
        good = active & fits & within & (problem == 0)
        flags = rows_set(flags, 0, [within[None], good[None]])
        within, good = flags[0] > 0, flags[1] > 0
        token = self._whole_token(values)
        decides = token[self.stop.field]
        stops = jnp.any(decides == np.array(self.stop.stop, np.int32)[:, None], axis=0)
        keeps = jnp.any(decides == np.array(self.stop.keep, np.int32)[:, None], axis=0)
        left = lanes.left - 1
        n_kept = lanes.n_kept + (keeps | self.keep_all).astype(jnp.int32)
        last = lanes.kept.shape[1] - 1
        status = jnp.where(n_kept >= last, PAUSED, RUNNING)
        status = jnp.where(left == 0, LIMITED, status)
        status = jnp.where(stops, STOPPED, status)
        status = jnp.where(within, status, OUT_OF_RANGE)
        status = jnp.where(problem > 0, REFUSED, status)
        status = jnp.where(fits, status, FULL).astype(jnp.int32)
        row = jnp.where(good & (keeps | self.keep_all), lanes.n_kept, last)
        kept = lanes.kept.at[jnp.arange(row.shape[0]), row].set(
            values.astype(jnp.int16).T, mode="promise_in_bounds"
        )
        return Lanes(
            jnp.where(good, token, lanes.token),
            lanes.count + good.astype(jnp.int32),
            jnp.where(active, status, lanes.status),
            jnp.where(good, left, lanes.left),
            self.cache.commit(lanes.cache, cache, good),
            lanes.totals + jnp.where(good, values, 0),
            kept,
            jnp.where(good, n_kept, lanes.n_kept),
            lanes.n_steps + good.astype(jnp.int32),
        ), (*pieces, flags)

    def room(self, lanes: int) -> Pieces:
        """Buffers that a step of a number of lanes computes in; contents do not matter."""
        # A row more than needed: else XLA sees that the buffer is replaced as a whole.
        return (*self.step.room(lanes), jnp.zeros((3, lanes), jnp.int32))

    def _whole_token(self, values_ExB: jax.Array) -> jax.Array:
        """All fields of generated tokens, [F, B]: those never emitted are 0."""
        zero = jnp.zeros((1, values_ExB.shape[1]), values_ExB.dtype)
        source = np.full(len(self.weights.vocabulary), len(self.emitted))
        source[self.emitted] = np.arange(len(self.emitted))
        return jnp.concatenate([values_ExB, zero])[source]

    def _chunk(
        self, lanes: Lanes, limit: jax.Array, patience: jax.Array
    ) -> tuple[Lanes, jax.Array]:
        """Up to `limit` steps (rounded up to INNER), until `patience` lanes have stopped."""
        zero = jnp.zeros_like(lanes.n_kept)
        status = jnp.where(lanes.status == PAUSED, RUNNING, lanes.status)
        lanes = dataclasses.replace(lanes, n_kept=zero, n_steps=zero, status=status)
        width = lanes.status.shape[0]
        before = jnp.sum(lanes.status != RUNNING)

        def goes_on(carry: tuple[Lanes, Pieces, jax.Array]) -> jax.Array:
            lanes, _, done = carry
            stopped = jnp.sum(lanes.status != RUNNING)
            return (done < limit) & (stopped < width) & (stopped - before < patience)

        def some(carry: tuple[Lanes, Pieces, jax.Array]) -> tuple:
            lanes, pieces, done = carry
            lanes, pieces = jax.lax.fori_loop(
                0, INNER, lambda _, carry: self.advance(*carry), (lanes, pieces)
            )
            return lanes, pieces, done + INNER

        lanes.cache.scratch = self.cache.room(width)
        start = lanes, self.room(width), jnp.int32(0)
        lanes, _, done = jax.lax.while_loop(goes_on, some, start)
        lanes.cache.scratch = ()
        return lanes, done[None]

    # -- compiled functions ---------------------------------------------------------------

    def specs(self, lanes: Lanes) -> Lanes:
        """How the parts of `lanes` are sharded: caches and kept tokens have the lanes first."""
        first, last = PartitionSpec(AXIS), PartitionSpec
        specs = jax.tree.map(lambda x: last(*[None] * (x.ndim - 1), AXIS), lanes)
        specs.kept = first
        specs.cache.written = tuple(first for _ in lanes.cache.written)
        specs.cache.pools = tuple(PartitionSpec() for _ in lanes.cache.pools)
        return specs

    def compiled(
        self,
        name: str,
        function: Callable,
        in_specs: Any,
        out_specs: Any,
        *args: Any,
        donate: int = 0,
    ) -> Callable:
        """`function` per device, compiled for these shapes; argument `donate` is donated."""
        shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), args)
        key = (name, str(shapes))
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = (
                self.lowerable(function, in_specs, out_specs, donate)
                .lower(*args)
                .compile(compiler_options=compiler_options(self.mesh))
            )
            self.compilations += 1
            self.compile_seconds += time.perf_counter() - start
        return self._compiled[key]

    def compiled_text(self, name: str) -> list[str]:
        """The HLO of the functions of this name that were compiled, for whoever profiles them."""
        found = self._compiled.items()
        return [function.as_text() or "" for key, function in found if key[0] == name]

    def lowerable(self, function: Callable, in_specs: Any, out_specs: Any, donate: int) -> Any:
        """The jitted function behind `compiled`."""
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donate)

    def run_chunk(self, lanes: Lanes, limit: int, patience: int) -> tuple[Lanes, jax.Array]:
        """Up to `limit` steps; a device returns earlier if `patience` of its lanes have stopped.

        Returns:
          The lanes (those given are consumed), and steps made by every device, [devices].
        """
        specs = self.specs(lanes)
        scalar = PartitionSpec()
        args = (lanes, jnp.int32(limit), jnp.int32(patience))
        in_specs, out_specs = (specs, scalar, scalar), (specs, PartitionSpec(AXIS))
        return self.compiled("chunk", self._chunk, in_specs, out_specs, *args)(*args)

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """A sharding over the mesh."""
        return NamedSharding(self.mesh, spec)


def compiler_options(mesh: Mesh) -> dict[str, int] | None:
    """Options for XLA: it uses half of a CPU's widest vectors unless told otherwise."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_prefer_vector_width": 512} if on_cpu else None


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of devices (None: all) with the one axis that lanes are sharded over."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
