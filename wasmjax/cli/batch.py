"""`wasmjax batch`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import absl.logging
import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from wasmjax import vm
from wasmjax.batch.config import BatchConfig, load_config
from wasmjax.batch.jobs import Job, JobError, JobResult, read_jobs
from wasmjax.batch.schedule import Progress
from wasmjax.cli import program, status
from wasmjax.cli.status import Refused, refusing


def batch(args: argparse.Namespace) -> int:
    """Runs a jobs file; returns the exit status."""
    config = _config(args)
    # Orbax warns of checkpoints that a crash has left half removed; they do no harm.
    absl.logging.set_verbosity(absl.logging.ERROR)
    _start_jax(args, config)
    with refusing(args.jobs):
        jobs = read_jobs(args.jobs)
    chosen = program.model(args)
    with refusing(args.weights or "weights"):
        machine = vm.Machine(**chosen)
    if config.platform not in (None, jax.default_backend()):
        raise Refused(
            f"{args.config}: made for a {config.platform}, here is {jax.default_backend()}"
        )
    with refusing(args.jobs), _output(args) as output:
        return _run(args, config, machine, jobs, output)


def _run(
    args: argparse.Namespace,
    config: BatchConfig,
    machine: vm.Machine,
    jobs: list[Job],
    output: _Output,
) -> int:
    first = jax.process_index() == 0
    bar = _Bar(len(jobs), shown=first and not args.no_progress)
    outcomes: dict[str, int] = {}
    keeps = args.traces is not None

    def written() -> dict[str, Any]:
        return {"offset": output.written(), "outcomes": outcomes}

    def look(progress: Progress) -> None:
        bar.show(progress)
        interrupt.look()

    try:
        batch = machine.batch(
            jobs,
            lanes=config.lanes,
            chunk=config.chunk,
            memory_bytes=None if config.memory_mib is None else config.memory_mib << 20,
            keep_tokens=keeps,
            traces=args.traces,
            checkpoint=args.checkpoint,
            checkpoint_seconds=args.checkpoint_seconds,
            extra=written,
            on_progress=look,
        )
    except JobError as error:
        raise Refused(f"{args.checkpoint}: {error}") from None
    except OSError as error:
        raise Refused(f"{error.filename or args.jobs}: {error.strerror or error}") from None
    if batch.resumed is not None:
        output.keep(batch.resumed["offset"])
        outcomes |= batch.resumed["outcomes"]
        bar.say(f"going on after job {batch.scheduler.wanted:,} of {len(jobs):,}")
    else:
        output.keep(0)
    code = 0
    try:
        with _Interrupt() as interrupt:
            for result in batch.results():
                outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
                output.write(result)
                if first and not args.checkpoint:
                    output.flush()
    except _Interrupted:
        if args.checkpoint:
            batch.save()
        code = status.INTERRUPTED
    finally:
        bar.close()
        output.flush()
    if first:
        _summary(args, batch.scheduler.progress(), len(jobs), outcomes, code)
    return code


def _summary(
    args: argparse.Namespace, progress: Progress, jobs: int, outcomes: dict[str, int], code: int
) -> None:
    if args.json:
        record = {
            "outcome": "interrupted" if code else "done",
            "jobs": jobs,
            "outcomes": dict(sorted(outcomes.items())),
            "steps": progress.steps,
            "seconds": round(progress.seconds, 3),
            "steps_per_second": round(progress.rate),
            "compile_seconds": round(progress.compile_seconds, 3),
            "useful": round(progress.useful, 4),
        }
        print(json.dumps(record), file=sys.stderr, flush=True)
        return
    kinds = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    status.say(
        f"{'interrupted; ' if code else ''}{sum(outcomes.values()):,} of {jobs:,} jobs ({kinds}); "
        f"{progress.steps:,} VM steps in {progress.seconds:.2f} s ({progress.rate:,.0f} steps/s), "
        f"{progress.useful:.1%} of lane-steps useful, compilation {progress.compile_seconds:.2f} s"
    )


class _Bar:
    """A progress bar on stderr: jobs, steps per second, busy lanes."""

    def __init__(self, jobs: int, shown: bool) -> None:
        # Only on a terminal: logs get the summary.
        disable = None if shown else True
        self._bar = tqdm(total=jobs, unit="job", disable=disable, dynamic_ncols=True)

    def show(self, progress: Progress) -> None:
        self._bar.n = progress.jobs
        self._bar.set_postfix_str(
            f"{progress.rate / 1e6:.2f} M steps/s, {progress.busy}/{progress.lanes} lanes busy"
        )

    def say(self, line: str) -> None:
        if self._bar.disable:
            status.say(line)
        else:
            self._bar.write(f"wasmjax: {line}", file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class _Interrupted(Exception):
    """Ctrl-C came before the chunk that has just ended."""


class _Interrupt:
    """Ctrl-C waits for the end of a chunk, since within one a batch cannot be saved; a second one
    does not wait."""

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> _Interrupt:
        self._change(signal.default_int_handler, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._change(self._note, signal.default_int_handler)

    def _note(self, *_: object) -> None:
        self._came = True
        self._change(self._note, signal.default_int_handler)

    def _change(self, before: Callable, after: Callable) -> None:
        # Not where Ctrl-C is ignored, or a caller's, or not seen: in threads.
        seen = threading.current_thread() is threading.main_thread()
        if seen and signal.getsignal(signal.SIGINT) == before:
            signal.signal(signal.SIGINT, after)

    def look(self) -> None:
        """Raises _Interrupted after Ctrl-C in any process; to be called between chunks."""
        came = self._came
        if jax.process_count() > 1:  # they stop after the same chunk, and save together
            came = bool(multihost_utils.process_allgather(np.int32(came)).any())
        if came:
            raise _Interrupted


class _Output:
    """The results file, unchanged until `keep`. A pipe or a device is only written to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)

    def keep(self, size: int) -> None:
        """Goes on after the first `size` bytes, and drops what follows. Raises Refused."""
        if not self._regular:
            return
        if os.fstat(self._file.fileno()).st_size < size:
            raise Refused(f"{self._file.name}: shorter than when the checkpoint was saved")
        self._file.seek(size)
        self._file.truncate()

    def write(self, result: JobResult) -> None:
        """Writes a line."""
        with self._named():
            self._file.write(result.to_json().encode() + b"\n")

    def flush(self) -> None:
        """Hands over what was written."""
        with self._named():
            self._file.flush()

    def written(self) -> int:
        """Brings what was written to the disk; how many bytes there are (of a file)."""
        self.flush()
        if not self._regular:
            return 0
        with self._named():
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """The last call."""
        with self._named():
            self._file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Raises Refused for what the disk refuses."""
        try:
            yield
        except OSError as error:
            raise Refused(f"{self._file.name}: {error.strerror or error}") from None


@contextlib.contextmanager
def _output(args: argparse.Namespace) -> Iterator[_Output]:
    """The results file; one process of several has it."""
    path = args.output if jax.process_index() == 0 else os.devnull
    try:
        file = open(path, "r+b" if os.path.isfile(path) else "wb")
    except OSError as error:
        raise Refused(f"{args.output}: {error.strerror or error}") from None
    output = _Output(file)
    try:
        yield output
    finally:
        output.close()


def _config(args: argparse.Namespace) -> BatchConfig:
    """The configuration file's values, and the options', which come first."""
    config = BatchConfig()
    if args.config is not None:
        with refusing(args.config):
            config = load_config(args.config)
    given = {
        "lanes": args.lanes,
        "chunk": args.chunk,
        "memory_mib": args.memory_mib,
        "cpu_devices": args.cpu_devices,
    }
    return config.replace(**{name: value for name, value in given.items() if value is not None})


def _start_jax(args: argparse.Namespace, config: BatchConfig) -> None:
    """Splits a CPU into devices, and joins other processes."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Every device then runs its lanes on one core: faster than one step on all of them.
        jax.config.update("jax_num_cpu_devices", config.cpu_devices or os.cpu_count() or 1)
    if config.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    together = (args.coordinator, args.processes, args.process)
    if together == (None, None, None):
        return
    if None in together:
        raise Refused("--coordinator, --processes and --process go together")
    if args.process >= args.processes:
        raise Refused(f"--process must be below {args.processes}")
    try:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    except (RuntimeError, ValueError) as error:
        raise Refused(f"{args.coordinator}: {str(error).splitlines()[0]}") from None
