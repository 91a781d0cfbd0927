"""Weights for PyTorch: safetensors, a configuration, and the file that rebuilds the model.

`model.py` beside this file is what users get; it imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from wasmjax.circuit.weights import Weights
from wasmjax.machine import isa
from wasmjax.vm import stop_rule

MODEL = pathlib.Path(__file__).with_name("model.py")


def export(folder: str | os.PathLike[str], weights: Weights) -> None:
    """Writes model.safetensors, config.json and model.py to a folder, which is made if need be.

    Raises:
      OSError: if it cannot be written.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors(weights), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config(weights), indent=1) + "\n")
    shutil.copyfile(MODEL, path / "model.py")


def tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Parameters by their PyTorch names, float32."""
    layers, _, width, _ = weights.shape
    out = {"position": weights.position}
    for n, table in enumerate(weights.embedding):
        out[f"embedding.{n}.weight"] = table
    for n, rows in enumerate(weights.unembedding):
        if rows is not None:
            out[f"unembedding.{n}.weight"] = rows
    for layer in range(layers):
        block = f"blocks.{layer}"
        for name in "qkv":
            matrix = getattr(weights, f"w_{name}")[layer]
            out[f"{block}.attention.{name}.weight"] = matrix.reshape(width, width)
        out[f"{block}.attention.o.weight"] = weights.w_o[layer].reshape(width, width)
        for name, matrix in (("gate", weights.w_gate), ("value", weights.w_in)):
            out[f"{block}.feed_forward.{name}.weight"] = matrix[layer]
        out[f"{block}.feed_forward.out.weight"] = weights.w_out[layer]
    return {name: np.ascontiguousarray(array, np.float32) for name, array in out.items()}


def config(weights: Weights) -> dict[str, Any]:
    """What model.py needs to know besides."""
    layers, heads, width, neurons = weights.shape
    stop, names = stop_rule(), [field.name for field in weights.vocabulary]
    return {
        "layers": layers,
        "heads": heads,
        "width": width,
        "neurons": neurons,
        "softmax_scale": weights.softmax_scale,
        "fields": [
            {"name": f.name, "lo": f.lo, "size": f.size, "emitted": f.emitted}
            for f in weights.vocabulary
        ],
        "stop": {"field": stop.field, "values": list(stop.stop)},
        "output": [{"value": isa.KIND[kind], "byte": names.index("v0")} for kind in ("out", "err")],
    }
