"""Traces of batches: the very tokens of the one-lane engine, in memory and as Parquet."""

import dataclasses
import json
import pathlib
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batch_jobs
import in_batches
import onengine
import wasmjax
from in_batches import LANES
from lowering import compile_wat
from wasmjax.batch.jobs import Job
from wasmjax.batch.run import Batch
from wasmjax.batch.traces import Trace, TraceWriter, read_traces
from wasmjax.instance import Run, argument_bits
from wasmjax.machine import isa
from wasmjax.machine.config import WASM
from wasmjax.machine.tokens import columns
from wasmjax.vm import load
from wasmjax.wasm.lower import lower

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
MODULES = {
    name: compile_wat(batch_jobs.TEXTS[name])
    for name in ("multi_value", "loops", "start_writes", "traps", "grow", "upper")
}


def call(module: str, name: str, *args: int, **more) -> Job:
    return Job(MODULES[module], call=name, call_args=args, **more)


# Of all outcomes; long enough for several chunks, with more tokens than a chunk keeps.
JOBS = [
    Job(EXAMPLES / "hello.wasm", id="hello"),
    call("loops", "gcd", 1071, 462),
    Job(b"refused"),
    call("multi_value", "digits", 98765),
    call("traps", "load8", 65536),
    Job(EXAMPLES / "rot13.wasm", stdin=b"Hello, transformer!\n"),
    call("traps", "spin", max_steps=777),
    call("start_writes", "seven"),
    Job(MODULES["start_writes"], max_steps=50),
    Job(MODULES["upper"], stdin=b"written in capitals"),
    call("loops", "fibonacci", 40),
    call("traps", "deep", 20),
    *[call("loops", "collatz", n) for n in (1, 2, 27)],
]


@pytest.fixture(scope="module")
def machine():
    return onengine.machine()


@pytest.fixture(scope="module")
def folder(machine, tmp_path_factory):
    """Where the traces of JOBS are."""
    return tmp_path_factory.mktemp("traces") / "made" / "here"


@pytest.fixture(scope="module")
def traces(machine, folder) -> list[Trace]:
    return list(machine.traces(JOBS, lanes=LANES, traces=folder))


def alone(machine: wasmjax.Machine, job: Job) -> tuple[np.ndarray, int]:
    """All tokens of a job on the one-lane engine, and how many its first turn feeds."""
    inputs = {"stdin": job.stdin, "seed": job.seed, "clock": job.clock, "environ": job.env}
    inputs |= {"call_depth": job.call_depth, "max_pages": job.max_pages}
    lowered = lower(load(job.module), args=["program", *job.args], **inputs)
    start, lowered = lowered.start, dataclasses.replace(lowered, start=None)
    instance = wasmjax.Instance(machine.engine, lowered)
    entry = instance.function(job.call or "_start")
    turns = [(entry, argument_bits(entry, job.call_args))]
    if start is not None:
        turns.insert(0, (start, ()))
    tokens, left, prompt = [], job.max_steps, 0
    for turn in turns:
        run = Run(instance, *turn)
        prompt = prompt or len(run.prompt)
        tokens += [run.prompt, *run.tokens(left, keep_all=True)]
        left = None if left is None else left - run.steps
        returned = run.stopped and run.last[columns(WASM)["code"]] == isa.RETURNED
        if not returned or run.trap or left == 0:
            break
    return np.concatenate(tokens), prompt


def assert_equal(trace: Trace, other: Trace) -> None:
    assert (trace.index, trace.outcome, trace.prompt_tokens) == (
        other.index,
        other.outcome,
        other.prompt_tokens,
    )
    assert trace.tokens.dtype == other.tokens.dtype == np.int16
    assert np.array_equal(trace.tokens, other.tokens)


def test_tokens_are_those_of_the_one_lane_engine(machine, traces):
    by_index = {trace.index: trace for trace in traces}
    assert len(by_index) == len(traces)
    assert sorted(by_index) == [k for k, job in enumerate(JOBS) if job.module != b"refused"]
    for index, trace in by_index.items():
        tokens, prompt = alone(machine, JOBS[index])
        assert trace.prompt_tokens == prompt
        assert trace.tokens.shape == tokens.shape, index
        assert np.array_equal(trace.tokens, tokens), index
    assert max(len(trace.tokens) - trace.prompt_tokens for trace in traces) > 1000


