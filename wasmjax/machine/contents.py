"""Reading a machine's memory and slots out of a KV cache, without knowing its layout.

A probe token that would write an address says which stored numbers hold its bytes: those that
change with the probe's own value.
"""

from collections.abc import Callable

import numpy as np

from wasmjax.machine import isa
from wasmjax.machine.config import MachineConfig
from wasmjax.machine.tokens import columns

Stored = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Tokens [N, F] -> their own values and the ones now there, [N, C] each."""


def read_values(
    config: MachineConfig, stored: Stored, kind: str, addresses_N: np.ndarray
) -> np.ndarray:
    """The values at addresses of kind "slot" or "mem8" (multiples of 8), uint64 [N]."""
    column = columns(config)
    n = config.value_bytes
    probe = np.zeros((len(addresses_N), len(column)), np.int32)
    probe[:, column["kind"]] = isa.KIND[kind]
    for k in range(config.address_digits):
        probe[:, column[f"a{k}"]] = addresses_N // config.digit**k % config.digit
    marked = probe.copy()
    marked[:, column["v0"] : column["v0"] + n] = 1 + np.arange(n)
    own, found = stored(probe)
    own_marked, _ = stored(marked)
    out = np.zeros(len(addresses_N), np.uint64)
    for k in range(n):
        holds = np.flatnonzero(((own == 0) & (own_marked == 1 + k)).all(axis=0))
        if not holds.size:
            raise ValueError(f"no cache column holds byte {k} of a {kind}")
        out |= np.rint(found[:, holds[0]]).astype(np.uint64) << np.uint64(8 * k)
    return out
