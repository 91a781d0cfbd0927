#!/usr/bin/env python3
"""Times the interactive exploration on a long run: recording, opening the page, scrubbing.

    scripts/bench_explore.py [--steps N] [PROGRAM.wasm ARGUMENT...]

Prints how long it takes until the server answers; the size of the record; per step, state and heads
near the end; and, where there are Playwright and Chromium (scripts/test_browser), how soon the page
shows the last step, and how long frames take while the whole run is scrubbed.
"""

import argparse
import contextlib
import http.client
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import wasmjax
from wasmjax.explore import tour
from wasmjax.explore.exploration import Exploration
from wasmjax.explore.record import Tape
from wasmjax.explore.serve import ADDRESS, Server
from wasmjax.explore.site import Site, files

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRUB = """async last => {
  const bar = document.querySelector('[data-control=scrub]');
  const gaps = [];
  let before = performance.now(), on = true;
  const tick = () => {
    const now = performance.now();
    gaps.push(now - before);
    before = now;
    if (on) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  for (let k = 0; k < 200; k++) {
    bar.value = String(Math.floor(last * Math.abs(Math.sin(k / 20))));
    bar.dispatchEvent(new Event('input'));
    await new Promise(done => setTimeout(done, 25));
  }
  const began = performance.now();
  const head = () => document.querySelector('.headline').dataset.step;
  while (head() !== bar.value) await new Promise(done => setTimeout(done, 5));
  on = false;
  return {settle: performance.now() - began, gaps};
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("program", nargs="?", default=str(EXAMPLES / "quicksort.wasm"))
    parser.add_argument("args", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    words = args.args or (["7", "4096"] if args.program.endswith("quicksort.wasm") else [])

    began = time.perf_counter()
    machine = wasmjax.Machine()
    site_tour = tour.Tour(tour.record(machine))
    tape = Tape(machine.engine)
    running = machine.start(wasmjax.load(args.program), ["program", *words], session=tape)
    run = Exploration(machine, running, tape, Path(args.program).name, words)
    site = Site(site_tour, run)
    site.warm()
    print(f"until the server is there: {time.perf_counter() - began:.1f} s")

    began = time.perf_counter()
    run.finish(args.steps)
    seconds = time.perf_counter() - began
    record = run.record
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"recording {record.steps:,} steps: {seconds:.1f} s ({record.steps / seconds:,.0f}/s); "
        f"peak memory {peak:,.0f} MiB"
    )
    print(f"page: {sum(map(len, files().values())) / 1024:.0f} KiB")

    rng = np.random.default_rng(0)
    late = rng.integers(record.tokens * 9 // 10, record.tokens - 1, 40)
    say("explain a step near the end", [clock(lambda i=i: run.heads(np.array([i]))) for i in late])
    say("slots near the end", [clock(lambda i=i: run.slots(int(i), 16, 40)) for i in late])
    say("memory near the end", [clock(lambda i=i: run.memory(int(i), 0, 64)) for i in late])
    say("overview", [clock(run.overview) for _ in range(3)])

    with Server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        connection = http.client.HTTPConnection(ADDRESS, server.server_port)
        connection.request("GET", "/data/program/info.json")
        connection.getresponse().read()
        with contextlib.suppress(ImportError):
            in_browser(server.url, record.steps - 1)
        server.shutdown()
        thread.join()


def in_browser(url: str, last: int) -> None:
    """Opens the page at the last step, three times, and scrubs."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        print("no chromium on PATH: nothing measured in a browser")
        return
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        times = []
        for _ in range(3):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(f"{url}#chapter=whole-machine&run=program&step={last}")
            page.wait_for_selector(f".output[data-step='{last}']")
            times.append(time.perf_counter() - began)
        say("the page shows the last step, its heads and state", times)
        found = page.evaluate(SCRUB, last)
        gaps = sorted(found["gaps"])
        print(
            f"scrubbing, 200 places in 5 s: frames of {statistics.median(gaps):.0f} ms (median), "
            f"{gaps[len(gaps) * 95 // 100]:.0f} ms (95%), {gaps[-1]:.0f} ms (longest); "
            f"the last place is there after {found['settle']:.0f} ms"
        )
        browser.close()


def clock(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def say(what: str, seconds: list[float]) -> None:
    middle, most = statistics.median(seconds), max(seconds)
    print(
        f"{what}: {1000 * middle:.0f} ms (median of {len(seconds)}), at most {1000 * most:.0f} ms"
    )


if __name__ == "__main__":
    main()
