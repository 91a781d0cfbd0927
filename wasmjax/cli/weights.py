"""`wasmjax weights` and `wasmjax check`."""

import argparse
import pathlib
import time

from wasmjax.circuit.check import report
from wasmjax.circuit.ranges import RangeError
from wasmjax.circuit.weights import Weights
from wasmjax.cli import status
from wasmjax.cli.status import Refused, refusing
from wasmjax.machine.build import build_machine
from wasmjax.machine.config import WASM
from wasmjax.machine.specialize import specialize as fold
from wasmjax.model import io
from wasmjax.wasm.lower import lower
from wasmjax.wasm.validate import load_bytes


def weights(args: argparse.Namespace) -> int:
    """Describes a saved file, or builds the universal machine (and saves it)."""
    if args.file is not None:
        with refusing(args.file):
            found, names = io.load(args.file)
    else:
        built = build_machine(WASM)
        found, names = built.weights, built.names
    if args.output is not None:
        with refusing(args.output):
            io.save(args.output, found, names)
        print(f"saved to {args.output}")
    print(_describe(found))
    return 0


def _describe(weights: Weights) -> str:
    layers, heads, width, ffn = weights.shape
    parameters, nonzero = weights.count()
    return (
        f"{layers} layers, d_model {width}, {heads} heads of dimension 2, d_ff {ffn}, "
        f"{len(weights.vocabulary)} token fields\n"
        f"{parameters:,} parameters, {nonzero:,} non-zero; "
        f"softmax scale {weights.softmax_scale:g}\n"
        f"sha256 {io.digest(weights)}"
    )


def specialize(args: argparse.Namespace) -> int:
    """Folds a program into the weights and saves them."""
    with refusing(args.program):
        module = load_bytes(pathlib.Path(args.program).read_bytes())
        code = lower(module, fuse=args.fuse).program.instructions
    start = time.perf_counter()
    try:
        built = fold(code)
    except RangeError as error:
        raise Refused(f"{args.program}: {error}") from None
    with refusing(args.output):
        io.save(args.output, built.weights, built.names)
    seconds = time.perf_counter() - start
    print(f"{len(code):,} instructions folded in {seconds:.1f} s, saved to {args.output}")
    print(_describe(built.weights))
    return 0


def check(args: argparse.Namespace) -> int:
    """The proof of exactness; status 1 if something is not proven."""
    found = report(build_machine(WASM), args.dtype, args.cache)
    print(found.text(signals=args.signals))
    return 0 if found.exact else status.LIMIT