def test_traces_and_results_belong_together(machine, traces):
    results = list(machine.run_batch(JOBS, lanes=LANES, keep_tokens=True))
    kind = columns(WASM)["kind"]
    for trace in traces:
        result = results[trace.index]
        assert trace.outcome == result.outcome
        assert len(trace.tokens) == result.steps + result.prompt_tokens
        last = trace.tokens[-1, kind]
        assert (last in isa.STOP_KINDS) == (result.outcome != "step limit")
        generated = trace.tokens[trace.prompt_tokens :]
        v0 = columns(WASM)["v0"]
        out = generated[generated[:, kind] == isa.KIND["out"]][:, v0]
        assert out.astype(np.uint8).tobytes() == result.stdout
    assert {trace.outcome for trace in traces} == {"exit", "return", "trap", "step limit"}


def test_tokens_do_not_depend_on_chunks(machine, traces):
    jobs = [JOBS[k] for k in (9, 1, 7, 6)]
    again = {t.index: t for t in machine.traces(jobs, lanes=LANES, chunk=64)}
    by_index = {trace.index: trace for trace in traces}
    for at, index in enumerate((9, 1, 7, 6)):
        assert_equal(again[at], dataclasses.replace(by_index[index], index=at))


def test_a_job_that_outgrows_its_lane(machine):
    job = call("traps", "deep", 400)
    progress = []
    (trace,) = machine.traces([job], lanes=LANES, on_progress=progress.append)
    assert progress[-1].fleets > 1
    tokens, prompt = alone(machine, job)
    assert trace.prompt_tokens == prompt and np.array_equal(trace.tokens, tokens)


def test_traces_come_as_jobs_end(machine):
    endless = call("traps", "spin", max_steps=2**23)
    traces = machine.traces([call("loops", "gcd", 12, 18), endless], lanes=LANES)
    assert next(traces).index == 0
    traces.close()


def test_no_traces(machine, tmp_path):
    assert list(machine.traces([], traces=tmp_path / "a")) == []
    assert list(machine.traces([Job(b"")], lanes=LANES, traces=tmp_path / "b")) == []
    assert list(read_traces(tmp_path / "a")) == list(read_traces(tmp_path / "b")) == []


# --- files ---


def test_files_hold_the_traces(traces, folder):
    assert [path.name for path in folder.iterdir()] == ["traces-00000.parquet"]
    read = list(read_traces(folder))
    assert len(read) == len(traces)
    for one, other in zip(read, traces, strict=True):
        assert_equal(one, other)


def test_files_by_plain_pyarrow(machine, traces, folder):
    table = pq.read_table(folder)
    vocabulary = machine.engine.weights.vocabulary
    names = ["index", "outcome", "prompt_tokens", *[f"tokens.{f.name}" for f in vocabulary]]
    assert table.column_names == names
    assert table.schema.field("index").type == pa.int64()
    assert table.schema.field("outcome").type == pa.string()
    assert table.schema.field("prompt_tokens").type == pa.int64()
    fields = json.loads(table.schema.metadata[b"wasmjax.fields"])
    assert fields == [{"name": f.name, "lo": f.lo, "size": f.size} for f in vocabulary]
    assert table["index"].to_pylist() == [trace.index for trace in traces]
    assert table["outcome"].to_pylist() == [trace.outcome for trace in traces]
    for number, field in enumerate(vocabulary):
        assert table.schema.field(f"tokens.{field.name}").type == pa.list_(pa.int16())
        lists = table[f"tokens.{field.name}"].to_pylist()
        assert lists == [trace.tokens[:, number].tolist() for trace in traces]
        values = np.concatenate([trace.tokens[:, number] for trace in traces])
        assert field.lo <= values.min() and values.max() < field.lo + field.size


def made(rng: random.Random, fields: int, index: int) -> Trace:
    values = [[rng.randint(-(2**15), 2**15 - 1) for _ in range(fields)] for _ in range(index % 5)]
    tokens = np.array(values, np.int16).reshape(-1, fields)
    return Trace(index, rng.choice(("exit", "trap")), tokens, rng.randint(0, 3))


def test_several_files(machine, tmp_path):
    vocabulary = machine.engine.weights.vocabulary
    rng = random.Random(1)
    all_ = [made(rng, len(vocabulary), index) for index in range(40)]
    writer = TraceWriter(tmp_path, vocabulary)
    for number, trace in enumerate(all_):
        writer.add(trace)
        if number % 7 == 6:
            writer.flush()
            writer.flush()  # nothing is pending
    assert writer.shards == 5
    assert len(list(read_traces(tmp_path))) == 35  # what is pending is not there yet
    writer.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"traces-{k:05d}.parquet" for k in range(6)
    ]
    for one, other in zip(read_traces(tmp_path), all_, strict=True):
        assert_equal(one, other)


