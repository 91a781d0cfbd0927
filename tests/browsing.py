"""A headless Chromium for tests, or the reason why there is none."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmjax.explore.serve import Server
from wasmjax.explore.site import Site

PAGE = Path(__file__).resolve().parent.parent / "wasmjax" / "explore" / "page"
AXE = PAGE / "node_modules" / "axe-core" / "axe.min.js"


def chromium() -> str | None:
    """The browser to drive."""
    names = (os.environ.get("WASMJAX_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@contextlib.contextmanager
def launched() -> Iterator:
    """A Playwright browser; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright (scripts/test_browser installs it)"
    )
    path = chromium()
    if path is None:
        pytest.skip("no chromium on PATH (scripts/test_browser)")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # which Chromium's sandbox refuses
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def serving(site: Site) -> Iterator[str]:
    """The address at which a site is served."""
    with Server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


class Watched:
    """A page in a context of its own; `problems` has what it complained about or asked for."""

    def __init__(self, browser, base: str, **options) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.page = self.context.new_page()
        self.base, self.problems, self.leaving = base, [], False
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("requestfailed", lambda request: self._note(f"failed: {request.url}"))
        self.page.on("request", self._request)

    def _note(self, problem: str) -> None:
        if not self.leaving:  # requests of a page that is left are cut off
            self.problems.append(problem)

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self._note(message.text)

    def _request(self, request) -> None:
        if not request.url.startswith(self.base.rpartition("/")[0]):
            self.problems.append(f"asked for {request.url}")

    def open(self, place: str, ready: str = "main h1") -> None:
        """Goes to a chapter, such as "chapter=writing&step=3"."""
        self.leaving = True
        self.page.goto("about:blank")
        self.leaving = False
        self.page.goto(f"{self.base}#{place}")
        self.page.wait_for_selector(ready)

    def done(self) -> None:
        self.leaving = True
        self.context.close()
        assert self.problems == []


def settle(page) -> None:
    """Waits until nothing has changed in the page for a moment."""
    page.evaluate(
        """() => new Promise(done => {
             let timer = setTimeout(finish, 120);
             const watch = new MutationObserver(() => {
               clearTimeout(timer);
               timer = setTimeout(finish, 120);
             });
             watch.observe(document, {subtree: true, childList: true, attributes: true});
             function finish() { watch.disconnect(); done(); }
           })"""
    )
