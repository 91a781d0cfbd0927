"""`wasmjax explain`."""

import argparse
import dataclasses
import json

from wasmjax.cli import program
from wasmjax.cli.status import Refused
from wasmjax.cli.trace import Ips
from wasmjax.machine.config import WASM
from wasmjax.machine.describe import describe


def explain(args: argparse.Namespace) -> int:
    """Every named head's query, the token that answered, its weight and value."""
    machine = program.machine(args)
    running = program.start(args, machine)
    code = running.instance.lowered.program.instructions
    try:
        found = machine.explain(running, args.step)
    except IndexError as error:
        raise Refused(f"{args.program}: {error}") from None
    if args.json:
        record = dataclasses.asdict(found)
        record["residual"] = [x.tolist() for x in found.residual]
        record["tokens"] = found.tokens.tolist()
        print(json.dumps(record))
        return 0
    (ip,) = Ips(running).of(running.prompt[:1] * 0)
    note = code[ip].note or code[ip].op
    print(f"step {args.step}: instruction {ip}, {note}; token {found.index} is the current one")
    print("emitted: " + ", ".join(f"{k}={v}" for k, v in found.emitted.items() if v))
    tokens = found.tokens
    for head in found.heads:
        if head.uniform:
            print(
                f"layer {head.layer} {head.name}: mean {head.output[0]:.6g}, {head.output[1]:.6g}"
            )
        else:
            address = head.query[0] / head.query[1]
            answer = describe(WASM, tokens[head.answered], head.answered).split("->")[-1].strip()
            print(
                f"layer {head.layer} {head.name}: asks {address:g}; token {head.answered} answers "
                f"with weight {head.weight:.6g}: {head.value[0]:g}, {head.value[1]:g}  ({answer})"
            )
        if args.rows:
            for matrix, component, _, name, weight in head.rows:
                print(f"    {matrix}[{component}] {name or '?'}: {weight:g}")
    print(f"{len(found.neurons)} neurons active")
    return 0
