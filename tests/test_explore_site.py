"""The server, the exported files, and what the command line refuses."""

import base64
import contextlib
import gzip
import http.client
import json
import re
import socket
import threading

import numpy as np
import pytest

import exploring
from wasmjax.cli import main, status
from wasmjax.cli.parser import parse
from wasmjax.explore import export
from wasmjax.explore.columns import unpack
from wasmjax.explore.serve import ADDRESS, Server
from wasmjax.explore.site import Site, read_results

HELLO = str(exploring.EXAMPLES / "hello.wasm")


@contextlib.contextmanager
def serving(site: Site):
    with Server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server():
    with serving(exploring.site()) as running:
        yield running


def ask(server: Server, path: str, host: str | None = None, method: str = "GET"):
    """Status, headers and body of an answer; the path goes out as it is."""
    connection = http.client.HTTPConnection(ADDRESS, server.server_port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or f"{ADDRESS}:{server.server_port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_page_and_its_data(server):
    code, headers, body = ask(server, "/")
    assert code == 200 and body.startswith(b"<!doctype html>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    code, _, body = ask(server, "/data/manifest.js")
    assert code == 200 and json.loads(body[len("wasmjaxManifest = ") : -2])["served"] is True
    info = json.loads(ask(server, "/data/program/info.json")[2])
    assert info["done"] and info["ended"] == "exit 0"
    assert info["steps"] == exploring.hello().record.steps
    assert json.loads(ask(server, "/data/results.json")[2]) is None
    code, headers, body = ask(server, "/explore.js", method="HEAD")
    assert code == 200 and int(headers["Content-Length"]) > 50_000 and body == b""


def test_pages_of_tokens(server):
    record = exploring.hello().record
    index = record.index_of(300)
    page = unpack(ask(server, f"/data/program/tokens-{index // 4096}.bin")[2])
    row, token = index % 4096, record.full(np.array([index]))[0]
    state = exploring.hello().state
    assert page["kind"][row] == token[0]
    assert page["low"][row] == sum(int(token[1 + k]) << 8 * k for k in range(4))
    before = state.registers(index - 1, index)
    for name in ("ip", "sp", "fp", "depth"):
        assert page[name][row] == getattr(before, name)[0]
    fed = unpack(ask(server, "/data/program/fed-0.bin")[2])
    assert np.array_equal(fed["rows"], record.full(fed["index"].astype(np.int64)))


def test_the_overview_shows_depth_and_output(server):
    run = exploring.hello()
    found = unpack(ask(server, "/data/program/overview.bin")[2])
    first = run.record.index_of(0)
    depth = run.state.registers(first - 1, run.record.tokens - 1).depth
    assert found["depth"].max() == depth.max()
    assert found["out"].sum() == len(b"Hello, world! 42\n")
    assert len(found["depth"]) <= 1024 and found["low"].min() >= 0


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2fpyproject.toml",
        "/static/../serve.py",
        "/data/../../serve.py",
        "/data/tour/../../serve.py",
        "/data/nobody/info.json",
        "/data/tour/heads-99999999.bin",
        "/data/tour/heads-99999999999999999999.bin",
        "/data/tour/heads--1.bin",
        "/data/tour/heads-x.bin",
        "/data/tour/heads-1.json",
        "/data/tour/slots-5-0.bin",
        "/data/tour/members-99.bin",
        "/data/program/members-0.bin",
        "/data/",
        "/favicon.ico",
    ],
)
def test_nothing_else_is_there(server, path):
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("host", ["example.org", f"{ADDRESS}:1", "localhost.example.org", ADDRESS])
def test_other_hosts_get_nothing(server, host):
    """What a page elsewhere could ask by pointing its own name to this address."""
    code, _, body = ask(server, "/data/program/info.json", host=host)
    assert code == 403 and b"steps" not in body
    assert ask(server, "/", host=f"localhost:{server.server_port}")[0] == 200


def test_only_reading(server):
    assert ask(server, "/", method="POST")[0] == 501


def test_only_this_machine(server):
    assert server.server_address[0] == "127.0.0.1"


def test_an_answer_is_never_larger_than_a_page(server):
    record = exploring.hello().record
    body = ask(server, f"/data/program/memory-{record.tokens - 1}-0-999999999.bin")[2]
    assert len(unpack(body)["byte"]) == 1 << 16


# -- export -----------------------------------------------------------------------------------


def read(folder, name: str) -> bytes:
    """What an exported script hands over."""
    text = (folder / "data" / f"{name}.js").read_text()
    found = re.fullmatch(r'wasmjaxData\("([^"]+)","([A-Za-z0-9+/=]+)"\);\n', text)
    assert found and found[1] == name
    return gzip.decompress(base64.b64decode(found[2]))


@pytest.fixture(scope="module")
def small_windows():
    """Fewer steps with head data: each takes milliseconds."""
    assert (export.FIRST, export.AROUND, export.MIB) == (2000, 200, 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FIRST", 300)
        patch.setattr(export, "AROUND", 20)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small_windows):
    folder = tmp_path_factory.mktemp("site")
    return folder, export.export(exploring.site(), str(folder))


