#!/usr/bin/env python3
"""Runs the official WebAssembly core test suite.

    .venv/bin/python scripts/spec_suite.py SOURCE [SCRIPT...]

SOURCE is a checkout of the specification's repository (or, for `--group extensions`, of the
`testsuite` repository), a tar or zip archive of one, or a git directory without a work tree. See
docs/spec.md. Exits with 0 if nothing that applies failed, 1 if something did, 2 if SOURCE cannot be
used.
"""

import argparse
import collections
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import spec_run
import spec_script
import spec_source
from spec_machine import SpecMachine
from spec_run import FAILED, NOT_APPLICABLE, PASSED, Report, ScriptRun, Verdict
from spec_script import Command

import wasmjax

SHOWN = 5  # failures shown per script


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=pathlib.Path, metavar="SOURCE")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="names, such as i32; all")
    parser.add_argument("--group", choices=["1.0", "extensions"], default="1.0")
    parser.add_argument("--ref", help="commit of a git directory; that of the group")
    parser.add_argument("--engine", choices=["packed", "dense"], default="packed")
    parser.add_argument("--cache", choices=["indexed", "softmax"], default="indexed")
    parser.add_argument(
        "--oracle", action="store_true", help="run the integer oracle instead of an engine"
    )
    parser.add_argument(
        "--batch",
        action=argparse.BooleanOptionalAction,
        help="run calls that nothing else depends on as one batch (default: if the engine can)",
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="only N calls per script that end within the steps"
    )
    parser.add_argument("--fuse", action="store_true", help="lower with operand fusion")
    parser.add_argument("--max-steps", type=int, default=2_000_000, help="of an invocation")
    parser.add_argument(
        "--max-prompt", type=int, metavar="N", help="tokens of a module's prompt, in a sample"
    )
    parser.add_argument("--shown", type=int, default=SHOWN, help="failures shown per script")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all verdicts")
    args = parser.parse_intermixed_args(argv)
    indexed = (args.engine, args.cache) == ("packed", "indexed")
    can_batch = indexed and not args.oracle and args.sample is None
    if args.batch and not can_batch:
        parser.error("--batch needs --engine packed, --cache indexed and no --sample")
    if args.max_steps < 1 or (args.sample is not None and args.sample < 1):
        parser.error("--max-steps and --sample must be at least 1")
    args.batch = can_batch if args.batch is None else args.batch
    return args


def run_all(
    machine: SpecMachine,
    tool: pathlib.Path,
    scripts: Sequence[spec_source.Script],
    group: str = "1.0",
    batch: bool = False,
    sample: int | None = None,
) -> list[Report]:
    """Runs scripts, with progress on stderr if that is a terminal."""
    runs, reports = [], []
    for number, script in enumerate(scripts, 1):
        progress(f"{number} of {len(scripts)}: {script.name}")
        try:
            commands = spec_script.convert(tool, script.text, group)
        except spec_script.ConversionError as error:
            report = Report(script.name, [Command("conversion", 1)])
            report.verdicts[0] = Verdict(FAILED, "cannot be converted", str(error))
            reports.append(report)
            continue
        run = ScriptRun(machine, group, script.name, commands, batch, sample)
        reports.append(run.run())
        runs.append(run)
    total = sum(len(run.deferred) for run in runs)
    for done, _ in enumerate(spec_run.run_deferred(machine, runs), 1):
        progress(f"batch: {done:,} of {total:,}")
    progress("")
    return reports


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text and not text.startswith("batch"):
        print(text, file=sys.stderr, flush=True)


def show(reports: Sequence[Report], shown: int) -> None:
    """The table, the first failures of every script, and what they have in common."""
    width = max(len("script"), *(len(report.name) for report in reports))
    print(f"{'script':{width}}  passed  failed  not applicable")
    for report in reports:
        print(f"{report.name:{width}}  {row(report)}")
    print(f"{'total':{width}}  {row(merged(reports))}")
    for report in reports:
        failures = [n for n, v in report.verdicts.items() if v.status == FAILED]
        for number in failures[:shown]:
            print(line(report, number))
        if len(failures) > shown:
            print(f"{report.name}: {len(failures) - shown:,} more")
    causes = merged(reports).reasons(FAILED)
    for reason, count in causes.items():
        print(f"{count:6,}  {reason}")
    kinds = by_type(reports)
    print(
        "; ".join(
            f"{kind}: {counts[PASSED]:,} of {counts[PASSED] + counts[FAILED]:,}"
            for kind, counts in kinds.items()
            if counts[PASSED] + counts[FAILED]
        )
    )


