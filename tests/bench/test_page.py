"""Reports as pages in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import CHROMIUM, WITHOUT_GPU


@contextmanager
def opened_page(report: Path, width: int, scheme: str) -> Iterator[Any]:
    """The page of a report in a browser. It must not report errors, nor ask for anything from the network."""
    playwright = pytest.importorskip("playwright.sync_api")
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=WITHOUT_GPU)
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
        page.goto((report / "index.html").as_uri())
        yield page
        browser.close()
    assert errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_page_works_in_a_browser(report: Path, width: int, scheme: str) -> None:
    """From file://, without network and errors: the divider moves, pictures swap, and curves show."""
    with opened_page(report, width, scheme) as page:
        stage = page.locator("#stage")
        assert stage.get_attribute("aria-valuenow") == "50"
        page.keyboard.press("ArrowRight")
        assert stage.get_attribute("aria-valuenow") == "52"
        area = stage.bounding_box()
        page.mouse.move(area["x"] + area["width"] / 4, area["y"] + 50)
        page.mouse.down()
        page.mouse.up()
        assert stage.get_attribute("aria-valuenow") == "25"
        right = page.locator("#image-right")
        first_image = right.get_attribute("src")
        assert page.evaluate("document.querySelector('#image-right').naturalWidth") == 200
        page.keyboard.press("2")
        assert right.get_attribute("src") != first_image
        assert page.locator("#name-right").inner_text().startswith("JPEG 4:2:0:")
        page.select_option("#rate", "1")
        page.select_option("#right", "ulcodec")
        assert right.get_attribute("src") != first_image
        page.keyboard.press("+")
        assert page.locator("#zoom").inner_text() == "200 %"
        assert page.locator("#plot polyline").count() == 3
        page.locator("#legend input").first.uncheck()
        assert page.locator("#plot polyline").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_page_of_clips_plays(clip_report: Path, width: int, scheme: str) -> None:
    """From file://, without network and errors: frames step, versions swap, the film plays, and curves show."""
    with opened_page(clip_report, width, scheme) as page:
        page.wait_for_function("document.querySelector('#film-video').readyState > 1")
        assert page.locator("#at").inner_text() == "frame 1 of 4"
        page.keyboard.press(".")
        page.wait_for_function("document.querySelector('#at').textContent === 'frame 2 of 4'")
        captions = page.locator("#panes figcaption")
        assert captions.nth(0).inner_text() == "original"
        assert captions.nth(2).inner_text().startswith("H.264 (x264 medium): ")
        page.locator("#panes select").nth(2).select_option(label="HEVC (x265 medium)")
        assert captions.nth(2).inner_text().startswith("HEVC (x265 medium): ")
        assert page.locator("#panes canvas").count() == 3
        page.click("#play")
        page.wait_for_function("document.querySelector('#play').textContent === 'Pause'")
        assert page.locator("#plot polyline").count() == 4
        page.select_option("#curve-clip", "b.mkv")
        page.select_option("#measure", "vmaf")
        assert page.locator("#plot polyline").count() == 4
        assert page.locator("#clip-bd tbody tr").count() == 4
        assert page.locator("#commands code").nth(2).inner_text().startswith("ffmpeg ")
        assert not page.locator("#stage").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
