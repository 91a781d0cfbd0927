"""The page in a browser: controls, numbers, files from disk, accessibility, pictures."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import browsing
import exploring
import onengine
import wasmjax
from wasmjax.explore import export
from wasmjax.explore.site import Site

pytestmark = pytest.mark.browser

CHAPTERS = (
    "softmax",
    "projections",
    "reading-memory",
    "parabola",
    "learned",
    "instruction-pointer",
    "writing",
    "whole-machine",
    "learnability",
)
# What is there when a chapter has drawn itself.
READY = {
    "softmax": "text.weight",
    "projections": ".journey .big",
    "reading-memory": ".cells .win",
    "parabola": "circle.win",
    "learned": "td.weight",
    "instruction-pointer": ".equation strong",
    "writing": ".places b",
    "whole-machine": ".output[data-step]",
    "learnability": "h1",
}
# Made up, in the format of the learnability suite: what the page does with results.
RESULTS = {
    "revision": "test",
    "tasks": {
        "T1": {
            "arms": [
                {
                    "name": "plain",
                    "seeds": 4,
                    "recovered": 1,
                    "curve": [[0, 0, 0, 0], [9, 0.5, 0, 1]],
                },
                {"name": "warm", "seeds": 4, "recovered": 4, "curve": [[0, 0, 0, 0], [9, 1, 1, 1]]},
            ]
        },
        "T7": {
            "curves": [
                {
                    "name": f"zeros {zeros}",
                    "sigma": [1e-4, 0.1],
                    "seeds": [4, 4],
                    "recovered": [4, recovered],
                    "wilson": [[0.51, 1], [0.05, 0.7]],
                    "before": [0.5, 0.05],
                    "exact_before": [1, 0],
                }
                for zeros, recovered in (("disturbed", 1), ("kept", 3))
            ]
        },
    },
    "heads": {
        "T1": {
            "constructed": {"w_q": [[1, 0], [0, 1]], "queries": [[1, 1], [2, 1]]},
            "learned": {"w_q": [[0.9, 0.1], [0, 1.1]], "queries": [[0.9, 1.1]], "keys": [[2, -1]]},
        }
    },
}


@pytest.fixture(scope="module")
def browser():
    with browsing.launched() as found:
        yield found


@pytest.fixture(scope="module")
def url():
    with browsing.serving(exploring.site()) as found:
        yield found


@pytest.fixture(scope="module")
def url_with_results():
    site = Site(exploring.the_tour(), None, RESULTS)
    with browsing.serving(site) as found:
        yield found


@pytest.fixture
def watched(browser, url):
    found = browsing.Watched(browser, url)
    yield found
    found.done()


# -- every control ------------------------------------------------------------------------------

# How to operate each control of a chapter, and where that must show.
STEPPING = {
    "first": ("click", ".status"),
    "back": ("click", ".status"),
    "play": ("click", ".status"),
    "on": ("click", ".status"),
    "last": ("click", ".status"),
    "step": ("type:77", ".status"),
    "scrub": ("slide", ".status"),
}
ELSEWHERE = {name: (how, ".headline") for name, (how, _) in STEPPING.items()} | {
    "speed": ("select", "select[data-control=speed]")
}
CONTROLS = {
    "softmax": {
        "temperature": ("slide", ".readout strong"),
        "lookup": ("select", "caption"),
    },
    "projections": {
        "token": ("select", ".chips"),
        "head": ("select", ".three"),
        "stream": ("key:ArrowRight", ".readout[data-coordinate]"),
        "entry": ("click:last", ".readout[data-coordinate]"),
        "stop": ("click", ".readout[data-coordinate]"),
        "step-there": ("click", "h1"),
    },
    "reading-memory": STEPPING
    | {
        "kind": ("radio", ".cells"),
        "cell": ("click", ".query"),
        "question": ("click:last", ".query"),
        "array": ("click", ".cells"),
        "to-store": ("click", ".status"),
        "to-load": ("click", ".status"),
        "to-add": ("click", ".cells"),
    },
    "parabola": {"scene": ("select", ".formula"), "target": ("slide", ".formula")},
    "learned": {"head": ("select", ".two")},
    "instruction-pointer": STEPPING | {"register": ("radio", ".equation")},
    "writing": {name: (how, ".ribbon") for name, (how, _) in STEPPING.items()}
    | {"place": ("click", "caption")},
    "whole-machine": ELSEWHERE
    | {
        "run": ("radio", ".status"),
        "address": ("type:64", ".bytes"),
        "follow": ("follow", ".bytes"),
        "filter": ("select", ".heads"),
        "head": ("click:last", ".detail"),
        "token": ("click", ".inspector"),
        "instruction": ("click", ".inspector"),
        "moment": ("click", ".headline"),
    },
    "learnability": {},
}


def operate(page, control: str, how: str) -> None:
    """Does with a control what a reader would."""
    found = page.locator(f"main [data-control='{control}']")
    verb, _, detail = how.partition(":")
    if verb == "click":
        (found.last if detail == "last" else found.first).click()
    elif verb == "slide":
        found.first.focus()
        found.first.press("End")
    elif verb == "select":
        found.first.select_option(index=found.first.locator("option").count() - 1)
    elif verb == "radio":
        found.last.check(force=True)
    elif verb == "key":
        found.first.focus()
        found.first.press(detail)
    elif verb == "type":
        found.first.fill(detail)
        found.first.press("Enter")
    elif verb == "follow":  # an address by hand, then the last write again
        page.locator("main [data-control='address']").fill("640")
        page.locator("main [data-control='address']").press("Enter")
        page.wait_for_function("() => !document.querySelector('[data-control=follow]').checked")
        page.wait_for_selector(".bytes td[data-address='640']")
        found.first.check()


def shown(page, selector: str) -> str:
    """What there is to see: text, attributes of what is drawn, the state of inputs."""
    return page.evaluate(
        """selector => JSON.stringify([...document.querySelectorAll('main ' + selector)].map(
             x => [x.outerHTML, x.value ?? '']))""",
        selector,
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_control_changes_what_it_should(watched, chapter):
    page = watched.page
    place = f"chapter={chapter}&step=60&run=program"
    watched.open(place, READY[chapter])
    browsing.settle(page)
    there = set(
        page.eval_on_selector_all("main [data-control]", "all => all.map(x => x.dataset.control)")
    )
    assert there == set(CONTROLS[chapter])
    for control, (how, selector) in CONTROLS[chapter].items():
        watched.open(place, READY[chapter])
        browsing.settle(page)
        before = shown(page, selector)
        operate(page, control, how)
        page.wait_for_function(
            """([selector, before]) => JSON.stringify(
                 [...document.querySelectorAll('main ' + selector)].map(
                   x => [x.outerHTML, x.value ?? ''])) !== before""",
            arg=[selector, before],
            timeout=10_000,
        )


def test_controls_that_come_and_go(watched):
    page = watched.page
    watched.open("chapter=whole-machine&step=1500&run=program", ".output[data-step='1500']")
    page.locator(".frame [data-control=token]").last.click()
    page.locator(".inspector [data-control=jump]").click()
    page.wait_for_function("() => !location.hash.includes('step=1500&')")
    page.locator(".frame [data-control=token]").last.click()
    page.locator(".inspector [data-control=close]").click()
    page.wait_for_function("() => !document.querySelector('.inspector').childElementCount")
    assert page.locator("header [data-control=theme]").count() == 1


def test_what_results_add(browser, url_with_results):
    watched = browsing.Watched(browser, url_with_results)
    page = watched.page
    watched.open("chapter=learnability", ready="[data-arm=warm]")
    assert page.locator("path.arm").count() == 2 and "not run yet" not in page.inner_text("main")
    page.locator("[data-control=task]").select_option(label="T7")
    page.wait_for_selector("line.wilson", state="attached")
    assert page.locator("line.wilson").count() == 2
    assert page.locator("tbody tr").first.inner_text().split("\t")[2:] == [
        "1 of 4",
        "4 of 4",
        "51% to 100%",
    ]
    # A share of the seeds, on a logarithmic axis: inside the chart, apart from each other.
    circles = page.eval_on_selector_all(
        "circle.win", "all => all.map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')])"
    )
    assert circles[0][1] == 16 and circles[1][1] == 240 - 224 * 0.25
    assert circles[1][0] - circles[0][0] > 200
    page.locator("[data-control=basin]").select_option(index=1)
    page.wait_for_selector("td:has-text('3 of 4')")
    watched.open("chapter=learned", ready="td.weight")
    weights = page.eval_on_selector_all("td.weight", "all => all.map(x => +x.dataset.value)")
    assert weights == [1, 0, 0, 1, 0.9, 0.1, 0, 1.1]
    page.locator("[data-control=head]").select_option(index=1)
    page.wait_for_selector(".not-run")
    watched.done()


def test_play_goes_on_and_stops(watched):
    page = watched.page
    watched.open("chapter=writing&step=240", ready=".ribbon li")
    page.locator("[data-control=play]").click()
    page.wait_for_function("() => location.hash.includes('step=245')", timeout=15_000)
    page.wait_for_selector("[data-control=play][aria-pressed=false]")


def test_dragging_the_target(watched):
    page = watched.page
    watched.open("chapter=parabola", ready=".chart svg circle.win")
    for chart in (0, 1):
        page.locator(".chart svg").nth(chart).scroll_into_view_if_needed()
        box = page.locator(".chart svg").nth(chart).bounding_box()
        before = page.inner_text(".formula")
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * (0.3 + 0.2 * chart), box["y"] + 60, steps=4)
        page.mouse.up()
        assert page.inner_text(".formula") != before


def test_charts_that_take_a_step(watched):
    page = watched.page
    for place, chart in (("instruction-pointer", ".chart"), ("whole-machine", ".transport .chart")):
        watched.open(f"chapter={place}&step=5&run=tour", ready=f"{chart} svg path")
        page.locator(f"{chart} svg").first.scroll_into_view_if_needed()
        box = page.locator(f"{chart} svg").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.6)
        page.wait_for_function("() => !/step=5(&|$)/.test(location.hash)")
    page.wait_for_selector(".sequence path.arc", state="attached")
    page.locator(".sequence path.arc.slots").first.dispatch_event("click")
    page.wait_for_selector(".sequence path.arc.slots.chosen", state="attached")


# -- numbers ------------------------------------------------------------------------------------


def values(page, selector: str) -> list[float]:
    return page.eval_on_selector_all(selector, "all => all.map(x => +x.dataset.value)")


def check_machine(watched, which: str, run, step: int, reference=None) -> None:
    """Chapter 8 at a step: state beside replaying, heads beside an explanation."""
    page, record = watched.page, run.record
    watched.open(
        f"chapter=whole-machine&run={which}&step={step}", ready=f".headline[data-step='{step}']"
    )
    page.locator("[data-control=filter]").select_option(label="all")
    page.wait_for_selector("tr[data-group='94']")
    page.wait_for_selector(f".output[data-step='{step}']")
    index = record.index_of(step) - 1
    registers = run.state.registers(index, index + 1)
    got = {
        name: int(page.inner_text(f".registers [data-register={name}]"))
        for name in ("ip", "sp", "fp", "depth")
    }
    assert got == {name: int(getattr(registers, name)[0]) for name in got}
    cells = page.eval_on_selector_all(
        ".frame tr[data-slot]",
        "all => all.map(x => [+x.dataset.slot, x.querySelector('.value').dataset.value])",
    )
    assert cells
    for slot, value in cells:
        assert int(value) == run.state.slots(index, slot, 1)[0][0], f"slot {slot}"
    for address, value in page.eval_on_selector_all(
        ".bytes td[data-address]", "all => all.map(x => [+x.dataset.address, +x.dataset.value])"
    ):
        assert value == run.state.memory(index, address, 1)[0][0], f"byte {address}"
    assert int(page.get_attribute(".output", "data-total")) == len(run.state.output(index)[1])
    rows = page.eval_on_selector_all(
        "tr[data-group]",
        """all => all.map(x => [+x.dataset.group,
             +(x.querySelector('[data-answered]')?.dataset.answered ?? -1),
             +(x.querySelector('td .num.q')?.dataset.value ?? NaN),
             x.querySelectorAll('td')[2].textContent])""",
    )
    heads = {}
    if reference is not None:
        heads = {(h.layer, h.head): h for h in reference.heads}
        emitted = {name: value for name, value in reference.emitted.items() if value}
        chips = page.eval_on_selector_all(
            ".emitted .chip", "all => all.map(x => [x.dataset.field, +x.dataset.value])"
        )
        assert dict(chips) == {"kind": emitted.pop("kind", 0)} | emitted
    found = run.explainer.explain(np.array([index]))
    for group, answered, asks, weight in rows:
        info = run.explainer.groups[group]
        pair = info.layer, info.heads[0]
        n = run.explainer.heads.index(pair)
        if info.space is None:
            continue
        assert answered == found.answered[0, n]
        assert asks == found.query[0, n, 0] / found.query[0, n, 1]
        assert float(weight) == found.weight[0, n]
        if heads:
            head = heads[pair]
            assert (answered, float(weight)) == (head.answered, head.weight)
            assert asks == pytest.approx(head.query[0] / head.query[1], rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("step", [0, 40, 1500])
def test_numbers_of_the_whole_machine(watched, step):
    machine, run = onengine.machine(), exploring.hello()
    module = wasmjax.load(exploring.EXAMPLES / "hello.wasm")
    reference = machine.explain(machine.start(module, ["program"]), step)
    check_machine(watched, "program", run, step, reference)


@pytest.mark.parametrize("moment", ["add", "load42", "print", "end"])
def test_numbers_of_the_tour(watched, moment):
    tour = exploring.the_tour()
    check_machine(watched, "tour", tour.run, tour.moments[moment])


def test_numbers_of_softmax(watched):
    page = watched.page
    watched.open("chapter=softmax", ready="text.weight")
    for position, lookup in enumerate(exploring.the_tour().lookups):
        page.locator("[data-control=lookup]").select_option(index=position)
        page.wait_for_function(
            "token => document.querySelector('tbody th').textContent === '#' + token",
            arg=lookup["token"][0],
        )
        scores = np.array(lookup["key"]) @ np.array(lookup["query"])
        for power in (-3, 2, 20, 34):
            page.locator("[data-control=temperature]").fill(str(power))
            want = np.exp((scores - scores.max()) * 2.0**power)
            got = values(page, "text.weight")
            assert got == pytest.approx((want / want.sum()).tolist(), rel=1e-9, abs=1e-300)
    assert got[lookup["token"].index(lookup["answered"])] == 1


def test_numbers_of_the_projections(watched):
    """The products on the page are the query that the engine's explanation has."""
    page, tour = watched.page, exploring.the_tour()
    explainer = tour.run.explainer
    watched.open("chapter=projections", ready="[data-result=q]")
    for position, token in enumerate(tour.tokens):
        page.locator("[data-control=token]").select_option(index=position)
        page.wait_for_function(
            "token => document.querySelector('.chips b').textContent.includes(token)",
            arg=str(token["index"]),
        )
        found = explainer.explain(np.array([token["index"]]))
        read = explainer.explain(np.array([token["reader"]]))
        number = token["head"]
        for kind, want in (
            ("q", found.query[0, number]),
            ("k", read.key[0, number]),
            ("v", read.value[0, number]),
        ):
            got = page.get_attribute(f"[data-result={kind}]", "data-value").split()
            assert [float(x) for x in got] == pytest.approx(want.tolist())
        page.wait_for_selector(".readout [data-answered]")
        assert (
            int(page.get_attribute(".readout [data-answered]", "data-answered")) == token["index"]
        )
    watched.open("chapter=projections", ready=".journey .big")
    assert page.locator(".journey .big").all_inner_texts() == ["0", "42", "42", "42", "42"]


