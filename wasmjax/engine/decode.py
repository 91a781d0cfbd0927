"""Decoding: one jitted chunk of steps, and what a host does between chunks.

A `Session` is one token sequence: prompt, generated tokens, further prompts. The compiled chunk
depends on the capacities of the caches only, never on the program.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.cache import Cache, CacheState, HullCache, IndexedCache, SoftmaxCache
from wasmjax.circuit.weights import Weights
from wasmjax.engine.dense import Dense
from wasmjax.engine.packed import Packed
from wasmjax.model.heads import certify
from wasmjax.model.symbolic import Symbolic

RUNNING, STOPPED, FULL, OUT_OF_RANGE, REFUSED = range(5)
"""Why a lane is not running: a stop token, no room in a cache, a field's value off every
vocabulary entry, a token that the cache cannot remember exactly."""

MAX_TOKENS = 2**24
"""Token counts are exact in float32 up to here."""

EngineName = Literal["packed", "dense"]
CacheName = Literal["indexed", "hull", "softmax"]


class EngineError(RuntimeError):
    """The engine cannot go on without risking a wrong token; the message says why."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Lane:
    """One token sequence on the device.

    Attributes:
      token: the current token, int32 [F]; it is in no cache yet.
      count: tokens so far, the current one included.
      status: RUNNING or why not. cache: the KV cache.
      kept: [K + 1, E] int32, tokens kept since the chunk began; the last row is a dummy.
      n_kept, n_steps: how many were kept and generated since the chunk began.
      totals: [E] int32, per emitted field the sum over tokens generated since then.
    """

    token: jax.Array
    count: jax.Array
    status: jax.Array
    cache: CacheState
    kept: jax.Array
    n_kept: jax.Array
    n_steps: jax.Array
    totals: jax.Array


@dataclasses.dataclass(frozen=True)
class Stop:
    """Which tokens end a generation, and which are kept when not all are.

    Attributes:
      field: vocabulary index of the field that decides.
      stop: its values that stop. keep: its values worth keeping (stops included).
    """

    field: int
    stop: tuple[int, ...]
    keep: tuple[int, ...]


