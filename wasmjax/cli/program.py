"""From a command's arguments to a program that is ready to run."""

import argparse
import os
import sys
from typing import Any

from wasmjax import vm
from wasmjax.cli.status import Refused, refusing
from wasmjax.engine.decode import Session
from wasmjax.instance import Run
from wasmjax.model import io
from wasmjax.model.transformer import Transformer
from wasmjax.wasm.types import Module, ValType


def model(args: argparse.Namespace) -> dict[str, Any]:
    """The weights that the options ask for, as arguments of `vm.Machine`."""
    if args.weights is None:
        return {}
    with refusing(args.weights):
        weights, names = io.load(args.weights)
    return {"model": Transformer(weights), "names": names}


def machine(args: argparse.Namespace) -> vm.Machine:
    """The machine that the options ask for."""
    chosen = model(args)
    with refusing(args.weights or "weights"):
        return vm.Machine(args.engine, args.cache, dtype=args.dtype, **chosen)


def start(args: argparse.Namespace, on: vm.Machine, session: Session | None = None) -> Run:
    """A run of `_start`, or of the export that --call names, in `session` if there is one."""
    with refusing(args.program):
        module = vm.load(args.program)
        inputs = _inputs(args, module) | {"session": session}
        if args.call is None:
            return on.start(module, [os.path.basename(args.program), *args.args], **inputs)
        instance = on.instantiate(module, **inputs)
        if args.call not in instance.lowered.exports:
            raise Refused(f"{args.program}: the module exports no function {args.call!r}")
        entry = instance.function(args.call)
        types = entry.type.params
        if len(args.args) != len(types):
            raise Refused(f"{args.call} takes {len(types)} argument(s), not {len(args.args)}")
        bits = [_argument(text, type_) for text, type_ in zip(args.args, types, strict=True)]
        return Run(instance, entry, bits)


def _inputs(args: argparse.Namespace, module: Module) -> dict[str, Any]:
    # A program that cannot read must not wait for a terminal or a pipe that stays open.
    reads = any(import_.name == "fd_read" for import_ in module.imports)
    stdin = sys.stdin.buffer.read() if reads and sys.stdin is not None else b""
    inputs: dict[str, Any] = {"stdin": stdin, "environ": args.env}
    inputs |= {"seed": args.seed, "clock": args.clock, "fuse": args.fuse}
    if args.max_memory_pages is not None:
        inputs["max_pages"] = args.max_memory_pages
    if args.call_depth is not None:
        inputs["call_depth"] = args.call_depth
    return inputs


def _argument(text: str, type_: ValType) -> int:
    width = 32 if type_ in (ValType.I32, ValType.F32) else 64
    try:
        value = int(text, 0)
    except ValueError:
        raise Refused(f"argument {text!r} is not an integer") from None
    if not -(1 << width - 1) <= value < 1 << width:
        raise Refused(f"argument {text} does not fit {type_.value}")
    return value & (1 << width) - 1
