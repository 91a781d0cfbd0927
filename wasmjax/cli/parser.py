"""Commands and their options. Nothing here imports JAX: `--help` is quick."""

import argparse
from collections.abc import Sequence


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line; `.command` is the function to call with the result."""
    parser = argparse.ArgumentParser(
        prog="wasmjax", description="WebAssembly programs executed inside a transformer."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _run(commands)
    _batch(commands)
    _trace(commands)
    _inspect(commands)
    _diff(commands)
    _explain(commands)
    explore = _explore(commands)
    _weights(commands)
    _check(commands)
    _specialize(commands)
    _export(commands)
    args = parser.parse_args(argv)
    if isinstance(args.command, _later) and args.command.module == "explore":
        _options_after(explore, args, argv)
    return args


def _add(commands: argparse._SubParsersAction, name: str, what: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")


def _program(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    machine = parser.add_argument_group("machine")
    machine.add_argument("--engine", default="packed", choices=("packed", "dense"))
    machine.add_argument("--cache", default="indexed", choices=("indexed", "hull", "softmax"))
    machine.add_argument("--dtype", help="float32; for the softmax cache also float64, its default")
    machine.add_argument("--weights", metavar="FILE", help="weights to use (see wasmjax weights)")
    limits = parser.add_argument_group("program")
    limits.add_argument("--fuse", action="store_true", help="fewer steps: operands read in place")
    limits.add_argument("--call", metavar="EXPORT", help="call this function instead of _start")
    limits.add_argument("--max-steps", type=_positive, metavar="N", help="most VM steps")
    limits.add_argument(
        "--max-memory-pages",
        type=_natural,
        metavar="N",
        help="default: the initial size and 256 more",
    )
    limits.add_argument("--call-depth", type=_positive, metavar="N", help="default 1024")
    limits.add_argument("--seed", type=_natural, default=0, metavar="N", help="of random_get")
    limits.add_argument(
        "--clock", type=_natural, default=0, metavar="NS", help="nanoseconds at the start"
    )
    limits.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("program", metavar="PROG.wasm", nargs="?" if optional else None)
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the program's arguments")


def _run(commands: argparse._SubParsersAction) -> None:
    run = _add(commands, "run", "run a program; its exit status is this command's")
    run.add_argument("--json", action="store_true", help="the last line on stderr as JSON")
    _program(run)
    run.set_defaults(command=_later("run", "run"))


def _batch(commands: argparse._SubParsersAction) -> None:
    batch = _add(commands, "batch", "run many jobs at once (docs/batch.md)")
    batch.add_argument("jobs", metavar="JOBS.jsonl", help="one JSON object a line")
    batch.add_argument("-o", "--output", metavar="RESULTS.jsonl", required=True)
    batch.add_argument("--json", action="store_true", help="the last line on stderr as JSON")
    batch.add_argument("--no-progress", action="store_true", help="no progress bar")
    batch.add_argument("--traces", metavar="DIR", help="write every job's tokens as Parquet")
    resumption = batch.add_argument_group("resumption")
    resumption.add_argument(
        "--checkpoint", metavar="DIR", help="save there where every job is, and go on from there"
    )
    resumption.add_argument(
        "--checkpoint-seconds", type=_seconds, default=60.0, metavar="N", help="default 60"
    )
    machine = batch.add_argument_group("machine")
    machine.add_argument("--config", metavar="FILE", help="a configuration (see configs/)")
    machine.add_argument("--weights", metavar="FILE", help="weights to use (see wasmjax weights)")
    machine.add_argument(
        "--lanes", type=_positive, metavar="N", help="jobs at the same time (default: what fits)"
    )
    machine.add_argument(
        "--chunk", type=_positive, metavar="N", help="most steps between refills (default: adapts)"
    )
    machine.add_argument(
        "--memory-mib", type=_positive, metavar="N", help="memory of a device to use"
    )
    machine.add_argument(
        "--cpu-devices",
        type=_positive,
        metavar="N",
        help="devices to split a CPU into (default: its cores)",
    )
    processes = batch.add_argument_group("several processes (the same command in each)")
    processes.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    processes.add_argument("--processes", type=_positive, metavar="N")
    processes.add_argument("--process", type=_natural, metavar="I", help="number of this one")
    batch.set_defaults(command=_later("batch", "batch"))


def _trace(commands: argparse._SubParsersAction) -> None:
    trace = _add(commands, "trace", "print a record of every VM step")
    trace.add_argument("--from", dest="first", type=_natural, default=0, metavar="STEP")
    trace.add_argument("--to", dest="last", type=_natural, metavar="STEP", help="last step shown")
    trace.add_argument("--json", action="store_true", help="one JSON object a step")
    trace.add_argument("--tokens", action="store_true", help="the fields of every token")
    _program(trace)
    trace.set_defaults(command=_later("trace", "trace"))


def _inspect(commands: argparse._SubParsersAction) -> None:
    inspect = _add(commands, "inspect", "show functions, lowered code, prompt, what is missing")
    inspect.add_argument("--code", action="store_true", help="list the lowered instructions")
    inspect.add_argument("program", metavar="PROG.wasm")
    inspect.set_defaults(command=_later("trace", "inspect"))


def _diff(commands: argparse._SubParsersAction) -> None:
    diff = _add(commands, "diff", "compare an engine's tokens with the integer oracle's")
    _program(diff)
    diff.set_defaults(command=_later("trace", "diff"))


def _explain(commands: argparse._SubParsersAction) -> None:
    explain = _add(commands, "explain", "show what every head does in one step")
    explain.add_argument("--step", type=_natural, required=True, metavar="N", help="from 0")
    explain.add_argument("--json", action="store_true")
    explain.add_argument("--rows", action="store_true", help="the projections' entries too")
    _program(explain)
    explain.set_defaults(command=_later("explain", "explain"))


_EXPLORE = {"--export": 1, "--export-mib": 1, "--open": 0, "--port": 1, "--results": 1}
"""Options of `explore` that may also follow the program, and how many values they take."""


def _options_after(
    parser: argparse.ArgumentParser, args: argparse.Namespace, argv: Sequence[str]
) -> None:
    """Takes options that directly follow the program, and no `--`, from its arguments."""
    last = len(argv) - argv.index("--") - 1 if "--" in argv else 0
    while len(args.args) > last and args.args[0].partition("=")[0] in _EXPLORE:
        name, joined, _ = args.args[0].partition("=")
        n = 1 if joined else 1 + _EXPLORE[name]
        parser.parse_args([*args.args[:n], "--", args.program, *args.args[n:]], args)


def _explore(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    explore = _add(commands, "explore", "look into a run in a browser (docs/explore.md)")
    explore.add_argument(
        "--port", type=_port, metavar="N", help="default 8300, or a free one; only on 127.0.0.1"
    )
    explore.add_argument("--open", action="store_true", help="open the page in a browser")
    explore.add_argument("--export", metavar="DIR", help="write files that need no server")
    explore.add_argument(
        "--export-mib", type=_positive, default=50, metavar="N", help="most mebibytes (default 50)"
    )
    explore.add_argument("--results", metavar="FILE", help="results of the learnability suite")
    _program(explore, optional=True)
    explore.set_defaults(command=_later("explore", "explore"))
    return explore


def _weights(commands: argparse._SubParsersAction) -> None:
    weights = _add(commands, "weights", "build, save and describe the machine's weights")
    weights.add_argument("file", nargs="?", metavar="FILE", help="describe a saved file")
    weights.add_argument("-o", "--output", metavar="FILE", help="save to this safetensors file")
    weights.set_defaults(command=_later("weights", "weights"))


def _check(commands: argparse._SubParsersAction) -> None:
    check = _add(commands, "check", "prove the machine's exactness and print its limits")
    check.add_argument(
        "--dtype", default="float32", choices=("float32", "tf32", "bfloat16", "float64")
    )
    check.add_argument("--cache", default="indexed", choices=("indexed", "hull", "softmax"))
    check.add_argument("--signals", action="store_true", help="list every signal's range")
    check.set_defaults(command=_later("weights", "check"))


def _specialize(commands: argparse._SubParsersAction) -> None:
    specialize = _add(commands, "specialize", "fold a program into the weights")
    specialize.add_argument("--fuse", action="store_true", help="as in wasmjax run")
    specialize.add_argument("program", metavar="PROG.wasm")
    specialize.add_argument("-o", "--output", required=True, metavar="FILE", help="safetensors")
    specialize.set_defaults(command=_later("weights", "specialize"))


def _export(commands: argparse._SubParsersAction) -> None:
    export = _add(commands, "export", "write the model, and a program's prompt, for PyTorch")
    export.add_argument("--torch", required=True, metavar="DIR", help="a folder for the files")
    _program(export, optional=True)
    export.set_defaults(command=_later("export", "export"))


class _later:
    """A command that is imported when it is called."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, args: argparse.Namespace) -> int:
        import importlib

        command = getattr(importlib.import_module(f"wasmjax.cli.{self.module}"), self.name)
        return int(command(args))


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError("must be in 0..65535")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value
