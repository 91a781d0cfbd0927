"""What `wasmjax batch` reads: jobs files, configurations, options; one line for what is wrong."""

import base64
import json
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import in_batches
import onengine
from in_batches import assert_refused
from lowering import compile_wat
from wasmjax.batch.config import BatchConfig, load_config
from wasmjax.batch.jobs import Job, JobError, JobResult, parse_job, read_jobs
from wasmjax.cli import main, status
from wasmjax.wasm.lower import DEFAULT_CALL_DEPTH

ROOT = pathlib.Path(__file__).parent.parent
ADD = '(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))'


def written(path: pathlib.Path, *lines: str | bytes, end: bytes = b"\n") -> pathlib.Path:
    data = [line if isinstance(line, bytes) else line.encode() for line in lines]
    path.write_bytes(b"".join(line + end for line in data))
    return path


# --- jobs files ---


def test_all_fields(tmp_path):
    record = {
        "module": "sub/a.wasm",
        "args": ["one", "zwei", ""],
        "stdin": "text\n",
        "env": ["A=b", "C="],
        "call": "f",
        "call_args": [1, -2, 2**64 - 1],
        "max_steps": 10**30,
        "seed": 2**64 - 1,
        "clock": 5,
        "max_memory_pages": 7,
        "call_depth": 99,
        "id": {"any": ["thing", 1.5, None, True]},
    }
    (job,) = read_jobs(written(tmp_path / "jobs.jsonl", json.dumps(record)))
    assert job == Job(
        tmp_path / "sub" / "a.wasm",
        ("one", "zwei", ""),
        b"text\n",
        ("A=b", "C="),
        "f",
        (1, -2, 2**64 - 1),
        10**30,
        2**64 - 1,
        5,
        7,
        99,
        record["id"],
    )


def test_defaults(tmp_path):
    (job,) = read_jobs(written(tmp_path / "jobs.jsonl", '{"module": "a.wasm"}'))
    assert job == Job(tmp_path / "a.wasm")
    assert (job.args, job.stdin, job.env, job.call, job.call_args) == ((), b"", (), None, ())
    assert (job.max_steps, job.seed, job.clock, job.max_pages, job.id) == (None, 0, 0, None, None)
    assert job.call_depth == DEFAULT_CALL_DEPTH


def test_an_absolute_path_stays(tmp_path):
    path = str(tmp_path / "elsewhere" / "a.wasm")
    (job,) = read_jobs(written(tmp_path / "jobs.jsonl", json.dumps({"module": path})))
    assert str(job.module) == path


@given(st.binary())
def test_stdin_in_base64(data):
    record = {"module": "a", "stdin_base64": base64.b64encode(data).decode()}
    assert parse_job(record, pathlib.Path(".")).stdin == data


SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\xa0"


def test_lines_end_at_newlines_only(tmp_path):
    texts = [f"a{separator}b" for separator in SEPARATORS]
    lines = [json.dumps({"module": "m", "stdin": t, "id": t}, ensure_ascii=False) for t in texts]
    # As they are where JSON allows it; JSON escapes the others.
    assert any("\u2028" in line for line in lines)
    jobs = read_jobs(written(tmp_path / "jobs.jsonl", *lines))
    assert [job.id for job in jobs] == texts
    assert [job.stdin for job in jobs] == [text.encode() for text in texts]
    results = [JobResult(k, "exit", 0, stdout=job.stdin, id=job.id) for k, job in enumerate(jobs)]
    out = "".join(result.to_json() + "\n" for result in results)
    assert list(map(JobResult.from_json, out.splitlines())) == results


def test_empty_lines_and_line_ends(tmp_path):
    line = '{"module": "a.wasm", "id": %d}'
    path = written(tmp_path / "a", "", line % 1, " \t", line % 2, "", end=b"\r\n")
    assert [job.id for job in read_jobs(path)] == [1, 2]
    path.write_bytes(b"\n" + (line % 3).encode())  # no newline at the end
    assert [job.id for job in read_jobs(path)] == [3]
    # A carriage return is white space, and ends no line.
    path.write_bytes(b'{"module":\r"a.wasm", "id": 4}\n')
    assert [job.id for job in read_jobs(path)] == [4]
    path.write_bytes(b"")
    assert read_jobs(path) == []


