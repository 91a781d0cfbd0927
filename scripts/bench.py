#!/usr/bin/env python3
"""The benchmark suite: workloads, one lane and many, yardsticks beside them; tables and plots.

    .venv/bin/python scripts/bench.py --config=configs/bench_cpu.py --out=bench
    .venv/bin/python scripts/bench.py --config=configs/bench_cpu.py --out=again --compare=bench

Every point is measured after a warm-up, compilation apart, several times, in several rounds of
processes of their own; the median and the spread are kept. Points go to OUT/results.jsonl when
measured: what is there already is not measured again, and a point that fails is recorded and loses
no other. OUT/table.md and PNGs are made of all; with --compare, OUT/compare.md says which figures
of two runs differ. Without the accelerator of a configuration it says so and runs the CPU's. Needs
the extra `bench`.

Exit status: 0 done; 1 a point failed; 2 a wrong command line.
"""

import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import bench_report
import jax
from absl import app, flags
from bench_points import PARTS, Result, Suite
from bench_report import describe, good, key
from tqdm import tqdm

import wasmjax

ROOT = pathlib.Path(__file__).resolve().parent.parent


def environment() -> Result:
    """What the numbers depend on besides."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.import_module("jaxlib").__version__,
        "wasmjax": wasmjax.__version__,
        "precision": str(jax.config.jax_default_matmul_precision),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def read(path: pathlib.Path) -> list[Result]:
    """Records so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(suite: Suite, out: pathlib.Path, part: str = "", number: int = 0) -> list[Result]:
    """Measures what is missing (of a part: see `bench_points.PARTS`) in a round; returns all
    records."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    records = read(path)
    done = {
        key(record["point"])
        for record in records
        if "error" not in record and record.get("round", 0) == number
    }
    wanted = PARTS.get(part)
    points = [
        point
        for point in suite.points()
        if key(point) not in done and (wanted is None or point["kind"] in wanted)
    ]
    bar = tqdm(points, unit="point", file=sys.stderr)
    for point in bar:
        bar.set_postfix_str(describe(point))
        record: Result = {"point": point, "round": number, "environment": environment()}
        try:
            record["result"] = suite.measure(point)
        except Exception as error:  # one point loses no other
            record["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            bar.write(f"{describe(point)}: {record['error']}", file=sys.stderr)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        records.append(record)
    return records


def plan(config: Any) -> Any:
    """The configuration, or the CPU's where its accelerator is missing."""
    platform_ = config.platform
    try:
        found = jax.devices(platform_)
    except RuntimeError:
        found = []
    if found:
        jax.config.update("jax_platforms", platform_)
        return config
    print(f"no {platform_} here: running the plan for a CPU", file=sys.stderr)
    return importlib.import_module("bench_cpu").get_config()


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError("no arguments are expected")
    out = pathlib.Path(flags.FLAGS.out)
    other = flags.FLAGS.compare
    if other and not (pathlib.Path(other) / "results.jsonl").exists():
        print(f"bench.py: no results in {other}", file=sys.stderr)
        return 2
    if flags.FLAGS.part:
        config = plan(flags.FLAGS.config)
        print(f"{environment()}", file=sys.stderr)
        run(Suite(config), out, flags.FLAGS.part, flags.FLAGS.round)
        return 0
    for number in range(flags.FLAGS.config.rounds):
        for part in PARTS:
            # JAX is used in these only: an accelerator is one process's at a time. Parts differ
            # in the number of devices, and processes in their pace.
            command = [sys.executable, *sys.argv, f"--part={part}", f"--round={number}"]
            status = subprocess.run(command).returncode
            if status:
                return status
    records = read(out / "results.jsonl")
    text = bench_report.tables(records)
    (out / "table.md").write_text(text)
    bench_report.plots(records, out)
    print(text)
    if other:
        text = bench_report.compare(records, read(pathlib.Path(other) / "results.jsonl"))
        (out / "compare.md").write_text(text)
        print(text)
    return 1 if any(key(r["point"]) not in good(records) for r in records) else 0


def define_flags() -> None:
    """The command line."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_string("out", "bench", "Folder of the results.")
    flags.DEFINE_string("compare", "", "Folder of another run to compare with.")
    flags.DEFINE_enum("part", "", ["", *PARTS], "Measure this part alone, in this process.")
    flags.DEFINE_integer("round", 0, "Number of the round that --part measures.")
    flags.mark_flag_as_required("config")


if __name__ == "__main__":
    # As `wasmjax run` and `wasmjax batch` do: one thread a device; of many lanes, a device a core.
    os.environ.setdefault("PJRT_NPROC", "1")
    jax.config.update("jax_num_cpu_devices", 1 if "--part=one" in sys.argv else os.cpu_count() or 1)
    sys.path.insert(0, str(ROOT / "configs"))
    try:
        define_flags()
    except ImportError:
        print("bench.py needs the extra bench: pip install 'wasmjax[bench]'", file=sys.stderr)
        sys.exit(2)
    app.run(main)
