"""What the benchmark suite found: tables, plots, and a comparison of two runs."""

import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Result = dict[str, Any]

ONE_LANE = {"kind": "one lane", "engine": "packed", "cache": "indexed"}


def key(point: Mapping[str, Any]) -> str:
    """Names a point."""
    return json.dumps(point, sort_keys=True)


def describe(point: Mapping[str, Any]) -> str:
    """A point in words."""
    return ", ".join(str(value) for value in point.values())


def measured(records: Sequence[Result], **wanted: Any) -> list[Result]:
    """Good records of points with these values, a point's rounds as one: the median of medians
    between the lowest and the highest of all."""
    found: dict[str, dict[int, Result]] = {}
    for record in records:
        point = record["point"]
        if "result" in record and all(point.get(k) == v for k, v in wanted.items()):
            found.setdefault(key(point), {})[record.get("round", 0)] = record
    return [_merged(list(rounds.values())) for rounds in found.values()]


def _merged(rounds: Sequence[Result]) -> Result:
    result = dict(rounds[-1]["result"])
    for name in [name.removesuffix("_min") for name in result if name.endswith("_min")]:
        all_of = [record["result"] for record in rounds]
        result[name] = statistics.median(one[name] for one in all_of)
        result[f"{name}_min"] = min(one[f"{name}_min"] for one in all_of)
        result[f"{name}_max"] = max(one[f"{name}_max"] for one in all_of)
    return rounds[-1] | {"result": result}


def good(records: Sequence[Result]) -> set[str]:
    """Points that have been measured."""
    return {key(record["point"]) for record in records if "result" in record}


def number(value: float | None, digits: int = 0) -> str:
    """A number of a table."""
    return "" if value is None else f"{value:,.{digits}f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _rate(result: Mapping[str, Any], unit: str) -> str:
    """Median with both ends."""
    ends = result.get(f"{unit}_min"), result.get(f"{unit}_max")
    beside = f" ({number(ends[0])} to {number(ends[1])})" if None not in ends else ""
    return number(result[unit]) + beside


def tables(records: Sequence[Result]) -> str:
    """Markdown: one table per kind of point, and what failed."""
    parts = [_workloads(records), _steps(records), _against_plain(records), _lanes(records)]
    parts += [_devices(records), _yardsticks(records), _lengths(records), _limits(records)]
    failed = [r for r in records if "error" in r and key(r["point"]) not in good(records)]
    parts += [f"{describe(r['point'])}: {r['error']}" for r in failed]
    return "\n\n".join(part for part in parts if part) + "\n"


def _workloads(records: Sequence[Result]) -> str:
    native = {r["point"]["workload"]: r["result"] for r in measured(records, kind="native")}
    fused = _by_name(records, True)
    plain = _by_name(records, False)
    rows = []
    for name in plain | fused:
        result, other, beside = plain.get(name, {}), fused.get(name, {}), native.get(name, {})
        either = other or result
        first = [either[f"first_token_{when}_s"] for when in ("cold", "warm")]
        rows.append(
            [
                name,
                number(beside.get("instructions", result.get("instructions"))),
                number(result.get("steps_per_instruction"), 2),
                number(other.get("steps_per_instruction"), 2),
                number(result.get("steps_per_s")),
                number(other.get("steps_per_s")),
                number(result.get("instructions_per_s")),
                number(other.get("instructions_per_s")),
                f"{first[0]:.2f} s, {first[1]:.2f} s",
                number(either["peak_mib"]),
                number(beside.get("instructions_per_s")),
            ]
        )
    if not rows:
        return ""
    columns = ["workload", "instructions", "steps per instruction", "fused", "VM steps/s", "fused"]
    columns += ["instructions/s", "fused", "first token, cold, warm", "peak MiB", "wasmtime"]
    return _table(columns, rows)


def _steps(records: Sequence[Result]) -> str:
    lines = []
    for fuse, label in ((False, "unfused"), (True, "fused")):
        found = [r["result"] for r in measured(records, kind="steps", fuse=fuse)]
        if found:
            means = [
                math.exp(statistics.fmean(math.log(r[steps] / r["instructions"]) for r in found))
                for steps in ("own_steps", "steps")
            ]
            lines.append(
                f"Steps per instruction, {label}, geometric mean over {len(found)} workloads: "
                f"{means[0]:.2f} outside library routines, {means[1]:.2f} with them."
            )
    return "\n".join(lines)


def _by_name(records: Sequence[Result], fuse: bool) -> dict[str, Result]:
    found = measured(records, **ONE_LANE, fuse=fuse)
    return {r["point"]["workload"]: r["result"] for r in found if "dtype" not in r["point"]}


