"""Learning and the whole machine: noise on all its weights, and learned heads put into it.

Nothing here trains. The programs are real ones, the truth is the oracle's tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wasmjax.circuit.weights import Names, Weights
from wasmjax.engine.decode import CacheName, Engine, EngineError, EngineName, Session, Stop
from wasmjax.learn.model import Params
from wasmjax.machine.config import MachineConfig
from wasmjax.model.heads import CertificateError
from wasmjax.model.readout import ReadoutError
from wasmjax.model.transformer import Transformer
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle


def truth(config: MachineConfig, prompt_NxF: np.ndarray, steps: int) -> np.ndarray:
    """The oracle's tokens after a prompt, int32 [T, F]; T <= steps."""
    oracle = Oracle(config)
    oracle.feed(prompt_NxF)
    return oracle.run(steps)


# -- noise ------------------------------------------------------------------------------------


def noisy(weights: Weights, sigma: float, seed: int, wired: bool = False) -> Weights:
    """Every weight w becomes w + sigma s n, n normal; s is |w|, for zeros the array's median |w|.

    `wired`: zeros stay zero.
    """
    rng = np.random.default_rng(seed)

    def disturb(x: np.ndarray | None) -> Any:
        if x is None or not x.any():
            return x
        size = np.abs(x)
        if not wired:
            size = np.where(size > 0, size, np.median(size[size > 0]))
        return x + sigma * size * rng.standard_normal(x.shape)

    parts = ("position", "w_q", "w_k", "w_v", "w_o", "w_gate", "w_in", "w_out")
    return dataclasses.replace(
        weights,
        embedding=[disturb(table) for table in weights.embedding],
        unembedding=[disturb(rows) for rows in weights.unembedding],
        **{name: disturb(getattr(weights, name)) for name in parts},
    )


def agreement(weights: Weights, prompt_NxF: np.ndarray, expected_TxF: np.ndarray) -> np.ndarray:
    """Which of the expected tokens the plain forward pass emits, each after the right ones.

    Softmax in float64 over the whole sequence, bool [T, emitted fields].
    """
    sequence = np.concatenate([prompt_NxF, expected_TxF[:-1]])
    first = len(prompt_NxF) - 1
    with jax.enable_x64(True):
        model = Transformer(weights, jnp.float64)
        logits = jax.jit(lambda m, t: m(t))(model, jnp.asarray(sequence))
        columns = []
        for f, field in enumerate(weights.vocabulary):
            if field.emitted:
                answer = field.lo + np.asarray(logits[field.name])[first:].argmax(-1)
                columns.append(answer == expected_TxF[:, f])
    return np.stack(columns, -1)


def refusal(weights: Weights, stop: Stop, engine: EngineName, cache: CacheName) -> str:
    """Why an engine does not take these weights; "" if it does."""
    try:
        Engine(weights, stop, engine, cache)
    except (CertificateError, ReadoutError, EngineError) as error:
        return " ".join(str(error).split())
    return ""


# -- a learned head ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LearnedHead:
    """A T1 head in the machine's terms.

    The score of the query i with a key is i k1 + k2; key_2x4 gives (k1, k2) over
    (address, address^2, outsider, 1). `margin`: by how much the right key of J wins at least.
    """

    key_2x4: np.ndarray
    margin: float


