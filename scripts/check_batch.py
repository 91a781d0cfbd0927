#!/usr/bin/env python3
"""Compares the results of a batch with wasmtime.

    .venv/bin/python scripts/check_batch.py JOBS.jsonl RESULTS.jsonl

Every distinct job runs once in wasmtime. Outcome, exit code, results, trap, stdout and stderr must
be equal; what was cut off by its step limit must be a beginning of what wasmtime wrote; what was
refused must fail to load, link or be called in wasmtime too, or name a limit of the machine. Equal
jobs must have equal results, steps included. Random numbers and clocks differ between the two, so
jobs should not show them. Prints a summary and the first mismatches; exits with 1 if there are any.
"""

import argparse
import base64
import collections
import dataclasses
import json
import pathlib
import struct
import sys
import tempfile
from typing import Any

import wasmtime

Record = dict[str, Any]

PAGE = 65536
DEFAULT_GROWTH = 256  # pages that a memory may grow by unless a job says otherwise
MAX_PAGES, MAX_TABLE = 1024, 32000
MAX_TOKENS = 2**24
SHOWN = 20  # mismatches printed

# Instructions per step are few, so wasmtime gets further than a job that is cut off.
FUEL_PER_STEP, FUEL_AT_LEAST, FUEL_WITHOUT_LIMIT = 20, 100_000, 10**11

FIELDS = {
    "exit": "exit_code",
    "return": "results",
    "trap": "trap",
    "refused": "error",
    "limit": "error",
    "step limit": None,
}
"""What a result of each outcome tells, beside output and counts."""

TRAPS = {
    wasmtime.TrapCode.UNREACHABLE: "unreachable",
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: "integer divide by zero",
    wasmtime.TrapCode.INTEGER_OVERFLOW: "integer overflow",
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: "out of bounds memory access",
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: "undefined element",
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: "uninitialized element",
    wasmtime.TrapCode.BAD_SIGNATURE: "indirect call type mismatch",
    wasmtime.TrapCode.STACK_OVERFLOW: "call stack exhausted",
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: "invalid conversion to integer",
}
_FLOATS = {"f32": ("<f", "<I"), "f64": ("<d", "<Q")}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What wasmtime makes of a job.

    Attributes:
      outcome: as in a result; "step limit" if it ran out of fuel. reason: why it was refused.
    """

    outcome: str
    exit_code: int | None = None
    results: list[int] | None = None
    trap: str | None = None
    reason: str = ""
    stdout: bytes = b""
    stderr: bytes = b""


class _Refused(Exception):
    """The job cannot run; the message says why."""


class _Exit(Exception):
    """The program called proc_exit."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit {code}")
        self.code = code & 0xFFFFFFFF


def _proc_exit(code: int) -> None:
    # wasmtime's own refuses codes above 125.
    raise _Exit(code)