class Engine:
    """A transformer with an engine and a cache, ready to run sessions.

    Args:
      weights: the transformer (Transformer.weights()).
      stop: end-of-sequence rule.
      engine: "packed" (sparse gathers) or "dense" (the plain forward pass).
      cache: "indexed" (certified heads), "hull" (any integer keys, in logarithmic time) or
        "softmax" (float64 full attention).
      chunk: most steps of one call on the device.
      dtype: of all numbers. "float32" for all; None: "float64" for the softmax cache, whose horizon
        is short in float32.

    Raises:
      CertificateError, ReadoutError: if the weights do not support the choice.
      EngineError: if the format does not hold the numbers of a step exactly.
    """

    def __init__(
        self,
        weights: Weights,
        stop: Stop,
        engine: EngineName = "packed",
        cache: CacheName = "indexed",
        chunk: int = 8192,
        dtype: str | None = None,
    ) -> None:
        self.weights, self.stop, self.chunk = weights, stop, chunk
        self.symbolic = Symbolic(weights)
        self.cache = _cache(self.symbolic, cache, dtype)
        self.dtype = jnp.float64 if self.cache.x64 else jnp.float32
        kinds: dict[str, type[Packed] | type[Dense]] = {"packed": Packed, "dense": Dense}
        with self.precision():
            self.step = kinds[engine](self.symbolic, self.cache, self.dtype)
            self.params = self.step.params()
        self.compile_seconds = 0.0
        self.compilations = 0
        self._compiled: dict[tuple, jax.stages.Compiled] = {}

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """The context in which this engine's arrays live."""
        return jax.enable_x64(self.cache.x64)

    # -- one step -------------------------------------------------------------------------

    def advance(self, params: Any, lane: Lane, keep_all: jax.Array) -> Lane:
        """One step of a lane (a no-op unless it is running)."""
        active = lane.status == RUNNING
        values, within, cache = self.step(params, lane.token, lane.count, lane.cache, active)
        fits = ~self.cache.full(cache)
        ok = active & fits
        fields = np.array(self.step.fields)
        # Never-emitted fields are 0: gathered from one more value, since a scatter costs more.
        source = np.full(lane.token.shape[0], len(fields))
        source[fields] = np.arange(len(fields))
        token = jnp.append(values, 0)[source]
        decides = token[self.stop.field]
        stops = jnp.any(decides == np.array(self.stop.stop, np.int32))
        keeps = jnp.any(decides == np.array(self.stop.keep, np.int32)) | keep_all
        problem = self.cache.problem(cache)
        status = jnp.where(stops, STOPPED, RUNNING)
        status = jnp.where(jnp.all(within), status, OUT_OF_RANGE)
        status = jnp.where(problem > 0, REFUSED, status)
        status = jnp.where(fits, status, FULL).astype(jnp.int32)
        good = ok & (status <= STOPPED)
        last = lane.kept.shape[0] - 1
        row = jnp.where(good & keeps, lane.n_kept, last)
        kept = jax.lax.dynamic_update_slice(lane.kept, values[None, :], (row, jnp.int32(0)))
        return Lane(
            jnp.where(good, token, lane.token),
            lane.count + good.astype(jnp.int32),
            jnp.where(active, status, lane.status),
            self.cache.commit(lane.cache, cache, ok),
            kept,
            lane.n_kept + (good & keeps).astype(jnp.int32),
            lane.n_steps + good.astype(jnp.int32),
            lane.totals + jnp.where(good, values, 0),
        )

    def _chunk(self, params: Any, lane: Lane, limit: jax.Array, keep_all: jax.Array) -> Lane:
        zero = jnp.zeros((), jnp.int32)
        totals = jnp.zeros_like(lane.totals)
        lane = dataclasses.replace(lane, n_kept=zero, n_steps=zero, totals=totals)

        def goes_on(lane: Lane) -> jax.Array:
            return (lane.status == RUNNING) & (lane.n_steps < limit)

        return jax.lax.while_loop(goes_on, lambda x: self.advance(params, x, keep_all), lane)

    def _force(self, params: Any, lane: Lane, tokens_NxF: jax.Array, n: jax.Array) -> Lane:
        """Feeds the current token and the first n - 1 of `tokens_NxF`; the next is current."""

        def body(i: jax.Array, lane: Lane) -> Lane:
            _, _, cache = self.step(params, lane.token, lane.count, lane.cache, jnp.array(True))
            fits = ~self.cache.full(cache)
            status = jnp.where(fits, RUNNING, FULL).astype(jnp.int32)
            return dataclasses.replace(
                lane, token=tokens_NxF[i], count=lane.count + 1, cache=cache, status=status
            )

        return jax.lax.fori_loop(0, n, body, lane)

    # -- compiled functions ---------------------------------------------------------------

    def _compiled_for(self, name: str, function: Callable, *args: object) -> Callable:
        shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), args)
        key = (name, str(shapes))
        if key not in self._compiled:
            start = time.perf_counter()
            jitted = jax.jit(function, donate_argnums=(1,))
            self._compiled[key] = jitted.lower(*args).compile()
            self.compilations += 1
            self.compile_seconds += time.perf_counter() - start
        return self._compiled[key]

    def compiled_text(self, name: str) -> list[str]:
        """The HLO of the functions of this name that were compiled, for whoever profiles them."""
        found = self._compiled.items()
        return [function.as_text() or "" for key, function in found if key[0] == name]

    def run_chunk(self, lane: Lane, limit: int, keep_all: bool) -> Lane:
        """Up to `limit` (<= chunk) steps on the device. The lane given is consumed."""
        args = (self.params, lane, jnp.int32(limit), jnp.array(keep_all))
        return self._compiled_for("chunk", self._chunk, *args)(*args)

    def force(self, lane: Lane, tokens_NxF: np.ndarray) -> Lane:
        """Teacher forcing: the lane's token and all but the last of `tokens_NxF` are fed."""
        size = 1 << max(4, (len(tokens_NxF) - 1).bit_length())
        padded = np.zeros((size, tokens_NxF.shape[1]), np.int32)
        padded[: len(tokens_NxF)] = tokens_NxF
        args = (self.params, lane, jnp.asarray(padded), jnp.int32(len(tokens_NxF)))
        return self._compiled_for("force", self._force, *args)(*args)

    @functools.cached_property
    def emitted(self) -> np.ndarray:
        """Vocabulary indices of the emitted fields."""
        return np.array(self.step.fields)


