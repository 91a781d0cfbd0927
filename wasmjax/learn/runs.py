"""Runs: a folder per arm with its configuration, metrics, checkpoint and result.

OUT/TASK/ARM/
  config.json    task, arm, budget, seed, git revision, versions
  metrics.jsonl  a line per chunk: step, loss, gradient norm, accuracy, per seed
  state/         the latest checkpoint (Orbax): parameters, optimiser, step
  result.json    the final evaluation; a run that has one is done

A run that was killed goes on from its checkpoint and ends with the same numbers: data depend on
(seed, step) alone, and lines after the checkpoint are written again.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from wasmjax.learn.arms import Arm
from wasmjax.learn.metrics import Tally, judge, wilson
from wasmjax.learn.model import forward
from wasmjax.learn.tasks.base import Example, Task
from wasmjax.learn.tasks.t4_arithmetic import every_input
from wasmjax.learn.train import Budget, State, Trainer


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How much is looked at.

    Attributes:
      chunk: steps between looks. looks: sequences of a look.
      screen: judged tokens per seed and length in the first round.
      confirm: judged tokens at four times the length for seeds that make no error there.
      total: judged tokens at four times the length for an arm in all, the same for every seed,
        if that is more than the first round's.
      scales: lengths, in units of the training length.
    """

    chunk: int = 250
    looks: int = 16
    screen: int = 4096
    confirm: int = 1_000_000
    total: int = 0
    scales: tuple[int, ...] = (1, 2, 4, 8)


class Paused(Exception):
    """The time that a call may take is over; the run can be resumed."""


def revision() -> str:
    """The git revision, with "+" if the working tree differs; "unknown" without git."""
    root = pathlib.Path(__file__).resolve().parent
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", root, *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", "--", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changes else "")


