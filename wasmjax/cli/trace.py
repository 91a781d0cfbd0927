"""`wasmjax trace`, `wasmjax inspect`, `wasmjax diff`."""

import argparse
import collections
import json
import sys

import numpy as np

from wasmjax import vm
from wasmjax.cli import program, status
from wasmjax.cli.status import refusing
from wasmjax.instance import Run
from wasmjax.machine.config import WASM
from wasmjax.machine.describe import describe
from wasmjax.machine.program import prompt, registers_of
from wasmjax.machine.tokens import columns
from wasmjax.oracle.diff import first_divergence
from wasmjax.oracle.execute import Oracle, OracleError
from wasmjax.wasm.lower import lower


def trace(args: argparse.Namespace) -> int:
    """One record per VM step."""
    running = program.start(args, program.machine(args))
    ips = Ips(running)
    notes = running.instance.lowered.program.instructions
    unsupported = running.instance.lowered.program.unsupported
    step = 0
    limit = args.max_steps if args.last is None else min(args.last + 1, args.max_steps or 1 << 62)
    for tokens in running.tokens(limit, keep_all=True):
        for ip, token in zip(ips.of(tokens), tokens, strict=True):
            if step >= args.first:
                note = notes[ip].note or notes[ip].op
                print(_record(args, step, int(ip), token, note, unsupported))
            step += 1
    sys.stdout.flush()
    return 0


def _record(
    args: argparse.Namespace, step: int, ip: int, token: np.ndarray, note: str, names: tuple
) -> str:
    if args.tokens:
        return " ".join([f"{step}", *(str(int(value)) for value in token)])
    if args.json:
        fields = {name: int(token[c]) for name, c in columns(WASM).items() if token[c]}
        return json.dumps({"step": step, "ip": ip, "instruction": note, "token": fields})
    return f"{ip:>6} {describe(WASM, token, step, note, names)}"


class Ips:
    """The instruction pointer of every step, from the tokens alone."""

    def __init__(self, running: Run) -> None:
        self._weights = np.zeros(len(columns(WASM)), np.int64)
        for k in range(WASM.ip_digits):
            self._weights[columns(WASM)[f"ip{k}"]] = WASM.digit**k
        now = registers_of(WASM, running.instance.session.totals).ip
        self._ip = sum(digit * WASM.digit**k for k, digit in enumerate(now))

    def of(self, tokens_NxF: np.ndarray) -> np.ndarray:
        """ip before each of the next tokens, int [N]."""
        after = self._ip + np.cumsum(tokens_NxF @ self._weights)
        before = np.concatenate([[self._ip], after[:-1]])[: len(tokens_NxF)]
        if len(after):
            self._ip = int(after[-1])
        return before


def inspect(args: argparse.Namespace) -> int:
    """What a module is made of, and what of it the machine cannot do yet."""
    with refusing(args.program):
        lowered = lower(vm.load(args.program), args=[args.program])
        tokens = prompt(WASM, lowered.program)
    flat = lowered.program
    kinds = collections.Counter(ins.op for ins in flat.instructions)
    print(f"{args.program}: {len(lowered.functions)} functions, runtime library included")
    print(
        f"prompt: {len(tokens):,} tokens: {len(flat.instructions):,} instructions, "
        f"{len(flat.memory):,} words of data, {len(flat.table):,} table entries, "
        f"{len(flat.slots):,} globals, {len(flat.inputs):,} bytes of input, 256 table rows"
    )
    for name, entry in lowered.exports.items():
        params, results = (
            " ".join(type_.value for type_ in types)
            for types in (entry.type.params, entry.type.results)
        )
        print(f"export {name}: ({params}) -> ({results}) at instruction {entry.entry}")
    if flat.unsupported:
        print("traps when reached: " + ", ".join(flat.unsupported))
    print("operations: " + ", ".join(f"{op} {count}" for op, count in kinds.most_common(12)))
    if args.code:
        names = {entry.entry: entry.name for entry in lowered.functions}
        for index, ins in enumerate(flat.instructions):
            if index in names:
                print(f"{names[index]}:")
            jump = f" -> {ins.target}" if ins.target is not None else ""
            follow = f" then {ins.next}" if ins.next is not None else ""
            print(f"{index:>7}  {ins.note or ins.op:<28} {ins.op}{jump}{follow}")
    return 0


def diff(args: argparse.Namespace) -> int:
    """Token by token against the oracle; the first difference, if there is one."""
    running = program.start(args, program.machine(args))
    oracle = Oracle(WASM)
    oracle.feed(running.prompt)
    offset = 0
    for tokens in running.tokens(args.max_steps, keep_all=True):
        try:
            expected = oracle.run(len(tokens))
        except OracleError as error:
            status.say(f"the oracle refuses: {error}")
            return status.LIMIT
        found = first_divergence(WASM, expected, tokens)
        if found is not None:
            print(f"from step {offset}: {found}")
            return status.LIMIT
        offset += len(tokens)
    status.say(f"{offset:,} tokens identical to the oracle's")
    return 0
