"""Batches that are stopped in every way go on, and nobody sees it in the results."""

import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import time

import numpy as np
import pytest

import batch_jobs
import in_batches
import onengine
import wasmjax
from in_batches import FEW, LANES, assert_refused
from lowering import compile_wat
from wasmjax.batch.capacity import Options
from wasmjax.batch.checkpoint import Checkpoints
from wasmjax.batch.jobs import Job, JobError, JobResult, read_jobs
from wasmjax.batch.run import Batch
from wasmjax.batch.schedule import Scheduler
from wasmjax.batch.traces import read_traces
from wasmjax.cli import status
from wasmjax.engine.fleet import Fleet

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
MODULES = {
    name: compile_wat(batch_jobs.TEXTS[name])
    for name in ("multi_value", "loops", "start", "start_writes", "traps", "sort", "upper", "spin")
}


def call(module: str, name: str, *args: int, **more) -> Job:
    return Job(MODULES[module], call=name, call_args=args, **more)


# Most change memory or globals, so that a step made twice shows.
JOBS = [
    Job(b"refused", id=["refused"]),
    call("sort", "sort", 4, 9, id="sort"),
    call("sort", "sort", 3, 20),
    Job(EXAMPLES / "hello.wasm", id="hello"),
    call("multi_value", "digits", 98765),
    call("start", "both", 5),
    call("start_writes", "seven"),
    Job(MODULES["start_writes"]),
    call("traps", "load8", 65536),
    call("traps", "spin", max_steps=1500),
    Job(MODULES["spin"], max_steps=2500),
    Job(MODULES["upper"], stdin=b"capitals, please\n" * 3),
    call("start_writes", "seven", max_steps=60),
    call("loops", "collatz", 97),
    call("loops", "xorshift", 12345, 60),
    Job("no/such/file.wasm"),
    call("sort", "sort", 5, 12),
]
OUTGROWING = [*JOBS[:9], call("traps", "deep", 400, id={"deep": 400}), *JOBS[9:]]


@pytest.fixture(scope="module")
def machine():
    return onengine.machine()


@pytest.fixture(scope="module")
def undisturbed(machine) -> list[JobResult]:
    """Results of OUTGROWING."""
    results = list(machine.run_batch(OUTGROWING, lanes=LANES))
    assert {result.outcome for result in results} == {
        "exit", "return", "trap", "step limit", "refused",
    }  # fmt: skip
    return results


def without_the_outgrowing(undisturbed: list[JobResult]) -> list[JobResult]:
    """Results of JOBS from those of OUTGROWING, which has one job more."""
    rest = [r for r, job in zip(undisturbed, OUTGROWING, strict=True) if job in JOBS]
    return [in_batches.renamed(result, k, result.id) for k, result in enumerate(rest)]


# --- snapshots ---


def test_a_new_batch_after_every_chunk(machine, undisturbed):
    """With other lanes every time."""
    engine = machine.lanes_engine()
    lanes = itertools.cycle((LANES, LANES, FEW))
    scheduler = Scheduler(engine, JOBS, Options(next(lanes)))
    results, resumptions = [], 0
    while not scheduler.finished:
        scheduler.advance()
        results += scheduler.ready()
        snapshot = scheduler.snapshot("it")
        scheduler = Scheduler(engine, JOBS, Options(next(lanes)))
        scheduler.restore(snapshot)
        resumptions += 1
        assert resumptions < 200
    assert results == without_the_outgrowing(undisturbed)
    assert resumptions > 10


