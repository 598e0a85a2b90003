"""A site with the decoder for browsers, and pages of it in headless Chromium."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_site import build_site
from web_site import Site, watched_page

import ulcodec
from benchmarks.browser import CHROMIUM, WITHOUT_GPU
from ulcodec.codec.image import Codec


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


@pytest.fixture
def browser(driver: Any) -> Iterator[Any]:
    """A browser of its own for each test: workers of earlier pages leave nothing behind."""
    launched = driver.chromium.launch(executable_path=CHROMIUM, args=WITHOUT_GPU)
    yield launched
    launched.close()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """A blank page of the site. It must not report errors, nor ask for anything from elsewhere."""
    yield from watched_page(browser, site)


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
