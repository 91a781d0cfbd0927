"""Serves a site on 127.0.0.1, to this machine's browsers and nobody else."""

import contextlib
import http
import http.server
import json
from typing import Any

from wasmjax.explore.site import TYPES, Site, files

ADDRESS = "127.0.0.1"
PORT = 8300
"""Where to serve unless told otherwise; if it is taken, anywhere."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """A site at http://127.0.0.1:PORT/.

    Args:
      site: None: it is set before the first request is answered.
      port: None: PORT, or a free one if that is taken; 0: a free one.

    Raises:
      OSError: if the port asked for is taken.
    """

    daemon_threads = True
    site: Site

    def __init__(self, site: Site | None = None, port: int | None = None) -> None:
        self.files = files()
        if site is not None:
            self.site = site
        try:
            super().__init__((ADDRESS, PORT if port is None else port), _Handler)
        except OSError:
            if port is not None:
                raise
            super().__init__((ADDRESS, 0), _Handler)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, body: bool) -> None:
        # A page elsewhere that resolves its own name to this address still sends that name.
        hosts = {f"{name}:{self.server.server_port}" for name in (ADDRESS, "localhost")}
        if self.headers.get("Host") not in hosts:
            self._send(http.HTTPStatus.FORBIDDEN, b"not this host\n", "", body)
            return
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        try:
            data = self._find(name)
        except (KeyError, IndexError):
            self._send(http.HTTPStatus.NOT_FOUND, b"not found\n", "", body)
            return
        self._send(http.HTTPStatus.OK, data, name.rpartition(".")[2], body)

    def _find(self, name: str) -> bytes:
        """A file of the page by its exact name, or data."""
        if name == "data/manifest.js":
            text = json.dumps(self.server.site.manifest(served=True))
            return f"wasmjaxManifest = {text};\n".encode()
        if name.startswith("data/"):
            return self.server.site.data(name.removeprefix("data/"))
        return self.server.files[name]

    def _send(self, status: http.HTTPStatus, data: bytes, ending: str, body: bool) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", TYPES.get(ending, "text/plain; charset=utf-8"))
            self.send_header("Content-Length", str(len(data)))
            for header, value in _HEADERS.items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    def version_string(self) -> str:
        """Nothing about the machine."""
        return "wasmjax"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