def test_an_export_holds_all_tokens_and_the_chosen_heads(exported):
    folder, manifest = exported
    run = exploring.hello()
    assert not manifest["served"] and manifest["runs"] == ["tour", "program"]
    for page in range(-(-run.record.tokens // 4096)):
        assert read(folder, f"program/tokens-{page}.bin") == run.tokens(page)
    held = []
    for name, spans in manifest["windows"]["program"]:
        arrays = unpack(read(folder, name))
        inside = [index for first, last in spans for index in range(first, last + 1)]
        assert arrays["index"].tolist() == inside
        held += inside
    assert len(held) == len(set(held))
    assert set(held) == set(export.chosen(run).tolist())
    first = run.record.index_of(0) - 1
    assert {*range(first, first + 300)} <= set(held)
    assert len(held) < run.record.steps
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 50 << 20 and abs(size - manifest["bytes"]) < 100_000
    page = (folder / "index.html").read_text()
    assert 'type="module"' not in page and "http://" not in page and "https://" not in page


def test_windows_lie_around_calls_traps_and_output(small_windows):
    run = exploring.hello()
    record, state = run.record, run.state
    wanted = set((export.chosen(run) + 1).tolist())
    rows = record.rows(0, record.tokens)
    kind, depth = state.column(rows, "kind"), state.column(rows, "depth")
    first = record.index_of(0)
    for token in range(first, record.tokens):
        if kind[token] in (6, 8, 9) or depth[token] > 0:
            assert {*range(max(first, token - 10), min(record.tokens, token + 10))} <= wanted


def test_a_full_export_says_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "CHUNK", 64)
    manifest = export.export(exploring.site(), str(tmp_path / "new"), most_mib=0)
    assert manifest["windows"] == {"tour": [], "program": []}
    assert manifest["chosen"]["program"] > 1000
    assert read(tmp_path / "new", "program/info.json")


def test_an_export_replaces_an_export_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(export.ExportError, match="other files"):
        export.export(exploring.site(), str(tmp_path), most_mib=0)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    folder = tmp_path / "site"
    export.export(exploring.site(), str(folder), most_mib=0)
    (folder / "data" / "program" / "stale.bin.js").write_text("")
    export.export(exploring.site(), str(folder), most_mib=0)
    assert not (folder / "data" / "program" / "stale.bin.js").exists()


def test_exports_are_reproducible(tmp_path):
    for name in ("a", "b"):
        export.export(exploring.site(), str(tmp_path / name), most_mib=0)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.js"))
    assert files
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


# -- results and the command line ---------------------------------------------------------------


def test_results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"tasks": {"T1": {"arms": [{"name": "a", "curve": [[0, NaN, 0, 1]]}]}}}')
    found = read_results(str(path))
    assert found["tasks"]["T1"]["arms"][0]["curve"] == [[0, None, 0, 1]]
    site = Site(exploring.the_tour(), None, found)
    assert json.loads(site.data("results.json")) == found


def test_options_may_follow_the_program():
    for argv, args, folder in (
        (["p.wasm", "--export", "site/"], [], "site/"),
        (["p.wasm", "--export=s", "--port", "3", "7"], ["7"], "s"),
        (["--export", "s", "p.wasm", "7", "--export", "x"], ["7", "--export", "x"], "s"),
        (["p.wasm", "--", "--export", "x"], ["--export", "x"], None),
        (["p.wasm", "-v"], ["-v"], None),
    ):
        found = parse(["explore", *argv])
        assert (found.program, found.args, found.export) == ("p.wasm", args, folder)


def command(capsys, *args: str) -> tuple[int, str]:
    code = main(["explore", *args])
    return code, capsys.readouterr().err


def test_wrong_input_gets_one_line(capsys, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for args, words in (
            (["missing.wasm"], "missing.wasm: No such file"),
            (["--results", str(tmp_path / "none.json")], "none.json: No such file"),
            (["--results", str(bad)], "bad.json: not a JSON object"),
            (["--results", HELLO], "hello.wasm: "),
            (["--call", "nope", HELLO], "no function 'nope'"),
            (["--export", str(tmp_path / "full")], "full: the folder holds other files"),
            (["--export", str(bad)], "bad.json: "),
            (["--port", port], f"port {port}: "),
        ):
            code, err = command(capsys, *args)
            assert code == status.REFUSED, args
            assert words in err and err.count("\n") == 1, err


def test_export_from_the_command_line(capsys, tmp_path):
    folder = tmp_path / "site"
    code = main(["explore", "--max-steps", "50", HELLO, "--export", str(folder)])
    out, err = capsys.readouterr()
    assert code == 0 and "open index.html" in out and "all 296 steps are there" in err
    info = json.loads(read(folder, "program/info.json"))
    assert info["steps"] == 50 and "--max-steps" in info["ended"]


def test_serving_from_the_command_line(capsys, monkeypatch):
    """It says where the page is; Ctrl-C ends it."""
    seen = {}

    def serve_forever(self: Server) -> None:
        seen["runs"] = [*self.site.runs]
        seen["address"] = self.server_address
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", serve_forever)
    assert main(["explore", "--port", "0", "--max-steps", "20", HELLO]) == status.INTERRUPTED
    out = capsys.readouterr().out
    assert seen["runs"] == ["tour", "program"]
    assert out == f"http://127.0.0.1:{seen['address'][1]}/  (Ctrl-C ends)\n"


def test_a_port_that_is_taken_is_no_matter_unless_asked_for(monkeypatch):
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        monkeypatch.setattr("wasmjax.explore.serve.PORT", taken.getsockname()[1])
        with Server() as server:
            assert server.server_port != taken.getsockname()[1]
