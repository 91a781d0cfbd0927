"""The benchmark suite's programs, and what they take in wasmtime."""

import json
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import wasmtime

WORKLOADS = pathlib.Path(__file__).resolve().parent.parent / "examples" / "workloads"
FUEL = 10**12


class Workload:
    """A program with its arguments.

    Attributes:
      name, kind: as in workloads.json. path: of its module. args, stdin: its inputs.
      stdout: what it must print.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name, self.kind = entry["name"], entry["kind"]
        self.path = (WORKLOADS / entry["wasm"]).resolve()
        self.args = [str(arg) for arg in entry.get("args", ())]
        self.stdin = entry.get("stdin", "").encode()
        self.stdout = entry["stdout"].encode()

    def native(self, fuel: bool) -> tuple[float, int]:
        """Seconds in wasmtime, compiled, and (if asked for) the instructions it executes."""
        config = wasmtime.Config()
        config.consume_fuel = fuel
        engine = wasmtime.Engine(config)
        module = wasmtime.Module.from_file(engine, str(self.path))
        linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
        if fuel:
            store.set_fuel(FUEL)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: pathlib.Path(folder) / name for name in ("stdin", "stdout")}
            files["stdin"].write_bytes(self.stdin)
            wasi = wasmtime.WasiConfig()
            wasi.argv = ["program", *self.args]
            wasi.stdin_file, wasi.stdout_file = files["stdin"], files["stdout"]
            store.set_wasi(wasi)
            linker.define_wasi()
            start = linker.instantiate(store, module).exports(store)["_start"]
            begun = time.perf_counter()
            try:
                start(store)  # type: ignore[operator]
            except wasmtime.ExitTrap:
                pass
            seconds = time.perf_counter() - begun
            if files["stdout"].read_bytes() != self.stdout:
                raise RuntimeError(f"{self.name} printed something else in wasmtime")
        return seconds, FUEL - store.get_fuel() if fuel else 0


def workloads(names: Sequence[str]) -> list[Workload]:
    """Those of these names; all, if there are none."""
    entries = json.loads((WORKLOADS / "workloads.json").read_text())
    found = [Workload(entry) for entry in entries if not names or entry["name"] in names]
    missing = set(names) - {workload.name for workload in found}
    if missing:
        raise SystemExit(f"no such workload: {', '.join(sorted(missing))}")
    return found
