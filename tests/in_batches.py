"""Batches as tests use them: few compiled shapes, and results to compare."""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable

import batch_jobs
import wasmjax
from wasmjax.batch.jobs import Job, JobResult, read_jobs
from wasmjax.batch.schedule import Progress
from wasmjax.cli import main

ROOT = pathlib.Path(__file__).parent.parent
LANES, FEW = 8, 3
"""Lanes of nearly all batches, and of those that must differ in it: every number is compiled."""

OUTGROWING = ("grow", "recursion", "exhausted", "indirect", "deep")
"""Kinds of jobs, by a part of their names, that may not stay in the smallest lanes."""


@dataclasses.dataclass
class Mixed:
    """Jobs that were run.

    Attributes:
      folder: with `jobs.jsonl` and the modules. kinds: of the jobs.
      records: the jobs as they are in the file.
    """

    folder: pathlib.Path
    kinds: list[str]
    records: list[batch_jobs.Job]
    jobs: list[Job]
    results: list[JobResult]
    progress: list[Progress]

    def small(self, steps: int) -> list[int]:
        """Numbers of jobs that stay in the smallest lanes and make few steps."""
        return [
            index
            for index, (kind, result) in enumerate(zip(self.kinds, self.results, strict=True))
            if result.steps <= steps and not any(name in kind for name in OUTGROWING)
        ]


def one_of_each(machine: wasmjax.Machine, folder: pathlib.Path) -> Mixed:
    """One job of every kind that there is."""
    records = batch_jobs.one_of_each(folder, seed=1)
    jobs = read_jobs(folder / "jobs.jsonl")
    progress: list[Progress] = []
    results = list(machine.run_batch(jobs, lanes=LANES, on_progress=progress.append))
    kinds = [*batch_jobs.GOOD, batch_jobs.RANDOM_KIND, *batch_jobs.BROKEN]
    assert len(kinds) == len(jobs)
    return Mixed(folder, kinds, records, jobs, results, progress)


def renamed(result: JobResult, index: int = 0, id: object = None) -> JobResult:
    """A result as that of another job that does the same."""
    return dataclasses.replace(result, index=index, id=id)


def text(results: Iterable[JobResult]) -> str:
    """The results file."""
    return "".join(result.to_json() + "\n" for result in results)


Ended = tuple[int, str, str]
"""Exit status, stdout and stderr of a command."""


def here(monkeypatch, capsysbinary, machine: wasmjax.Machine) -> Callable[..., Ended]:
    """`wasmjax batch ARGS...` in this process, on a machine that is there."""
    # JAX has started already: its devices cannot be changed any more.
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.setattr("wasmjax.vm.Machine", lambda **model: machine)

    def run(*args: object) -> Ended:
        code = main(["batch", *map(str, args)])
        out, err = capsysbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def started(*args: object) -> subprocess.Popen:
    """`wasmjax batch ARGS...` in a process of its own, on one device."""
    command = [sys.executable, "-m", "wasmjax", "batch", "--cpu-devices", "1", *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def assert_refused(ended: Ended, *words: object) -> None:
    """Exit status 2, and one line with these words."""
    code, out, err = ended
    assert (code, out) == (2, "")
    assert err.startswith("wasmjax: ") and err.endswith("\n") and len(err.splitlines()) == 1
    for word in words:
        assert str(word) in err
