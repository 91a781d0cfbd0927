#!/usr/bin/env python3
"""Tables and plots of the learnability suite's runs.

    .venv/bin/python scripts/learn_report.py --config=configs/learn_cpu.py --out=learn_cpu

Reads OUT as `scripts/learn.py` left it, analyses the checkpoints (once, into each arm's
analysis.json), and writes tables.md, results.json and PNGs to the folder `--to`. `--page=PAGE` also
puts the tables between that page's markers. Needs the extra `train`.
"""

import fnmatch
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags, logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
GAPS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0)
BEGIN, END = "<!-- tables: made by scripts/learn_report.py -->", "<!-- end of tables -->"


def make(config: Any, out: pathlib.Path, to: pathlib.Path, wanted: str = "*") -> str:
    """Analyses what is new and matches TASK/ARM, writes everything; the tables."""
    import learn

    from wasmjax.learn import analysis, report
    from wasmjax.learn.runs import revision

    to.mkdir(parents=True, exist_ok=True)
    runs = [run for run in learn.planned(config, out) if run.done]
    if not runs:
        raise ValueError(f"{out} holds no finished run of this configuration")
    for run in runs:
        path = run.folder / "analysis.json"
        named = fnmatch.fnmatchcase(f"{run.task.name}/{run.arm.name}", wanted)
        if named and not path.exists():
            print(f"analysing {run.task.name} {run.arm.name}", file=sys.stderr, flush=True)
            path.write_text(json.dumps(analysis.analyse(run)) + "\n")
    found = report.load(out)
    value = report.results(found, _heads(runs), revision())
    gradients = {}
    for name in ("T1.free", "T3"):
        task = next((run.task for run in runs if run.task.name == name), None)
        if task is not None:
            gradients[name] = analysis.gradient_norms(task, GAPS)
    value["gradients"] = {"gaps": GAPS, "norms": gradients}
    machine = out / "machine.json"
    if machine.exists():
        value["machine"] = json.loads(machine.read_text())
    (to / "results.json").write_text(json.dumps(value) + "\n")
    text = report.tables(found)
    (to / "tables.md").write_text(text)
    report.plots(value, to)
    return text


def _heads(runs: Sequence[Any]) -> dict[str, Any]:
    """T1's head, constructed and as the first arm found it that reads best."""
    import jax

    from wasmjax.learn import analysis

    wanted = ("T1.head", "T1.parabola", "T1.scalar", "T1.free")
    chosen = [
        run
        for name in wanted
        for run in runs
        if run.task.name == name and run.arm.name.startswith("random")
    ]
    if not chosen:
        return {}
    run = max(chosen, key=lambda r: (r.result()["recovered_count"], -chosen.index(r)))
    state = run.restore()
    if state is None:
        return {}
    seed = int(np.argmax(run.result()["accuracy_by_length"]["1"]))
    learned = jax.tree.map(lambda x: x[seed], state.params)
    out = {}
    for name, params in (("constructed", run.trainer.reference.params), ("learned", learned)):
        head = analysis.best_head(params, run.task)
        queries, keys = analysis.plane(params, run.task, head)
        block = params["blocks"][-1]
        out[name] = {
            "w_q": np.asarray(block["w_q"][head]).tolist(),
            "w_k": np.asarray(block["w_k"][head]).tolist(),
            "queries": queries.tolist(),
            "keys": keys.tolist(),
        }
    out["learned"]["arm"] = f"{run.task.name} {run.arm.name}, seed {seed}"
    return {"T1": out}


def insert(page: pathlib.Path, text: str) -> None:
    """Puts the tables between the markers of a page.

    Raises:
      ValueError: if it has none.
    """
    old = page.read_text()
    if BEGIN not in old or END not in old:
        raise ValueError(f"{page} has no markers for the tables")
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def main(argv: Sequence[str]) -> int:
    del argv
    logging.set_verbosity(logging.WARNING)
    values = flags.FLAGS
    try:
        out = pathlib.Path(values.out)
        text = make(values.config, out, pathlib.Path(values.to or out), values.analyse)
        if values.page:
            insert(pathlib.Path(values.page), text)
    except (ValueError, OSError) as error:
        print(f"learn_report.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(text)
    return 0


def define_flags() -> None:
    """Flags of this script alone."""
    flags.DEFINE_string("to", "", "Folder of tables and plots; empty: that of the runs.")
    flags.DEFINE_string("analyse", "*", "Pattern of TASK/ARM whose checkpoints are analysed.")
    flags.DEFINE_string("page", "", "A page whose tables are replaced.")


if __name__ == "__main__":
    import learn

    learn.begin(main, define_flags, ["matplotlib"])
