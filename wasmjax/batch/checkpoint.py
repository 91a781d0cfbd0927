"""Checkpoints of a batch: where every job is, saved atomically by Orbax.

A checkpoint holds host copies of the sequences on their way, not the lanes they were in: a batch
may go on with other lanes and devices. It holds nothing that follows from the jobs: prompts and
their segments are prepared again.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from wasmjax.batch.jobs import JobError

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """A job that has begun.

    Attributes:
      index: its number. left, steps, prompt_tokens: see `schedule.Running`, `prepare.Prepared`.
      turns: invocations that follow. arrays: by name, its sequence, output and tokens.
    """

    index: int
    left: int
    steps: int
    prompt_tokens: int
    turns: int
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A batch between two chunks.

    Attributes:
      identity: what the jobs and the weights were, as text.
      next_job: jobs before this one have begun or ended, unless they are in `fresh`.
      fresh: jobs that were prepared but have not begun. entries: jobs that have.
      results: JSON of results that were not handed out. wanted: the next one to hand out.
      counters: steps, lane_steps, done. extra: what the caller wanted to keep.
    """

    identity: str
    next_job: int
    fresh: list[int]
    entries: list[Entry]
    results: list[str]
    wanted: int
    counters: dict[str, int]
    extra: Any = None


class Checkpoints:
    """Snapshots in a folder; the latest two are kept.

    Args:
      folder: it is made if need be.

    Raises:
      OSError: if it cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = pathlib.Path(folder).absolute()
        path.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(path, options=options)
        self._number = (self._manager.latest_step() or 0) + 1

    def save(self, snapshot: Snapshot) -> None:
        """Saves a snapshot; a crash leaves the one before."""
        meta, arrays = _flat(snapshot)
        self._manager.save(
            self._number,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta), arrays=ocp.args.StandardSave(arrays)
            ),
            force=True,
        )
        self._manager.wait_until_finished()
        self._number += 1

    def latest(self, identity: str) -> Snapshot | None:
        """The latest snapshot that is whole; None if there are none.

        Raises:
          JobError: if it belongs to other jobs, other weights or another version, or if there are
            only damaged ones.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            record = self._item(step, "meta", ocp.args.JsonRestore())
            if record is None:
                continue
            if record.get("format") != FORMAT or record.get("identity") != identity:
                raise JobError("the checkpoint belongs to other jobs, weights or another version")
            arrays = self._item(step, "arrays", ocp.args.StandardRestore())
            if arrays is not None:
                return _structured(record, arrays)
        if steps:
            raise JobError("the checkpoint is damaged")
        return None

    def _item(self, step: int, name: str, how: Any) -> Any:
        """A part of a checkpoint; None if it cannot be read."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{name: how}))[name]
        except Exception:  # of whatever kind: Orbax documents none
            return None

    def close(self) -> None:
        """Waits for what is under way."""
        self._manager.close()


def _flat(snapshot: Snapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """JSON, and few big arrays: those of all entries end to end."""
    names = sorted({name for entry in snapshot.entries for name in entry.arrays})
    arrays, shapes = {}, {}
    for name in names:
        parts = [entry.arrays[name] for entry in snapshot.entries]
        shapes[name] = [list(part.shape) for part in parts]
        flat = np.concatenate([part.reshape(-1) for part in parts])
        # Arrays without elements are not worth a special case in the file format.
        arrays[name] = np.append(flat, np.zeros(1, flat.dtype))
    meta = {
        "format": FORMAT,
        "identity": snapshot.identity,
        "next_job": snapshot.next_job,
        "fresh": snapshot.fresh,
        "entries": [
            [entry.index, entry.left, entry.steps, entry.prompt_tokens, entry.turns]
            for entry in snapshot.entries
        ],
        "shapes": shapes,
        "results": snapshot.results,
        "wanted": snapshot.wanted,
        "counters": snapshot.counters,
        "extra": snapshot.extra,
    }
    return meta, arrays or {"none": np.zeros(1, np.int32)}


def _structured(record: dict[str, Any], arrays: dict[str, Any]) -> Snapshot:
    of_entry: list[dict[str, np.ndarray]] = [{} for _ in record["entries"]]
    for name, shapes in record["shapes"].items():
        flat, start = np.asarray(arrays[name]), 0
        for mine, shape in zip(of_entry, shapes, strict=True):
            size = int(np.prod(shape))
            mine[name] = flat[start : start + size].reshape(shape)
            start += size
    return Snapshot(
        identity=record["identity"],
        next_job=record["next_job"],
        fresh=record["fresh"],
        entries=[
            Entry(index, left, steps, prompt_tokens, turns, mine)
            for (index, left, steps, prompt_tokens, turns), mine in zip(
                record["entries"], of_entry, strict=True
            )
        ],
        results=record["results"],
        wanted=record["wanted"],
        counters=record["counters"],
        extra=record["extra"],
    )