def row(report: Report) -> str:
    reasons = report.reasons(NOT_APPLICABLE)
    why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    counts = (report.count(status) for status in (PASSED, FAILED, NOT_APPLICABLE))
    return " ".join(f"{count:6,} " for count in counts) + (f" ({why})" if why else "")


def line(report: Report, number: int) -> str:
    """A failure in one line."""
    command, verdict = report.commands[number], report.verdicts[number]
    what = f"{report.name}.wast:{command.line}: {command.type}"
    if command.action is not None:
        args = ", ".join(map(str, command.action.args))
        what += f" {command.action.field!r}({args})"
    detail = f" ({verdict.detail})" if verdict.detail else ""
    return f"{what}: {verdict.reason}{detail}"


def merged(reports: Sequence[Report]) -> Report:
    """All of them as one."""
    verdicts = [verdict for report in reports for verdict in report.verdicts.values()]
    return Report("total", [], dict(enumerate(verdicts)))


def by_type(reports: Sequence[Report]) -> dict[str, collections.Counter[str]]:
    """How many commands of every type have which status."""
    out: dict[str, collections.Counter[str]] = {}
    for report in reports:
        for number, verdict in sorted(report.verdicts.items()):
            kind = report.commands[number].type
            out.setdefault(kind, collections.Counter())[verdict.status] += 1
    return out


def record(
    reports: Sequence[Report], args: argparse.Namespace, seconds: float, compilations: int
) -> dict[str, Any]:
    """All there is to know, for JSON."""

    def counts(report: Report) -> dict[str, Any]:
        return {
            "passed": report.count(PASSED),
            "failed": report.count(FAILED),
            "not_applicable": report.count(NOT_APPLICABLE),
            "failures": report.reasons(FAILED),
            "not_applicable_reasons": report.reasons(NOT_APPLICABLE),
        }

    return {
        "group": args.group,
        "ref": args.ref or spec_source.REFS[args.group],
        "runs_on": "oracle" if args.oracle else f"{args.engine}, {args.cache}",
        "batch": args.batch,
        "sample": args.sample,
        "fuse": args.fuse,
        "compilations": compilations,
        "seconds": round(seconds, 1),
        "total": counts(merged(reports)),
        "scripts": {report.name: counts(report) for report in reports},
        "failures": [
            {
                "script": report.name,
                "line": report.commands[number].line,
                "type": report.commands[number].type,
                "reason": verdict.reason,
                "detail": verdict.detail,
            }
            for report in reports
            for number, verdict in sorted(report.verdicts.items())
            if verdict.status == FAILED
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    start = time.perf_counter()
    try:
        scripts = spec_source.read_scripts(args.source, args.group, args.scripts, args.ref)
        tool = spec_script.find_tool()
    except (spec_source.SourceError, spec_script.ToolError) as error:
        print(error, file=sys.stderr)
        return 2
    engine = wasmjax.Machine(args.engine, args.cache)
    machine = SpecMachine(
        engine, args.group, args.oracle, args.max_steps, args.max_prompt, args.fuse
    )
    reports = run_all(machine, tool, scripts, args.group, args.batch, args.sample)
    seconds = time.perf_counter() - start
    show(reports, args.shown)
    compilations = engine.engine.compilations
    if args.batch:
        compilations += engine.lanes_engine().compilations
    print(f"{seconds:,.0f} s, {compilations} functions compiled by XLA")
    if args.json is not None:
        args.json.write_text(
            json.dumps(record(reports, args, seconds, compilations), indent=1) + "\n"
        )
    return 1 if merged(reports).count(FAILED) else 0


if __name__ == "__main__":
    sys.exit(main())
