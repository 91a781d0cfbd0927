"""`wasmjax batch`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm

from wasmjax import vm
from wasmjax.batch.config import BatchConfig, load_config
from wasmjax.batch.jobs import Job, read_jobs
from wasmjax.batch.schedule import Progress
from wasmjax.cli import status
from wasmjax.cli.status import Refused, refusing
from wasmjax.model import io
from wasmjax.model.transformer import Transformer


def batch(args: argparse.Namespace) -> int:
    """Runs a jobs file; returns the exit status."""
    config = _config(args)
    _start_jax(args, config)
    with refusing(args.jobs):
        jobs = read_jobs(args.jobs)
    machine = _machine(args)
    if config.platform not in (None, jax.default_backend()):
        raise Refused(
            f"{args.config}: made for a {config.platform}, here is {jax.default_backend()}"
        )
    with refusing(args.jobs), _output(args) as output:
        return _run(args, config, machine, jobs, output)


def _run(
    args: argparse.Namespace, config: BatchConfig, machine: vm.Machine, jobs: list[Job], output: Any
) -> int:
    first = jax.process_index() == 0
    bar = _Bar(len(jobs), shown=first and not args.no_progress)
    outcomes: dict[str, int] = {}
    keeps = args.traces is not None

    def written() -> dict[str, Any]:
        output.flush()
        os.fsync(output.fileno())
        return {"offset": output.tell(), "outcomes": outcomes}

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
        on_progress=bar.show,
    )
    if batch.resumed is not None:
        output.seek(batch.resumed["offset"])
        outcomes |= batch.resumed["outcomes"]
        bar.say(f"going on after job {batch.scheduler.wanted:,} of {len(jobs):,}")
    output.truncate()
    code = 0
    try:
        for result in batch.results():
            outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
            output.write(result.to_json().encode() + b"\n")
            if first and not args.checkpoint:
                output.flush()
    except KeyboardInterrupt:
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


@contextlib.contextmanager
def _output(args: argparse.Namespace) -> Iterator[Any]:
    """The results file, at its beginning, unchanged so far; one process of several has it."""
    path = args.output if jax.process_index() == 0 else os.devnull
    try:
        file = open(path, "r+b" if os.path.isfile(path) else "w+b")
    except OSError as error:
        raise Refused(f"{args.output}: {error.strerror or error}") from None
    with file:
        yield file


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


def _machine(args: argparse.Namespace) -> vm.Machine:
    if args.weights is None:
        return vm.Machine()
    with refusing(args.weights):
        weights, names = io.load(args.weights)
        return vm.Machine(model=Transformer(weights), names=names)
