"""How big lanes are, and how many: from what jobs need and what devices have."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence as Many

import jax
import numpy as np
from jax.experimental import multihost_utils

from wasmjax.engine.decode import EngineError
from wasmjax.engine.fleet import Capacity, lane_bytes
from wasmjax.engine.lanes import LanesEngine

LANES_PER_DEVICE = {"cpu": 128, "gpu": 8192, "tpu": 4096}
"""Lanes that are used if memory allows and nobody says otherwise: on a CPU, where it was measured,
twice as many are 7% faster and leave twice as many idle in the end."""

_LEAST_ROWS = 1024, 32768
"""Rows of the smallest lanes: stack slots, and memory words (256 KiB)."""
_FEWEST = 8
_FACTOR = 4
"""Rows come in powers of 4 of the smallest, lanes in powers of 2: few shapes are compiled."""
_POOL_ROWS = 16384

Rows = tuple[int, ...]
"""Rows of a lane, per family of stores."""


@dataclasses.dataclass
class Options:
    """How a batch is run.

    Attributes:
      lanes: in all; None: as many as are useful and fit the devices' memory.
      chunk: most steps between looks at the lanes; None: adapts.
      memory_bytes: memory of a device to use; None: most of what is free.
    """

    lanes: int | None = None
    chunk: int | None = None
    memory_bytes: int | None = None


class Capacities:
    """Chooses shapes for fleets.

    Args:
      engine: what runs them. options: what the user wants.
    """

    def __init__(self, engine: LanesEngine, options: Options) -> None:
        self.engine, self.options = engine, options
        stores = [engine.cache.heads.stores[family[0]] for family in engine.cache.families]
        self._most = [store.hi - store.lo + 1 for store in stores]
        self._least = (*_LEAST_ROWS, *[_LEAST_ROWS[0]] * len(stores))[: len(stores)]

    def rows(self, *needed: Many[int]) -> Rows:
        """Rows of lanes for a sequence that needs so many (the most of several lists)."""
        out = []
        for number, (rows, most) in enumerate(zip(self._least, self._most, strict=True)):
            while rows < max((need[number] for need in needed if need), default=0):
                rows *= _FACTOR
            out.append(min(rows, most))
        return tuple(out)

    @property
    def target(self) -> int:
        """Lanes to use if there are jobs and memory enough."""
        per_device = LANES_PER_DEVICE.get(jax.default_backend(), LANES_PER_DEVICE["cpu"])
        return self.options.lanes or per_device * self.engine.devices

    def fleet(self, rows: Rows, jobs: int) -> Capacity:
        """A fleet for so many jobs.

        Raises:
          EngineError: if the lanes do not fit; it says how many would.
        """
        pools = tuple(_POOL_ROWS for _ in self.engine.cache.static)
        return Capacity(self.lanes(rows, jobs), rows, pools)

    def lanes(self, rows: Rows, jobs: int) -> int:
        """Lanes of a fleet for so many jobs. Raises what `fleet` does."""
        devices = self.engine.devices
        each = lane_bytes(self.engine, rows)
        free = self.options.memory_bytes or _free_bytes(self.engine)
        target, fit = max(1, self.target // devices), free // each
        # Those that outgrow the smallest lanes take what there is.
        asked = self.options.lanes is not None and rows == self.rows()
        wanted = target if asked else 1
        if fit < wanted:
            raise EngineError(
                f"{wanted:,} lane(s) per device need {wanted * each / 2**20:,.1f} MiB of its "
                f"memory ({each / 2**20:,.1f} MiB each); {free / 2**20:,.1f} MiB are free, "
                f"{fit:,} would fit"
            )
        per_device = _FEWEST
        while per_device < min(target, fit) and per_device * devices < jobs:
            per_device *= 2
        return min(per_device, target, fit) * devices


def _free_bytes(engine: LanesEngine) -> int:
    """Memory of a device that lanes may use: 80% of what is free."""
    stats = engine.mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        # The devices of a CPU share the machine's memory.
        local = len(engine.mesh.local_devices)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // local
    if jax.process_count() > 1:
        # All processes must come to the same conclusion. In MiB, since int32 is what travels.
        mib = np.int32(free >> 20)
        free = int(multihost_utils.process_allgather(mib).min()) << 20
    return free * 4 // 5