WRONG = {
    "no JSON": ("{module: 1}", "no JSON: "),
    "not ended": ('{"module": "a"', "no JSON: "),
    "two objects": ('{"module": "a"} {"module": "b"}', "no JSON: "),
    "single quotes": ("{'module': 'a'}", "no JSON: "),
    "text with a newline": ('{"module": "a', "no JSON: "),
    "a byte order mark": ('\ufeff{"module": "a"}', "no JSON: "),
    "a control character": ('{"module": "a\x01"}', "no JSON: "),
    "an integer without end": ('{"module": "a", "seed": ' + "1" * 5000 + "}", "too many digits"),
    "a tower": ('{"module": "a", "id": ' + "[" * 10**5 + "]" * 10**5 + "}", "nested too deeply"),
    "a small tower": ('{"module": "a", "id": ' + "[" * 500 + "]" * 500 + "}", "id is nested too"),
    "a tower of objects": (
        '{"module": "a", "id": ' + '{"a":' * 500 + "1" + "}" * 501,
        "id is nested too",
    ),
    "NaN": ('{"module": "a", "id": [NaN]}', "a number that JSON has not"),
    "infinity": ('{"module": "a", "id": {"a": -Infinity}}', "a number that JSON has not"),
    "a huge number": ('{"module": "a", "id": 1e999}', "a number that JSON has not"),
    "a number": ("17", "a job is a JSON object"),
    "a list": ('["module", "a"]', "a job is a JSON object"),
    "null": ("null", "a job is a JSON object"),
    "a string": ('"a.wasm"', "a job is a JSON object"),
    "no module": ('{"args": []}', "a job needs a module"),
    "nothing": ("{}", "a job needs a module"),
    "an unknown key": ('{"module": "a", "arg": ["b"]}', "a job has no 'arg'; it has module, args"),
    "a strange key": ('{"module": "a", "\\n\\u2028": 1}', "a job has no '\\n\\u2028'"),
    "two stdins": ('{"module": "a", "stdin": "", "stdin_base64": ""}', "exclude each other"),
    "no base64": ('{"module": "a", "stdin_base64": "ab"}', "stdin_base64 is no base64"),
    "base64 with spaces": ('{"module": "a", "stdin_base64": "YW Jj"}', "stdin_base64 is no base64"),
    "base64 of letters": ('{"module": "a", "stdin_base64": "äöü="}', "stdin_base64 is no base64"),
    "no steps": ('{"module": "a", "max_steps": 0}', "max_steps must be at least 1"),
    "negative steps": ('{"module": "a", "max_steps": -5}', "max_steps must be at least 1"),
    "a surrogate in args": ('{"module": "a", "args": ["\\ud800"]}', "a lone surrogate is no text"),
    "a surrogate in env": ('{"module": "a", "env": ["A=\\udfff"]}', "a lone surrogate is no text"),
    "a surrogate in stdin": ('{"module": "a", "stdin": "\\ud800x"}', "a lone surrogate"),
}
TYPES = {
    "module": (None, 1, True, ["a"], {}),
    "args": (None, "a", {"a": 1}, 5),
    "stdin": (None, 1, ["a"]),
    "stdin_base64": (None, 1, ["a"]),
    "env": (None, "A=b", {"A": "b"}),
    "call": (None, 1, ["f"], True),
    "call_args": (None, 1, "1", {"a": 1}),
    "max_steps": (None, "1", 1.0, True, [1]),
    "seed": (None, "1", 1.5, False),
    "clock": (None, "1", 1.5, False),
    "max_memory_pages": (None, "1", 1.5, True),
    "call_depth": (None, "1", 1.5, True),
}
ITEMS = {
    "args": (None, 1, True, ["a"], {}),
    "env": (None, 1, True, ["a"], {}),
    "call_args": (None, "1", 1.0, True, [1]),
}
for name, wrong in TYPES.items():
    for value in wrong:
        line = json.dumps({"module": "a"} | {name: value})
        WRONG[f"{name} {value!r}"] = line, f"{name} is of the wrong type"
for name, wrong in ITEMS.items():
    for value in wrong:
        line = json.dumps({"module": "a", name: [value]})
        WRONG[f"{name} of {value!r}"] = line, f"{name} holds something of the wrong type"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line(name, tmp_path):
    line, words = WRONG[name]
    path = written(tmp_path / "jobs.jsonl", '{"module": "a"}', "", line, "{}")
    with pytest.raises(JobError) as error:
        read_jobs(path)
    message = str(error.value)
    assert message.startswith("line 3: ") and words in message
    assert len(message.splitlines()) == 1 and len(message) < 300


