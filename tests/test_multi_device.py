"""Several devices, several processes: nobody sees them in the results."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

import batch_jobs
from wasmjax.batch.traces import read_traces
from wasmjax.cli import status

ROOT = pathlib.Path(__file__).parent.parent
# Ctrl-C may be ignored where tests run; a command that a person starts does not ignore it.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from wasmjax.cli import main
sys.exit(main(sys.argv[1:]))
"""
SHORT = [
    "loops", "recursion", "table", "multi_value", "exit", "strings", "start_then_call",
    "start_exits", "greeting", "globals", "operator", "quiet",
    "refused/missing_file", "trap/zero_divisor", "trap/start_unreachable", "limit/spin",
]  # fmt: skip
LONGER = ["sort", "bulk", "count", "start"]
OUTGROWING = ["deep"]
PATIENCE = 400  # seconds: every process of several compiles for itself


def write(folder: pathlib.Path, kinds: list[str]) -> pathlib.Path:
    """A jobs file with a job of every kind named, and its modules."""
    writer = batch_jobs.Writer(folder, 3)
    draw = {**batch_jobs.GOOD, **{kind: made for kind, (made, _) in batch_jobs.BROKEN.items()}}
    writer.save([(kind, draw[kind](writer.rng)) for kind in kinds])
    return folder / "jobs.jsonl"


def started(jobs: pathlib.Path, output: pathlib.Path, *options: object) -> subprocess.Popen:
    """`wasmjax batch` on CPU devices, whatever this process uses."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    arguments = ["batch", str(jobs), "-o", str(output), "--no-progress", *map(str, options)]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=ROOT, env={**environment, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*processes: subprocess.Popen) -> list[str]:
    """Waits for processes, which must succeed; what they wrote to stderr."""
    try:
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    return errors


def pair(jobs: pathlib.Path, output: pathlib.Path, *options: object) -> list[subprocess.Popen]:
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = ["--cpu-devices", 2, "--coordinator", f"localhost:{port}", "--processes", 2]
    # The second is to leave the results alone, so it is told to write them elsewhere.
    outputs = output, output.with_suffix(".second")
    return [
        started(jobs, out, *together, "--process", number, *options)
        for number, out in enumerate(outputs)
    ]


def until_saved(folder: pathlib.Path, number: int, processes: list[subprocess.Popen]) -> None:
    """Waits for the checkpoint of this number."""
    give_up = time.monotonic() + PATIENCE
    while not any(p.name.isdecimal() and int(p.name) >= number for p in folder.glob("*")):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_two_devices_give_the_results_of_one(tmp_path):
    jobs = write(tmp_path, SHORT)
    outputs = [tmp_path / f"results{devices}.jsonl" for devices in (1, 2)]
    for devices, output in zip((1, 2), outputs, strict=True):
        ended(started(jobs, output, "--cpu-devices", devices, "--lanes", 8))
    one, two = (output.read_bytes() for output in outputs)
    assert one == two
    outcomes = [json.loads(line)["outcome"] for line in one.splitlines()]
    assert len(outcomes) == len(SHORT)
    assert set(outcomes) == {"exit", "return", "trap", "step limit", "refused"}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> pathlib.Path:
    return write(tmp_path_factory.mktemp("jobs"), [*SHORT, *LONGER, *OUTGROWING])


@pytest.fixture(scope="module")
def expected(jobs) -> bytes:
    """The results on one device."""
    output = jobs.parent / "expected.jsonl"
    ended(started(jobs, output, "--cpu-devices", 1))
    return output.read_bytes()


@pytest.mark.multi_device
def test_eight_devices(jobs, expected, tmp_path):
    output = tmp_path / "results.jsonl"
    (error,) = ended(started(jobs, output, "--cpu-devices", 8))
    assert output.read_bytes() == expected
    assert f"{len(expected.splitlines())} of {len(expected.splitlines())} jobs" in error


@pytest.mark.multi_device
def test_two_processes(jobs, expected, tmp_path):
    output = tmp_path / "results.jsonl"
    first, second = ended(*pair(jobs, output))
    assert output.read_bytes() == expected
    assert not output.with_suffix(".second").exists()
    assert "VM steps" in first and "VM steps" not in second


@pytest.mark.multi_device
@pytest.mark.parametrize("interrupted", [0, 1])
def test_two_processes_that_are_interrupted(jobs, expected, tmp_path, interrupted):
    """Ctrl-C in one of them: both save, and go on later."""
    output, folder = tmp_path / "results.jsonl", tmp_path / "checkpoint"
    options = "--checkpoint", folder, "--checkpoint-seconds", 0, "--lanes", 4
    processes = pair(jobs, output, *options)
    try:
        until_saved(folder, 6, processes)
        processes[interrupted].send_signal(2)
        for process in processes:
            _, error = process.communicate(timeout=PATIENCE)
            assert process.returncode == status.INTERRUPTED, error
    finally:
        for process in processes:
            process.kill()
    written = output.read_bytes()
    assert written != expected and expected.startswith(written)
    first, _ = ended(*pair(jobs, output, *options[:2], "--lanes", 8))
    assert "going on after job" in first
    assert output.read_bytes() == expected


@pytest.mark.multi_device
def test_two_processes_that_are_killed(jobs, expected, tmp_path):
    """They go on as one, with other devices, lanes and chunks."""
    output, folder, traces = (tmp_path / name for name in ("results", "checkpoint", "traces"))
    options = "--checkpoint", folder, "--checkpoint-seconds", 0, "--traces", traces
    processes = pair(jobs, output, *options, "--lanes", 4)
    try:
        until_saved(folder, 9, processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert 0 < len(list(traces.glob("*.parquet")))
    (error,) = ended(started(jobs, output, *options[:2], *options[4:], "--cpu-devices", 3))
    assert "going on after job" in error
    assert output.read_bytes() == expected
    records = {record["index"]: record for record in map(json.loads, expected.splitlines())}
    found = {trace.index: trace for trace in read_traces(traces)}
    assert set(found) == {i for i, record in records.items() if record["outcome"] != "refused"}
    for index, trace in found.items():
        record = records[index]
        assert trace.outcome == record["outcome"]
        # Tokens of further invocations are counted with the prompt.
        assert len(trace.tokens) == record["prompt_tokens"] + record["steps"]
