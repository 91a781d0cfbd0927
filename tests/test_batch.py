"""Batches: what a job does depends on the job alone, whatever runs beside it."""

import base64
import dataclasses
import itertools
import json
import pathlib
import re
import subprocess
import sys

import check_batch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import batch_jobs
import in_batches
import onengine
import wasmjax
from in_batches import FEW, LANES, renamed
from lowering import Reference, compile_wat
from wasmjax.batch.capacity import Capacities, Options
from wasmjax.batch.jobs import OUTCOMES, Job, JobResult, read_jobs
from wasmjax.engine.fleet import lane_bytes
from wasmjax.instance import Run
from wasmjax.vm import EngineError, Exit, Trap, load

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

MODULES = {
    name: compile_wat(batch_jobs.TEXTS[name])
    for name in ("multi_value", "loops", "start", "start_writes", "traps", "grow", "upper", "spin")
}
HELLO = (EXAMPLES / "hello.wasm").read_bytes()


def call(module: str, name: str, *args: int, **more) -> Job:
    return Job(MODULES[module], call=name, call_args=args, **more)


@pytest.fixture(scope="module")
def machine():
    return onengine.machine()


@pytest.fixture(scope="module")
def run(machine):
    """Runs jobs in lanes that are compiled already."""

    def run(jobs, lanes=LANES, **options):
        return list(machine.run_batch(jobs, lanes=lanes, **options))

    return run


@pytest.fixture(scope="module")
def mixed(machine, tmp_path_factory):
    return in_batches.one_of_each(machine, tmp_path_factory.mktemp("mixed"))


# --- what jobs do ---


def test_one_of_each_in_wasmtime(mixed):
    path = mixed.folder / "results.jsonl"
    path.write_text(in_batches.text(mixed.results))
    report = check_batch.compare(mixed.folder / "jobs.jsonl", path)
    assert report.mismatches == []
    assert report.jobs == len(mixed.jobs)
    assert set(report.outcomes) == set(OUTCOMES) - {"limit", "host error"}


def test_one_of_each_ends_as_expected(mixed):
    for record, result in zip(mixed.records, mixed.results, strict=True):
        got = json.loads(result.to_json())
        want = batch_jobs.expected(record)
        assert want.items() <= got.items(), record
        if not want:
            assert result.outcome in ("exit", "return"), record


def alone(machine, job: Job) -> tuple[JobResult, int]:
    """A job as a single run of the one-lane engine, and its tokens; output of programs only."""
    module = load(job.module)
    inputs = {"stdin": job.stdin, "seed": job.seed, "clock": job.clock}
    inputs |= {"environ": job.env, "call_depth": job.call_depth, "max_pages": job.max_pages}
    if job.call is None:
        run = machine.start(module, ["program", *job.args], **inputs)
        result = run.finish(job.max_steps)
        outcome = "trap" if result.trap else "step limit" if result.out_of_steps else "exit"
        out = result.stdout, result.stderr, result.steps, result.prompt_tokens
        return (
            JobResult(0, outcome, result.exit_code, None, result.trap, None, *out),
            run.instance.session.tokens,
        )
    instance = machine.instantiate(module, args=["program", *job.args], **inputs)
    try:
        values = instance.call(job.call, *job.call_args, max_steps=job.max_steps)
        result = JobResult(0, "return", results=values)
    except Trap as trap:
        result = JobResult(0, "trap", trap=str(trap))
    except Exit as exit:
        result = JobResult(0, "exit", exit_code=exit.code)
    except wasmjax.OutOfSteps:
        result = JobResult(0, "step limit")
    return result, instance.session.tokens


