"""The points of the benchmark suite, and how each is measured.

Every measurement follows a warm-up; compilation is timed apart; of several, the median and both
ends are kept. An instruction is a unit of wasmtime's fuel.
"""

import re
import resource
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_workloads import Workload, workloads
from lane_rates import Lanes, Plain, in_turn

import wasmjax
from wasmjax.batch.jobs import Job
from wasmjax.batch.schedule import Progress
from wasmjax.cli.trace import Ips
from wasmjax.engine.lanes import LanesEngine, make_mesh

Point = dict[str, Any]
"""What a point is: kind, and what that needs."""
Result = dict[str, Any]

PARTS = {
    "one": ("native", "one lane", "external", "steps", "length"),
    "many": ("limits", "plain", "devices", "lanes"),
}
"""Kinds of points that are measured in one process."""

LIBRARY = re.compile("[a-z0-9]+: ")
"""Begins the names of the runtime library's functions."""

CHUNK = {"indexed": 8192, "hull": 512, "softmax": 8}
"""Steps per call on the device."""
LANES_CHUNK = 256
"""Steps of all lanes that are timed together."""


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
        self._machines: dict[tuple[str, str, str | None], wasmjax.Machine] = {}
        self._instructions: dict[str, int] = {}
        self._steps: dict[bool, dict[str, int]] = {}

    def points(self) -> Iterator[Point]:
        """All points of the configuration."""
        config = self.config
        if config.limits:
            yield {"kind": "limits"}
        for name in self.workloads:
            if config.native:
                yield {"kind": "native", "workload": name}
            for engine, cache, fuse, most in config.one_lane:
                yield _one_lane(name, engine, cache, None, fuse, most)
            for program in config.external:
                yield {"kind": "external", "workload": name, "program": program}
            for fuse in config.count_steps:
                yield {"kind": "steps", "workload": name, "fuse": fuse}
        for engine, cache, dtype, name, most in config.yardsticks:
            yield _one_lane(name, engine, cache, dtype, True, most)
        for cache, tokens in config.lengths:
            yield {"kind": "length", "cache": cache, "tokens": tokens}
        for lanes in config.against_plain:
            yield {"kind": "plain", "lanes": lanes}
        for devices, lanes in config.devices:
            if devices > jax.device_count():
                continue
            yield {"kind": "devices", "devices": devices, "lanes": lanes}
        for lanes in config.lanes:
            yield {"kind": "lanes", "lanes": lanes, "fuse": True}

    def measure(self, point: Point) -> Result:
        """A point's numbers. Raises whatever goes wrong."""
        kinds: dict[str, Callable[[Point], Result]] = {
            "limits": self._limits,
            "native": self._native,
            "one lane": self._one_lane,
            "external": self._external,
            "steps": self._count_steps,
            "length": self._length,
            "plain": self._plain,
            "devices": self._devices,
            "lanes": self._lanes,
        }
        return kinds[point["kind"]](point)

    def instructions(self, name: str) -> int:
        """Instructions that a workload executes."""
        if name not in self._instructions:
            self._instructions[name] = self.workloads[name].native(fuel=True)[1]
        return self._instructions[name]

    # -- one lane -------------------------------------------------------------------------

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
        machine = self._machine(point["engine"], point["cache"], point.get("dtype"))
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

    def _count_steps(self, point: Point) -> Result:
        """Steps in the module's own functions, and in the runtime library's (division, floating
        point, WASI), per instruction; nothing is timed."""
        workload = self.workloads[point["workload"]]
        machine = self._machine("packed", "indexed")
        options = {"stdin": workload.stdin, "fuse": point["fuse"]}
        module = wasmjax.load(workload.path)
        run = machine.start(module, ["program", *workload.args], **options)
        functions = run.instance.lowered.functions
        entries = np.array([function.entry for function in functions])
        library = np.array([LIBRARY.match(function.name) is not None for function in functions])
        ips, own, total = Ips(run), 0, 0
        for tokens in machine.trace(run):
            of = np.searchsorted(entries, ips.of(tokens), side="right") - 1
            own += int((~library[of]).sum())
            total += len(tokens)
        count = self.instructions(workload.name)
        return {
            "instructions": count,
            "steps": total,
            "own_steps": own,
            "own_steps_per_instruction": own / count,
        }

    def _length(self, point: Point) -> Result:
        """Seconds per step near a length of the trace; `bench_caches.py` looks closer."""
        import bench_caches

        cache, tokens = point["cache"], point["tokens"]
        machine = self._machine("packed", cache, None)
        session = bench_caches.start(machine, bench_caches.DEFAULT_MASK).instance.session
        for _ in session.generate(max(0, tokens - session.tokens)):
            pass
        chunks = max(3, self.config.repeats)
        times = bench_caches.timed(session.generate(1 << 30), chunks)["seconds"]
        return {"from": tokens, "to": session.tokens} | spread(times, "s_per_step")

    def _machine(self, engine: str, cache: str, dtype: str | None = None) -> wasmjax.Machine:
        key = engine, cache, dtype
        if key not in self._machines:
            self._machines[key] = wasmjax.Machine(
                engine,  # type: ignore[arg-type]
                cache,  # type: ignore[arg-type]
                chunk=CHUNK[cache],
                dtype=dtype,
            )
        return self._machines[key]

    # -- many lanes -----------------------------------------------------------------------

    def _jobs(self, count: int, fuse: bool) -> list[Job]:
        """All workloads mixed."""
        chosen = list(self.workloads.values())
        mixed = (chosen[k % len(chosen)] for k in range(count))
        return [Job(w.path, tuple(w.args), w.stdin, fuse=fuse) for w in mixed]

    def _per_step(self, count: int, fuse: bool) -> float:
        """Instructions that so many lanes of all workloads execute per step, on average."""
        if fuse not in self._steps:
            jobs = self._jobs(len(self.workloads), fuse)
            results = self._machine("packed", "indexed").run_batch(jobs, lanes=len(jobs))
            steps = [result.steps for result in results]
            self._steps[fuse] = dict(zip(self.workloads, steps, strict=True))
        names = list(self.workloads)
        each = [self.instructions(name) / self._steps[fuse][name] for name in names]
        return sum(each[k % len(each)] for k in range(count)) / count

    def _plain(self, point: Point) -> Result:
        """The engine and the plain interpreter in turn; the latter with and without fusion, in the
        faster of its two variants."""
        engine, lanes = self._machine("packed", "indexed").lanes_engine(), point["lanes"]
        repeats = 3 * self.config.repeats
        out: Result = {"devices": engine.devices}
        for fuse in (False, True):
            ready = Lanes(engine, self._jobs(lanes, fuse), LANES_CHUNK)
            timed: dict[str, Lanes | Plain] = {"transformer": ready}
            timed |= {how: Plain(engine, ready, how) for how in ("switch", "select")}
            rates = in_turn(timed, repeats)
            plain = max(rates["switch"], rates["select"], key=statistics.median)
            name, scale = "fused" if fuse else "unfused", self._per_step(lanes, fuse)
            out |= spread(rates["transformer"], f"{name}_steps_per_s")
            out |= spread(plain, f"{name}_plain_steps_per_s")
            out |= spread([scale * r for r in rates["transformer"]], f"{name}_instructions_per_s")
            out |= spread([scale * r for r in plain], f"{name}_plain_instructions_per_s")
        return out

    def _devices(self, point: Point) -> Result:
        machine = self._machine("packed", "indexed")
        mesh = make_mesh(jax.devices()[: point["devices"]])
        engine: LanesEngine = machine.lanes_engine(mesh)
        ready = Lanes(engine, self._jobs(point["lanes"], True), LANES_CHUNK)
        rates = in_turn({"lanes": ready}, 3 * self.config.repeats)["lanes"]
        return spread(rates, "steps_per_s")

    def _lanes(self, point: Point) -> Result:
        lanes = point["lanes"]
        machine = self._machine("packed", "indexed")
        jobs = self._jobs(lanes * self.config.jobs_per_lane, point["fuse"])
        last: list[Progress] = []
        results = list(machine.run_batch(jobs, lanes=lanes, on_progress=last.append))
        wrong = [r for r in results if r.outcome != "exit"]
        if wrong:
            raise RuntimeError(f"job {wrong[0].index}: {wrong[0].outcome}")
        names = list(self.workloads)
        count = sum(self.instructions(names[k % len(names)]) for k in range(len(jobs)))
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

    # -- what the hardware can do, and what a step needs ----------------------------------

    def _limits(self, point: Point) -> Result:
        """Operations and bytes of a step, counted on the weights, beside what a device does:
        multiply-adds of a large matrix product, bytes of a large copy."""
        del point
        engine = self._machine("packed", "indexed").lanes_engine()
        plan, cache = engine.step.plan, engine.cache
        neurons = sum(len(layer.neurons) for layer in plan.layers)
        entries = sum(engine.step.piece_rows)
        words = cache.gathered_words()
        out: Result = {
            "terms": plan.count_terms(),
            "neurons": neurons,
            "entries": entries,
            "words": words,
            # A multiplication and an addition a term; a maximum and a product a neuron.
            "operations_per_step": 2 * plan.count_terms() + 2 * neurons,
            # Every entry written and read once, every word gathered and written.
            "bytes_per_step": 4 * (2 * entries + 2 * words),
        }
        n = 2048
        matrix = jnp.ones((n, n), jnp.float32)
        product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
        many = jnp.ones(1 << 26, jnp.float32)
        copy = jax.jit(lambda x: x + 1)
        for name, function, argument, amount in (
            ("operations_per_s", product, matrix, 2 * n**3),
            ("bytes_per_s", copy, many, 8 * many.size),
        ):
            rates = []
            for number in range(1 + max(3, self.config.repeats)):
                begun = time.perf_counter()
                jax.block_until_ready(function(argument))
                if number:
                    rates.append(amount / (time.perf_counter() - begun))
            out |= spread(rates, name)
        return out


def _one_lane(
    name: str, engine: str, cache: str, dtype: str | None, fuse: bool, most: int
) -> Point:
    point: Point = {"kind": "one lane", "workload": name, "engine": engine, "cache": cache}
    point |= {"fuse": fuse, "most_steps": most}
    return point if dtype is None else point | {"dtype": dtype}