class Reference:
    """Runs jobs in wasmtime; equal jobs once.

    Args:
      folder: what the jobs' module paths are relative to.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.answers: dict[str, Answer] = {}
        config = wasmtime.Config()
        config.consume_fuel = True
        self._engine = wasmtime.Engine(config)
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()
        self._linker.allow_shadowing = True
        type_ = wasmtime.FuncType([wasmtime.ValType.i32()], [])
        self._linker.define_func("wasi_snapshot_preview1", "proc_exit", type_, _proc_exit)
        # with the initial pages of their memory
        self._modules: dict[pathlib.Path, tuple[wasmtime.Module, int] | str] = {}

    def answer(self, job: Record) -> Answer:
        """What the job's outcome should be."""
        key = job_key(job)
        if key not in self.answers:
            with tempfile.TemporaryDirectory() as scratch:
                self.answers[key] = self._run(job, pathlib.Path(scratch))
        return self.answers[key]

    def _run(self, job: Record, scratch: pathlib.Path) -> Answer:
        try:
            _check_options(job)
            module, pages = self._module(self.folder / job["module"])
            name, results, args = _entry(job, module)
            ended = self._call(job, module, pages, name, results, args, scratch)
        except _Refused as error:
            return Answer("refused", reason=str(error))
        stdout, stderr = (scratch / "stdout").read_bytes(), (scratch / "stderr").read_bytes()
        return dataclasses.replace(ended, stdout=stdout, stderr=stderr)

    def _module(self, path: pathlib.Path) -> tuple[wasmtime.Module, int]:
        if path not in self._modules:
            try:
                data = path.read_bytes()
                module = wasmtime.Module(self._engine, data)
                self._modules[path] = module, initial_pages(data)
            except (OSError, wasmtime.WasmtimeError) as error:
                self._modules[path] = _first_line(error)
        known = self._modules[path]
        if isinstance(known, str):
            raise _Refused(known)
        return known

    def _call(
        self,
        job: Record,
        module: wasmtime.Module,
        pages: int,
        name: str,
        results: list[str],
        args: list[Any],
        scratch: pathlib.Path,
    ) -> Answer:
        store = wasmtime.Store(self._engine)
        store.set_wasi(_wasi(job, scratch))
        steps = job.get("max_steps")
        fuel = FUEL_WITHOUT_LIMIT if steps is None else FUEL_AT_LEAST + FUEL_PER_STEP * steps
        store.set_fuel(fuel)
        most = job.get("max_memory_pages", min(MAX_PAGES, pages + DEFAULT_GROWTH))
        store.set_limits(memory_size=most * PAGE, table_elements=MAX_TABLE)
        instance = None
        try:
            instance = self._linker.instantiate(store, module)
            function = instance.exports(store)[name]
            assert isinstance(function, wasmtime.Func)
            out = function(store, *args)
        except _Exit as error:
            return Answer("exit", exit_code=error.code)
        except wasmtime.Trap as error:
            if error.trap_code is wasmtime.TrapCode.OUT_OF_FUEL:
                return Answer("step limit")
            # What traps outside of any function is a segment that is out of bounds.
            if instance is None and not error.frames:
                raise _Refused(_first_line(error)) from None
            assert error.trap_code is not None, error
            return Answer("trap", trap=TRAPS.get(error.trap_code, error.trap_code.name))
        except wasmtime.WasmtimeError as error:
            if instance is None:
                raise _Refused(_first_line(error)) from None
            raise
        if job.get("call") is None:
            return Answer("exit", exit_code=0)
        values = out if isinstance(out, list) else [] if out is None else [out]
        return Answer("return", results=list(map(_to_bits, values, results)))


def job_key(job: Record) -> str:
    """Equal for equal jobs, whatever their ids."""
    return json.dumps({k: v for k, v in job.items() if k != "id"}, sort_keys=True)


def _check_options(job: Record) -> None:
    """Refuses what the documentation of the options rules out."""
    for name, low, high in (
        ("call_depth", 1, 65535),
        ("max_memory_pages", 0, MAX_PAGES),
        ("seed", 0, 2**64 - 1),
        ("clock", 0, 2**64 - 1),
    ):
        if not low <= job.get(name, low) <= high:
            raise _Refused(f"{name} is out of range")
    if any("\0" in text for text in (*job.get("args", ()), *job.get("env", ()))):
        raise _Refused("a zero byte in an argument")


def _entry(job: Record, module: wasmtime.Module) -> tuple[str, list[str], list[Any]]:
    """Name, result types and arguments of the function to call."""
    name = job.get("call", "_start")
    types = {export.name: export.type for export in module.exports}
    type_ = types.get(name)
    if not isinstance(type_, wasmtime.FuncType):
        raise _Refused(f"no function {name!r}")
    params, results = [str(t) for t in type_.params], [str(t) for t in type_.results]
    if "call" not in job and (params or results):
        raise _Refused("_start has parameters or results")
    args = job.get("call_args", [])
    if len(args) != len(params):
        raise _Refused(f"{len(params)} arguments, not {len(args)}")
    return name, results, list(map(_from_bits, args, params))


def _from_bits(value: int, type_: str) -> Any:
    width = int(type_[1:])
    if not -(1 << width - 1) <= value < 1 << width:
        raise _Refused(f"{value} is no {type_}")
    bits = value & (1 << width) - 1
    if type_ in _FLOATS:
        number, integer = _FLOATS[type_]
        return struct.unpack(number, struct.pack(integer, bits))[0]
    return bits - (1 << width) if bits >> width - 1 else bits


