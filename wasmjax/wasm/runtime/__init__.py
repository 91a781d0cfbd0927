"""The runtime library: WebAssembly that lowering links into programs.

Growing, copying and filling the memory, tables, and WASI preview 1, written in the text
format (the `*.wat` beside this file); division and floating point, compiled from the `*.c` by
scripts/build_runtime. A runtime module has no state of its own: it imports the program's memory and
the hidden globals of `layout` from the pseudo-module `wasmjax`, and the functions below, which are
one machine step each, or those that another runtime module exports.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import wasmtime

from wasmjax.wasm.decode import decode
from wasmjax.wasm.types import ExternKind, Module

PSEUDO_MODULE = "wasmjax"

PRIMITIVES: dict[str, str] = {
    "out": "out",
    "err": "err",
    "input": "input",
    "halt": "halt",
    "narrow": "narrow",
    "trap_divide_by_zero": "integer divide by zero",
    "trap_overflow": "integer overflow",
    "trap_invalid_conversion": "invalid conversion to integer",
    "trap_out_of_bounds": "out of bounds memory access",
    "trap_table_out_of_bounds": "out of bounds table access",
}
"""Functions of the pseudo-module -> what `body.BodyLowering` makes of a call: one step with the
value on the stack (`out`, `err`: a byte; `input`: index to byte; `halt`: the exit code), a trap of
that name, or (`narrow`, from an i64 below 2^32 to that i32) nothing."""

WASI_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")
"""Import modules whose functions the library `wasi` supplies."""

COMPILED = ("divide", "f32", "f64")
"""Names of the runtime modules that are compiled. Their functions call none, and are fused."""

LIBRARIES = ("memory", "table", "wasi", *COMPILED)
"""Names of the runtime modules."""


@dataclass(frozen=True, slots=True)
class Library:
    """One runtime module and the functions it exports, name -> function index."""

    name: str
    module: Module
    functions: dict[str, int]


def source(name: str) -> str:
    """The text of a runtime module that is not compiled."""
    return resources.files(__package__).joinpath(f"{name}.wat").read_text()


def binary(name: str) -> bytes:
    """A runtime module in the binary format."""
    if name in COMPILED:
        return resources.files(__package__).joinpath(f"{name}.wasm").read_bytes()
    return bytes(wasmtime.wat2wasm(source(name)))


@functools.cache
def library(name: str) -> Library:
    """A runtime module, decoded.

    Raises:
      KeyError: if there is none of that name.
    """
    if name not in LIBRARIES:
        raise KeyError(name)
    module = decode(binary(name))
    functions = {
        export.name: export.index for export in module.exports if export.kind is ExternKind.FUNC
    }
    return Library(name, module, functions)


@functools.cache
def find(function: str) -> Library | None:
    """The library other than WASI that exports a function (`i32.div_u`, `memory.grow`), if any."""
    candidates = (library(name) for name in LIBRARIES if name != "wasi")
    return next((lib for lib in candidates if function in lib.functions), None)
