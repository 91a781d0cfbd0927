"""`wasmjax export`."""

import argparse
import pathlib

import numpy as np

from wasmjax.cli import program
from wasmjax.cli.status import refusing
from wasmjax.export import pytorch


def export(args: argparse.Namespace) -> int:
    """Writes the model for PyTorch, and the prompt of a program."""
    machine = program.machine(args)
    with refusing(args.torch):
        pytorch.export(args.torch, machine.engine.weights)
    print(f"model.safetensors, config.json and model.py are in {args.torch}")
    if args.program is not None:
        running = program.start(args, machine)
        path = pathlib.Path(args.torch) / "prompt.npy"
        with refusing(str(path)):
            np.save(path, running.prompt)
        print(f"prompt.npy holds the {len(running.prompt):,} tokens of {args.program}")
    return 0
