"""`wasmjax run`."""

import argparse
import json
import sys
import time

from wasmjax import vm
from wasmjax.cli import program, status
from wasmjax.instance import Run, outputs
from wasmjax.values import signed, value_of


def run(args: argparse.Namespace) -> int:
    """Runs a program, streaming its output; returns the exit status."""
    machine = program.machine(args)
    running = program.start(args, machine)
    compiled, began = machine.engine.compile_seconds, time.perf_counter()
    try:
        for kept in running.tokens(args.max_steps):
            for number, data in outputs(kept):
                stream = sys.stdout if number == 1 else sys.stderr
                stream.buffer.write(data)
                stream.buffer.flush()
        code, what, detail = _outcome(running)
    except vm.EngineError as error:
        code, what, detail = status.LIMIT, "limit", str(error)
    except KeyboardInterrupt:
        code, what, detail = status.INTERRUPTED, "interrupted", "interrupted"
    if args.call is not None and what == "exit":
        _print_result(running, args.call)
    compiled = machine.engine.compile_seconds - compiled
    seconds = time.perf_counter() - began - compiled
    rate = running.steps / seconds if seconds > 0 else 0.0
    if args.json:
        record = {
            "outcome": what,
            "detail": detail,
            "exit_status": code,
            "steps": running.steps,
            "prompt_tokens": len(running.prompt),
            "seconds": round(seconds, 6),
            "steps_per_second": round(rate),
            "compile_seconds": round(compiled, 6),
        }
        print(json.dumps(record), file=sys.stderr, flush=True)
    else:
        status.say(
            f"{detail}; {running.steps:,} VM steps in {seconds:.2f} s ({rate:,.0f} steps/s), "
            f"prompt {len(running.prompt):,} tokens, compilation {compiled:.2f} s"
        )
    return code


def _outcome(running: Run) -> tuple[int, str, str]:
    if running.trap is not None:
        return status.TRAPPED, "trap", f"trap: {running.trap}"
    if running.exit_code is None:
        return status.OUT_OF_STEPS, "step limit", "step limit reached"
    return running.exit_code & 0xFF, "exit", f"exit {running.exit_code}"


def _print_result(running: Run, name: str) -> None:
    instance = running.instance
    results = instance.function(name).type.results
    assert running.last is not None
    if results:
        base = instance.lowered.program.stack_base
        values = [value_of(running.last), *instance.slots(base + 1, len(results) - 1)]
        for value, type_ in zip(values, results, strict=True):
            print(signed(value, type_))
    sys.stdout.flush()