def learned_head(params: Params, head: int, addresses: int) -> LearnedHead:
    """A head of a model of the task T1.head (one seed), in the gauge where its query is (i, 1).

    Any invertible matrix may stand between W_Q and W_K; it is chosen so that the query's second
    component is 1, as in the machine. What the values add to keys is dropped: members' mean stays.
    """
    block = params["blocks"][0]
    w_q, w_k = (np.asarray(block[name][head], np.float64) for name in ("w_q", "w_k"))
    tables = {name: np.asarray(t, np.float64) for name, t in params["embedding"].items()}
    a = np.arange(addresses, dtype=np.float64)
    kind_write, kind_read, kind_other = 1, 2, 3
    # The reader's value field is 0, and its own address too.
    asked = tables["i"] @ w_q.T
    constant = w_q @ (tables["kind"][kind_read] + tables["v"][0] + tables["a"][0])
    slope, offset = (np.linalg.lstsq(np.stack([a, a**0], 1), asked, rcond=None)[0]).copy()
    query_2x2 = np.stack([slope, offset + constant])  # rows: of i, of 1
    own = np.linalg.lstsq(np.stack([a, a * a, a**0], 1), tables["a"] @ w_k.T, rcond=None)[0]
    values = w_k @ tables["v"].mean(0)
    one = w_k @ (tables["kind"][kind_write] + tables["i"][0]) + values + own[2]
    outside = w_k @ (tables["kind"][kind_other] - tables["kind"][kind_write])
    key_2x4 = query_2x2 @ np.stack([own[0], own[1], outside, one], 1)
    return LearnedHead(*_normalised(key_2x4, a))


def _normalised(key_2x4: np.ndarray, a_J: np.ndarray) -> tuple[np.ndarray, float]:
    """Scaled so that the square counts -1 in the middle, and rounded to multiples of 2^-10."""
    bend = -(key_2x4[0, 1] * a_J.mean() + key_2x4[1, 1])
    scaled = np.rint(key_2x4 / (bend if bend > 0 else 1.0) * 1024) / 1024
    score = scores(scaled, a_J, a_J)
    right = np.diag(score).copy()
    np.fill_diagonal(score, -np.inf)
    outsiders = scores(scaled, a_J, a_J, outsider=1.0)
    return scaled, float((right - np.maximum(score.max(1), outsiders.max(1))).min())


def scores(
    key_2x4: np.ndarray, asked_I: np.ndarray, a_J: np.ndarray, outsider: float = 0.0
) -> np.ndarray:
    """Scores of queries with the keys of addresses, [I, J]."""
    features = np.stack([a_J, a_J * a_J, np.full_like(a_J, outsider), np.ones_like(a_J)])
    k1, k2 = key_2x4 @ features
    return asked_I[:, None] * k1[None] + k2[None]


def put_back(weights: Weights, names: Names, group: str, head: LearnedHead) -> Weights:
    """The machine with the keys of a head group replaced by learned ones; queries stay (i, 1).

    Args:
      group: name of the group, for example "fetch".

    Raises:
      ValueError: if there is no such group.
    """
    w_k = weights.w_k.copy()
    found = False
    for layer, heads in enumerate(names.heads):
        for h, name in heads:
            if name.rpartition("[")[0] != group:
                continue
            found = True
            first, second = weights.w_k[layer, h]
            address, one = first / 2, weights.w_q[layer, h, 1]
            # Keys are (2 j, -j^2 - far outsider): the largest entry is the outsiders'.
            at = int(np.abs(second).argmax())
            square, outsider = -second.copy(), np.zeros_like(second)
            square[at], outsider[at] = 0.0, 1.0
            w_k[layer, h] = head.key_2x4 @ np.stack([address, square, outsider, one])
    if not found:
        raise ValueError(f"there is no head group {group}")
    return dataclasses.replace(weights, w_k=w_k)


def compare(
    config: MachineConfig,
    weights: Weights,
    stop: Stop,
    prompt_NxF: np.ndarray,
    expected_TxF: np.ndarray,
    engine: EngineName = "packed",
    cache: CacheName = "hull",
) -> tuple[int, str]:
    """(tokens generated as expected, "" or where and why they stop being so)."""
    try:
        session = Session(Engine(weights, stop, engine, cache, chunk=256))
        session.feed(prompt_NxF)
        made: Sequence[np.ndarray] = [
            kept for _, kept in session.generate(len(expected_TxF), keep_all=True)
        ]
    except (CertificateError, ReadoutError, EngineError) as error:
        return 0, " ".join(str(error).split())
    tokens = np.concatenate(made)
    found = first_divergence(config, expected_TxF, tokens)
    return (len(tokens), "") if found is None else (found.step, str(found).splitlines()[0])