def _against_plain(records: Sequence[Result]) -> str:
    rows = []
    for record in sorted(measured(records, kind="plain"), key=lambda r: r["point"]["lanes"]):
        result = record["result"]
        row = [number(record["point"]["lanes"])]
        for name in ("unfused", "fused"):
            ours, plain = result[f"{name}_steps_per_s"], result[f"{name}_plain_steps_per_s"]
            row += [
                _rate(result, f"{name}_steps_per_s"),
                _rate(result, f"{name}_plain_steps_per_s"),
                f"{plain / ours:.1f}",
            ]
        ours = result["fused_instructions_per_s"]
        row += [number(ours), f"{result['unfused_plain_instructions_per_s'] / ours:.1f}"]
        rows.append(row)
    columns = ["lanes", "VM steps/s", "plain", "ratio", "fused: VM steps/s", "plain", "ratio"]
    columns += ["fused: instructions/s", "ratio to plain, unfused"]
    return _table(columns, rows) if rows else ""


def _lanes(records: Sequence[Result]) -> str:
    rows = [
        [
            number(record["point"]["lanes"]),
            number(record["result"]["steps_per_s"]),
            number(record["result"]["instructions_per_s"]),
            f"{record['result']['useful']:.0%}",
            number(record["result"]["jobs"]),
            f"{record['result']['compile_s']:.1f} s",
        ]
        for record in measured(records, kind="lanes")
    ]
    columns = ["lanes", "VM steps/s", "instructions/s", "useful", "jobs", "compilation"]
    return _table(columns, rows) if rows else ""


def _devices(records: Sequence[Result]) -> str:
    rows = [
        [
            number(record["point"]["devices"]),
            number(record["point"]["lanes"]),
            _rate(record["result"], "steps_per_s"),
        ]
        for record in measured(records, kind="devices")
    ]
    return _table(["devices", "lanes", "VM steps/s"], rows) if rows else ""


def _yardsticks(records: Sequence[Result]) -> str:
    rows = []
    for record in measured(records, kind="one lane"):
        point, result = record["point"], record["result"]
        if any(point[k] != v for k, v in ONE_LANE.items()) or "dtype" in point:
            engine = f"{point['engine']}, {point['cache']}, {point.get('dtype', 'default')}"
            row = [engine, point["workload"], number(result["steps"])]
            rows.append([*row, _rate(result, "steps_per_s")])
    return _table(["engine", "workload", "steps", "VM steps/s"], rows) if rows else ""


def _lengths(records: Sequence[Result]) -> str:
    rows = [
        [
            record["point"]["cache"],
            number(record["result"]["from"]),
            " ".join(
                number(1e6 * record["result"][name], 1)
                for name in ("s_per_step_min", "s_per_step", "s_per_step_max")
            ),
        ]
        for record in measured(records, kind="length")
    ]
    columns = ["cache", "tokens", "microseconds a step: least, median, most"]
    return _table(columns, rows) if rows else ""


def _limits(records: Sequence[Result]) -> str:
    found = measured(records, kind="limits")
    if not found:
        return ""
    result = found[-1]["result"]
    return (
        f"A step: {result['terms']:,} terms, {result['neurons']:,} neurons, "
        f"{result['entries']:,} entries, {result['words']:,} gathered words; "
        f"{result['operations_per_step']:,} operations, {result['bytes_per_step']:,} bytes. The "
        f"device: {result['operations_per_s'] / 1e9:,.0f} billion operations/s in a matrix "
        f"product, {result['bytes_per_s'] / 1e9:,.1f} GB/s in a copy."
    )


# -- two runs ---------------------------------------------------------------------------------


def compare(records: Sequence[Result], others: Sequence[Result]) -> str:
    """Points of two runs: is the median of one within the spread of the other?"""
    mine = {key(r["point"]): r["result"] for r in measured(records)}
    rows, inside, total = [], 0, 0
    for record in measured(others):
        point, other = record["point"], record["result"]
        result = mine.get(key(point))
        if result is None:
            continue
        for unit in (name.removesuffix("_min") for name in other if name.endswith("_min")):
            total += 1
            low = min(result[f"{unit}_min"], other[f"{unit}_min"])
            overlap = (
                result[f"{unit}_min"] <= other[f"{unit}_max"]
                and other[f"{unit}_min"] <= result[f"{unit}_max"]
            )
            inside += overlap
            if not overlap and low > 0:
                ratio = result[unit] / other[unit]
                rows.append([describe(point), unit, f"{ratio:.2f}"])
    text = f"{inside} of {total} figures of both runs overlap in their spreads."
    return text + ("\n\n" + _table(["point", "figure", "ratio"], rows) if rows else "") + "\n"


# -- plots ------------------------------------------------------------------------------------


