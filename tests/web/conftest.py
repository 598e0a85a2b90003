"""A site with the decoder for browsers, and pages of it in headless Chromium."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY / "web"), str(REPOSITORY / "tests" / "fuzz")]

from build import build_site  # noqa: E402
from serve import Handler  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
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


@pytest.fixture(scope="session")
def site(graph_model_dir: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The decoder with the shipped model and the tiny ones, one with a prior for each pass."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("web") / "site"
    try:
        build_site(folder, ["small", str(graph_model_dir), str(tiny_model_dir)])
    except subprocess.CalledProcessError:
        pytest.skip("needs a registry of npm packages, for onnxruntime-web")
    shutil.copy(Path(__file__).parent / "probe.js", folder)
    (folder / "blank.html").write_text("<!doctype html><body style='margin:0'>")
    (folder / "favicon.ico").touch()
    served = Site(folder)
    yield served
    served.close()


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(driver: Any) -> Iterator[Any]:
    launched = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-gpu"])
    yield launched
    launched.close()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """A blank page of the site. It must not report errors, nor ask for anything from elsewhere."""
    yield from watched_page(browser, site)


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


@pytest.fixture(scope="session")
def small() -> Codec:
    return ulcodec.load("small", device="cpu", backend="onnxruntime", n_threads=1)


@pytest.fixture(scope="session")
def in_graphs(graph_model_dir: Path) -> Codec:
    """The tiny model with a shared prior, in float32 as in the browser."""
    return ulcodec.load(graph_model_dir, backend="onnxruntime", n_threads=1)


@pytest.fixture(scope="session")
def soft_alpha(picture: np.ndarray) -> np.ndarray:
    """Straight alpha for `picture`: from transparent to opaque, uint8 [80, 96]."""
    return np.broadcast_to(np.linspace(0, 255, picture.shape[1]).astype(np.uint8), picture.shape[:2]).copy()