def test_results_are_those_of_single_runs(machine, mixed):
    compared = 0
    for index in mixed.small(steps=8000):
        job, result = mixed.jobs[index], mixed.results[index]
        kind = mixed.kinds[index]
        if result.outcome == "refused" or "start" in kind:
            continue  # those with a start function: see below
        want, tokens = alone(machine, job)
        assert result.steps + result.prompt_tokens == tokens, kind
        if job.call is not None:
            out = {"stdout": result.stdout, "steps": result.steps}
            want = dataclasses.replace(want, prompt_tokens=result.prompt_tokens, **out)
        assert renamed(result) == want, kind
        compared += 1
    assert compared > 50


def test_options_of_one_module_at_once(machine, run):
    """What jobs share of a prompt has nothing of one job's options."""
    jobs = [
        call("traps", "deep", 50, call_depth=40),
        call("traps", "deep", 50, call_depth=60),
        call("grow", "grow", 3, max_pages=2),
        call("grow", "grow", 1, max_pages=2),
        call("grow", "grow", 1),
        Job(HELLO, args=("a", "bc"), env=("A=b",), seed=5, clock=9),
        Job(HELLO),
        Job(EXAMPLES / "rot13.wasm", stdin=b"Hello"),
        Job(EXAMPLES / "rot13.wasm", stdin=b"transformer" * 3),
    ]
    got = run(jobs)
    wants = [alone(machine, job)[0] for job in jobs]
    for result, want in zip(got, wants, strict=True):
        fields = ("outcome", "exit_code", "results", "trap", "stdout")
        assert [getattr(result, f) for f in fields] == [getattr(want, f) for f in fields]
    assert [result.outcome for result in got[:2]] == ["trap", "return"]
    assert [result.results for result in got[2:5]] == [(-1, 1), (1, 2), (1, 2)]


def test_modules_may_be_bytes_paths_and_loaded(run):
    path = EXAMPLES / "hello.wasm"
    results = run([Job(HELLO), Job(path), Job(str(path)), Job(load(path)), Job(load(HELLO))])
    assert {renamed(result) for result in results} == {renamed(results[0])}
    assert results[0].stdout == b"Hello, world! 42\n" and results[0].exit_code == 0


# --- what jobs do does not depend on ---


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_results_depend_on_the_job_alone(run, mixed, data):
    short = mixed.small(steps=1500)
    chosen = data.draw(st.lists(st.sampled_from(short), max_size=30), label="jobs")
    lanes = data.draw(st.sampled_from((LANES, FEW)), label="lanes")
    chunk = data.draw(st.one_of(st.none(), st.integers(1, 2000)), label="chunk")
    results = run([mixed.jobs[index] for index in chosen], lanes=lanes, chunk=chunk)
    assert results == [
        renamed(mixed.results[index], at, mixed.jobs[index].id) for at, index in enumerate(chosen)
    ]


def test_more_jobs_than_lanes(run, mixed):
    short = mixed.small(steps=1000)
    chosen = (short * 3)[::-1]
    progress = []
    results = run([mixed.jobs[i] for i in chosen], on_progress=progress.append)
    assert len(results) > 20 * LANES and max(p.busy for p in progress) == LANES
    assert list(map(renamed, results)) == [renamed(mixed.results[i]) for i in chosen]


BAD = [
    Job(b"no module"),
    Job(HELLO[:3000]),
    Job("no/such/file.wasm"),
    Job(EXAMPLES),
    Job("a\0b"),
    Job("\ud800"),
    Job(HELLO, args=("\ud800",)),
    Job(HELLO, args=("a\0b",)),
    Job(HELLO, args=(1,)),
    Job(HELLO, env=(None,)),
    Job(HELLO, stdin="text"),
    Job(HELLO, seed=-1),
    Job(HELLO, seed="x"),
    Job(HELLO, clock=2**64),
    Job(HELLO, max_pages=-1),
    Job(HELLO, max_pages=2**70),
    Job(HELLO, call_depth=0),
    Job(HELLO, call_depth=None),
    Job(HELLO, max_steps=0),
    Job(HELLO, max_steps=-1),
    Job(HELLO, call="nothing"),
    Job(HELLO, call=5),
    Job(HELLO, call_args=(1,)),
    call("loops", "gcd", 1),
    call("loops", "gcd", 1, 2**64),
    call("loops", "gcd", 1, "x"),
    call("loops", "gcd", 1, 2.5),
    Job(None),
    Job(7),
]


