"""Training: AdamW, all seeds of an arm in one jitted scan.

Seeds are the leading axis S of every parameter. The data of step t of seed s depend on (s, t)
alone, so a run that is resumed goes on with the same numbers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wasmjax.learn import baselines
from wasmjax.learn.arms import Arm, start, trainable
from wasmjax.learn.model import Output, forward
from wasmjax.learn.tasks.base import Example, Task


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an arm may spend; equal for all arms of a task.

    Attributes:
      steps, batch: optimisation steps, sequences per step. seeds: S.
      learning_rate: at the peak; warm-up over 5% of the steps, then a cosine to 0.
      held, annealed: parts of the steps up to which the temperature stays at its start, and at
        which it has reached its end.
    """

    steps: int = 1000
    batch: int = 8
    seeds: int = 10
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    held: float = 0.2
    annealed: float = 0.9


class State(NamedTuple):
    """Parameters and optimiser state, seeds first; the number of steps done."""

    params: Any
    optimizer: Any
    step: jax.Array


_TRAIN, _HELD_OUT, _START = range(3)


class Trainer:
    """One arm of one task, ready to run.

    Attributes:
      reference: the construction. mask: which parameters may change.
    """

    def __init__(self, task: Task, arm: Arm, budget: Budget, seed: int = 0) -> None:
        self.task, self.arm, self.budget = task, arm, budget
        self.root = jax.random.key(seed)
        self.reference = task.reference()
        if arm.baseline:
            self._init, self._apply = baselines.build(arm.baseline, task)
        else:
            self._init = lambda key: start(key, task, arm, self.reference)
            self._apply = lambda params, tokens, beta, tail: forward(
                params, tokens, task.shape, arm.attention, beta, tail
            )
        schedule = optax.warmup_cosine_decay_schedule(
            0.0,
            budget.learning_rate,
            max(1, budget.steps // 20),
            max(2, budget.steps),
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, weight_decay=budget.weight_decay),
        )
        self.mask = trainable(jax.eval_shape(self._init, self.root), arm, self.reference)

    # -- state --------------------------------------------------------------------------------

    def seed_keys(self, purpose: int) -> jax.Array:
        return jax.random.split(jax.random.fold_in(self.root, purpose), self.budget.seeds)

    @functools.cached_property
    def _begin(self) -> Callable[[jax.Array], State]:
        def begin(key: jax.Array) -> State:
            params = self._init(key)
            return State(params, self.optimizer.init(params), jnp.zeros((), jnp.int32))

        return jax.jit(jax.vmap(begin))

    def begin(self) -> State:
        """Every seed before its first step."""
        return self._begin(self.seed_keys(_START))

    # -- loss ---------------------------------------------------------------------------------

    def beta(self, step: jax.Array | float) -> jax.Array:
        """The inverse temperature: it stays, rises geometrically, and stays again."""
        first, last = (part * self.task.beta for part in self.arm.anneal)
        first = first or min(1.0, last)
        held, annealed = self.budget.held, self.budget.annealed
        part = step / max(1, self.budget.steps)
        done = jnp.clip((part - held) / (annealed - held), 0, 1)
        return first * jnp.exp(math.log(last / first) * done)

    @property
    def last_beta(self) -> float:
        """The inverse temperature at the end."""
        return self.arm.anneal[1] * self.task.beta

    def apply(self, params: Any, tokens_BxLxF: jax.Array, beta: Any, tail: int) -> Output:
        return self._apply(params, tokens_BxLxF, beta, tail)

    def loss(self, params: Any, batch: Example, beta: jax.Array | float) -> jax.Array:
        """Mean cross-entropy of the judged fields, plus what the arm's supervision adds."""
        out = self.apply(params, batch.tokens, beta, batch.target.shape[1])
        weight = batch.weight
        if self.arm.supervision == "changed":
            weight = weight * jnp.where(batch.changed, 1.0, 0.01)
        elif self.arm.supervision == "end":
            weight = weight * _last(weight)
        total = jnp.zeros(())
        for e, name in enumerate(self.task.judged):
            log_p = jax.nn.log_softmax(out.logits[name], -1)
            picked = jnp.take_along_axis(log_p, batch.target[..., e, None], -1)[..., 0]
            total = total - (weight[..., e] * picked).sum()
        total = total / jnp.maximum(1e-9, weight.sum())
        if self.arm.supervision == "signals" and out.signals.shape[-1]:
            asked = batch.weight.max(-1)
            error = jnp.square(out.signals - batch.signals).sum(-1)
            total = total + 10 * (asked * error).sum() / jnp.maximum(1, asked.sum())
        return total

    # -- steps --------------------------------------------------------------------------------

    def batch(self, key: jax.Array, size: int, scale: int = 1) -> Example:
        return jax.vmap(lambda k: self.task.sample(k, scale))(jax.random.split(key, size))

    @functools.cached_property
    def _chunk(self) -> Callable[..., tuple[State, jax.Array, jax.Array]]:
        def update(key: jax.Array, state: State, _: None) -> tuple[State, tuple[Any, Any]]:
            data = self.batch(jax.random.fold_in(key, state.step), self.budget.batch)
            loss, grads = jax.value_and_grad(self.loss)(state.params, data, self.beta(state.step))
            # A score that overflows at a sharp temperature must not end a seed.
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), grads)
            grads = jax.tree.map(lambda m, g: jnp.where(m, g, 0.0), self.mask, grads)
            updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
            params = jax.tree.map(
                lambda m, p, u: jnp.where(m, p + u, p), self.mask, state.params, updates
            )
            norm = optax.tree.norm(grads)
            return State(params, optimizer, state.step + 1), (loss, norm)

        def run(key: jax.Array, state: State, steps: int) -> Any:
            state, (loss, norm) = jax.lax.scan(
                functools.partial(update, key), state, None, length=steps
            )
            return state, loss.mean(), norm.mean()

        def chunk(keys: jax.Array, state: State, steps: int) -> Any:
            return jax.vmap(functools.partial(run, steps=steps))(keys, state)

        return jax.jit(chunk, static_argnames="steps", donate_argnums=1)

    def chunk(self, state: State, steps: int) -> tuple[State, jax.Array, jax.Array]:
        """`steps` more steps of every seed: (state, mean loss [S], mean gradient norm [S])."""
        return self._chunk(self.seed_keys(_TRAIN), state, steps)

    def held_out(self, number: int, size: int, scale: int = 1) -> Example:
        """Held-out sequences, block `number`: the same for every seed and arm."""
        return self._held_out(number, size, scale)

    @functools.cached_property
    def _held_out(self) -> Callable[[int, int, int], Example]:
        def held_out(number: int, size: int, scale: int) -> Example:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), _HELD_OUT), number)
            return self.batch(jax.random.fold_in(key, scale), size, scale)

        return jax.jit(held_out, static_argnums=(1, 2))


def _last(weight_BxTxE: jax.Array) -> jax.Array:
    """1 on the last token of a sequence that is asked for."""
    asked = weight_BxTxE.max(-1) > 0
    after = jnp.flip(jnp.cumsum(jnp.flip(asked, -1), -1), -1)
    return (asked & (after == 1))[..., None]
