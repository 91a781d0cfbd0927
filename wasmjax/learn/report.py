"""Tables and plots of finished runs; `scripts/learn_report.py` makes them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Result = dict[str, Any]


def load(out: pathlib.Path) -> dict[str, dict[str, Result]]:
    """Finished runs, task -> arm -> result with its "curve" and "analysis"."""
    found: dict[str, dict[str, Result]] = {}
    for path in sorted(out.glob("*/*/result.json")):
        result = json.loads(path.read_text())
        lines = (path.parent / "metrics.jsonl").read_text().splitlines()
        if "held_out" not in result:  # a record from before the field, of what was judged then
            at = result["by_length"]
            result["held_out"] = at["4"] if "4" in at else at["1"]
        result["curve"] = [_point(json.loads(line)) for line in lines]
        result["before"] = json.loads(lines[0])["accuracy"]
        extra = path.parent / "analysis.json"
        result["analysis"] = json.loads(extra.read_text()) if extra.exists() else {}
        found.setdefault(path.parent.parent.name, {})[path.parent.name] = result
    return found


def _point(entry: Mapping[str, Any]) -> list[float]:
    """[step, median, lowest, highest] accuracy of the seeds."""
    accuracy = entry["accuracy"]
    return [entry["step"], float(np.median(accuracy)), min(accuracy), max(accuracy)]


# -- tables -----------------------------------------------------------------------------------


def tables(runs: Mapping[str, Mapping[str, Result]]) -> str:
    """Markdown: a table per task."""
    parts = []
    for task, arms in _in_order(runs):
        if task.startswith("T7"):
            continue
        parts.append(f"**{task}** ({_budget(arms)})\n\n" + _task_table(arms))
    curves = {task: arms for task, arms in _in_order(runs) if task.startswith("T7")}
    if curves:
        parts.append("**T7**\n\n" + _basin_table(curves))
    return "\n\n".join(parts) + "\n"


def _in_order(runs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(runs.items())


def _budget(arms: Mapping[str, Result]) -> str:
    said = {
        f"{b['steps']:,} steps of {b['batch']} sequences, learning rate {b['learning_rate']:g}, "
        f"{b['seeds']} seeds"
        for b in (arm["config"]["budget"] for arm in arms.values())
    }
    return "; ".join(sorted(said))


def _task_table(arms: Mapping[str, Result]) -> str:
    scales = sorted({k for arm in arms.values() for k in arm["accuracy_by_length"]}, key=int)
    head = ["arm", "recover", *(f"{k}x" for k in scales), "error at 4x (95%)", "exact rollouts"]
    head += ["first error: median, p90", "first errors", "distance", "barrier"]
    lines = [_row(head), "|---" * len(head) + "|"]
    for name, arm in arms.items():
        at = arm["held_out"]
        cells = [name, f"{arm['recovered_count']} of {len(arm['recovered'])}"]
        cells += [_percent(np.median(arm["accuracy_by_length"].get(k, [np.nan]))) for k in scales]
        cells += [_interval(at), _percent(at["exact_rollout"])]
        cells += [f"{_step(at['first_divergence_median'])}, {_step(at['first_divergence_p90'])}"]
        cells += [_causes(at["causes"])]
        extra = arm["analysis"]
        cells += [_median(extra.get("distance")), _median(extra.get("barrier"))]
        lines.append(_row(cells))
    return "\n".join(lines)


def _interval(held_out: Result) -> str:
    """The error rate, its interval, and of how many tokens."""
    lo, hi = held_out["error_interval"]
    rate = _rate(held_out["error_rate"])
    return f"{rate} ({_rate(lo)}–{_rate(hi)}), n = {held_out['tokens']:,}"


def _basin_table(tasks: Mapping[str, Mapping[str, Result]]) -> str:
    head = ["task", "zeros", "sigma", "right before", "recover", "95%", "right at 4x"]
    lines = [_row(head), "|---" * len(head) + "|"]
    for task, arms in tasks.items():
        for wired, sigma, arm in _basin(arms):
            lo, hi = arm["recovered_interval"]
            right = arm["accuracy_by_length"].get("4", [np.nan])
            cells = [
                task,
                "kept" if wired else "disturbed",
                f"{sigma:g}",
                _percent(np.median(arm["before"])),
                f"{arm['recovered_count']} of {len(arm['recovered'])}",
                f"{lo:.2f}–{hi:.2f}",
                _percent(np.median(right)),
            ]
            lines.append(_row(cells))
    return "\n".join(lines)


def _basin(arms: Mapping[str, Result]) -> list[tuple[bool, float, Result]]:
    found = [
        (arm["config"]["arm"]["wired"], arm["config"]["arm"]["sigma"], arm) for arm in arms.values()
    ]
    return sorted(found, key=lambda entry: entry[:2])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(x: float) -> str:
    if np.isnan(x):
        return ""
    return f"{100 * x:.4g}%" if x < 1 else "100%"


def _rate(x: float) -> str:
    return "0" if x == 0 else f"{x:.2g}"


def _step(x: float | None) -> str:
    return "none" if x is None else f"{x:g}"


def _median(values: Sequence[float] | None) -> str:
    return f"{np.median(values):.3g}" if values else ""


def _causes(causes: Mapping[str, int]) -> str:
    total = sum(causes.values())
    ordered = sorted(causes.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in ordered)


# -- the file for the exploration's pages -----------------------------------------------------


def results(
    runs: Mapping[str, Mapping[str, Result]], heads: Mapping[str, Any], revision: str
) -> Result:
    """Everything in one JSON value: revision, tasks, heads."""
    tasks: dict[str, Any] = {}
    for name, arms in _in_order(runs):
        first, _, variant = name.partition(".")
        if first == "T7":
            continue
        entry = tasks.setdefault(first, {"arms": []})
        for arm_name, arm in arms.items():
            entry["arms"].append(
                {
                    "name": f"{variant}: {arm_name}" if variant else arm_name,
                    "seeds": len(arm["recovered"]),
                    "recovered": arm["recovered_count"],
                    "curve": arm["curve"],
                    "accuracy_by_length": {
                        k: float(np.median(v)) for k, v in arm["accuracy_by_length"].items()
                    },
                    "held_out": arm["held_out"],
                    "budget": arm["config"]["budget"],
                    "analysis": arm["analysis"],
                }
            )
    curves = []
    for name, arms in _in_order(runs):
        if name.startswith("T7"):
            for wired in (False, True):
                rows = [(s, arm) for w, s, arm in _basin(arms) if w == wired]
                if rows:
                    curves.append(_curve(name, wired, rows))
    if curves:
        tasks["T7"] = {"curves": curves}
    return {"revision": revision, "tasks": tasks, "heads": dict(heads)}


def _curve(name: str, wired: bool, rows: Sequence[tuple[float, Result]]) -> Result:
    return {
        "name": f"{name.partition('.')[2]}, zeros {'kept' if wired else 'disturbed'}",
        "sigma": [sigma for sigma, _ in rows],
        "seeds": [len(arm["recovered"]) for _, arm in rows],
        "recovered": [arm["recovered_count"] for _, arm in rows],
        "wilson": [arm["recovered_interval"] for _, arm in rows],
        "before": [float(np.median(arm["before"])) for _, arm in rows],
        "exact_before": [sum(a == 1 for a in arm["before"]) for _, arm in rows],
    }


# -- plots ------------------------------------------------------------------------------------


def plots(value: Result, out: pathlib.Path) -> list[pathlib.Path]:
    """PNGs of `results`: learning curves, accuracy by length, T7, heads, gradients."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    made = []

    def save(figure: Any, name: str) -> None:
        figure.set_layout_engine("constrained")
        figure.savefig(out / name, dpi=110)
        pyplot.close(figure)
        made.append(out / name)

    for task in ("T1", "T2", "T3"):
        arms = value["tasks"].get(task, {}).get("arms", [])
        if not arms:
            continue
        figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5))
        for number, arm in enumerate(arms):
            step, median, lo, hi = np.array(arm["curve"]).T
            style = "-" if number < 10 else "--"
            axes[0].plot(step, median, style, color=f"C{number % 10}", label=arm["name"])
            axes[0].fill_between(step, lo, hi, color=f"C{number % 10}", alpha=0.08)
            length = sorted(arm["accuracy_by_length"], key=int)
            axes[1].plot(
                [int(k) for k in length],
                [arm["accuracy_by_length"][k] for k in length],
                style,
                marker="o",
                color=f"C{number % 10}",
            )
        axes[0].set(xlabel="step", ylabel=f"{task}: right, held out", ylim=(0, 1.02))
        axes[1].set(xlabel="length / training length", xscale="log", ylim=(0, 1.02))
        axes[1].set_xticks([1, 2, 4, 8], ["1x", "2x", "4x", "8x"])
        axes[1].minorticks_off()
        figure.legend(loc="outside lower center", fontsize=7, ncols=5)
        save(figure, f"{task.lower()}.png")
    if "T7" in value["tasks"]:
        figure, axis = pyplot.subplots(figsize=(7, 4.5))
        for number, curve in enumerate(value["tasks"]["T7"]["curves"]):
            seeds = np.array(curve["seeds"])
            rate = np.array(curve["recovered"]) / seeds
            lo, hi = np.array(curve["wilson"]).T
            # The interval contains the rate, up to rounding.
            error = np.maximum(0, [rate - lo, hi - rate])
            shift = 1.03 ** (number - 2)
            axis.errorbar(
                np.array(curve["sigma"]) * shift,
                rate,
                error,
                marker="o",
                capsize=2,
                label=f"{curve['name']}: trained",
            )
            axis.plot(
                np.array(curve["sigma"]) * shift,
                np.array(curve["exact_before"]) / seeds,
                ":",
                color=f"C{number}",
                label="_" if number else "dotted: not trained, no error in a look",
            )
        axis.set(
            xscale="log",
            xlabel="sigma",
            ylabel="seeds that recover (95%)",
            ylim=(-0.03, 1.03),
        )
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
        save(figure, "t7.png")
    if "T1" in value["heads"]:
        figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.5))
        for axis, name in zip(axes, ("constructed", "learned"), strict=True):
            head = value["heads"]["T1"][name]
            for kind, mark in (("keys", "o"), ("queries", "x")):
                points = np.array(head[kind])
                axis.scatter(*points.T, c=np.arange(len(points)), cmap="viridis", marker=mark, s=18)
            axis.set_title(f"{name}: keys o, queries x; colour: address", fontsize=9)
        save(figure, "t1_head.png")
    if "gradients" in value:
        figure, axis = pyplot.subplots(figsize=(6, 4))
        for task, norms in value["gradients"]["norms"].items():
            axis.plot(value["gradients"]["gaps"], norms, "o-", label=task)
        axis.set(
            xlabel="score difference of neighbours (inverse temperature)",
            ylabel="gradient of W_Q, W_K",
            yscale="log",
        )
        axis.legend()
        axis.grid(alpha=0.3)
        save(figure, "gradients.png")
    return made