def test_a_bad_job_disturbs_no_other(run, mixed):
    good = mixed.small(steps=600)[: len(BAD)]
    jobs = [job for pair in zip(BAD, (mixed.jobs[i] for i in good), strict=True) for job in pair]
    results = run(jobs)
    for bad in results[::2]:
        assert bad.outcome == "refused" and (bad.steps, bad.prompt_tokens) == (0, 0)
        assert bad.error and bad.error == " ".join(bad.error.split())
    assert list(map(renamed, results[1::2])) == [renamed(mixed.results[i]) for i in good]


def test_refusals_say_why(run):
    jobs = [Job("no/such/file.wasm"), Job(HELLO, max_steps=0), Job(HELLO, args=(1,))]
    words = ["file.wasm: No such file", "max_steps must be at least 1", "args and env are strings"]
    for result, word in zip(run(jobs), words, strict=True):
        assert word in result.error


# --- lists of jobs ---


def test_no_jobs(run):
    progress = []
    assert run([], on_progress=progress.append) == [] and progress == []


def test_one_job(run):
    (result,) = run([Job(HELLO, id="one")])
    assert (result.index, result.outcome, result.id) == (0, "exit", "one")


def test_all_refused(run):
    results = run([Job(b"", id=k) for k in range(3 * LANES)])
    assert [(r.index, r.outcome, r.id) for r in results] == [
        (k, "refused", k) for k in range(3 * LANES)
    ]


IDS = [None, 0, False, "", "text", 1.5, [], [1, [None]], {"a": {"b": "\u2028\ud83d"}}, -(2**70)]


def test_ids_are_passed_on(run):
    jobs = [call("loops", "gcd", 12, 18, id=id) for id in IDS] + [Job(b"", id=id) for id in IDS]
    results = run(jobs)
    assert [result.id for result in results] == IDS + IDS
    for result in results:
        record = json.loads(result.to_json())
        assert record.get("id") == result.id and ("id" in record) == (result.id is not None)


def test_results_are_streamed_in_order(machine):
    """The first result is there while the last job still has hours to go."""
    endless = call("traps", "spin", max_steps=2**23)
    jobs = [call("loops", "gcd", 12, 18), Job(HELLO), Job(b""), endless, Job(HELLO)]
    progress = []
    results = machine.run_batch(jobs, lanes=LANES, on_progress=progress.append)
    first = next(results)
    assert (first.index, first.results) == (0, (6,))
    assert progress[-1].jobs < len(jobs) - 1 and progress[-1].busy >= 2
    assert [next(results).index, next(results).index] == [1, 2]
    steps = progress[-1].steps
    assert steps < 100_000
    results.close()


# --- growing, starting, returning ---


def test_jobs_that_outgrow_their_lanes(run, mixed):
    beside = mixed.small(steps=1500)[:20]
    args = [24, 0x1122334455667788]
    jobs = [
        call("traps", "deep", 1000, call_depth=1100),
        call("grow", "touch", *args),
        *(mixed.jobs[i] for i in beside),
        call("traps", "deep", 1000, call_depth=999),
    ]
    progress = []
    deep, touch, *others, too_deep = run(jobs, on_progress=progress.append)
    assert progress[-1].fleets > 1
    assert (deep.outcome, deep.results) == ("return", (2000,))
    (want,) = Reference(MODULES["grow"]).invoke("touch", *args)
    assert (touch.outcome, touch.results) == ("return", (want,))
    assert (too_deep.outcome, too_deep.trap) == ("trap", "call stack exhausted")
    assert list(map(renamed, others)) == [renamed(mixed.results[i]) for i in beside]
    # In company or not, and however often it was looked at.
    (again,) = run(jobs[:1], chunk=64)
    assert renamed(again) == renamed(deep)


