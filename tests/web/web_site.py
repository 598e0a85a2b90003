"""The site of the tests: a server that can hold files back, and pages that are watched for errors."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serve import Handler

WAIT_S = 120


class HoldingHandler(Handler):
    """Sends a file in parts if its address ends in `?stops=100,300`: the rest waits until the test lets it pass.

    `gates`: events by the position in the file where each part begins.
    """

    gates: dict[int, threading.Event]
    sent_headers = Handler.sent_headers | {
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }

    def do_GET(self) -> None:  # noqa: N802 (a name of http.server)
        address = urlsplit(self.path)
        stops = [int(stop) for stop in parse_qs(address.query).get("stops", [""])[0].split(",") if stop]
        if not stops:
            super().do_GET()
            return
        data = Path(self.translate_path(address.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for start, stop in zip([0, *stops], [*stops, len(data)], strict=True):
            if start:
                self.gates[start].wait(WAIT_S)
            self.wfile.write(data[start:stop])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


class Site:
    """A folder that is served on this machine: `address`, with a slash at its end."""

    def __init__(self, folder: Path):
        self.folder, self.gates = folder, {}
        handler = type("SiteHandler", (HoldingHandler,), {"gates": self.gates})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        for gate in self.gates.values():
            gate.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def hold(self, *stops: int) -> list[threading.Event]:
        """Make the gates of a file that is sent in parts, for `?stops=...`."""
        gates = [threading.Event() for _ in stops]
        self.gates.update(zip(stops, gates, strict=True))
        return gates


def watched_page(browser: Any, site: Site) -> Iterator[Any]:
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 800, "height": 600})
    page.set_default_timeout(1000 * WAIT_S)
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: None if is_local(request.url, site) else errors.append(request.url))
    page.expected_errors = []
    page.goto(f"{site.address}blank.html")
    yield page
    page.close()
    assert [error for error in errors if not any(part in error for part in page.expected_errors)] == []


def is_local(url: str, site: Site) -> bool:
    return url.startswith((site.address, "blob:", "data:"))
