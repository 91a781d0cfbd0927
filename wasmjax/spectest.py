"""The module `spectest` that the official test suite imports from."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from wasmjax.store import Store

_PRINTS: dict[str, tuple[str, ...]] = {
    "print": (),
    "print_i32": ("i32",),
    "print_i64": ("i64",),
    "print_f32": ("f32",),
    "print_f64": ("f64",),
    "print_i32_f32": ("i32", "f32"),
    "print_f64_f64": ("f64", "f64"),
}

_GLOBALS = {
    "i32": 666,
    "i64": 666,
    "f32": int.from_bytes(struct.pack("<f", 666.6), "little"),
    "f64": int.from_bytes(struct.pack("<d", 666.6), "little"),
}


def define(store: Store, on_print: Callable[..., Any] | None = None) -> None:
    """Makes the module importable: functions that print, globals, a table, a memory.

    Args:
      on_print: called with what is printed (floating point as raw bits); None: nothing is done.
    """
    for name, params in _PRINTS.items():

        def function(*values: int) -> None:
            if on_print is not None:
                on_print(*values)

        function.__name__ = name
        store.define("spectest", name, store.function(params, (), function))
    for type_, bits in _GLOBALS.items():
        store.define("spectest", f"global_{type_}", store.global_(type_, bits))
    store.define("spectest", "table", store.table(10, 20))
    store.define("spectest", "memory", store.memory(1, 2))