def test_numbers_of_the_parabola(watched):
    page = watched.page
    watched.open("chapter=parabola", ready=".formula")
    for position, scene in enumerate(exploring.the_tour().scenes):
        page.locator("[data-control=scene]").select_option(index=position)
        last = len(scene["visits"]) - 1
        for at in {0, last // 3, last}:
            x = scene["low"] + at / scene["unit"]
            page.locator("[data-control=target]").fill(str(x))
            score = np.array(scene["key"]) @ np.array([x, 1])
            winner = scene["address"][int(np.flatnonzero(score == score.max())[-1])]
            assert int(page.get_attribute("[data-winner]", "data-winner")) == winner
            assert int(page.get_attribute("[data-visited]", "data-visited")) == len(
                scene["visits"][at]
            )


def test_numbers_of_reading_and_writing(watched):
    page, tour = watched.page, exploring.the_tour()
    run = tour.run
    step = tour.moments["add"]
    index = tour.before("add")
    watched.open(f"chapter=reading-memory&step={step}", ready=".cells .win")
    for address in (18, 19, 23):
        page.locator(f"[data-address='{address}']").click()
        writer = int(run.state.slots(index, address, 1)[1][0])
        page.wait_for_selector(f".query [data-answered='{writer}']")
    watched.open(f"chapter=writing&step={step}", ready=".places b")
    page.wait_for_selector(f".ribbon .newest[data-token='{index + 1}']")
    for place, value in page.eval_on_selector_all(
        "[data-place^=slot]",
        "all => all.map(x => [x.dataset.place, x.querySelector('b').dataset.value])",
    ):
        assert int(value) == run.state.slots(index + 1, int(place.split("-")[1]), 1)[0][0]


@pytest.mark.parametrize("name", ["ip", "sp", "fp", "depth"])
def test_numbers_of_the_instruction_pointer(watched, name):
    page, tour = watched.page, exploring.the_tour()
    step = tour.moments["return"]
    watched.open(f"chapter=instruction-pointer&step={step}", ready=".equation strong")
    names = ["ip", "sp", "fp", "depth"]
    page.locator("[data-control=register]").nth(names.index(name)).check(force=True)
    page.wait_for_selector(f".equation strong[data-register={name}]")
    index = tour.before("return")
    want = getattr(tour.run.state.registers(index, index + 1), name)[0]
    assert int(page.get_attribute(".equation strong", "data-value")) == want


# -- places, files, growth ------------------------------------------------------------------------


def test_links_lead_to_a_chapter_and_a_step(watched):
    page = watched.page
    watched.open("chapter=writing&step=12", ready=".ribbon")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => location.hash === '#chapter=writing&step=13'")
    page.click("nav a[href='#chapter=parabola']")
    page.wait_for_selector("main[data-chapter=parabola]")
    page.go_back()
    page.wait_for_selector("main[data-chapter=writing]")
    assert "step=13" in page.url
    page.click(".turn .next")
    page.wait_for_selector("main[data-chapter=whole-machine]")
    page.keyboard.press("Shift+PageUp")
    page.wait_for_selector("main[data-chapter=writing]")
    watched.open("chapter=nowhere&step=x", ready="main[data-chapter=softmax]")


def test_a_run_that_still_grows(browser):
    site = Site(
        exploring.the_tour(), exploring.explore(exploring.EXAMPLES / "hello.wasm", max_steps=50)
    )
    run = site.runs["program"]
    run.done = False
    with browsing.serving(site) as url:
        watched = browsing.Watched(browser, url)
        watched.open(
            "chapter=whole-machine&step=1000&run=program", ready=".headline[data-step='49']"
        )
        assert "running, 50 steps so far" in watched.page.inner_text(".status")
        run.finish(None)
        watched.page.wait_for_selector(".headline[data-step='1000']")
        watched.page.wait_for_function(
            "() => document.querySelector('.status').textContent.includes('exit 0')"
        )
        watched.done()


def test_a_long_run_pages_and_scrubs(browser):
    run = exploring.explore(exploring.EXAMPLES / "collatz.wasm", ["27"], max_steps=60_000)
    with browsing.serving(Site(exploring.the_tour(), run)) as url:
        watched = browsing.Watched(browser, url)
        for step in (59_999, 31_234):
            check_machine(watched, "program", run, step)
        page = watched.page
        bar = page.locator("[data-control=scrub]")
        for value in range(0, 60_000, 1500):
            bar.fill(str(value))
        page.wait_for_selector(".headline[data-step='58500']")
        page.wait_for_function("() => location.hash.includes('step=58500')")
        watched.done()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported site with head data for some steps only."""
    found = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FIRST", 60)
        patch.setattr(export, "AROUND", 4)
        export.export(exploring.site(), str(found))
    return found


def test_an_export_works_from_disk(browser, folder):
    watched = browsing.Watched(browser, (folder / "index.html").as_uri())
    for chapter in CHAPTERS:
        watched.open(f"chapter={chapter}", ready=f"main[data-chapter={chapter}]")
    browsing.settle(watched.page)
    tour, run = exploring.the_tour(), exploring.hello()
    check_machine(watched, "tour", tour.run, tour.moments["add"])
    for step in (0, 59):
        check_machine(watched, "program", run, step)
    held = set(export.chosen(run).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FIRST", 60)
        patch.setattr(export, "AROUND", 4)
        held = set(export.chosen(run).tolist())
    outside = next(
        s for s in range(200, run.record.steps) if run.record.index_of(s) - 1 not in held
    )
    watched.open(f"chapter=whole-machine&run=program&step={outside}", ready=".outside")
    assert "holds no head data for this step" in watched.page.inner_text(".outside")
    index = run.record.index_of(outside) - 1
    cells = watched.page.eval_on_selector_all(
        ".frame tr[data-slot]",
        "all => all.map(x => [+x.dataset.slot, x.querySelector('.value').dataset.value])",
    )
    watched.page.wait_for_selector(".frame tr[data-slot]")
    for slot, value in cells:
        assert int(value) == run.state.slots(index, slot, 1)[0][0]
    watched.done()


def test_an_export_works_from_any_host(browser, folder):
    """Served as plain files by a server that knows nothing."""
    import functools
    import http.server
    import threading

    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        watched = browsing.Watched(browser, f"http://127.0.0.1:{server.server_port}/")
        watched.open("chapter=whole-machine&run=program&step=30", ready=".sequence path.arc")
        watched.done()
        server.shutdown()
        thread.join()


def test_data_that_cannot_be_read_is_said(browser, folder, tmp_path):
    import shutil

    broken = tmp_path / "site"
    shutil.copytree(folder, broken)
    (broken / "data" / "tour.json.js").unlink()
    watched = browsing.Watched(browser, (broken / "index.html").as_uri())
    watched.page.goto(watched.base)
    watched.page.wait_for_selector(".failed")
    assert "data/tour.json.js is missing" in watched.page.inner_text(".failed")
    watched.context.close()


# -- for everybody --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, url, scheme):
    if not browsing.AXE.is_file():
        pytest.skip("no axe-core: run npm ci in wasmjax/explore/page (scripts/test_browser does)")
    # axe is a script that the page's own policy would not let in.
    watched = browsing.Watched(browser, url, color_scheme=scheme, bypass_csp=True)
    found = []
    for chapter in CHAPTERS:
        watched.open(f"chapter={chapter}&run=tour", ready=f"main[data-chapter={chapter}]")
        browsing.settle(watched.page)
        watched.page.add_script_tag(path=str(browsing.AXE))
        report = watched.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            (chapter, v["id"], node["html"][:160], node["failureSummary"][:200])
            for v in report["violations"]
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"][:3]
        ]
    assert found == [], json.dumps(found, indent=1)
    watched.done()


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_is_wider_than_the_screen(browser, url, width):
    watched = browsing.Watched(browser, url, viewport={"width": width, "height": 800})
    for chapter in CHAPTERS:
        watched.open(f"chapter={chapter}", ready=f"main[data-chapter={chapter}]")
        browsing.settle(watched.page)
        wide = watched.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{chapter} is {wide} wide"
    watched.done()


def test_a_keyboard_is_enough(watched):
    """Tab reaches every control of a chapter, and the focus can be seen and stays."""
    page = watched.page
    watched.open("chapter=reading-memory&step=129", ready=".cells .win")
    seen = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.dataset.control ?? ''"))
    assert {"kind", "play", "scrub", "step", "cell", "question", "array", "to-add"} <= seen
    cell = page.locator("[data-control=cell]").nth(3)
    cell.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('[data-control=cell]')[3].ariaPressed === 'true'"
    )
    assert page.evaluate("document.activeElement.dataset.control") == "cell"
    width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert width == "3px"


def test_colours_can_be_chosen_and_last(watched):
    page = watched.page
    watched.open("chapter=softmax", ready="[data-control=theme]")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("[data-control=theme]")
    assert page.evaluate(paper) == light  # light, now by choice
    page.click("[data-control=theme]")
    dark = page.evaluate(paper)
    assert dark != light
    watched.open("chapter=writing", ready="[data-control=theme]")
    assert page.evaluate(paper) == dark


HOSTILE = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\1d\\00\\00\\00")
  (data (i32.const 16) "<img src=x onerror=alert(1)>\\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


def test_programs_cannot_write_into_the_page(browser):
    """Output and names are text, whatever they hold."""
    program = exploring.compile_wat(HOSTILE)
    run = exploring.explore(program, ["<b>x</b>"])
    with browsing.serving(Site(exploring.the_tour(), run)) as url:
        watched = browsing.Watched(browser, url)
        last = run.record.steps - 1
        watched.open(
            f"chapter=whole-machine&run=program&step={last}", ready=f".headline[data-step='{last}']"
        )
        watched.page.wait_for_function(
            "() => document.querySelector('.output').textContent.includes('<img')"
        )
        assert watched.page.locator("main img, main b:text-is('x')").count() == 0
        assert "<b>x</b>" in watched.page.inner_text(".status")
        watched.done()


# -- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_pictures(browser, url, tmp_path, chapter):
    """A picture of each chapter; WASMJAX_SCREENSHOTS=docs/explore makes the documentation's."""
    watched = browsing.Watched(browser, url, viewport={"width": 1200, "height": 1000})
    watched.open(f"chapter={chapter}&step=129&run=tour", READY[chapter])
    if chapter == "softmax":
        watched.page.locator("[data-control=temperature]").fill("1.5")
    browsing.settle(watched.page)
    folder = Path(os.environ.get("WASMJAX_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chapter}.png"
    watched.page.screenshot(path=path, animations="disabled")
    assert 10_000 < path.stat().st_size < 200 << 10
    watched.done()
