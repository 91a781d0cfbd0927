"""The command line: `wasmjax run PROG.wasm [ARGS...]`, `wasmjax check`.

Exit status of `run`: the program's own; 134 after a trap, 124 when the step limit is reached,
2 for input that is refused, 1 when a limit of the machine is reached, 130 after Ctrl-C. The last
line on stderr says which it was.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

TRAPPED, OUT_OF_STEPS, REFUSED, LIMIT, INTERRUPTED = 134, 124, 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout went away: nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return LIMIT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wasmjax", description="WebAssembly programs executed inside a transformer."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a WASI program (its exit status is this one's)")
    _engine_options(run)
    run.add_argument("--max-steps", type=_positive, help="stop after so many VM steps (status 124)")
    run.add_argument("program", metavar="PROG.wasm")
    run.add_argument("args", nargs=argparse.REMAINDER, help="the program's arguments")
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="prove the machine's exactness and print its limits")
    check.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    check.add_argument("--signals", action="store_true", help="list every signal's range")
    check.set_defaults(command=_check)
    return parser


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="packed", choices=("packed", "dense"))
    parser.add_argument("--cache", default="indexed", choices=("indexed", "softmax"))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _run(args: argparse.Namespace) -> int:
    from wasmjax import vm
    from wasmjax.wasm.errors import DecodeError
    from wasmjax.wasm.lower import InstantiationError, LinkError

    try:
        module = vm.load(args.program)
        machine = vm.Machine(args.engine, args.cache)
        # A program that cannot read must not wait for a terminal or a pipe that stays open.
        reads = any(import_.name == "fd_read" for import_ in module.imports)
        stdin = sys.stdin.buffer.read() if reads and sys.stdin is not None else b""
        run = machine.start(module, [os.path.basename(args.program), *args.args], stdin=stdin)
    except (OSError, DecodeError, LinkError, InstantiationError, ValueError) as error:
        _say(f"{args.program}: {_one_line(error)}")
        return REFUSED
    try:
        result = run.finish(args.max_steps, _stream)
    except vm.EngineError as error:
        _say(f"stopped before a step that could be inexact: {error}")
        return LIMIT
    if result.trap is not None:
        status, what = TRAPPED, f"trap: {result.trap}"
    elif result.out_of_steps:
        status, what = OUT_OF_STEPS, "step limit reached"
    else:
        status, what = result.exit_code or 0, f"exit {result.exit_code}"
    speed = result.steps / result.seconds if result.seconds > 0 else 0.0
    _say(
        f"{what}; {result.steps:,} VM steps in {result.seconds:.2f} s ({speed:,.0f} steps/s), "
        f"prompt {result.prompt_tokens:,} tokens, compilation {result.compile_seconds:.2f} s"
    )
    return status & 0xFF


def _check(args: argparse.Namespace) -> int:
    from wasmjax.circuit.check import report
    from wasmjax.machine.build import build_machine
    from wasmjax.machine.config import WASM

    found = report(build_machine(WASM), args.dtype)
    print(found.text(signals=args.signals))
    return 0 if found.exact else 1


def _stream(number: int, data: bytes) -> None:
    stream = sys.stdout if number == 1 else sys.stderr
    stream.buffer.write(data)
    stream.buffer.flush()


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    print(f"wasmjax: {line}", file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())
