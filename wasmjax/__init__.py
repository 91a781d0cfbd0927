"""wasmjax: WebAssembly programs executed inside a transformer with constructed weights."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wasmjax.vm import (
        Exit,
        HostFunction,
        Instance,
        Job,
        JobResult,
        Machine,
        OutOfSteps,
        Result,
        Trap,
        load,
    )

__all__ = [
    "Exit",
    "HostFunction",
    "Instance",
    "Job",
    "JobResult",
    "Machine",
    "OutOfSteps",
    "Result",
    "Trap",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    # Importing JAX takes seconds: only what needs it pays.
    if name in __all__:
        from wasmjax import vm

        return getattr(vm, name)
    raise AttributeError(f"module 'wasmjax' has no attribute '{name}'")
