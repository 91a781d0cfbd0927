"""Run WebAssembly programs inside a transformer whose weights are constructed."""

__version__ = "0.1.0"
