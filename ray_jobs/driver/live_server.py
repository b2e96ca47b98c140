"""The server of the live page: for this machine's browsers, from a run folder alone.

    server = live_server(Path("runs/demo"), 8700)
    server.serve_forever()

It answers a fixed list of addresses and reads no other file.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ray_jobs.record.live_data import LiveData
from ray_jobs.record.replay_data import plain

JOBS = Path(__file__).parent.parent
# Style and helpers are those of the replay page.
PAGE = JOBS / "live_page"
SHARED = JOBS / "replay_page" / "page"
FILES = {
    "/": (PAGE / "index.html", "text/html"),
    "/live/live.css": (PAGE / "live" / "live.css", "text/css"),
    "/live/charts.js": (PAGE / "live" / "charts.js", "text/javascript"),
    "/live/main.js": (PAGE / "live" / "main.js", "text/javascript"),
    "/page/style.css": (SHARED / "style.css", "text/css"),
    "/page/dom.js": (SHARED / "dom.js", "text/javascript"),
}


class LiveServer(ThreadingHTTPServer):
    """A server that says nothing: a job's display is beside it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that is gone is no error."""


class Handler(BaseHTTPRequestHandler):
    """Answers with the page and its data."""

    def __init__(self, *arguments: Any, data: LiveData, **named: Any) -> None:
        self.documents: dict[str, Callable[[], Any]] = {
            "/now.json": data.now,
            "/curves.json": data.curves,
        }
        super().__init__(*arguments, **named)

    def do_GET(self) -> None:
        """Answer a request."""
        path = self.path.partition("?")[0]
        if path in FILES:
            file, kind = FILES[path]
            self._send(HTTPStatus.OK, kind, file.read_bytes())
        elif path in self.documents:
            self._send_document(self.documents[path])
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there is nothing here\n")

    def _send_document(self, document: Callable[[], Any]) -> None:
        try:
            text = json.dumps(plain(document()), allow_nan=False)
        except Exception as error:
            # The page says it; the job beside this server goes on.
            said = f"{type(error).__name__}: {error}"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", said.encode())
            return
        self._send(HTTPStatus.OK, "application/json", text.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing about each request."""


def live_server(run: Path, port: int, remedy: str) -> LiveServer:
    """Return the server of a run's page, not serving yet.

    Args:
        port: 0 is any free one.
        remedy: How to give another port, for the message.

    Raises:
        ValueError: The port cannot be used.
    """
    handler = functools.partial(Handler, data=LiveData(run))
    try:
        return LiveServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port} cannot be used ({error}): {remedy}") from error


@contextmanager
def live_page(run: Path, port: int) -> Iterator[None]:
    """Serve the page of a job's run while the block runs; port 0 serves none.

    Raises:
        ValueError: The port cannot be used.
    """
    if not port:
        yield
        return
    remedy = "another program has it, or it is reserved: give another record.port=..., or 0"
    with live_server(run, port, remedy) as server:
        serving = threading.Thread(target=server.serve_forever, name="live-page", daemon=True)
        serving.start()
        print(f"live page: http://127.0.0.1:{port}/", flush=True)
        try:
            yield
        finally:
            server.shutdown()