def _to_bits(value: Any, type_: str) -> int:
    if type_ in _FLOATS:
        number, integer = _FLOATS[type_]
        return struct.unpack(integer, struct.pack(number, value))[0]
    return value


def initial_pages(data: bytes) -> int:
    """Pages of a valid module's own memory; wasmtime only tells those of an exported one."""
    at = 8
    while at < len(data):
        section = data[at]
        size, at = _leb(data, at + 1)
        if section == 5:
            count, first = _leb(data, at)
            return _leb(data, first + 1)[0] if count else 0
        at += size
    return 0


def _leb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def _wasi(job: Record, scratch: pathlib.Path) -> wasmtime.WasiConfig:
    config = wasmtime.WasiConfig()
    config.argv = ["program", *job.get("args", ())]
    config.env = [entry.split("=", 1) for entry in job.get("env", ())]
    (scratch / "stdin").write_bytes(_stream(job, "stdin"))
    config.stdin_file = str(scratch / "stdin")
    config.stdout_file = str(scratch / "stdout")
    config.stderr_file = str(scratch / "stderr")
    return config


def _stream(record: Record, name: str) -> bytes:
    """Bytes of a job's stdin, or of a result's stdout or stderr."""
    if f"{name}_base64" in record:
        return base64.b64decode(record[f"{name}_base64"], validate=True)
    return record.get(name, "").encode()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- comparing ---


@dataclasses.dataclass
class Report:
    """What came of a comparison.

    Attributes:
      jobs: how many; distinct: how many distinct ones. outcomes: results by outcome.
      limits: results that differ from wasmtime's by a limit of the machine.
      mismatches: one line each.
    """

    jobs: int = 0
    distinct: int = 0
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    limits: int = 0
    mismatches: list[str] = dataclasses.field(default_factory=list)


def check(jobs_path: str | pathlib.Path, results_path: str | pathlib.Path) -> list[str]:
    """Mismatches between a batch's results and wasmtime, one line each."""
    return compare(pathlib.Path(jobs_path), pathlib.Path(results_path)).mismatches


def compare(jobs_path: pathlib.Path, results_path: pathlib.Path) -> Report:
    """Compares all results with wasmtime and with one another."""
    jobs = read_lines(jobs_path)
    reference = Reference(jobs_path.parent)
    report = Report(jobs=len(jobs))
    try:
        results = read_lines(results_path)
    except json.JSONDecodeError as error:  # as when the writer was killed
        report.mismatches.append(f"the results are not one JSON object a line: {error.msg}")
        return report
    by_index: dict[int, Record] = {}
    for record in results:
        at = record.get("index")
        if type(at) is not int or not 0 <= at < len(jobs):
            report.mismatches.append(f"a result of no job: index {at!r}")
        elif at in by_index:
            report.mismatches.append(f"job {at}: more than one result")
        else:
            by_index[at] = record
    first: dict[str, Record] = {}
    for index, job in enumerate(jobs):
        result = by_index.get(index)
        if result is None:
            report.mismatches.append(f"job {index}: no result")
            continue
        report.outcomes[str(result.get("outcome"))] += 1
        answer = reference.answer(job)
        wrong = malformation(job, result)
        if wrong is None and is_by_limit(job, result, answer):
            report.limits += 1
        elif wrong is None:
            wrong = disagreement(result, answer)
        same = {k: v for k, v in result.items() if k not in ("index", "id")}
        if wrong is None and first.setdefault(job_key(job), same) != same:
            wrong = "not the result of an equal job before"
        if wrong is not None:
            name = f" ({json.dumps(job['id'])})" if "id" in job else ""
            report.mismatches.append(f"job {index}{name}: {wrong}")
    report.distinct = len({job_key(job) for job in jobs})
    return report


