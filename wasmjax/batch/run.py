"""A batch from jobs to results: scheduling, checkpoints and traces put together."""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wasmjax.batch.checkpoint import Checkpoints
from wasmjax.batch.jobs import Job, JobError, JobResult
from wasmjax.batch.schedule import Options, Progress, Scheduler
from wasmjax.batch.traces import Trace, TraceWriter
from wasmjax.engine.lanes import LanesEngine
from wasmjax.host import Imports, signatures
from wasmjax.model.io import digest


class Batch:
    """Jobs on their way.

    Args:
      engine: what runs them; it keeps all tokens if there are `traces`.
      jobs: the jobs. options: how to run them.
      checkpoint: a folder for checkpoints; what is in it already is gone on from.
      checkpoint_seconds: between two of them.
      traces: a folder for Parquet files of tokens.
      extra: called when a checkpoint is made; its value (JSON) is `resumed` after a resumption.
      on_progress: called after every chunk. on_trace: called with every trace.
      imports: functions of the host that modules may import. Other lanes go on meanwhile, in no
        certain order; with several processes every process calls them.
      program: digest of the program that the engine's weights hold; "": none.

    Attributes:
      resumed: what `extra` gave for the checkpoint that the batch goes on from; None: none.

    Raises:
      OSError: if a folder cannot be used.
      JobError: if the checkpoint belongs to another batch.
    """

    def __init__(
        self,
        engine: LanesEngine,
        jobs: Many[Job],
        options: Options | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 60.0,
        traces: str | os.PathLike[str] | None = None,
        extra: Callable[[], Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_trace: Callable[[Trace], None] | None = None,
        imports: Imports | None = None,
        program: str = "",
    ) -> None:
        self.resumed: Any = None
        self._every, self._extra, self._on_trace = checkpoint_seconds, extra, on_trace
        keeps = traces is not None or on_trace is not None
        if keeps and not engine.keep_all:
            raise ValueError("traces need an engine that keeps all tokens")
        self.scheduler = Scheduler(
            engine, jobs, options, on_progress, self._keep if keeps else None, imports, program
        )
        self._checkpoints = Checkpoints(checkpoint) if checkpoint is not None else None
        shards = 0
        if self._checkpoints is not None:
            self._identity = identity(engine, jobs, keeps, imports)
            snapshot = self._checkpoints.latest(self._identity)
            if snapshot is not None:
                self.scheduler.restore(snapshot)
                self.resumed, shards = snapshot.extra
        # Every process knows all traces; one of them writes.
        self._writer: TraceWriter | None = None
        if traces is not None and jax.process_index() == 0:
            self._writer = TraceWriter(traces, engine.weights.vocabulary, shards)
        self._saved = time.monotonic()

    def results(self) -> Iterator[JobResult]:
        """Results in the order of the jobs, as soon as they are known.

        Raises:
          EngineError: if the lanes do not fit the devices.
        """
        yield from self.scheduler.ready()
        while not self.scheduler.finished:
            self.scheduler.advance()
            yield from self.scheduler.ready()
            if self._checkpoints is not None and self._due():
                self.save()
        if self._writer is not None:
            self._writer.flush()
        if self._checkpoints is not None:
            self.save()
            self._checkpoints.close()

    def save(self) -> None:
        """Saves a checkpoint. Results handed out so far count as kept by whoever got them."""
        assert self._checkpoints is not None
        if self._writer is not None:
            self._writer.flush()
        extra = self._extra() if self._extra is not None else None
        shards = self._writer.shards if self._writer is not None else 0
        self._checkpoints.save(self.scheduler.snapshot(self._identity, [extra, shards]))
        self._saved = time.monotonic()

    def _due(self) -> bool:
        due = time.monotonic() - self._saved >= self._every
        if jax.process_count() == 1:
            return due
        # All processes save together: the first one's clock decides.
        return bool(multihost_utils.broadcast_one_to_all(np.int32(due)))

    def _keep(self, result: JobResult, prompt: np.ndarray, tokens: np.ndarray) -> None:
        every = np.concatenate([prompt.astype(np.int16), tokens])
        trace = Trace(result.index, result.outcome, every, len(prompt))
        if self._writer is not None:
            self._writer.add(trace)
        if self._on_trace is not None:
            self._on_trace(trace)


def identity(
    engine: LanesEngine, jobs: Many[Job], keeps_tokens: bool, imports: Imports | None = None
) -> str:
    """What a checkpoint must agree with: weights, jobs with the modules that they name, whether
    tokens are kept, and what the functions of the host are called."""
    out = hashlib.sha256(digest(engine.weights).encode())
    out.update(bytes([keeps_tokens]))
    out.update(repr(signatures(imports or {})).encode())
    files: dict[str, bytes] = {}
    for job in jobs:
        out.update(repr(job).encode())
        if isinstance(job.module, str | os.PathLike):
            # A module that has changed would go on from another one's state.
            path = os.fspath(job.module)
            if path not in files:
                files[path] = _contents(path)
            out.update(files[path])
    return out.hexdigest()


def _contents(path: str) -> bytes:
    """A digest of a file; of nothing if it cannot be read, which is that job's result."""
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).digest()
    except OSError:
        return b""


__all__ = ["Batch", "JobError", "identity"]