def test_no_text(tmp_path):
    with pytest.raises(JobError, match=r"^it is not UTF-8 text$"):
        read_jobs(written(tmp_path / "jobs.jsonl", b'{"module": "\xff"}'))
    with pytest.raises(FileNotFoundError):
        read_jobs(tmp_path / "nothing")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from((*TYPES, "id", "other")),
        json_values | st.text() | st.lists(st.text()) | st.lists(st.integers()),
    )
    | json_values
)
def test_any_json(record):
    """A job, or one line that says why it is none."""
    try:
        job = parse_job(json.loads(json.dumps(record)), pathlib.Path("folder"))
    except JobError as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1
    else:
        assert job.id == record.get("id") and isinstance(job.stdin, bytes)
        json.dumps(job.id, allow_nan=False)


# --- configurations ---

CONFIG = {
    "platform": ('platform = "abacus"', "platform must be cpu, gpu or tpu"),
    "platform number": ("platform = 1", "platform must be cpu, gpu or tpu"),
    "platform list": ('platform = ["cpu"]', "platform must be cpu, gpu or tpu"),
    "unknown": ("threads = 4", "there is no setting 'threads'; there are platform, lanes"),
    "table": ("[lanes]\nn = 4", "lanes must be an integer from 1 on"),
    "no TOML": ("lanes: 4", "no TOML: "),
    "twice": ("lanes = 4\nlanes = 5", "no TOML: "),
    "unquoted": ("platform = cpu", "no TOML: "),
}
for name in ("lanes", "chunk", "memory_mib", "cpu_devices"):
    for value in ("0", "-1", "1.0", '"4"', "true", "[4]", "nan"):
        CONFIG[f"{name} {value}"] = f"{name} = {value}", f"{name} must be an integer from 1 on"


@pytest.mark.parametrize("name", CONFIG)
def test_a_wrong_setting(name, tmp_path):
    text, words = CONFIG[name]
    with pytest.raises(ValueError) as error:
        load_config(written(tmp_path / "config.toml", text))
    assert str(error.value).startswith(words) and len(str(error.value).splitlines()) == 1


def test_configurations(tmp_path):
    text = 'platform = "gpu"\nlanes = 8192\nchunk = 256\nmemory_mib = 70_000\ncpu_devices = 2\n'
    config = load_config(written(tmp_path / "config.toml", text))
    assert config == BatchConfig("gpu", 8192, 256, 70_000, 2)
    assert config.replace(lanes=5) == BatchConfig("gpu", 5, 256, 70_000, 2)
    assert load_config(written(tmp_path / "empty.toml", "# nothing")) == BatchConfig()
    with pytest.raises(ValueError):
        load_config(written(tmp_path / "latin.toml", b'platform = "\xff"'))
    with pytest.raises(OSError):
        load_config(tmp_path)


