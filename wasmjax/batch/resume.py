"""Jobs on their way as arrays, for checkpoints, and back."""

from __future__ import annotations

import dataclasses

import numpy as np

from wasmjax.batch.capacity import Rows
from wasmjax.batch.checkpoint import Entry
from wasmjax.batch.jobs import Job, JobError
from wasmjax.batch.prepare import Prepared
from wasmjax.batch.running import Running
from wasmjax.engine.sequence import Sequence


def entry(running: Running, left: int, sequence: Sequence, room: Rows) -> Entry:
    """A job that has begun: its sequence, steps left, rows of the lanes it is in or waits for."""
    none = np.zeros((0, len(sequence.token)), np.int16)
    arrays = {f"rows{number}": rows for number, rows in enumerate(sequence.contents())}
    arrays |= {f"seen{number}": seen for number, seen in enumerate(sequence.seen)}
    arrays |= {
        "room": np.array(room, np.int64),
        "token": sequence.token,
        "count": np.array([sequence.count], np.int64),
        "totals": sequence.totals,
        "sums": sequence.sums,
        "stdout": np.frombuffer(bytes(running.out[0]), np.uint8),
        "stderr": np.frombuffer(bytes(running.out[1]), np.uint8),
        "tokens": np.concatenate([none, *running.tokens]),
    }
    prepared = running.prepared
    return Entry(
        running.index, left, running.steps, prepared.prompt_tokens, len(prepared.turns), arrays
    )


def resumed(saved: Entry, job: Job, prepared: Prepared | str) -> tuple[Running, Sequence]:
    """The job and its sequence; `prepared` is the job prepared again.

    Raises:
      JobError: if it cannot be prepared any more.
    """
    if isinstance(prepared, str):  # its file has gone or changed in the meantime
        raise JobError(f"job {saved.index} cannot be resumed: {prepared}")
    arrays, families = saved.arrays, range(len(prepared.sequence.seen))
    sequence = dataclasses.replace(
        prepared.sequence,
        token=arrays["token"],
        count=int(arrays["count"][0]),
        totals=arrays["totals"],
        sums=arrays["sums"],
        seen=tuple(arrays[f"seen{number}"] for number in families),
    ).with_contents([arrays[f"rows{number}"] for number in families])
    running = Running.new(saved.index, job, prepared)
    # What a further invocation changed (see Running.turn) shows in what is left.
    running.limited &= saved.left == (job.max_steps or 0) - saved.steps
    running.left, running.steps = saved.left, saved.steps
    prepared.turns = prepared.turns[len(prepared.turns) - saved.turns :]
    prepared.prompt_tokens = saved.prompt_tokens
    for out, name in zip(running.out, ("stdout", "stderr"), strict=True):
        out.extend(arrays[name].tobytes())
    if len(arrays["tokens"]):
        running.tokens.append(arrays["tokens"])
    return running, sequence
