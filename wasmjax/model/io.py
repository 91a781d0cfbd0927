"""Weights on disk: safetensors with the vocabulary, the names of the parts and a digest."""

import dataclasses
import hashlib
import json
import os

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wasmjax.circuit.weights import Names, Vocabulary, Weights

FORMAT = "wasmjax weights 1"


class WeightsFileError(ValueError):
    """A file that holds no weights of this format, or damaged ones."""


def digest(weights: Weights) -> str:
    """SHA-256 over every array's name, shape and float32 bytes, and the softmax scale."""
    out = hashlib.sha256(repr(weights.softmax_scale).encode())
    for name, array in sorted(weights.arrays().items()):
        out.update(f"{name}{array.shape}".encode())
        out.update(np.ascontiguousarray(_float32(name, array)).tobytes())
    return out.hexdigest()


def save(path: str | os.PathLike[str], weights: Weights, names: Names | None = None) -> str:
    """Writes weights as float32; returns their digest.

    Raises:
      ValueError: if a weight is not exactly a float32.
    """
    arrays = {
        name: np.ascontiguousarray(_float32(name, array))
        for name, array in weights.arrays().items()
    }
    found = digest(weights)
    described = {
        "format": FORMAT,
        "digest": found,
        "softmax_scale": repr(weights.softmax_scale),
        "vocabulary": json.dumps([dataclasses.astuple(field) for field in weights.vocabulary]),
        "names": json.dumps(dataclasses.asdict(names)) if names else "",
    }
    save_file(arrays, path, described)
    return found


def load(path: str | os.PathLike[str]) -> tuple[Weights, Names | None]:
    """Reads what `save` wrote.

    Raises:
      OSError: if the file cannot be read.
      WeightsFileError: if it holds something else, or its digest does not match.
    """
    try:
        arrays = load_file(path)
        described = _metadata(path)
    except SafetensorError as error:
        raise WeightsFileError(f"not a safetensors file: {error}") from None
    if described.get("format") != FORMAT:
        raise WeightsFileError(f"not a file of '{FORMAT}'")
    try:
        vocabulary = tuple(Vocabulary(*field) for field in json.loads(described["vocabulary"]))
        weights = Weights(
            vocabulary=vocabulary,
            embedding=[_array(arrays, f"embedding.{field.name}") for field in vocabulary],
            unembedding=[
                _array(arrays, f"unembedding.{field.name}") if field.emitted else None
                for field in vocabulary
            ],
            softmax_scale=float(described["softmax_scale"]),
            position=_array(arrays, "position"),
            w_q=_array(arrays, "w_q"),
            w_k=_array(arrays, "w_k"),
            w_v=_array(arrays, "w_v"),
            w_o=_array(arrays, "w_o"),
            w_gate=_array(arrays, "w_gate"),
            w_in=_array(arrays, "w_in"),
            w_out=_array(arrays, "w_out"),
        )
        names = _names(described["names"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsFileError(f"incomplete weights: {error}") from None
    if digest(weights) != described["digest"]:
        raise WeightsFileError("the weights do not match their digest: the file is damaged")
    return weights, names


def _metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    # The header is a JSON object behind its little-endian length.
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found = header.get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def _array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    return arrays[name].astype(np.float64)


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    out = array.astype(np.float32)
    if not np.array_equal(out, array):
        raise ValueError(f"{name} holds a number that is no float32")
    return out


def _names(text: str) -> Names | None:
    if not text:
        return None
    found = json.loads(text)
    return Names(
        [[(int(i), str(n)) for i, n in layer] for layer in found["heads"]],
        [[(int(i), str(n)) for i, n in layer] for layer in found["neurons"]],
        [(int(i), str(n)) for i, n in found["coordinates"]],
        str(found.get("program", "")),
    )