def test_a_new_batch_by_way_of_the_disk(machine, undisturbed, tmp_path):
    """Also with a job that has outgrown its lane."""
    engine = machine.lanes_engine()
    checkpoints = Checkpoints(tmp_path)
    scheduler = Scheduler(engine, OUTGROWING, Options(LANES))
    results, resumptions = [], 0
    while not scheduler.finished:
        for _ in range(4):
            scheduler.advance()
            results += scheduler.ready()
        checkpoints.save(scheduler.snapshot("it", {"results": len(results)}))
        scheduler = Scheduler(engine, OUTGROWING, Options(LANES))
        snapshot = checkpoints.latest("it")
        assert snapshot.extra == {"results": len(results)}
        scheduler.restore(snapshot)
        resumptions += 1
        assert resumptions < 200
    checkpoints.close()
    assert results == undisturbed
    assert resumptions > 3
    progress = scheduler.progress()
    assert progress.jobs == len(OUTGROWING) and progress.steps_here == 0
    assert progress.steps == sum(result.steps for result in undisturbed)


def test_a_snapshot_disturbs_nothing(machine, undisturbed):
    """Whether taken or not, and however many are taken; an old one can still be gone on from."""
    engine = machine.lanes_engine()
    scheduler = Scheduler(engine, OUTGROWING, Options(lanes=LANES, chunk=256))
    results, snapshots = [], []
    while not scheduler.finished:
        scheduler.advance()
        results += scheduler.ready()
        snapshots.append((len(results), scheduler.snapshot("it")))
    assert results == undisturbed
    count, snapshot = snapshots[len(snapshots) // 2]
    again = Scheduler(engine, OUTGROWING, Options(lanes=LANES))
    again.restore(snapshot)
    assert results[:count] + list(again.run()) == undisturbed


class Crash(Exception):
    """The end of a batch."""


class Book:
    """Results as someone keeps them who may crash at any time, as `wasmjax batch` does.

    Attributes:
      results: all that were written. batches: how many were begun.
    """

    def __init__(self, machine: wasmjax.Machine, jobs: list[Job], folder: pathlib.Path) -> None:
        self.machine, self.jobs, self.folder = machine, jobs, folder
        self.results: list[JobResult] = []
        self.batches = 0

    def go_on(self, seconds: float, crash_after: int | None = None, **options) -> bool:
        """Runs a batch until it has ended (True), or crashes after so many chunks."""
        left = crash_after

        def crash(_) -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise Crash

        self.batches += 1
        batch = self.machine.batch(
            self.jobs,
            lanes=LANES,
            chunk=256,
            checkpoint=self.folder,
            checkpoint_seconds=seconds,
            extra=lambda: len(self.results),
            on_progress=crash,
            **options,
        )
        del self.results[batch.resumed or 0 :]
        try:
            self.results += batch.results()
        except Crash:
            return False
        return True


def test_crashes_between_checkpoints(machine, undisturbed, tmp_path):
    book, rng = Book(machine, OUTGROWING, tmp_path / "checkpoints"), random.Random(1)
    while not book.go_on(rng.choice((0.0, 0.0, 0.1)), rng.randrange(3, 14)):
        assert book.batches < 100
    assert book.batches > 3
    assert book.results == undisturbed
    # After the end nothing is left to do.
    assert book.go_on(0.0, crash_after=0) and book.results == undisturbed


def test_crashes_before_the_first_checkpoint(machine, undisturbed, tmp_path):
    book = Book(machine, OUTGROWING, tmp_path / "checkpoints")
    for _ in range(2):
        assert not book.go_on(1e9, crash_after=4)
    assert book.go_on(1e9) and book.results == undisturbed


def test_traces_with_crashes(machine, tmp_path):
    """Every trace once, and equal to the undisturbed one."""
    folder = tmp_path / "undisturbed"
    results = list(machine.run_batch(JOBS, lanes=LANES, keep_tokens=True, traces=folder))
    want = {trace.index: trace for trace in read_traces(folder)}
    assert sorted(want) == [k for k, r in enumerate(results) if r.outcome != "refused"]
    folder = tmp_path / "traces"
    book, rng = Book(machine, JOBS, tmp_path / "checkpoints"), random.Random(2)
    options = {"traces": folder, "keep_tokens": True}
    while not book.go_on(rng.choice((0.0, 0.1)), rng.randrange(3, 14), **options):
        assert book.batches < 100
    assert book.batches > 3 and book.results == results
    traces = list(read_traces(folder))
    assert sorted(trace.index for trace in traces) == sorted(want)
    for trace in traces:
        other = want[trace.index]
        assert (trace.outcome, trace.prompt_tokens) == (other.outcome, other.prompt_tokens)
        assert np.array_equal(trace.tokens, other.tokens)


# --- folders of checkpoints ---


@pytest.fixture
def book(machine, tmp_path) -> Book:
    """A batch that crashed after some checkpoints."""
    book = Book(machine, JOBS, tmp_path / "checkpoints")
    assert not book.go_on(0.0, crash_after=8)
    assert 0 < len(book.results) < len(JOBS)
    return book


def saved(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_two_checkpoints_are_kept(book):
    first = saved(book.folder)
    assert len(first) == 2 and first[1] == first[0] + 1
    assert not book.go_on(0.0, crash_after=4)
    assert len(saved(book.folder)) == 2 and saved(book.folder)[0] > first[0]


def test_half_written_checkpoints(book, undisturbed):
    """What a crash leaves of a checkpoint that was being written."""
    latest = saved(book.folder)[-1]
    for end in (".orbax-checkpoint-tmp", ".orbax-checkpoint-tmp-1700000000000"):
        half = book.folder / f"{latest + 1}{end}"
        shutil.copytree(book.folder / str(latest), half)
        next(half.rglob("manifest.ocdbt")).write_bytes(b"half")
    assert book.go_on(1e9)
    assert book.results == without_the_outgrowing(undisturbed)
    assert not list(book.folder.glob("*tmp*"))


def damages():
    """Ways to damage a checkpoint: name -> what to do to its folder."""

    def cut(path: pathlib.Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    def cut_arrays(folder: pathlib.Path) -> None:
        for path in (folder / "arrays").rglob("*"):
            if path.is_file():
                cut(path)

    def empty(folder: pathlib.Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()

    return {
        "empty": empty,
        "no arrays": lambda folder: shutil.rmtree(folder / "arrays"),
        "no meta": lambda folder: shutil.rmtree(folder / "meta"),
        "meta cut": lambda folder: cut(folder / "meta" / "metadata"),
        "arrays cut": cut_arrays,
    }


def test_damaged_checkpoints(book, undisturbed, tmp_path):
    """The one before is as good; if there is none, one line says so."""
    intact = tmp_path / "intact"
    shutil.copytree(book.folder, intact)
    results = list(book.results)
    for name, damage in damages().items():
        shutil.rmtree(book.folder)
        shutil.copytree(intact, book.folder)
        steps = saved(book.folder)
        damage(book.folder / str(steps[-1]))
        book.results = list(results)
        assert book.go_on(1e9), name
        assert book.results == without_the_outgrowing(undisturbed), name
        shutil.rmtree(book.folder)
        shutil.copytree(intact, book.folder)
        for step in steps:
            damage(book.folder / str(step))
        with pytest.raises(JobError, match=r"^the checkpoint is damaged$"):
            book.go_on(1e9)


def test_checkpoints_of_another_batch(machine, book):
    results = list(book.results)
    options = {"checkpoint": book.folder, "lanes": LANES}
    others = [
        JOBS[:-1],
        [*JOBS, JOBS[0]],
        JOBS[::-1],
        [call("sort", "sort", 3, 21) if k == 2 else job for k, job in enumerate(JOBS)],
        [Job(b"refused", id="other"), *JOBS[1:]],
    ]
    for jobs in others:
        with pytest.raises(JobError, match="belongs to other jobs"):
            machine.batch(jobs, **options)
    with pytest.raises(JobError, match="belongs to other jobs"):
        machine.batch(JOBS, keep_tokens=True, on_trace=print, **options)
    engine = machine.lanes_engine()
    assert Batch(engine, JOBS, Options(lanes=LANES), checkpoint=book.folder).resumed is not None
    assert results == book.results


def test_a_module_that_has_gone(machine, tmp_path):
    path = tmp_path / "spin.wasm"
    path.write_bytes(MODULES["spin"])
    jobs = [Job(path, max_steps=5000), Job(path, max_steps=10)]
    book = Book(machine, jobs, tmp_path / "checkpoints")
    assert not book.go_on(0.0, crash_after=3)
    path.unlink()
    with pytest.raises(JobError, match="belongs to other jobs"):
        book.go_on(0.0)


def test_a_module_that_has_changed(machine, tmp_path):
    path = tmp_path / "spin.wasm"
    path.write_bytes(MODULES["spin"])
    jobs = [Job(path, max_steps=5000), Job(path, max_steps=10)]
    assert not Book(machine, jobs, tmp_path / "checkpoints").go_on(0.0, crash_after=3)
    path.write_bytes(MODULES["spin"] + b"\0\x02\x01x")  # a custom section
    with pytest.raises(JobError, match="belongs to other jobs"):
        Book(machine, jobs, tmp_path / "checkpoints").go_on(0.0)


# --- the command ---


@pytest.fixture
def batch(monkeypatch, capsysbinary, machine):
    """Runs `wasmjax batch ARGS...` in this process: (exit status, stdout, stderr)."""
    return in_batches.here(monkeypatch, capsysbinary, machine)


@pytest.fixture(scope="module")
def files(machine, tmp_path_factory):
    """A folder with jobs.jsonl, and results.jsonl as it must be in the end."""
    folder = tmp_path_factory.mktemp("files")
    writer = batch_jobs.Writer(folder, seed=5)
    drawn = [(kind, batch_jobs.GOOD[kind](writer.rng)) for kind in SHORT * 3]
    drawn += [(kind, writer.broken(kind)) for kind in BROKEN]
    writer.rng.shuffle(drawn)
    writer.save(drawn)
    jobs = read_jobs(folder / "jobs.jsonl")
    results = list(machine.run_batch(jobs, lanes=LANES))
    (folder / "results.jsonl").write_text(in_batches.text(results))
    return folder


SHORT = "hello multi_value loops start table bulk sort tee upper strings exit greeting".split()
BROKEN = "refused/empty refused/missing_file trap/load8 trap/output_then_load limit/output".split()


def test_ctrl_c(batch, files, monkeypatch, tmp_path):
    """It comes within a chunk, when a batch cannot be saved: it is saved after it."""
    jobs, out, want = files / "jobs.jsonl", tmp_path / "out", (files / "results.jsonl").read_text()
    args = [jobs, "-o", out, "--lanes", LANES, "--checkpoint", tmp_path / "c", "--json"]
    finish, chunks, when = Fleet.finish, itertools.count(), 0
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(fleet):
        if next(chunks) == when:
            signal.raise_signal(signal.SIGINT)
        return finish(fleet)

    monkeypatch.setattr(Fleet, "finish", interrupted)
    codes = []
    while not codes or codes[-1] != 0:
        chunks, when = itertools.count(), (0, 1, 5, 9, 14, 1000)[len(codes)]
        code, stdout, err = batch(*args, "--checkpoint-seconds", 1e9)
        codes.append(code)
        assert code in (0, status.INTERRUPTED) and stdout == ""
        record = json.loads(err.splitlines()[-1])
        assert record["outcome"] == ("interrupted" if code else "done")
        assert want.startswith(out.read_text())
        assert sum(record["outcomes"].values()) == out.read_text().count("\n")
        assert signal.getsignal(signal.SIGINT) == handler
    assert len(codes) > 3 and out.read_text() == want


def test_ctrl_c_twice(batch, files, monkeypatch, tmp_path):
    """The second one waits for nothing; there is no checkpoint, so all begins again."""
    jobs, out, want = files / "jobs.jsonl", tmp_path / "out", (files / "results.jsonl").read_text()
    args = [jobs, "-o", out, "--lanes", LANES, "--checkpoint", tmp_path / "c"]
    finish = Fleet.finish

    def interrupted(fleet):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second Ctrl-C did nothing")

    monkeypatch.setattr(Fleet, "finish", interrupted)
    code, _, err = batch(*args)
    assert (code, err) == (status.INTERRUPTED, "wasmjax: interrupted\n")
    assert saved(tmp_path / "c") == []
    monkeypatch.setattr(Fleet, "finish", finish)
    assert batch(*args)[0] == 0 and out.read_text() == want


def test_ctrl_c_without_a_checkpoint(batch, files, monkeypatch, tmp_path):
    jobs, out, want = files / "jobs.jsonl", tmp_path / "out", (files / "results.jsonl").read_text()
    finish = Fleet.finish

    def interrupted(fleet):
        if out.stat().st_size:
            signal.raise_signal(signal.SIGINT)
        return finish(fleet)

    monkeypatch.setattr(Fleet, "finish", interrupted)
    code, _, err = batch(jobs, "-o", out, "--lanes", LANES)
    assert code == status.INTERRUPTED and err.startswith("wasmjax: interrupted; ")
    assert want.startswith(out.read_text()) and 0 < len(out.read_text()) < len(want)


def test_after_the_end(batch, files, tmp_path):
    jobs, out, want = files / "jobs.jsonl", tmp_path / "out", (files / "results.jsonl").read_text()
    traces = tmp_path / "traces"
    args = [jobs, "-o", out, "--lanes", LANES, "--checkpoint", tmp_path / "c", "--json"]
    args += ["--traces", traces]
    _, _, first = batch(*args)
    before = {path.name: path.read_bytes() for path in traces.iterdir()}
    assert before
    for _ in range(2):
        code, _, err = batch(*args)
        going_on, summary = err.splitlines()
        assert code == 0 and going_on == "wasmjax: going on after job 41 of 41"
        assert out.read_text() == want
        assert {path.name: path.read_bytes() for path in traces.iterdir()} == before
        for name in ("jobs", "outcomes", "steps", "outcome"):
            assert json.loads(summary)[name] == json.loads(first)[name]


def test_refused_resumptions(batch, files, tmp_path):
    """One line says why, and the results stay as they are."""
    for path in files.glob("*.wasm"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "bad").symlink_to(files / "bad")
    jobs, out, folder = tmp_path / "jobs.jsonl", tmp_path / "out", tmp_path / "c"
    shutil.copy(files / "jobs.jsonl", jobs)
    args = [jobs, "-o", out, "--lanes", LANES, "--checkpoint", folder]
    traced = [*args[:-1], tmp_path / "d", "--traces", tmp_path / "traces"]
    assert batch(*args)[0] == 0 and batch(*traced)[0] == 0
    want = out.read_text()
    assert want == (files / "results.jsonl").read_text()

    # The results file is not the one that belongs to the checkpoint.
    out.write_text(want[:100])
    assert_refused(batch(*args), f"wasmjax: {out}: shorter than ")
    assert out.read_text() == want[:100]
    out.write_text(want + "more")
    assert batch(*args)[0] == 0 and out.read_text() == want

    # Nor are the traces.
    (tmp_path / "traces" / "traces-00000.parquet").unlink()
    assert_refused(batch(*traced), "traces-00000.parquet: traces are missing")
    assert_refused(batch(*args, "--traces", tmp_path / "t"), f"{folder}: the checkpoint belongs to")

    # The jobs have changed.
    lines = jobs.read_text().splitlines(keepends=True)
    for changed in (lines[:-1], lines[1:], [*lines, lines[0]]):
        jobs.write_text("".join(changed))
        assert_refused(batch(*args), f"wasmjax: {folder}: the checkpoint belongs to other jobs")
        assert out.read_text() == want
    jobs.write_text("".join(lines))

    # The checkpoint is damaged.
    for step in saved(folder):
        damages()["meta cut"](folder / str(step))
    assert_refused(batch(*args), f"wasmjax: {folder}: the checkpoint is damaged")
    assert out.read_text() == want


# --- processes that are killed ---


def kill_after(process, seconds: float, number: int = signal.SIGKILL) -> tuple[int, str]:
    """Sends a signal after a time if it still runs; exit status and stderr."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert out == ""
    return process.returncode, err


def test_kill_9(files, tmp_path):
    """Once, after the first checkpoint; then to the end with other lanes."""
    out, folder = tmp_path / "out", tmp_path / "c"
    want = (files / "results.jsonl").read_text()
    args = [files / "jobs.jsonl", "-o", out, "--checkpoint", folder, "--json"]
    process = in_batches.started(*args, "--lanes", LANES, "--checkpoint-seconds", 0)
    while process.poll() is None and not (folder.exists() and saved(folder)):
        time.sleep(0.01)
    code, err = kill_after(process, 0.3)
    assert code == -signal.SIGKILL, err
    assert want != out.read_text()
    if len(saved(folder)) > 1:  # as if it had been removing the oldest one
        oldest = folder / str(saved(folder)[0])
        (oldest / "_CHECKPOINT_METADATA").unlink(missing_ok=True)
        shutil.rmtree(oldest / "arrays", ignore_errors=True)
    ended = in_batches.started(*args, "--lanes", FEW, "--checkpoint-seconds", 0.2)
    code, err = kill_after(ended, 600)
    assert code == 0, err
    assert err.startswith("wasmjax: going on after job ") and err.count("\n") == 2
    assert out.read_text() == want


@pytest.fixture(scope="module")
def many(machine, tmp_path_factory):
    """As `files`, with some seconds of work, and traces."""
    folder = tmp_path_factory.mktemp("many")
    batch_jobs.make_jobs(folder, 400, seed=6)
    jobs = read_jobs(folder / "jobs.jsonl")
    options = {"lanes": 32, "keep_tokens": True, "traces": folder / "traces"}
    results = list(machine.run_batch(jobs, **options))
    (folder / "results.jsonl").write_text(in_batches.text(results))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "traced"), [(1, False), (2, False), (3, True)])
def test_kill_9_at_any_time(many, tmp_path, seed, traced):
    """Again and again, in the middle of anything, with other lanes and intervals every time."""
    rng = random.Random(seed)
    out, folder, traces = tmp_path / "out", tmp_path / "c", tmp_path / "traces"
    want = (many / "results.jsonl").read_text()
    args = [many / "jobs.jsonl", "-o", out, "--checkpoint", folder, "--json"]
    args += ["--traces", traces] if traced else []
    codes, summary = [], ""
    while not codes or codes[-1] != 0:
        lanes, seconds = rng.choice((8, 8, 16)), rng.choice((0, 0.2, 0.2))
        process = in_batches.started(*args, "--lanes", lanes, "--checkpoint-seconds", seconds)
        # At any time, that of starting included; at last it may end.
        patience = rng.uniform(2, 8) if len(codes) < 25 else 600
        code, err = kill_after(
            process, patience, rng.choice((signal.SIGKILL,) * 3 + (signal.SIGINT,))
        )
        assert code in (0, -signal.SIGKILL, status.INTERRUPTED, -signal.SIGINT), err
        codes.append(code)
        if out.exists() and code in (0, status.INTERRUPTED):
            assert want.startswith(out.read_text())
        summary = err.splitlines()[-1] if err else ""
    assert codes.count(-signal.SIGKILL) >= 3
    assert out.read_text() == want
    steps = sum(json.loads(line)["steps"] for line in want.splitlines())
    assert json.loads(summary)["steps"] == steps
    if traced:
        ours, theirs = (
            {trace.index: trace for trace in read_traces(where)}
            for where in (traces, many / "traces")
        )
        assert len(list(read_traces(traces))) == len(ours)
        assert sorted(ours) == sorted(theirs)
        for index, trace in ours.items():
            assert trace.prompt_tokens == theirs[index].prompt_tokens
            assert np.array_equal(trace.tokens, theirs[index].tokens)