def read_lines(path: pathlib.Path) -> list[Record]:
    """The objects of a file with one a line."""
    # Not splitlines, which also splits at separators that JSON strings may hold as they are.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def malformation(job: Record, result: Record) -> str | None:
    """What is wrong with a result by itself, if anything."""
    outcome = result.get("outcome")
    if outcome not in FIELDS:
        return f"outcome {outcome!r}"
    if result.get("id") != job.get("id"):
        return f"id {result.get('id')!r}"
    told = {field for field in FIELDS.values() if field is not None and field in result}
    if told != {FIELDS[outcome]} - {None}:
        return f"outcome {outcome!r} with {sorted(told)}"
    error = result.get("error")
    if error is not None and (not error.strip() or len(error.splitlines()) != 1):
        return f"an error that is not one line: {error!r}"
    for name in ("stdout", "stderr"):
        if name in result and f"{name}_base64" in result:
            return f"{name} twice"
        if not _stream(result, name) and (name in result or f"{name}_base64" in result):
            return f"an empty {name}"
        if f"{name}_base64" in result and _is_text(_stream(result, name)):
            return f"{name} in base64 though it is text"
    counts = [result.get("steps"), result.get("prompt_tokens")]
    least = 0 if outcome == "refused" else 1
    if not all(type(count) is int and count >= least for count in counts):
        return f"steps and prompt_tokens {counts}"
    most = job.get("max_steps")
    if most is not None and result["steps"] > most:
        return f"{result['steps']} steps of {most}"
    if outcome == "step limit" and result["steps"] != most:
        return f"a step limit after {result['steps']} steps of {most}"
    return None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_by_limit(job: Record, result: Record, answer: Answer) -> bool:
    """Whether a result differs from wasmtime's because of a documented limit of the machine."""
    outcome = result["outcome"]
    if outcome == answer.outcome or answer.outcome == "refused":
        return False
    if outcome == "refused":
        error = result["error"]
        return "unsupported: " in error or "unknown import: wasi_" in error
    is_prefix = all(
        getattr(answer, name).startswith(_stream(result, name)) for name in ("stdout", "stderr")
    )
    if outcome == "limit":
        return is_prefix and result["steps"] + result["prompt_tokens"] > MAX_TOKENS - PAGE
    # wasmtime counts bytes of its stack, not calls.
    is_shallow = "call_depth" in job and result.get("trap") == "call stack exhausted"
    return is_prefix and is_shallow


def disagreement(result: Record, answer: Answer) -> str | None:
    """How a result differs from wasmtime's, if it does."""
    outcome = result["outcome"]
    if outcome == "step limit" and answer.outcome != "refused":
        for name in ("stdout", "stderr"):
            wrote, whole = _stream(result, name), getattr(answer, name)
            if not whole.startswith(wrote):
                return f"{name} {_short(wrote)} does not begin {_short(whole)}"
        return None
    if outcome != answer.outcome:
        told = result.get(FIELDS[outcome] or "")
        why = answer.reason or answer.trap
        return f"{outcome} ({told!r}), not {answer.outcome}" + (f" ({why!r})" if why else "")
    if outcome == "refused":
        return None
    for name in ("exit_code", "results", "trap"):
        got, want = result.get(name), getattr(answer, name)
        if got != want:
            return f"{name} {got!r}, not {want!r}"
    for name in ("stdout", "stderr"):
        got, want = _stream(result, name), getattr(answer, name)
        if got != want:
            return f"{name} {_short(got)}, not {_short(want)}"
    return None


def _short(data: bytes) -> str:
    return repr(data) if len(data) <= 80 else f"{data[:60]!r}... ({len(data)} bytes)"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jobs", type=pathlib.Path, metavar="JOBS.jsonl")
    parser.add_argument("results", type=pathlib.Path, metavar="RESULTS.jsonl")
    args = parser.parse_args()
    report = compare(args.jobs, args.results)
    outcomes = ", ".join(f"{name} {n:,}" for name, n in sorted(report.outcomes.items()))
    print(
        f"{report.jobs:,} jobs ({report.distinct:,} distinct): {outcomes}; "
        f"{report.limits:,} by a limit that wasmtime lacks; {len(report.mismatches):,} mismatches"
    )
    for line in report.mismatches[:SHOWN]:
        print(line)
    return 1 if report.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