def test_an_outgrown_lane_takes_what_room_there_is(run):
    """The number of lanes asked for is that of the smallest ones."""
    beside = [call("loops", "gcd", 12, k) for k in range(1, 20)]
    jobs = [beside[0], call("grow", "touch", 24, 5), *beside[1:]]
    results = run(jobs, lanes=LANES, memory_bytes=30 << 20)
    assert [result.outcome for result in results] == ["return"] * len(jobs)


def test_output_before_and_after_growing(run):
    text = batch_jobs.wasi_program(
        "",
        """
  (data (i32.const 64) "abcdef")
  (func $deep (param i32) (result i32)
    (if (i32.eqz (i32.and (local.get 0) (i32.const 15)))
      (then (call $write (i32.const 1) (i32.const 66) (i32.const 1))))
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "_start")
    (call $write (i32.const 1) (i32.const 64) (i32.const 2))
    (if (i32.ne (call $deep (i32.const 900)) (i32.const 900)) (then (unreachable)))
    (call $write (i32.const 2) (i32.const 67) (i32.const 3)))""",
    )
    progress = []
    (result,) = run([Job(compile_wat(text))], on_progress=progress.append)
    assert progress[-1].fleets > 1
    assert (result.outcome, result.exit_code) == ("exit", 0)
    assert (result.stdout, result.stderr) == (b"ab" + b"c" * 57, b"def")


def test_a_start_function_and_then_a_call(machine, run):
    jobs = [
        Job(MODULES["start_writes"]),
        call("start_writes", "seven"),
        call("start", "sum"),
        call("start", "both", -5),
        call("start", "element", 3),
    ]
    program, seven, total, both, element = run(jobs)
    assert (program.outcome, program.stdout) == ("exit", b"start\nmain\n")
    assert (seven.results, seven.stdout, seven.stderr) == ((7,), b"start\n", b"main\n")
    reference = Reference(MODULES["start"])
    (want,) = reference.invoke("sum")
    assert total.results == (want,)
    assert both.results[0] == want - 5 and element.outcome == "return"
    for job, result in zip(jobs, (program, seven, total, both, element), strict=True):
        instance = machine.instantiate(load(job.module), args=["program"])
        started = instance.session.tokens
        entry = instance.function(job.call or "_start")
        turn = Run(instance, entry, [b % 2**32 for b in job.call_args])
        for _ in turn.tokens(None):
            pass
        assert started > 0 and turn.steps < result.steps
        assert result.steps + result.prompt_tokens == instance.session.tokens


def test_the_start_function_ends_it(run):
    code = '(module (func $s {}) (func (export "f") (result i32) (i32.const 1)) (start $s))'
    trap = compile_wat(code.format("(drop (i32.div_u (i32.const 1) (i32.const 0)))"))
    exits = compile_wat(batch_jobs.START_EXITS)
    trapped, exited = run([Job(trap, call="f"), Job(exits)])
    assert (trapped.outcome, trapped.trap) == ("trap", "integer divide by zero")
    assert (exited.outcome, exited.exit_code, exited.stdout) == ("exit", 9, b"start\n")


CALLS = [
    ("divide", 2**64 - 1, 10),
    ("swap", -1, -2),
    ("swap", 2**31, 2**63),
    ("order", 5, -7, 3),
    ("digits", 98765),
    ("nothing", 1, 2),
]


def test_several_results(machine, run):
    results = run([call("multi_value", *one) for one in CALLS])
    instance = machine.instantiate(load(MODULES["multi_value"]))
    reference = Reference(MODULES["multi_value"])
    for (name, *args), result in zip(CALLS, results, strict=True):
        assert result.outcome == "return" and result.results == instance.call(name, *args)
        types = reference.exports[name].type(reference.store).results
        widths = [int(str(type_)[1:]) for type_ in types]
        bits = [v % (1 << w) for v, w in zip(result.results, widths, strict=True)]
        assert bits == reference.invoke(name, *args)


