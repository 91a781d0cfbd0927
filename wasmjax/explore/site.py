"""What a page is made of: its files, and its data by name."""

import functools
import importlib.resources
import json
import pathlib
import threading
from typing import Any

import numpy as np

from wasmjax.explore.exploration import PAGE, Exploration, as_json, model
from wasmjax.explore.tour import Tour

FORMAT = 1
"""Version of the data that the page reads."""
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "json": "application/json",
    "bin": "application/octet-stream",
}
"""Media types by the ending of a name."""
_FILES = ("index.html", "explore.js", "explore.css", "icon.svg", "third-party.txt")
_MOST = 1 << 16
"""Slots, bytes of memory or of output that one answer holds."""


def files() -> dict[str, bytes]:
    """The built page, by file name."""
    folder = importlib.resources.files("wasmjax.explore") / "static"
    return {name: (folder / name).read_bytes() for name in _FILES}


def read_results(path: str | None) -> dict[str, Any] | None:
    """Results of the learnability suite, None where there are none.

    Args:
      path: a file; None: docs/learnability/results.json beside the package, if there is one.

    Raises:
      OSError: if the file cannot be read. ValueError: if it holds no JSON object.
    """
    if path is None:
        beside = pathlib.Path(__file__).parents[2] / "docs" / "learnability" / "results.json"
        if not beside.is_file():
            return None
        path = str(beside)
    text = pathlib.Path(path).read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda _: None)  # no browser reads NaN
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


class Site:
    """The tour, perhaps a program's run, and results.

    Args:
      tour: the tour. program: another run. results: of the learnability suite.
    """

    def __init__(
        self, tour: Tour, program: Exploration | None = None, results: dict | None = None
    ) -> None:
        self.tour = tour
        self.runs = {"tour": tour.run} | ({"program": program} if program is not None else {})
        self.results = results
        # Explaining keeps what it computed for the next one; state does not wait for it.
        self._locks = {name: threading.Lock() for name in self.runs}
        self._heads = functools.lru_cache(maxsize=256)(self._explained)

    def manifest(self, **more: Any) -> dict[str, Any]:
        """What the page reads first."""
        return {"format": FORMAT, "runs": [*self.runs], "page": PAGE, **more}

    def data(self, name: str) -> bytes:
        """One piece of data.

        Raises:
          KeyError: if there is none of this name. IndexError: if it asks for what is not there.
        """
        first, _, rest = name.partition("/")
        if not rest:
            return self._common(name)
        return self._of_run(first, self.runs[first], rest)

    def _common(self, name: str) -> bytes:
        if name == "model.json":
            return self._model
        if name == "tour.json":
            return self._tour
        if name == "results.json":
            return as_json(self.results)
        raise KeyError(name)

    def warm(self) -> None:
        """Makes what every page begins with, so that the first one need not wait."""
        for name in ("model.json", "tour.json"):
            self.data(name)

    @functools.cached_property
    def _model(self) -> bytes:
        return as_json(model(self.tour.run.machine, self.tour.run.explainer))

    @functools.cached_property
    def _tour(self) -> bytes:
        return as_json(self.tour.record())

    def _of_run(self, which: str, run: Exploration, name: str) -> bytes:
        stem, _, ending = name.rpartition(".")
        kind, *texts = stem.split("-")
        if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
            raise KeyError(name)
        numbers = [int(text) for text in texts]
        match kind, ending, numbers:
            case "info", "json", []:
                return as_json(run.info())
            case "code", "json", [page]:
                return as_json(run.code(page))
            case "tokens", "bin", [page]:
                return run.tokens(page)
            case "fed", "bin", [page]:
                return run.fed(page)
            case "overview", "bin", []:
                return run.overview()
            case "heads", "bin", [index]:
                self._check(run, index)
                return self._heads(which, index)
            case "slots", "bin", [index, first, count]:
                self._check(run, index)
                return run.slots(index, first, min(count, _MOST))
            case "memory", "bin", [index, first, count]:
                self._check(run, index)
                return run.memory(index, first, min(count, _MOST))
            case "output", "bin", [index, most]:
                self._check(run, index)
                return run.output(index, max(1, min(most, _MOST)))
            case "members", "bin", [space] if which == "tour" and space < self._spaces:
                return run.members(space)
        raise KeyError(name)

    @property
    def _spaces(self) -> int:
        return len(self.tour.run.explainer.spaces)

    def _check(self, run: Exploration, index: int) -> None:
        if index >= run.record.tokens:
            raise IndexError(f"token {index} of {run.record.tokens}")

    def _explained(self, which: str, index: int) -> bytes:
        with self._locks[which]:
            return self.runs[which].heads(np.array([index]))