def test_files_are_kept_or_removed(machine, tmp_path):
    vocabulary = machine.engine.weights.vocabulary
    rng = random.Random(2)
    writer = TraceWriter(tmp_path, vocabulary)
    for index in range(1, 4):
        writer.add(made(rng, len(vocabulary), index))
        writer.flush()
    (tmp_path / "traces-00003.parquet.partial").write_bytes(b"half")
    others = ["notes.txt", "traces-old.parquet", "traces.parquet", "mytraces-00000.parquet"]
    for name in others:
        (tmp_path / name).write_bytes(b"not ours")
    again = TraceWriter(tmp_path, vocabulary, shards=2)
    kept = ["traces-00000.parquet", "traces-00001.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept + others)
    again.add(made(rng, len(vocabulary), 4))
    again.flush()
    assert [trace.index for trace in read_traces(tmp_path)] == [1, 2, 4]
    for name in others:
        assert (tmp_path / name).read_bytes() == b"not ours"
    # Those that a checkpoint counts on must be there.
    (tmp_path / kept[0]).unlink()
    with pytest.raises(FileNotFoundError, match="traces are missing"):
        TraceWriter(tmp_path, vocabulary, shards=2)
    assert (tmp_path / kept[1]).exists()


def test_files_that_are_no_traces(traces, folder, tmp_path):
    path = tmp_path / "traces-00000.parquet"

    def refused() -> str:
        with pytest.raises((ValueError, OSError)) as error:
            list(read_traces(tmp_path))
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    table = pq.read_table(folder)
    metadata = table.schema.metadata
    for data in (b"", b"PAR1", b"index,outcome\n", bytes(1000)):
        path.write_bytes(data)
        assert path.name in refused()
    pq.write_table(pa.table({"a": [1]}), path)
    assert refused() == f"{path.name}: no traces of this version"
    pq.write_table(table.replace_schema_metadata(None), path)
    assert "no traces of this version" in refused()
    for changed in ({b"wasmjax.format": b"999"}, {b"wasmjax.fields": b"[]"}):
        pq.write_table(table.replace_schema_metadata(metadata | changed), path)
        assert "no traces of this version" in refused()
    del metadata[b"wasmjax.fields"]
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert "no traces of this version" in refused()
    pq.write_table(table.drop_columns(table.column_names[-1]), path)
    assert "no traces of this version" in refused()
    shutil.copy(folder / path.name, path)
    assert len(list(read_traces(tmp_path))) == len(traces)


def test_damaged_files(folder, tmp_path, traces):
    data = (folder / "traces-00000.parquet").read_bytes()
    path = tmp_path / "traces-00000.parquet"
    rng = random.Random(3)
    for _ in range(10):
        path.write_bytes(data[: rng.randrange(len(data))])
        with pytest.raises((ValueError, OSError)):
            list(read_traces(tmp_path))
    # The footer is not checked; the tokens are.
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    refused = 0
    for _ in range(40):
        damaged = bytearray(data)
        damaged[rng.randrange(4, end)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = list(read_traces(tmp_path))
        except (ValueError, OSError):
            refused += 1
            continue
        for one, other in zip(read, traces, strict=True):
            assert_equal(one, other)
    assert refused > 20


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read_traces(tmp_path / "nothing"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        list(read_traces(tmp_path / "file"))


def test_traces_need_an_engine_that_keeps_tokens(machine, tmp_path):
    for options in ({"traces": tmp_path / "t"}, {"on_trace": print}):
        with pytest.raises(ValueError, match="keeps all tokens"):
            Batch(machine.lanes_engine(), JOBS, **options)
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_one_of_each(machine, tmp_path):
    """Tokens of every kind of job that runs for less than 30,000 steps."""
    mixed = in_batches.one_of_each(machine, tmp_path)
    chosen = [k for k, r in enumerate(mixed.results) if r.steps < 30_000]
    seen = 0
    for trace in machine.traces([mixed.jobs[k] for k in chosen], lanes=LANES):
        result = mixed.results[chosen[trace.index]]
        tokens, prompt = alone(machine, mixed.jobs[chosen[trace.index]])
        assert trace.prompt_tokens == prompt and trace.outcome == result.outcome
        assert np.array_equal(trace.tokens, tokens), mixed.kinds[chosen[trace.index]]
        seen += 1
    assert seen == sum(mixed.results[k].outcome != "refused" for k in chosen)