def _cache(symbolic: Symbolic, name: CacheName, dtype: str | None) -> Cache:
    kinds = ("float32", "float64") if name == "softmax" else ("float32",)
    if dtype is not None and dtype not in kinds:
        raise EngineError(
            f"no {name} cache in {dtype}, only in {' and '.join(kinds)}: what a format holds "
            "exactly says `wasmjax check --dtype`"
        )
    if name == "indexed":
        return IndexedCache(symbolic, certify(symbolic))
    if name == "hull":
        return HullCache(symbolic, certify(symbolic, general=True))
    return SoftmaxCache(symbolic, "float32" if dtype == "float32" else "float64")


class Session:
    """One token sequence and its cache.

    Args:
      engine: what runs it.
      capacities: least rows per store, or [tokens] of the softmax cache.

    Attributes:
      tokens: tokens so far, prompt and generated. totals: per field, their sum, int64 [F].
    """

    def __init__(self, engine: Engine, capacities: Sequence[int] | None = None) -> None:
        self.engine = engine
        self._least = list(capacities or engine.cache.default_capacities())
        self._lane: Lane | None = None
        self.tokens = 0
        self.totals = np.zeros(len(engine.weights.vocabulary), np.int64)

    def feed(self, tokens_NxF: np.ndarray) -> None:
        """Appends prompt tokens (prefill). The last one becomes the current token.

        Raises:
          EngineError: if the sequence would grow past MAX_TOKENS, or a value lies outside its
            vocabulary.
        """
        tokens_NxF = np.asarray(tokens_NxF, np.int32)
        if self.tokens + len(tokens_NxF) > MAX_TOKENS:
            raise EngineError(f"the sequence would pass {MAX_TOKENS} tokens")
        for value, field in zip(tokens_NxF.T, self.engine.weights.vocabulary, strict=True):
            if value.min() < field.lo or value.max() >= field.lo + field.size:
                raise EngineError(f"field {field.name} of a prompt token is outside its vocabulary")
        with self.engine.precision():
            cache: Any = self.engine.cache
            # The dense engine with softmax attention stays the plain forward pass.
            plain = isinstance(cache, SoftmaxCache) and self.engine.step.name == "packed"
            if isinstance(cache, IndexedCache) or (plain and cache.own):
                self._prefill_at_once(cache, tokens_NxF)
            else:
                self._prefill_by_steps(self.engine.cache, tokens_NxF)
        self.tokens += len(tokens_NxF)
        self.totals += tokens_NxF.sum(axis=0, dtype=np.int64)

    def _prefill_at_once(self, cache: Any, tokens_NxF: np.ndarray) -> None:
        if self._lane is None:
            cached, state, first = tokens_NxF[:-1], None, 1
        else:
            current = np.asarray(self._lane.token)[None]
            cached = np.concatenate([current, tokens_NxF[:-1]])
            state, first = self._lane.cache, self.tokens
        filled = cache.prefill(state, cached, first, self._least)
        self._lane = self._new_lane(tokens_NxF[-1], filled, self.tokens + len(tokens_NxF))

    def _prefill_by_steps(self, cache: Any, tokens_NxF: np.ndarray) -> None:
        if self._lane is None:
            room = cache.room_for(len(tokens_NxF) + 1)
            state = cache.empty([max(pair) for pair in zip(self._least, room, strict=True)])
            self._lane = self._new_lane(tokens_NxF[0], state, 1)
            tokens_NxF = tokens_NxF[1:]
        else:
            total = int(self._lane.count) + len(tokens_NxF)
            grown = cache.grow(self._lane.cache, cache.room_for(total + 1))
            self._lane = dataclasses.replace(self._lane, cache=grown)
        if len(tokens_NxF):
            self._lane = self.engine.force(self._lane, tokens_NxF)
        self._lane = dataclasses.replace(self._lane, status=jnp.int32(RUNNING))

    def _new_lane(self, token_F: np.ndarray, cache: CacheState, count: int) -> Lane:
        chunk = self.engine.chunk
        return Lane(
            jnp.asarray(token_F, jnp.int32),
            jnp.int32(count),
            jnp.int32(RUNNING),
            cache,
            jnp.zeros((chunk + 1, len(self.engine.emitted)), jnp.int32),
            jnp.int32(0),
            jnp.int32(0),
            jnp.zeros(len(self.engine.emitted), jnp.int32),
        )

    def generate(self, max_steps: int, keep_all: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Generates until a stop token or `max_steps`.

        Yields:
          After every chunk: steps made, and the kept tokens, int32 [n, F] (all tokens if
          `keep_all`, else those that the stop rule keeps).

        Raises:
          EngineError: before a token that could be wrong: a limit is reached.
        """
        done = 0
        while done < max_steps and not self.stopped:
            if self._lane is None:
                raise EngineError("nothing to continue: feed a prompt first")
            if done == 0:
                self._check_current(self._lane)
            if self.tokens >= MAX_TOKENS:
                raise EngineError(f"the sequence reached {MAX_TOKENS} tokens, the exact limit")
            limit = min(self.engine.chunk, max_steps - done, MAX_TOKENS - self.tokens)
            with self.engine.precision():
                self._lane = self.engine.run_chunk(self._lane, limit, keep_all)
                steps, kept = int(self._lane.n_steps), int(self._lane.n_kept)
                values = np.asarray(self._lane.kept[:kept])
                self.totals[self.engine.emitted] += np.asarray(self._lane.totals)
            done += steps
            self.tokens += steps
            tokens = np.zeros((kept, len(self.engine.weights.vocabulary)), np.int32)
            tokens[:, self.engine.emitted] = values
            self._settle()
            yield steps, tokens

    def stored(self, tokens_NxF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What lies where tokens would write: their own values and those now there, [N, C].

        Raises:
          EngineError: if the current token, which is in no cache yet, is no stop token.
        """
        if not self.stopped or self._lane is None:
            raise EngineError("the contents can be read when the program has stopped")
        with self.engine.precision():
            return self.engine.cache.stored(self._lane.cache, tokens_NxF, self.tokens)

    def _check_current(self, lane: Lane) -> None:
        """With an indexed cache, a step is made for tokens as they are generated."""
        if isinstance(self.engine.cache, IndexedCache):
            vocabulary = self.engine.weights.vocabulary
            for value, field in zip(np.asarray(lane.token), vocabulary, strict=True):
                if value and not field.emitted:
                    raise EngineError(
                        f"field {field.name} is never emitted, so the last token of a prompt "
                        "must hold 0 there"
                    )

    @property
    def stopped(self) -> bool:
        """Whether the last token was a stop token."""
        return self._lane is not None and int(self._lane.status) == STOPPED

    def _settle(self) -> None:
        """Deals with what ended a chunk early."""
        lane = self._lane
        assert lane is not None
        status = int(lane.status)
        if status == FULL:
            with self.engine.precision():
                cache = self.engine.cache
                need = np.atleast_1d(np.asarray(lane.cache.need))
                grown = cache.grow(lane.cache, need.tolist())
                self._lane = dataclasses.replace(
                    lane,
                    cache=dataclasses.replace(grown, need=jnp.zeros_like(lane.cache.need)),
                    status=jnp.int32(RUNNING),
                )
        elif status == OUT_OF_RANGE:
            raise EngineError(
                f"token {self.tokens}: a field's value lies outside its vocabulary (machine limit)"
            )
        elif status == REFUSED:
            explained = self.engine.cache.explain(lane.cache)
            raise EngineError(f"token {self.tokens}: {explained}")