class Run:
    """One arm of one task in its folder.

    Args:
      folder: OUT. seconds: after so many of training, `train` saves and raises `Paused`.
      progress: show a bar.

    A finished run whose evaluation has changed is judged again, from its checkpoint.

    Raises:
      ValueError: if the folder holds a run with another configuration.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        task: Task,
        arm: Arm,
        budget: Budget,
        evaluation: Evaluation,
        seed: int = 0,
        seconds: float = float("inf"),
        progress: bool = True,
    ) -> None:
        self.folder = folder.resolve() / task.name / arm.name
        self.task, self.arm, self.budget, self.evaluation = task, arm, budget, evaluation
        self.seed, self.progress = seed, progress
        self.deadline = time.monotonic() + seconds
        self.config = json.loads(
            json.dumps(
                {
                    "task": task.name,
                    "shape": _plain(task.shape),
                    "beta": task.beta,
                    "length": task.length,
                    "arm": dataclasses.asdict(arm),
                    "budget": dataclasses.asdict(budget),
                    "evaluation": dataclasses.asdict(evaluation),
                    "seed": seed,
                }
            )
        )

    @functools.cached_property
    def trainer(self) -> Trainer:
        return Trainer(self.task, self.arm, self.budget, self.seed)

    @property
    def done(self) -> bool:
        return (self.folder / "result.json").exists()

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    def execute(self) -> dict[str, Any]:
        """Trains and evaluates what is missing; the result.

        Raises:
          Paused: see `seconds`. ValueError: if the folder holds another configuration.
        """
        self._claim()
        if self.done:
            return self.result()
        begun = time.monotonic()
        state = self.train()
        result = {"config": self.config, **self.evaluate(state)}
        result["revision"] = json.loads((self.folder / "config.json").read_text())["revision"]
        result["judged_at"] = revision()
        result["seconds_of_last_call"] = round(time.monotonic() - begun, 1)
        _write(self.folder / "result.json", result)
        return result

    def _claim(self) -> None:
        path = self.folder / "config.json"
        if path.exists():
            known = json.loads(path.read_text())
            there = _completed(known["config"])
            if there | {"evaluation": self.config["evaluation"]} != self.config:
                raise ValueError(f"{self.folder} holds a run with another configuration")
            if there != self.config:  # the same training is to be judged in another way
                for name in ("result.json", "analysis.json"):
                    (self.folder / name).unlink(missing_ok=True)
                _write(path, known | {"config": self.config})
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        versions = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
        _write(path, {"config": self.config, "revision": revision(), "versions": versions})

    # -- training -------------------------------------------------------------------------------

    def train(self) -> State:
        """The state after the last step, resumed where a checkpoint is."""
        state = self.restore()
        if state is None:
            state = self.trainer.begin()
            self._look(state, None, None)
        done, steps = int(state.step[0]), self.budget.steps
        bar = tqdm(
            total=steps,
            initial=done,
            desc=f"{self.task.name} {self.arm.name}",
            unit="step",
            disable=not self.progress,
        )
        with bar:
            while done < steps:
                n = min(self.evaluation.chunk, steps - done)
                state, loss, norm = self.trainer.chunk(state, n)
                done += n
                accuracy = self._look(state, loss, norm)
                self.save(state)
                bar.update(n)
                bar.set_postfix(loss=f"{float(np.median(loss)):.3g}", acc=f"{accuracy:.3f}")
                if done < steps and time.monotonic() > self.deadline:
                    raise Paused(f"{self.task.name} {self.arm.name}: step {done} of {steps}")
        return state

    def _look(self, state: State, loss: Any, norm: Any) -> float:
        """Writes a line of metrics.jsonl; the median accuracy."""
        step = int(state.step[0])
        data = self.trainer.held_out(0, self.evaluation.looks)
        wrong, asked, _ = self._judge(state.params, data, self._beta(state))
        accuracy = 1 - np.asarray(wrong).sum((1, 2)) / max(1, int(np.asarray(asked)[0].sum()))
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < step]
        entry = {
            "step": step,
            "beta": float(self._beta(state)),
            "loss": None if loss is None else _floats(loss),
            "gradient_norm": None if norm is None else _floats(norm),
            "accuracy": _floats(accuracy),
        }
        _write_text(path, "".join(line + "\n" for line in [*kept, json.dumps(entry)]))
        return float(np.median(accuracy))

    def _beta(self, state: State) -> jax.Array:
        return self.trainer.beta(state.step[0])

    def save(self, state: State) -> None:
        """Replaces the checkpoint; a kill in between leaves one of the two."""
        new, old = self.folder / "state.new", self.folder / "state"
        shutil.rmtree(new, ignore_errors=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new, _filled(jax.tree.map(np.asarray, state)))
            checkpointer.wait_until_finished()
        if old.exists():
            shutil.rmtree(self.folder / "state.old", ignore_errors=True)
            old.rename(self.folder / "state.old")
        new.rename(old)
        shutil.rmtree(self.folder / "state.old", ignore_errors=True)

    def restore(self) -> State | None:
        """The latest checkpoint; None without one."""
        for name in ("state", "state.old"):
            if (self.folder / name).exists():
                like = jax.eval_shape(self.trainer.begin)
                with ocp.StandardCheckpointer() as checkpointer:
                    found = checkpointer.restore(self.folder / name, _filled(like))
                leaves, structure = jax.tree.flatten(like)
                arrays = [
                    jnp.asarray(found[_leaf(k)]) if x.size else jnp.zeros(x.shape, x.dtype)
                    for k, x in enumerate(leaves)
                ]
                return jax.tree.unflatten(structure, arrays)
        return None

    # -- evaluation -----------------------------------------------------------------------------

    @functools.cached_property
    def _judge(self) -> Any:
        return self._judged_with(self.arm.attention)

    @functools.cached_property
    def _judge_snapped(self) -> Any:
        return self._judged_with("argmax")

    def _judged_with(self, attention: str) -> Any:
        def some(params: Any, data: Example, beta: jax.Array) -> Any:
            tail = data.target.shape[1]
            if self.arm.baseline:
                out = self.trainer.apply(params, data.tokens, beta, tail)
            else:
                out = forward(
                    params, data.tokens, self.task.shape, attention, beta, tail, keep=True
                )
            shape = self.task.shape
            with_heads = [s for s, h in zip(shape.sharp, shape.heads, strict=True) if h]
            attended = [a for a, s in zip(out.attended, with_heads, strict=False) if s]
            return judge(out.logits, attended, data, self.task.judged)

        def one(params: Any, data: Example, beta: jax.Array) -> Any:
            # A few sequences at a time, so that their scores stay in a core's cache.
            count, tail = data.target.shape[:2]
            at_once = max(1, 150_000 // (tail * data.tokens.shape[1]))
            if count <= at_once or count % at_once:
                at_once = next(k for k in range(min(at_once, count), 0, -1) if count % k == 0)
            parts = count // at_once
            blocks = jax.tree.map(lambda x: x.reshape(parts, at_once, *x.shape[1:]), data)
            found = jax.lax.map(lambda block: some(params, block, beta), blocks)
            return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), found)

        return jax.jit(jax.vmap(one, in_axes=(0, None, None)))

    def evaluate(self, state: State) -> dict[str, Any]:
        """Accuracy by length, error rates with intervals, rollouts, recovery."""
        if self.task.name.startswith("T4"):
            return self._evaluate_all_inputs(state)
        seeds, plan = self.budget.seeds, self.evaluation
        by_scale: dict[int, list[Tally]] = {}
        for scale in plan.scales:
            by_scale[scale] = [Tally() for _ in range(seeds)]
            self._count(state.params, scale, plan.screen, by_scale[scale], first=1)
        clean = [s for s in range(seeds) if by_scale[4][s].wrong == 0]
        confirmed = list(by_scale[4])
        for s, tally in zip(clean, self._confirm(state.params, clean, self._judge), strict=True):
            confirmed[s] = tally
        snapped = []
        if not self.arm.baseline and any(self.task.shape.sharp):
            # A tenth of the tokens: it decides nothing.
            snapped = self._confirm(state.params, list(range(seeds)), self._judge_snapped, 10)
        recovered = [tally.wrong == 0 for tally in confirmed]
        held_out, each = confirmed, -(-plan.total // seeds)
        if not all(recovered):
            # Some ended at an error, which would say too much of it: all seeds, equally long.
            held_out = by_scale[4]
            if each > plan.screen:
                held_out = [Tally() for _ in range(seeds)]
                self._count(state.params, 4, each, held_out, first=1000)
        total = {scale: _sum(tallies).summary() for scale, tallies in by_scale.items()}
        return {
            "recovered": recovered,
            "recovered_count": sum(recovered),
            "recovered_interval": wilson(sum(recovered), seeds),
            "by_length": {str(k): v for k, v in total.items()},
            # At four times the training length.
            "held_out": _sum(held_out).summary(),
            "accuracy_by_length": {
                str(k): [1 - t.wrong / max(1, t.tokens) for t in v] for k, v in by_scale.items()
            },
            "confirmed": [_short(tally) for tally in confirmed],
            # The same weights with all attention on the largest score.
            "snapped": [_short(tally) for tally in snapped],
            "snapped_count": sum(tally.wrong == 0 for tally in snapped),
        }

    def _confirm(self, params: Any, seeds: list[int], judge_: Any, part: int = 1) -> list[Tally]:
        """Some seeds at four times the training length, each until it makes an error."""
        tallies = [Tally() for _ in seeds]
        if seeds:
            some = jax.tree.map(lambda x: x[np.array(seeds)], params)
            tokens = max(1, self.evaluation.confirm // part)
            self._count(some, 4, tokens, tallies, 1000, judge_, stop=True)
        return tallies

    def _count(
        self,
        params: Any,
        scale: int,
        tokens: int,
        tallies: Sequence[Tally],
        first: int,
        judge_: Any = None,
        stop: bool = False,
    ) -> None:
        """Adds at least `tokens` judged tokens to each tally; with `stop`, none after an error."""
        tail, length = self.task.tail_at(scale), self.task.length * scale
        # A power of two, so that it divides into blocks.
        size = max(1, min(256, 8_000_000 // (tail * (length + tail) * len(tallies))))
        size = 1 << (min(size, max(1, tokens // tail)).bit_length() - 1)
        number, judge_, left = first, judge_ or self._judge, list(range(len(tallies)))
        while left and tallies[left[0]].tokens < tokens:
            data = self.trainer.held_out(number, size, scale)
            self._tally(judge_, params, data, {s: tallies[s] for s in left})
            number += 1
            if stop:
                left = [s for s in left if not tallies[s].wrong]

    def _tally(self, judge_: Any, params: Any, data: Example, tallies: dict[int, Tally]) -> None:
        """Judges a block and adds it to the tallies, by the seeds' places in `params`."""
        judged = [np.asarray(x) for x in judge_(params, data, self.trainer.last_beta)]
        for s, tally in tallies.items():
            tally.add(*(x[s] for x in judged))

    def _evaluate_all_inputs(self, state: State) -> dict[str, Any]:
        _, unit, form = self.task.name.split(".")[:3]
        tallies = [Tally() for _ in range(self.budget.seeds)]
        for data in every_input(unit, form, self.task.tail):
            self._tally(self._judge, state.params, data, dict(enumerate(tallies)))
        recovered = [tally.wrong == 0 for tally in tallies]
        return {
            "recovered": recovered,
            "recovered_count": sum(recovered),
            "recovered_interval": wilson(sum(recovered), len(recovered)),
            "by_length": {"1": _sum(tallies).summary()},
            "held_out": _sum(tallies).summary(),
            "accuracy_by_length": {"1": [1 - t.wrong / t.tokens for t in tallies]},
        }


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A record with the defaults of fields that did not exist when it was written.

    A field is only ever added with a default that says what was done before.
    """
    defaults = {
        section: {
            field.name: field.default
            for field in dataclasses.fields(kind)
            if field.default is not dataclasses.MISSING
        }
        for section, kind in (("arm", Arm), ("budget", Budget), ("evaluation", Evaluation))
    }
    known = json.loads(json.dumps(defaults))
    return config | {section: known[section] | config[section] for section in known}


def _leaf(number: int) -> str:
    return f"array_{number:03d}"


def _filled(state: Any) -> dict[str, Any]:
    """The arrays of a state by number; Orbax takes no empty ones."""
    return {_leaf(k): x for k, x in enumerate(jax.tree.leaves(state)) if x.size}


def _sum(tallies: Sequence[Tally]) -> Tally:
    out = Tally()
    for t in tallies:
        out.tokens += t.tokens
        out.wrong += t.wrong
        out.sequences += t.sequences
        out.exact += t.exact
        out.first += t.first
        for name, count in t.causes.items():
            out.causes[name] = out.causes.get(name, 0) + count
    return out


def _short(tally: Tally) -> dict[str, Any]:
    return {
        "tokens": tally.tokens,
        "wrong": tally.wrong,
        "error_interval": wilson(tally.wrong, tally.tokens),
    }


def _plain(shape: Any) -> dict[str, Any]:
    out = dataclasses.asdict(shape)
    out["vocabulary"] = [[f["name"], f["lo"], f["size"]] for f in out["vocabulary"]]
    return out


def _floats(x: Any) -> list[float]:
    return [float(f"{float(value):.6g}") for value in np.asarray(x)]


def _write(path: pathlib.Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=1) + "\n")


def _write_text(path: pathlib.Path, text: str) -> None:
    """All or nothing."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