# --- limits ---


def test_step_limits(run, mixed):
    """Exactly the steps that are needed, and one less."""
    kinds = ("hello", "multi_value", "loops", "start", "start_writes", "start_then_call", "exit")
    kinds = (*kinds, "trap/load8", "trap/start_divide", "trap/output_then_load", "tee")
    chosen = [mixed.kinds.index(kind) for kind in kinds]
    jobs, wants = [mixed.jobs[i] for i in chosen], [mixed.results[i] for i in chosen]
    steps = [want.steps for want in wants]
    exact = run([dataclasses.replace(j, max_steps=n) for j, n in zip(jobs, steps, strict=True)])
    assert list(map(renamed, exact)) == list(map(renamed, wants))
    less = [
        dataclasses.replace(job, max_steps=n - 1)
        for job, n in zip(jobs, steps, strict=True)
        if n > 1
    ]
    shorter = run(less)
    assert len(shorter) >= len(kinds) - 1
    for want, result in zip((w for w in wants if w.steps > 1), shorter, strict=True):
        assert (result.outcome, result.steps) == ("step limit", want.steps - 1)
        assert result.exit_code is result.results is result.trap is result.error is None
        assert want.stdout.startswith(result.stdout) and want.stderr.startswith(result.stderr)


def test_step_limits_around_a_start_function(run):
    job = call("start_writes", "seven")
    (whole,) = run([job])
    results = run(
        [dataclasses.replace(job, max_steps=n) for n in range(1, whole.steps + 2)], chunk=128
    )
    assert [r.outcome for r in results] == ["step limit"] * (whole.steps - 1) + ["return"] * 2
    for n, result in enumerate(results, 1):
        assert result.steps == min(n, whole.steps)
        assert whole.stdout.startswith(result.stdout) and whole.stderr.startswith(result.stderr)
    assert renamed(results[-2]) == renamed(whole)


def test_more_output_than_a_chunk_keeps(run):
    data = bytes(range(256)) * 6
    jobs = [
        Job(MODULES["upper"], stdin=data),
        Job(HELLO),
        Job(MODULES["spin"], max_steps=20_000),
    ]
    progress = []
    upper, hello, spin = run(jobs, chunk=1 << 16, on_progress=progress.append)
    assert upper.stdout == data.upper() and upper.outcome == "exit"
    assert hello.stdout == b"Hello, world! 42\n"
    assert spin.outcome == "step limit" and len(spin.stdout) > 1000
    assert spin.stdout.startswith(b"again again ") and b"again ".join([b""] * 3) in spin.stdout
    # 256 tokens are kept a chunk: the lane paused, or nothing was tested.
    assert len(progress) >= len(data) // 256
    (small,) = run(jobs[:1], chunk=64)
    assert renamed(small) == renamed(upper)


def test_memory_that_is_too_small(machine, run):
    engine = machine.lanes_engine()
    each = lane_bytes(engine, Capacities(engine, Options()).rows())
    jobs = [call("loops", "gcd", 12, k) for k in range(1, 4 * LANES)]
    room = int((LANES + 0.5) * each)
    with pytest.raises(EngineError) as error:
        run(jobs, lanes=1000, memory_bytes=room)
    assert re.fullmatch(
        r"1,000 lane\(s\) per device need [\d,.]+ MiB of its memory \([\d.]+ MiB each\); "
        rf"[\d.]+ MiB are free, {LANES} would fit",
        str(error.value),
    )
    # So many fit indeed, and without a number so many are used.
    progress = []
    want = run(jobs)
    assert run(jobs, memory_bytes=room) == want
    assert run(jobs, lanes=None, memory_bytes=room, on_progress=progress.append) == want
    assert {p.lanes for p in progress} == {LANES}
    with pytest.raises(EngineError, match=r"1 lane\(s\) .* 0 would fit"):
        run(jobs, lanes=None, memory_bytes=each - 1)


