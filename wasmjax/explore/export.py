"""Writes a site as files that open from disk or any host: data as classic scripts.

Module scripts and fetch do not work from file://, a script element does: every piece of data is a
script that hands over its bytes, gzipped, in base64.
"""

import base64
import gzip
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from wasmjax.explore.exploration import PAGE, Exploration
from wasmjax.explore.site import Site, files
from wasmjax.machine import isa

CHUNK = 256
"""Steps whose head data is in one file."""
FIRST = 2000
"""Steps from the beginning that have head data."""
AROUND = 200
"""Steps around a call, a trap and output that have head data, half of them before."""
MIB = 50
"""Most mebibytes of a site, unless told otherwise."""


class ExportError(ValueError):
    """A folder that is no place for a site."""


def export(
    site: Site,
    folder: str,
    most_mib: int = MIB,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Writes the site; returns its manifest.

    Args:
      folder: a new one, an empty one, or one with an exported site, which is replaced.
      most_mib: size that head data may fill up; tokens are written in any case.
      progress: called with how many of the chosen steps have head data, and how many are chosen.

    Raises:
      ExportError: if other files are there. OSError: if it cannot be written.
    """
    root = pathlib.Path(folder)
    data = root / "data"
    if not check(folder):
        shutil.rmtree(data)
    data.mkdir(parents=True, exist_ok=True)
    writer = _Writer(data)
    for name, content in files().items():
        (root / name).write_bytes(content)
        writer.bytes += len(content)
    for name in ("model.json", "tour.json", "results.json"):
        writer.put(name, site.data(name))
    for which, run in site.runs.items():
        _put_run(writer, site, which, run)
    for space in range(len(site.tour.run.explainer.spaces)):
        writer.put(f"tour/members-{space}.bin", site.data(f"tour/members-{space}.bin"))
    plans = {"tour": site.tour.indices()} | {
        which: chosen(run) for which, run in site.runs.items() if which != "tour"
    }
    windows: dict[str, list] = {}
    total, done = sum(map(len, plans.values())), 0
    for which, wanted in plans.items():
        windows[which] = []
        for number, chunk in enumerate(_chunks(wanted)):
            if writer.bytes > most_mib << 20:
                break
            name = f"{which}/heads-w{number}.bin"
            writer.put(name, site.runs[which].heads(chunk))
            windows[which].append([name, _spans(chunk)])
            done += len(chunk)
            progress(done, total)
    manifest = site.manifest(
        served=False,
        windows=windows,
        chosen={which: len(wanted) for which, wanted in plans.items()},
        bytes=writer.bytes,
    )
    text = json.dumps(manifest, separators=(",", ":"))
    (data / "manifest.js").write_text(f"wasmjaxManifest = {text};\n")
    return manifest


def check(folder: str) -> bool:
    """Whether a folder is new or empty; if not, it holds an exported site.

    Raises:
      ExportError: if other files are there. OSError: if it cannot be read.
    """
    root = pathlib.Path(folder)
    if not root.exists() or not any(root.iterdir()):
        return True
    if not (root / "data" / "manifest.js").is_file():
        raise ExportError("the folder holds other files")
    return False


def chosen(run: Exploration) -> np.ndarray:
    """Tokens whose successors get head data, the most wanted first."""
    record, state = run.record, run.state
    wanted = np.zeros(record.tokens, np.int8)
    for begin, step, count, generated in record.parts():
        if not generated:
            continue
        now = np.arange(begin, begin + count)
        wanted[now[now - begin + step < FIRST] - 1] |= 8
        rows = record.rows(begin, begin + count)
        kind, depth = state.column(rows, "kind"), state.column(rows, "depth")
        events = (
            (4, np.isin(kind, isa.STOP_KINDS)),
            (2, (kind == isa.KIND["out"]) | (kind == isa.KIND["err"])),
            (1, depth > 0),
        )
        for rank, event in events:
            # How many windows are open at a step: those that began less those that ended.
            at = np.flatnonzero(event)
            edges = np.zeros(count + 1, np.int64)
            np.add.at(edges, np.maximum(at - AROUND // 2, 0), 1)
            np.add.at(edges, np.minimum(at + AROUND // 2, count), -1)
            wanted[now[np.cumsum(edges[:-1]) > 0] - 1] |= rank
    order = [np.flatnonzero((wanted >= rank) & (wanted < 2 * rank)) for rank in (8, 4, 2, 1)]
    return np.concatenate(order)


class _Writer:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.bytes = folder, 0

    def put(self, name: str, content: bytes) -> None:
        text = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
        path = self.folder / f"{name}.js"
        path.parent.mkdir(exist_ok=True)
        script = f'wasmjaxData("{name}","{text}");\n'
        path.write_text(script)
        self.bytes += len(script)


def _put_run(writer: _Writer, site: Site, which: str, run: Exploration) -> None:
    for name in _names(run):
        writer.put(f"{which}/{name}", site.data(f"{which}/{name}"))


def _names(run: Exploration) -> Iterator[str]:
    yield "info.json"
    yield "overview.bin"
    instructions = len(run.run.instance.lowered.program.instructions)
    yield from (f"code-{page}.json" for page in range(-(-instructions // PAGE)))
    pages = range(-(-run.record.tokens // PAGE))
    yield from (f"tokens-{page}.bin" for page in pages)
    fed = {
        page
        for begin, _, count, generated in run.record.parts()
        if not generated
        for page in range(begin // PAGE, (begin + count - 1) // PAGE + 1)
    }
    yield from (f"fed-{page}.bin" for page in sorted(fed))


def _chunks(wanted: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(wanted), CHUNK):
        yield np.sort(wanted[start : start + CHUNK])


def _spans(chunk: Iterable[int]) -> list[list[int]]:
    """Ascending numbers as runs [first, last]."""
    spans: list[list[int]] = []
    for number in map(int, chunk):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return spans
