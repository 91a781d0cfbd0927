"""Batch configurations: how much of which devices a batch uses, as TOML files (see configs/)."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from typing import Any


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How a batch uses its devices. None: found out when it runs.

    Attributes:
      platform: "cpu", "gpu" or "tpu": where it is meant to run.
      lanes: jobs that run at the same time, on all devices together.
      chunk: most steps between looks at the lanes.
      memory_mib: memory of a device to use, in MiB.
      cpu_devices: devices that a CPU is split into.
    """

    platform: str | None = None
    lanes: int | None = None
    chunk: int | None = None
    memory_mib: int | None = None
    cpu_devices: int | None = None

    def replace(self, **changes: Any) -> BatchConfig:
        """The same with other values."""
        return dataclasses.replace(self, **changes)


def load_config(path: str | os.PathLike[str]) -> BatchConfig:
    """Reads a configuration.

    Raises:
      OSError: if the file cannot be read. ValueError: one line on what is wrong in it.
    """
    with open(path, "rb") as file:
        try:
            record = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"no TOML: {error}") from None
    names = [field.name for field in dataclasses.fields(BatchConfig)]
    for name, value in record.items():
        if name not in names:
            raise ValueError(f"there is no setting {name!r}; there are {', '.join(names)}")
        if name == "platform":
            if value not in ("cpu", "gpu", "tpu"):
                raise ValueError("platform must be cpu, gpu or tpu")
        elif type(value) is not int or value < 1:
            raise ValueError(f"{name} must be an integer from 1 on")
    return BatchConfig(**record)