def test_numbers_out_of_range(machine, tmp_path):
    for name in ("lanes", "chunk", "memory_bytes"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, not 0$"):
            machine.run_batch([], **{name: 0})
    with pytest.raises(ValueError, match="an engine that keeps all tokens"):
        machine.run_batch([], traces=tmp_path / "traces")


# --- numbers ---


def test_progress(mixed):
    progress, results = mixed.progress, mixed.results
    assert progress[-1].jobs == len(results)
    assert progress[-1].steps == sum(result.steps for result in results)
    for before, now in itertools.pairwise(progress):
        assert now.jobs >= before.jobs and now.steps >= before.steps
        assert now.lane_steps > before.lane_steps and now.fleets >= before.fleets
        assert now.compile_seconds >= before.compile_seconds
    for now in progress:
        assert 0 <= now.busy <= now.lanes == LANES
        assert 0 < now.steps <= now.lane_steps and 0 < now.useful <= 1
        assert now.useful == now.steps / now.lane_steps
        assert now.steps_here == now.steps
        assert now.seconds > 0 and now.rate == now.steps / now.seconds
    # Lanes are refilled: with so many jobs most of the work is useful but for the long ones' ends.
    assert progress[-1].useful > 0.3


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
maybe = st.none() | st.text()
job_results = st.builds(
    JobResult,
    index=st.integers(0, 2**40),
    outcome=st.sampled_from(OUTCOMES),
    exit_code=st.none() | st.integers(0, 2**32 - 1),
    results=st.none() | st.lists(st.integers(-(2**63), 2**64 - 1), max_size=4).map(tuple),
    trap=maybe,
    error=maybe,
    stdout=st.binary() | st.text().map(str.encode),
    stderr=st.binary() | st.text().map(str.encode),
    steps=st.integers(0, 2**40),
    prompt_tokens=st.integers(0, 2**40),
    id=values,
)


@given(job_results)
def test_results_as_json(result):
    line = result.to_json()
    assert len(line.splitlines()) == 1 and line.isascii()
    assert JobResult.from_json(line) == result
    record = json.loads(line)
    assert record["index"] == result.index and record["outcome"] == result.outcome
    for name in ("stdout", "stderr"):
        data = getattr(result, name)
        coded = record.get(f"{name}_base64")
        assert (base64.b64decode(coded) if coded else record.get(name, "").encode()) == data


@pytest.mark.slow
def test_ten_thousand_jobs(tmp_path):
    records = batch_jobs.make_jobs(tmp_path, 10_000, seed=11)
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "wasmjax", "batch", tmp_path / "jobs.jsonl", "-o", results]
    done = subprocess.run([*command, "--json"], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()
    report = check_batch.compare(tmp_path / "jobs.jsonl", results)
    assert report.mismatches == []
    broken = 0
    steps = 0
    lines = results.read_text().splitlines()
    for index, (record, line) in enumerate(zip(records, lines, strict=True)):
        result = json.loads(line)
        steps += result["steps"]
        assert result["index"] == index
        broken += bool(batch_jobs.expected(record))
        assert batch_jobs.expected(record).items() <= result.items(), record
    assert broken == 500
    summary = json.loads(done.stderr)
    assert summary["jobs"] == 10_000 and summary["steps"] == steps
    assert sum(summary["outcomes"].values()) == 10_000 and summary["useful"] > 0.5


def test_jobs_of_a_file_are_those_of_python(mixed):
    record, job = mixed.records[0], mixed.jobs[0]
    assert read_jobs(mixed.folder / "jobs.jsonl") == mixed.jobs
    assert pathlib.Path(job.module) == mixed.folder / record["module"]