def test_the_configurations_that_come_along():
    paths = sorted((ROOT / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        assert load_config(path).platform in ("cpu", "gpu", "tpu"), path


# --- the command line ---


@pytest.fixture(scope="module")
def machine():
    return onengine.machine()


@pytest.fixture
def batch(capsysbinary, monkeypatch, machine, tmp_path):
    """Runs `wasmjax batch ARGS...` in this process: (exit status, stdout, stderr)."""
    written(tmp_path / "jobs.jsonl", *map(json.dumps, JOBS))
    (tmp_path / "add.wasm").write_bytes(compile_wat(ADD))
    return in_batches.here(monkeypatch, capsysbinary, machine)


JOBS = [
    {"module": "add.wasm", "call": "add", "call_args": [1, 2], "id": "sum"},
    {"module": "add.wasm"},
    {"module": "add.wasm", "call": "add", "call_args": [-1, -1]},
]
RESULTS = [("return", [3]), ("refused", None), ("return", [-2])]


def results_of(path: pathlib.Path) -> list[tuple]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(len(records)))
    return [(record["outcome"], record.get("results")) for record in records]


def test_a_batch(batch, tmp_path):
    out = tmp_path / "out.jsonl"
    code, stdout, err = batch(tmp_path / "jobs.jsonl", "-o", out, "--lanes", 8)
    assert (code, stdout) == (0, "") and err.count("\n") == 1
    assert err.startswith("wasmjax: 3 of 3 jobs (1 refused, 2 return); ")
    assert results_of(out) == RESULTS
    assert json.loads(out.read_text().splitlines()[0])["id"] == "sum"


def test_what_was_in_the_output_goes(batch, tmp_path):
    out = written(tmp_path / "out.jsonl", "x" * 10_000)
    assert batch(tmp_path / "jobs.jsonl", "-o", out, "--lanes", 8)[0] == 0
    assert results_of(out) == RESULTS


def test_the_summary_as_json(batch, tmp_path):
    out = tmp_path / "out.jsonl"
    code, _, err = batch(tmp_path / "jobs.jsonl", "-o", out, "--lanes", 8, "--json")
    assert code == 0 and err.count("\n") == 1
    record = json.loads(err)
    assert record["outcome"] == "done" and record["jobs"] == 3
    assert record["outcomes"] == {"refused": 1, "return": 2}
    steps = sum(json.loads(line)["steps"] for line in out.read_text().splitlines())
    assert record["steps"] == steps > 0 and 0 < record["useful"] <= 1
    assert record["seconds"] > 0 and record["compile_seconds"] >= 0
    assert record["steps_per_second"] >= 0


def test_no_jobs_at_all(batch, tmp_path):
    path, out = written(tmp_path / "none.jsonl", ""), tmp_path / "out.jsonl"
    code, _, err = batch(path, "-o", out, "--json")
    assert code == 0 and out.read_bytes() == b"" and json.loads(err)["jobs"] == 0


def test_an_output_that_is_no_file(batch, tmp_path):
    """A device or a pipe is written to, though nobody can go back in it."""
    jobs = tmp_path / "jobs.jsonl"
    code, _, err = batch(jobs, "-o", os.devnull, "--lanes", 8, "--checkpoint", tmp_path / "c")
    assert code == 0 and "3 of 3 jobs" in err
    assert os.path.getsize(os.devnull) == 0


def test_a_jobs_file_that_cannot_be_read(batch, tmp_path):
    out = tmp_path / "out.jsonl"
    missing, wrong = tmp_path / "missing.jsonl", written(tmp_path / "wrong.jsonl", "{}", "{}")
    assert_refused(batch(missing, "-o", out), missing, "No such file")
    assert_refused(batch(tmp_path, "-o", out), tmp_path, "directory")
    assert_refused(batch(wrong, "-o", out), f"{wrong}: line 1: a job needs a module")
    binary = written(tmp_path / "binary.jsonl", b"\xff\xfe")
    assert_refused(batch(binary, "-o", out), f"{binary}: it is not UTF-8 text")
    assert not out.exists()


def test_an_output_that_cannot_be_written(batch, tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    assert_refused(batch(jobs, "-o", tmp_path), tmp_path, "directory")
    path = tmp_path / "no" / "folder" / "out.jsonl"
    assert_refused(batch(jobs, "-o", path), path, "No such file")
    path = jobs / "out.jsonl"
    assert_refused(batch(jobs, "-o", path), path, "Not a directory")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_disk_that_is_full(batch, tmp_path):
    ended = batch(tmp_path / "jobs.jsonl", "-o", "/dev/full", "--lanes", 8)
    assert_refused(ended, "wasmjax: /dev/full: No space left on device")


@pytest.mark.parametrize("option", ["--checkpoint", "--traces"])
def test_a_folder_that_cannot_be_used(batch, tmp_path, option):
    jobs, file = tmp_path / "jobs.jsonl", written(tmp_path / "file", "x")
    out = written(tmp_path / "out.jsonl", "kept")
    assert_refused(batch(jobs, "-o", out, option, file), f"wasmjax: {file}: File exists")
    inside = file / "folder"
    assert_refused(batch(jobs, "-o", out, option, inside), f"wasmjax: {inside}: Not a directory")
    assert out.read_text() == "kept\n"


def test_a_wrong_configuration(batch, tmp_path):
    jobs, out = tmp_path / "jobs.jsonl", written(tmp_path / "out.jsonl", "kept")
    config = written(tmp_path / "config.toml", "lanes = 0")
    words = "lanes must be an integer from 1 on"
    assert_refused(batch(jobs, "-o", out, "--config", config), f"wasmjax: {config}: {words}")
    missing = tmp_path / "missing.toml"
    assert_refused(batch(jobs, "-o", out, "--config", missing), missing, "No such file")
    written(config, 'platform = "tpu"')
    assert_refused(batch(jobs, "-o", out, "--config", config), "made for a tpu, here is ")
    assert out.read_text() == "kept\n"


def test_options_come_before_the_configuration(batch, tmp_path):
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    config = written(tmp_path / "config.toml", "lanes = 8\nchunk = 64\nmemory_mib = 1")
    got = batch(jobs, "-o", out, "--config", config)
    assert_refused(got, "8 lane(s) per device need ", "1.0 MiB are free")
    code, _, _ = batch(jobs, "-o", out, "--config", config, "--memory-mib", 1000)
    assert code == 0 and results_of(out) == RESULTS
    got = batch(jobs, "-o", out, "--config", config, "--lanes", 3)
    assert_refused(got, "3 lane(s) per device need ")


def test_options_that_go_together(batch, tmp_path):
    jobs = tmp_path / "jobs.jsonl", "-o", tmp_path / "out.jsonl"
    several = ("--coordinator", "localhost:1"), ("--processes", 2), ("--process", 0)
    for pair in several:
        got = batch(*jobs, *pair)
        assert_refused(got, "--coordinator, --processes and --process go together")
    got = batch(*jobs, *several[0], *several[1], "--process", 2)
    assert_refused(got, "--process must be below 2")


@pytest.mark.parametrize(
    "options",
    [
        ["--lanes", "0"],
        ["--lanes", "x"],
        ["--chunk", "-1"],
        ["--memory-mib", "1.5"],
        ["--cpu-devices", "0"],
        ["--checkpoint-seconds", "-1"],
        ["--checkpoint-seconds", "nan"],
        ["--checkpoint-seconds", "soon"],
        ["--process", "-1"],
        ["--no-such-option"],
        ["more"],
    ],
)
def test_wrong_options(batch, capsysbinary, tmp_path, options):
    with pytest.raises(SystemExit) as exit:
        batch(tmp_path / "jobs.jsonl", "-o", tmp_path / "out.jsonl", *options)
    assert exit.value.code == status.REFUSED
    *usage, last = capsysbinary.readouterr().err.decode().splitlines()
    assert usage[0].startswith("usage: wasmjax") and options[0] in last and "error: " in last
    assert not (tmp_path / "out.jsonl").exists()


def test_weights_that_are_none(capsysbinary, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    jobs = written(tmp_path / "jobs.jsonl", *map(json.dumps, JOBS))
    out = written(tmp_path / "out.jsonl", "kept")
    for weights in (tmp_path / "missing", jobs):
        code = main(["batch", str(jobs), "-o", str(out), "--weights", str(weights)])
        stdout, err = capsysbinary.readouterr()
        assert_refused((code, stdout.decode(), err.decode()), f"wasmjax: {weights}: ")
    assert out.read_text() == "kept\n"


def in_a_process(*args) -> in_batches.Ended:
    process = in_batches.started(*args)
    out, err = process.communicate()
    return process.returncode, out, err


def test_in_a_process_of_its_own(tmp_path):
    jobs, out = written(tmp_path / "jobs.jsonl", *map(json.dumps, JOBS)), tmp_path / "out.jsonl"
    (tmp_path / "add.wasm").write_bytes(compile_wat(ADD))
    code, stdout, err = in_a_process(jobs, "-o", out, "--lanes", 8)
    assert (code, stdout) == (0, "") and err.count("\n") == 1
    assert results_of(out) == RESULTS
    ended = in_a_process(tmp_path / "missing.jsonl", "-o", out)
    assert_refused(ended, "missing.jsonl: No such file")
    assert results_of(out) == RESULTS


def test_an_output_to_a_pipe(tmp_path):
    jobs = written(tmp_path / "jobs.jsonl", *map(json.dumps, JOBS))
    (tmp_path / "add.wasm").write_bytes(compile_wat(ADD))
    code, out, _ = in_a_process(jobs, "-o", "/dev/stdout", "--lanes", 8)
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [(r["outcome"], r.get("results")) for r in records] == RESULTS


def test_help_does_not_import_jax():
    script = """import sys, wasmjax.cli
try:
    wasmjax.cli.main(["batch", "--help"])
except SystemExit:
    print("jax" in sys.modules)"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "False"
    for option in ("--checkpoint", "--traces", "--lanes", "--config", "--json"):
        assert option in done.stdout
