"""What is read off finished runs: distances to the construction, barriers, heads, gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.learn import metrics
from wasmjax.learn.model import Params, Shape, embed, forward
from wasmjax.learn.runs import Run
from wasmjax.learn.tasks import t2_latest_write
from wasmjax.learn.tasks.base import Example, Task
from wasmjax.learn.tasks.t1_indexed_read import READ, WRITE
from wasmjax.learn.train import Budget, State, Trainer


def analyse(run: Run, seeds: int = 10, lines: int = 3) -> dict[str, Any]:
    """Distances of a finished run's models from the construction.

    Args:
      seeds: how many seeds are looked at. lines: for how many of them the straight line to the
        construction is walked.

    Returns:
      Per seed "distance" (`metrics.distance`), "divergence" and "disagreement"
      (`metrics.function_distance`, held-out data), "fields_right" (of the judged fields, one by
      one), "barrier"; for T1 "score_distance" of the best head; for T2 error rates by regime.
      Baselines have those of T2 only.
    """
    state = run.restore()
    if state is None or run.arm.baseline:
        return {} if state is None else _regimes(run, state)
    trainer, task = run.trainer, run.task
    reference = trainer.reference.params
    data = trainer.held_out(5000, 32)
    beta = trainer.last_beta

    @jax.jit
    def logits(params: Params) -> dict[str, jax.Array]:
        tail = data.target.shape[1]
        return forward(params, data.tokens, task.shape, run.arm.attention, beta, tail).logits

    @jax.jit
    def loss(params: Params) -> jax.Array:
        return trainer.loss(params, data, beta)

    # The construction at its own temperature.
    theirs = forward(
        reference, data.tokens, task.shape, "softmax", task.beta, data.target.shape[1]
    ).logits
    # At the arm's temperature the construction needs sharper W_Q and W_K to be itself.
    adapted = _at_temperature(reference, task.shape, task.beta / beta)
    out: dict[str, Any] = {
        "distance": [],
        "divergence": [],
        "disagreement": [],
        "fields_right": [],
        "barrier": [],
    }
    for s in range(min(seeds, run.budget.seeds)):
        params = jax.tree.map(lambda x, s=s: x[s], state.params)
        out["distance"].append(metrics.distance(params, reference))
        mine = logits(params)
        kl, different = metrics.function_distance(mine, theirs)
        out["fields_right"].append(metrics.fields_right(mine, data, task.judged))
        out["divergence"].append(kl)
        out["disagreement"].append(different)
        if s < lines:
            height, losses = metrics.barrier(loss, params, adapted)
            out["barrier"].append(height)
            out.setdefault("line", []).append(losses)
        if task.name.startswith("T1"):
            out.setdefault("score_distance", []).append(
                min(
                    metrics.score_distance(
                        score_matrix(params, task, head), score_matrix(reference, task, 0)
                    )
                    for head in range(task.shape.heads[-1])
                )
            )
    return out | _regimes(run, state)


def _at_temperature(params: Params, shape: Shape, factor: float) -> Params:
    blocks = [
        {**b, "w_q": b["w_q"] * factor**0.5, "w_k": b["w_k"] * factor**0.5} if sharp else b
        for b, sharp in zip(params["blocks"], shape.sharp, strict=True)
    ]
    return {**params, "blocks": blocks}


def _regimes(run: Run, state: State) -> dict[str, Any]:
    """T2: error rates of sparse and dense sequences apart, at 1x and 4x the training length."""
    if not run.task.name.startswith("T2"):
        return {}
    out: dict[str, Any] = {}
    for regime in ("sparse", "dense"):
        task = dataclasses.replace(t2_latest_write.task(regime), shape=run.task.shape)
        apart = Trainer(task, run.arm, run.budget)
        for scale in (1, 4):
            data = apart.held_out(6000, 64, scale)

            def wrong(params: Any, data: Example = data, apart: Trainer = apart) -> jax.Array:
                tail = data.target.shape[1]
                found = apart.apply(params, data.tokens, apart.last_beta, tail).logits["v"]
                return (found.argmax(-1) != data.target[..., 0]).mean()

            rates = jax.jit(jax.vmap(wrong))(state.params)
            out[f"{regime}_{scale}x"] = [float(x) for x in rates]
    return out


# -- heads ------------------------------------------------------------------------------------


def plane(params: Params, task: Task, head: int) -> tuple[np.ndarray, np.ndarray]:
    """A T1 head's (queries [J, 2], keys [J, 2]) of all addresses; values' mean is taken."""
    addresses = next(f.size for f in task.shape.vocabulary if f.name == "a")
    values = next(f.size for f in task.shape.vocabulary if f.name == "v")
    apart = any(f.name == "i" for f in task.shape.vocabulary)
    a = np.arange(addresses)

    def residual(kind: int, own: np.ndarray, v: np.ndarray, asked: np.ndarray) -> np.ndarray:
        columns = [np.full_like(own, kind), own, v, *([asked] if apart else [])]
        x = embed(params, jnp.asarray(np.stack(columns, -1))[None], task.shape)
        for block, heads in zip(params["blocks"][:-1], task.shape.heads, strict=False):
            assert not heads
            gate = jnp.einsum("nd,bld->bln", block["w_gate"], x)
            inner = jnp.einsum("nd,bld->bln", block["w_in"], x)
            x = x + jnp.einsum("dn,bln->bld", block["w_out"], jax.nn.relu(gate) * inner)
        return np.asarray(x[0], np.float64)

    block = params["blocks"][-1]
    zero = np.zeros_like(a)
    query = residual(READ, zero if apart else a, zero, a)
    keys = np.mean([residual(WRITE, a, zero + v, zero) for v in range(values)], axis=0)
    w_q, w_k = (np.asarray(block[n][head], np.float64) for n in ("w_q", "w_k"))
    return query @ w_q.T, keys @ w_k.T


def score_matrix(params: Params, task: Task, head: int) -> np.ndarray:
    """Scores of every asked address (rows) with every member's key, [J, J]."""
    queries, keys = plane(params, task, head)
    return queries @ keys.T


def best_head(params: Params, task: Task) -> int:
    """The T1 head whose largest score is most often at the right address."""
    hits = [
        (
            score_matrix(params, task, h).argmax(1) == np.arange(len(plane(params, task, h)[0]))
        ).mean()
        for h in range(task.shape.heads[-1])
    ]
    return int(np.argmax(hits))


# -- gradients against temperature ------------------------------------------------------------


def gradient_norms(task: Task, gaps: tuple[float, ...]) -> list[float]:
    """Norm of the gradient of W_Q and W_K of the construction, by the gap between neighbours.

    The construction's temperature is such that neighbouring addresses' scores differ by `gap`.
    """
    from wasmjax.learn.arms import Arm

    arm = Arm("construction", constructed=("*",), anneal=(1.0, 1.0))
    trainer = Trainer(task, arm, Budget(seeds=1))
    params, data = trainer.reference.params, trainer.held_out(7000, 32)

    @jax.jit
    def norm(beta: jax.Array) -> jax.Array:
        grads = jax.grad(trainer.loss)(params, data, beta)
        sharp = [
            b[name]
            for b, is_sharp in zip(grads["blocks"], task.shape.sharp, strict=True)
            for name in ("w_q", "w_k")
            if is_sharp
        ]
        return jnp.sqrt(sum(jnp.square(g).sum() for g in sharp))

    return [float(norm(jnp.float32(task.beta * gap / task.gap))) for gap in gaps]
