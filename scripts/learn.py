#!/usr/bin/env python3
"""The learnability suite: trains and evaluates arms, and resumes what was interrupted.

    .venv/bin/python scripts/learn.py --config=configs/learn_smoke.py --out=learn

Arms run one after the other, each in a folder of its own (`wasmjax.learn.runs`); what has a result
is not run again. `--only=T1.free/random_softmax` runs the arms that match a pattern, `--list` names
them all. `--seconds=100` stops, with a checkpoint, after so long; exit status 75 says that there is
more to do. When all is done, tables and plots are made, as by `scripts/learn_report.py`.
Exit status 2: bad input. Needs the extra `train`.
"""

import fnmatch
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
MORE = 75


def planned(config, out: pathlib.Path, seconds: float = float("inf")) -> Iterator:
    """The runs of a configuration, in order.

    Raises:
      ValueError: if it names a task or arm that does not exist.
    """
    from wasmjax.learn import suite
    from wasmjax.learn.runs import Evaluation, Run
    from wasmjax.learn.train import Budget

    for key, entry in config.tasks.items():
        # A ConfigDict takes no dots: T1_free stands for T1.free.
        name, source = key.replace("_", "."), entry.get("task", key).replace("_", ".")
        task = suite.resized(suite.build(source, entry.get("options", {})), name)
        if entry.get("sigmas"):
            modes = entry.get("wired", (False,))
            anneal = tuple(entry.get("anneal", suite.SHARP))
            chosen = [
                suite.noise(sigma, wired, anneal) for wired in modes for sigma in entry.sigmas
            ]
        else:
            known = suite.arms(source)
            names = entry.get("arms") or list(known)
            unknown = [arm for arm in names if arm not in known]
            if unknown:
                raise ValueError(f"task {name} has no arm {unknown[0]}")
            chosen = [known[arm] for arm in names]
        budget = Budget(**{**config.budget.to_dict(), **entry.get("budget", {})})
        plan = {**config.evaluation.to_dict(), **entry.get("evaluation", {})}
        plan["scales"] = tuple(plan["scales"])
        for arm in chosen:
            yield Run(
                out,
                task,
                arm,
                budget,
                Evaluation(**plan),
                config.seed,
                seconds,
                sys.stderr.isatty(),
            )


def main(argv: Sequence[str]) -> int:
    from wasmjax.learn.runs import Paused
    from wasmjax.vm import use_compilation_cache

    if len(argv) > 1:
        print(f"learn.py: unexpected argument {argv[1]}", file=sys.stderr)
        return 2
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step
    values = flags.FLAGS
    out = pathlib.Path(values.out)
    use_compilation_cache()
    begun = time.monotonic()
    try:
        runs = [
            run
            for run in planned(values.config, out, values.seconds)
            if fnmatch.fnmatchcase(f"{run.task.name}/{run.arm.name}", values.only)
        ]
        if not runs:
            raise ValueError(f"no arm matches {values.only}")
        if values.list:
            print("\n".join(f"{run.task.name}/{run.arm.name}" for run in runs))
            return 0
        for number, run in enumerate(runs, 1):
            if time.monotonic() - begun > values.seconds and not run.done:
                return MORE
            fresh = not run.done
            result = run.execute()
            if fresh:
                seeds = len(result["recovered"])
                print(
                    f"{number} of {len(runs)}: {run.task.name} {run.arm.name}: "
                    f"{result['recovered_count']} of {seeds} seeds recover "
                    f"({time.monotonic() - begun:.0f} s)",
                    file=sys.stderr,
                    flush=True,
                )
    except Paused as paused:
        print(f"learn.py: paused: {paused}", file=sys.stderr)
        return MORE
    except (ValueError, OSError) as error:
        print(f"learn.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if values.only == "*" and values.report:
        import learn_report

        print(learn_report.make(values.config, out, out))
    return 0


def begin(main: Callable, define_flags: Callable[[], None], needs: Sequence[str] = ()) -> None:
    """The command line of the suite's scripts: --config, --out and what `define_flags` defines.

    Exits with status 2 and one line where the extra `train` (or a module of `needs`) is missing.
    """
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "configs")]
    try:
        for module in needs:
            importlib.import_module(module)
        from ml_collections import config_flags
    except ImportError as error:
        name = pathlib.Path(sys.argv[0]).name
        print(
            f"{name} needs the extra train ({error}): pip install 'wasmjax[train]'",
            file=sys.stderr,
        )
        sys.exit(2)
    config_flags.DEFINE_config_file("config", None, "A file of configs/.")
    flags.DEFINE_string("out", "learn", "Folder of the runs.")
    flags.mark_flag_as_required("config")
    define_flags()
    app.run(main)


def define_flags() -> None:
    """Flags of this script alone."""
    flags.DEFINE_string("only", "*", "Pattern of TASK/ARM.")
    flags.DEFINE_bool("list", False, "Name the arms and stop.")
    flags.DEFINE_bool("report", True, "Make tables and plots at the end.")
    flags.DEFINE_float("seconds", float("inf"), "Stop after so long, to be resumed.", lower_bound=0)


if __name__ == "__main__":
    begin(main, define_flags, ["optax"])
