#!/usr/bin/env python3
"""The benchmark suite: workloads, one lane and many, yardsticks beside them; tables and plots.

    .venv/bin/python scripts/bench.py --config=configs/bench_cpu.py --out=bench

Every point is measured after a warm-up, compilation apart, several times; the median and the
spread are kept. An instruction is a unit of wasmtime's fuel. Points go to OUT/results.jsonl when
measured: what is there already is not measured again, and a point that fails is recorded and
loses no other. OUT/table.md and OUT/throughput.png are made of all. Needs the extra `bench`.
"""

import json
import os
import pathlib
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import wasmtime
from absl import app, flags

import wasmjax
from wasmjax.batch.jobs import Job
from wasmjax.batch.schedule import Progress

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKLOADS = ROOT / "examples" / "workloads"
FUEL = 10**12

Point = dict[str, Any]
"""What a point is: kind, and what that needs."""
Result = dict[str, Any]


# -- workloads --------------------------------------------------------------------------------


class Workload:
    """A program with its arguments.

    Attributes:
      name, kind: as in workloads.json. path: of its module. args, stdin: its inputs.
      stdout: what it must print.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name, self.kind = entry["name"], entry["kind"]
        self.path = (WORKLOADS / entry["wasm"]).resolve()
        self.args = [str(arg) for arg in entry.get("args", ())]
        self.stdin = entry.get("stdin", "").encode()
        self.stdout = entry["stdout"].encode()

    def native(self, fuel: bool) -> tuple[float, int]:
        """Seconds in wasmtime, compiled, and (if asked for) the instructions it executes."""
        config = wasmtime.Config()
        config.consume_fuel = fuel
        engine = wasmtime.Engine(config)
        module = wasmtime.Module.from_file(engine, str(self.path))
        linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
        if fuel:
            store.set_fuel(FUEL)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: pathlib.Path(folder) / name for name in ("stdin", "stdout")}
            files["stdin"].write_bytes(self.stdin)
            wasi = wasmtime.WasiConfig()
            wasi.argv = ["program", *self.args]
            wasi.stdin_file, wasi.stdout_file = files["stdin"], files["stdout"]
            store.set_wasi(wasi)
            linker.define_wasi()
            start = linker.instantiate(store, module).exports(store)["_start"]
            begun = time.perf_counter()
            try:
                start(store)  # type: ignore[operator]
            except wasmtime.ExitTrap:
                pass
            seconds = time.perf_counter() - begun
            if files["stdout"].read_bytes() != self.stdout:
                raise RuntimeError(f"{self.name} printed something else in wasmtime")
        return seconds, FUEL - store.get_fuel() if fuel else 0


def workloads(names: Sequence[str]) -> list[Workload]:
    """Those of these names; all, if there are none."""
    entries = json.loads((WORKLOADS / "workloads.json").read_text())
    found = [Workload(entry) for entry in entries if not names or entry["name"] in names]
    missing = set(names) - {workload.name for workload in found}
    if missing:
        raise SystemExit(f"no such workload: {', '.join(sorted(missing))}")
    return found


# -- points -----------------------------------------------------------------------------------


def spread(values: Sequence[float], unit: str) -> Result:
    """Median, least and most."""
    return {unit: statistics.median(values), f"{unit}_min": min(values), f"{unit}_max": max(values)}


class Suite:
    """Measures points.

    Args:
      config: see configs/bench_cpu.py.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.workloads = {workload.name: workload for workload in workloads(config.workloads)}
        self._machines: dict[tuple[str, str], wasmjax.Machine] = {}
        self._instructions: dict[str, int] = {}

    def points(self) -> Iterator[Point]:
        """All points of the configuration."""
        for name in self.workloads:
            if self.config.native:
                yield {"kind": "native", "workload": name}
            for engine, cache, fuse, most in self.config.one_lane:
                yield {
                    "kind": "one lane", "workload": name, "engine": engine, "cache": cache,
                    "fuse": fuse, "most_steps": most,
                }  # fmt: skip
            for program in self.config.external:
                yield {"kind": "external", "workload": name, "program": program}
        for lanes in self.config.lanes:
            yield {"kind": "lanes", "lanes": lanes, "fuse": True}

    def measure(self, point: Point) -> Result:
        """A point's numbers. Raises whatever goes wrong."""
        kinds: dict[str, Callable[[Point], Result]] = {
            "native": self._native,
            "one lane": self._one_lane,
            "external": self._external,
            "lanes": self._lanes,
        }
        return kinds[point["kind"]](point)

    def instructions(self, name: str) -> int:
        """Instructions that a workload executes."""
        if name not in self._instructions:
            self._instructions[name] = self.workloads[name].native(fuel=True)[1]
        return self._instructions[name]

    def _native(self, point: Point) -> Result:
        workload = self.workloads[point["workload"]]
        seconds = [workload.native(fuel=False)[0] for _ in range(1 + self.config.repeats)][1:]
        count = self.instructions(workload.name)
        return {"instructions": count} | spread([count / s for s in seconds], "instructions_per_s")

    def _external(self, point: Point) -> Result:
        workload = self.workloads[point["workload"]]
        template = self.config.external[point["program"]]
        values = {"wasm": shlex.quote(str(workload.path)), "args": shlex.join(workload.args)}
        command = shlex.split(template.format(**values))
        seconds = []
        for _ in range(1 + self.config.repeats):
            begun = time.perf_counter()
            subprocess.run(command, input=workload.stdin, capture_output=True, check=True)
            seconds.append(time.perf_counter() - begun)
        count = self.instructions(workload.name)
        rates = [count / s for s in seconds[1:]]
        return {"instructions": count} | spread(rates, "instructions_per_s")

    def _one_lane(self, point: Point) -> Result:
        workload = self.workloads[point["workload"]]
        machine = self._machine(point["engine"], point["cache"])
        module = wasmjax.load(workload.path)
        options = {"stdin": workload.stdin, "fuse": point["fuse"]}
        most = point["most_steps"]
        cold = self._first_token(machine, module, workload, options)
        machine.run(module, workload.args, max_steps=most, **options)  # warm-up
        warm = self._first_token(machine, module, workload, options)
        runs = [
            machine.run(module, workload.args, max_steps=most, **options)
            for _ in range(self.config.repeats)
        ]
        whole = not runs[0].out_of_steps
        if whole and runs[0].stdout != workload.stdout:
            raise RuntimeError(f"{workload.name} printed something else")
        out = {
            "steps": runs[0].steps,
            "prompt_tokens": runs[0].prompt_tokens,
            "first_token_cold_s": cold,
            "first_token_warm_s": warm,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        out |= spread([run.steps / run.seconds for run in runs], "steps_per_s")
        if whole:
            count = self.instructions(workload.name)
            out |= {"instructions": count, "steps_per_instruction": runs[0].steps / count}
            out |= spread([count / run.seconds for run in runs], "instructions_per_s")
        return out

    def _first_token(
        self, machine: wasmjax.Machine, module: Any, workload: Workload, options: Mapping[str, Any]
    ) -> float:
        """Seconds from a module in memory to its first token: lowering, prefill, compilation."""
        begun = time.perf_counter()
        run = machine.start(module, ["program", *workload.args], **options)
        next(run.tokens(1, keep_all=True))
        return time.perf_counter() - begun

    def _lanes(self, point: Point) -> Result:
        lanes = point["lanes"]
        machine = self._machine("packed", "indexed")
        chosen = list(self.workloads.values())
        jobs = [
            Job(
                chosen[k % len(chosen)].path,
                tuple(chosen[k % len(chosen)].args),
                chosen[k % len(chosen)].stdin,
                fuse=point["fuse"],
            )
            for k in range(lanes * self.config.jobs_per_lane)
        ]
        last: list[Progress] = []
        results = list(machine.run_batch(jobs, lanes=lanes, on_progress=last.append))
        wrong = [r for r, job in zip(results, jobs, strict=True) if r.outcome != "exit"]
        if wrong:
            raise RuntimeError(f"job {wrong[0].index}: {wrong[0].outcome}")
        count = sum(self.instructions(chosen[k % len(chosen)].name) for k in range(len(jobs)))
        progress = last[-1]
        return {
            "jobs": len(jobs),
            "steps": progress.steps,
            "steps_per_s": progress.rate,
            "instructions_per_s": count / progress.seconds,
            "useful": progress.useful,
            "compile_s": progress.compile_seconds,
            "devices": len(jax.devices()),
        }

    def _machine(self, engine: str, cache: str) -> wasmjax.Machine:
        key = engine, cache
        if key not in self._machines:
            chunk = {"indexed": 8192, "hull": 512, "softmax": 8}[cache]
            self._machines[key] = wasmjax.Machine(engine, cache, chunk=chunk)  # type: ignore[arg-type]
        return self._machines[key]


# -- results ----------------------------------------------------------------------------------


def key(point: Point) -> str:
    """Names a point."""
    return json.dumps(point, sort_keys=True)


def environment() -> Result:
    """What the numbers depend on besides."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "wasmjax": wasmjax.__version__,
        "precision": str(jax.config.jax_default_matmul_precision),
    }


def read(path: pathlib.Path) -> list[Result]:
    """Records so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(suite: Suite, out: pathlib.Path) -> list[Result]:
    """Measures what is missing; returns all records."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.jsonl"
    records = read(path)
    done = {key(record["point"]) for record in records if "error" not in record}
    points = list(suite.points())
    for number, point in enumerate(points, 1):
        if key(point) in done:
            continue
        print(f"{number} of {len(points)}: {describe(point)}", file=sys.stderr, flush=True)
        record: Result = {"point": point, "environment": environment()}
        try:
            record["result"] = suite.measure(point)
        except Exception as error:  # one point loses no other
            record["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"  {record['error']}", file=sys.stderr, flush=True)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        records.append(record)
    return records


def describe(point: Point) -> str:
    """A point in words."""
    return ", ".join(str(value) for value in point.values())


def measured(records: Sequence[Result], **wanted: Any) -> list[Result]:
    """The latest good records of points with these values."""
    found: dict[str, Result] = {}
    for record in records:
        point = record["point"]
        if "result" in record and all(point.get(k) == v for k, v in wanted.items()):
            found[key(point)] = record
    return list(found.values())


def table(records: Sequence[Result]) -> str:
    """Markdown: workloads on one lane, and many lanes."""
    columns = ["workload", "instructions", "steps per instruction", "fused"]
    columns += ["VM steps/s", "instructions/s", "fused", "first token, warm", "wasmtime"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    one = {"kind": "one lane", "engine": "packed", "cache": "indexed"}
    native = {r["point"]["workload"]: r["result"] for r in measured(records, kind="native")}
    fused = {r["point"]["workload"]: r["result"] for r in measured(records, **one, fuse=True)}
    plain = measured(records, **one, fuse=False)
    for record in plain:
        name, result = record["point"]["workload"], record["result"]
        other, beside = fused.get(name, {}), native.get(name, {})
        cells = [
            name,
            number(result.get("instructions")),
            number(result.get("steps_per_instruction"), 2),
            number(other.get("steps_per_instruction"), 2),
            number(result.get("steps_per_s")),
            number(result.get("instructions_per_s")),
            number(other.get("instructions_per_s")),
            f"{result['first_token_warm_s']:.2f} s",
            number(beside.get("instructions_per_s")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| lanes | VM steps/s | instructions/s | useful | jobs |",
        "|---|---|---|---|---|",
    ]
    for record in measured(records, kind="lanes"):
        result = record["result"]
        lines.append(
            f"| {record['point']['lanes']} | {number(result['steps_per_s'])} | "
            f"{number(result['instructions_per_s'])} | {result['useful']:.0%} | "
            f"{result['jobs']:,} |"
        )
    failed = [r for r in records if "error" in r and key(r["point"]) not in good(records)]
    lines += [f"\n{describe(r['point'])}: {r['error']}" for r in failed]
    return "\n".join(lines) + "\n"


def good(records: Sequence[Result]) -> set[str]:
    """Points that have been measured."""
    return {key(record["point"]) for record in records if "result" in record}


def number(value: float | None, digits: int = 0) -> str:
    """A number of a table."""
    return "" if value is None else f"{value:,.{digits}f}"


def plot(records: Sequence[Result], path: pathlib.Path) -> None:
    """Throughput of the workloads on one lane, and against lanes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    one = {"kind": "one lane", "engine": "packed", "cache": "indexed"}
    for fuse, offset in ((False, -0.2), (True, 0.2)):
        rows = [
            r
            for r in measured(records, **one, fuse=fuse)
            if r["result"].get("instructions_per_s") is not None
        ]
        where = [k + offset for k in range(len(rows))]
        rates = [r["result"]["instructions_per_s"] for r in rows]
        axes[0].barh(where, rates, 0.4, label="fused" if fuse else "unfused")
        axes[0].set_yticks(range(len(rows)), [r["point"]["workload"] for r in rows], fontsize=7)
    axes[0].set(xlabel="instructions/s, one lane")
    axes[0].legend()
    rows = sorted(measured(records, kind="lanes"), key=lambda r: r["point"]["lanes"])
    lanes = [r["point"]["lanes"] for r in rows]
    for name, label in (("steps_per_s", "VM steps/s"), ("instructions_per_s", "instructions/s")):
        axes[1].plot(lanes, [r["result"][name] for r in rows], "o-", label=label)
    axes[1].set(xscale="log", xlabel="lanes", ylim=(0, None))
    axes[1].set_xticks(lanes, [str(count) for count in lanes])
    axes[1].minorticks_off()
    axes[1].grid(alpha=0.3)
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str]) -> int:
    del argv
    out = pathlib.Path(flags.FLAGS.out)
    print(f"{environment()}", file=sys.stderr)
    records = run(Suite(flags.FLAGS.config), out)
    text = table(records)
    (out / "table.md").write_text(text)
    plot(records, out / "throughput.png")
    print(text)
    return 1 if any(key(r["point"]) not in good(records) for r in records) else 0


def define_flags() -> None:
    """The command line."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_string("out", "bench", "Folder of the results.")
    flags.mark_flag_as_required("config")


if __name__ == "__main__":
    # A device per core, as `wasmjax batch` makes them.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    sys.path.insert(0, str(ROOT / "configs"))
    try:
        define_flags()
    except ImportError:
        print("bench.py needs the extra bench: pip install 'wasmjax[bench]'", file=sys.stderr)
        sys.exit(2)
    app.run(main)
