"""Validation: the typing rules, which the ``wasmtime`` package checks for us."""

from __future__ import annotations

import re
from functools import cache

import wasmtime

from .decode import decode
from .errors import DecodeError, ValidationError
from .types import Module

__all__ = ["DecodeError", "ValidationError", "load_bytes", "validate"]

# Relaxed SIMD goes before SIMD, which it depends on. Reference types and extended constant
# expressions stay on: wasmtime ends the process when the former is switched off, and has no switch
# for the latter. `decode` refuses both.
_SWITCHED_OFF = (
    "wasm_relaxed_simd",
    "wasm_simd",
    "wasm_threads",
    "wasm_tail_call",
    "wasm_multi_memory",
    "wasm_memory64",
    "wasm_exceptions",
    "wasm_stack_switching",
    "wasm_gc",
    "wasm_function_references",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "wasm_component_model",
)
_SWITCHED_ON = ("wasm_bulk_memory", "wasm_multi_value")

# How wasmtime tells the place of an error: at the end of a line, or at its beginning.
_OFFSET = re.compile(r" \(at offset (0x[0-9a-f]+|[0-9]+)\)")


@cache
def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    for value, names in ((False, _SWITCHED_OFF), (True, _SWITCHED_ON)):
        for name in names:
            # Releases of wasmtime differ in which switches they have; a missing one is not set, and
            # the proposal is then refused by `decode` alone.
            if hasattr(wasmtime.Config, name):
                setattr(config, name, value)
    return wasmtime.Engine(config)


def validate(data: bytes) -> None:
    """Check that ``data`` is a valid module, in the features that wasmtime lets us choose.

    On its own it lets reference types and extended constant expressions pass: see ``load_bytes``.
    Raises ``ValidationError`` with wasmtime's reason.
    """
    try:
        wasmtime.Module.validate(_engine(), bytes(data))
    except wasmtime.WasmtimeError as error:
        message = (str(error).strip() or "no reason given").splitlines()[0]
        place = _OFFSET.search(message)
        offset = int(place[1], 0) if place else None
        raise ValidationError(_OFFSET.sub("", message), offset) from None


def load_bytes(data: bytes) -> Module:
    """Decode and validate a binary: the way in for programs.

    Raises ``NotWasmError``, ``TruncatedError``, ``MalformedError``, ``UnsupportedError`` or
    ``ValidationError``, all of them ``DecodeError``.
    """
    module = decode(data)
    validate(data)
    return module