def plots(records: Sequence[Result], out: pathlib.Path) -> None:
    """PNGs: throughput, length, devices, roofline; those there are points for."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    def save(name: str, draw: Any, axes: int = 1) -> None:
        figure, made = pyplot.subplots(1, axes, figsize=(5.5 * axes, 4.5))
        if draw(made):
            figure.tight_layout()
            figure.savefig(out / f"{name}.png", dpi=120)
        pyplot.close(figure)

    save("throughput", lambda axes: _plot_throughput(records, axes), 2)
    save("length", lambda axis: _plot_length(records, axis))
    save("devices", lambda axis: _plot_devices(records, axis))
    save("roofline", lambda axis: _plot_roofline(records, axis))


def _plot_throughput(records: Sequence[Result], axes: Any) -> bool:
    both = {fuse: _by_name(records, fuse) for fuse in (False, True)}
    names = sorted(both[False].keys() | both[True].keys(), reverse=True)
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    for fuse, offset in ((False, -0.2), (True, 0.2)):
        rates = [both[fuse].get(name, {}).get("instructions_per_s", 0.0) for name in names]
        where = [k + offset for k in range(len(names))]
        axes[0].barh(where, rates, 0.4, label="fused" if fuse else "unfused")
    axes[0].set(xlabel="instructions/s, one lane")
    axes[0].legend()
    curves = {
        "plain interpreter, unfused": ("plain", "unfused_plain_instructions_per_s"),
        "transformer, fused": ("plain", "fused_instructions_per_s"),
        "transformer, unfused": ("plain", "unfused_instructions_per_s"),
        "transformer, fused, whole jobs": ("lanes", "instructions_per_s"),
    }
    ticks: set[int] = set()
    for label, (kind, unit) in curves.items():
        rows = sorted(measured(records, kind=kind), key=lambda r: r["point"]["lanes"])
        lanes = [r["point"]["lanes"] for r in rows]
        ticks |= set(lanes)
        if rows:
            axes[1].plot(lanes, [r["result"][unit] for r in rows], "o-", label=label)
    if ticks:
        axes[1].set(xscale="log", yscale="log", xlabel="lanes", ylabel="instructions/s")
        axes[1].set_xticks(sorted(ticks), [str(count) for count in sorted(ticks)])
        axes[1].minorticks_off()
        axes[1].grid(alpha=0.3)
        axes[1].legend()
    return bool(ticks or names)


def _plot_length(records: Sequence[Result], axis: Any) -> bool:
    rows = measured(records, kind="length")
    if not rows:
        return False
    for cache in dict.fromkeys(r["point"]["cache"] for r in rows):
        mine = [r["result"] for r in rows if r["point"]["cache"] == cache]
        mine.sort(key=lambda r: r["from"])
        middle = [1e6 * r["s_per_step"] for r in mine]
        ends = [
            [1e6 * abs(r["s_per_step"] - r[f"s_per_step_{end}"]) for r in mine]
            for end in ("min", "max")
        ]
        axis.errorbar([r["from"] for r in mine], middle, ends, fmt="o-", capsize=3, label=cache)
    axis.set(xscale="log", yscale="log", xlabel="tokens in the sequence")
    axis.set_ylabel("microseconds a step, one lane")
    axis.grid(alpha=0.3)
    axis.legend()
    return True


def _plot_devices(records: Sequence[Result], axis: Any) -> bool:
    rows = sorted(measured(records, kind="devices"), key=lambda r: r["point"]["devices"])
    count = [r["point"]["devices"] for r in rows]
    rates = [r["result"]["steps_per_s"] for r in rows]
    if not rows:
        return False
    axis.plot(count, rates, "o-", label="measured")
    axis.plot(count, [rates[0] / count[0] * n for n in count], "--", label="in proportion")
    axis.set_xticks(count)
    axis.set(xlabel="devices, as many lanes on each", ylabel="VM steps/s", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    return True


def _plot_roofline(records: Sequence[Result], axis: Any) -> bool:
    limits = measured(records, kind="limits")
    if not limits:
        return False
    limit = limits[-1]["result"]
    at = limit["operations_per_step"] / limit["bytes_per_step"]
    x = [2.0**k for k in range(-5, 9)]
    roof = [min(limit["operations_per_s"], limit["bytes_per_s"] * value) for value in x]
    axis.plot(x, [value / 1e9 for value in roof], label="device: copy, matrix product")
    for record in sorted(measured(records, kind="plain"), key=lambda r: r["point"]["lanes"]):
        rate = record["result"]["fused_steps_per_s"] * limit["operations_per_step"]
        axis.plot([at], [rate / 1e9], "o", label=f"{record['point']['lanes']} lanes")
    axis.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="billion operations/s")
    axis.grid(alpha=0.3)
    axis.legend()
    return True
