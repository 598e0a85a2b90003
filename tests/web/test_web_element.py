"""`<ulc-image>` and the page, as a person sees them."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from web_site import Site

from ulcodec.codec.image import Codec
from ulcodec.format.container import Container
from ulcodec.format.primitives import leb128
from ulcodec.io.picture import Picture
from ulcodec.metrics import psnr_db

PLACE = """
async (attributes) => {
  await import("./ulcodec.js");
  const element = document.createElement("ulc-image");
  window.events = [];
  for (const name of ["preview", "load", "error"]) {
    element.addEventListener(name, ({ detail }) => events.push([name, detail.nSegments ?? detail.message ?? null]));
  }
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  document.body.append(element);
}
"""
TEXT = "document.querySelector('ulc-image').shadowRoot.querySelector('p')?.textContent ?? null"
IMAGE = "document.querySelector('ulc-image').shadowRoot.querySelector('img')"


def place(page: Any, **attributes: str) -> None:
    page.evaluate(PLACE, attributes)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wait_for(page: Any, name: str, count: int = 1) -> None:
    page.wait_for_function(f"events.filter(([name]) => name === '{name}').length >= {count}")


def seen(page: Any, selector: str = "ulc-image") -> np.ndarray:
    """What a person sees of an element, uint8 [H, W, 3]."""
    shot = page.locator(selector).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


@pytest.fixture
def photograph(picture: np.ndarray) -> np.ndarray:
    """A picture without much noise, uint8 [160, 192, 3]."""
    return np.asarray(Image.fromarray(picture).resize((192, 160), Image.Resampling.BICUBIC))


@pytest.fixture
def placed(site: Site) -> Callable[[bytes, str], str]:
    """Put a file into the site; returns its address."""

    def put(data: bytes, name: str) -> str:
        (site.folder / name).write_bytes(data)
        return name

    return put


def test_shows_a_file(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    data = in_graphs.encode(photograph, quality=80)
    place(page, src=placed(data, "photo.ulc"), alt="a test")
    wait_for(page, "load")
    assert np.abs(seen(page).astype(int) - in_graphs.decode_array(data)).max() <= 1
    assert page.evaluate(f"[{IMAGE}.alt, {IMAGE}.naturalWidth, {IMAGE}.naturalHeight]") == ["a test", 192, 160]
    assert page.evaluate("document.querySelector('ulc-image').complete")


def segment_ends(data: bytes) -> list[int]:
    """Positions behind the first three segments of a file."""
    container = Container.from_bytes(data)
    lengths = [len(leb128(len(segment))) + len(segment) + 1 for segment in container.segments[:3]]
    start = len(data) - 4 - len(container.segments[3]) - sum(lengths)
    return [start + sum(lengths[: n + 1]) for n in range(3)]


def test_paints_each_segment_as_it_arrives(page: Any, site: Site, placed: Any, small: Codec) -> None:
    from skimage.data import chelsea

    original = np.ascontiguousarray(chelsea()[:192, 100:356])
    data = small.encode(original, quality=80)
    stops = [end + 4 for end in segment_ends(data)]
    assert stops[0] < 0.25 * len(data)
    gates = site.hold(*stops)
    place(page, src=placed(data, "progressive.ulc") + f"?stops={','.join(map(str, stops))}")
    shots = []
    for number, gate in enumerate(gates, start=1):
        wait_for(page, "preview", number)
        shots.append(seen(page))
        gate.set()
    wait_for(page, "load")
    shots.append(seen(page))
    assert page.evaluate("events") == [["preview", 1], ["preview", 2], ["preview", 3], ["load", None]]
    whole = Container.from_bytes(data)
    for number, shot in enumerate(shots, start=1):
        expected = small.decode_array(whole.truncated(number).to_bytes())
        assert np.abs(shot.astype(int) - expected).max() <= 1
    qualities_db = [psnr_db(original, shot) for shot in shots]
    assert qualities_db == sorted(qualities_db)
    assert qualities_db[0] > 18


def test_no_previews_of_a_file_that_is_there(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    place(page, src=placed(in_graphs.encode(photograph, quality=80), "there.ulc"))
    wait_for(page, "load")
    assert page.evaluate("events") == [["load", None]]


OUTCOME = """([source, options]) =>
  import('./ulcodec.js').then(({ decode }) => decode(source, options)).then(() => 'done', (error) => error.name)
"""
SHOW = "(file) => document.querySelector('ulc-image').show(Uint8Array.from(atob(file), (c) => c.charCodeAt(0)))"
SIDES = f"(() => {{ const {{ width, height }} = {IMAGE}.getBoundingClientRect(); return [width, height]; }})()"


def test_picture_that_is_shown_stays_when_the_element_moves(
    page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray
) -> None:
    place(page)
    data = in_graphs.encode(photograph, quality=60)
    page.evaluate(SHOW, encoded(data))
    wait_for(page, "load")
    page.evaluate("document.body.append(document.querySelector('ulc-image'))")
    wait_for(page, "load", 2)
    assert np.abs(seen(page).astype(int) - in_graphs.decode_array(data)).max() <= 1
    page.evaluate(f"document.querySelector('ulc-image').src = '{placed(data, 'next.ulc')}'")
    wait_for(page, "load", 3)


def test_show_before_the_element_is_in_the_page(page: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    place(page)
    page.evaluate("window.element = document.querySelector('ulc-image'); element.remove()")
    page.evaluate(SHOW.replace("document.querySelector('ulc-image')", "element"), encoded(in_graphs.encode(photograph)))
    page.evaluate("document.body.append(element)")
    wait_for(page, "load")
    assert page.evaluate("element.complete")
    assert page.evaluate("events") == [["load", None]]


def test_without_src_nothing_is_shown(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    place(page, src=placed(in_graphs.encode(photograph), "taken.ulc"))
    wait_for(page, "load")
    page.evaluate("document.querySelector('ulc-image').removeAttribute('src')")
    assert not page.evaluate(f"{IMAGE}.hasAttribute('src') || document.querySelector('ulc-image').complete")
    page.evaluate(f"document.querySelector('ulc-image').src = '{placed(b'nothing', 'nothing.ulc')}'")
    wait_for(page, "error")
    page.evaluate("document.querySelector('ulc-image').removeAttribute('src')")
    assert page.evaluate(TEXT) is None


def test_is_complete_when_it_says_so(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    place(page)
    page.evaluate(
        """(src) => {
          const element = document.querySelector("ulc-image");
          for (const name of ["load", "error"]) element.addEventListener(name, () => (window[name] = element.complete));
          element.src = src;
        }""",
        placed(in_graphs.encode(photograph), "complete.ulc"),
    )
    wait_for(page, "load")
    assert page.evaluate("load") is True
    page.evaluate(f"document.querySelector('ulc-image').src = '{placed(b'nothing', 'nothing.ulc')}'")
    wait_for(page, "error")
    assert page.evaluate("error") is False


def test_no_preview_after_an_error(
    page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray
) -> None:
    """The browser takes longer for a preview than for the rest of the file, which is damaged."""
    place(page)
    page.evaluate(
        """() => {
          const element = document.querySelector("ulc-image");
          const failed = new Promise((resolve) => element.addEventListener("error", resolve));
          HTMLImageElement.prototype.decode = () => {
            events.push(["decoding", null]);
            setTimeout(() => failed.then(() => setTimeout(() => events.push(["end", null]))));
            return failed;
          };
        }"""
    )
    data = in_graphs.encode(photograph, quality=80)
    stop = segment_ends(data)[0] + 4
    [gate] = site.hold(stop)
    page.evaluate(f"document.querySelector('ulc-image').src = '{placed(damaged(data), 'slow.ulc')}?stops={stop}'")
    wait_for(page, "decoding")
    gate.set()
    wait_for(page, "end")
    assert {name for name, _ in page.evaluate("events")} == {"decoding", "error", "end"}
    assert not page.evaluate("document.querySelector('ulc-image').complete")


@pytest.mark.parametrize(
    ("attributes", "sides"),
    [
        ({}, [192, 160]),
        ({"width": "96"}, [96, 80]),
        ({"height": "40"}, [48, 40]),
        ({"width": "60", "height": "70"}, [60, 70]),
    ],
)
def test_sides_before_and_after_the_picture(
    page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray, attributes: dict[str, str], sides: Any
) -> None:
    """As of `<img>`: a side that is not given follows from the other one."""
    data = in_graphs.encode(photograph, quality=80)
    stop = segment_ends(data)[0] + 4
    [gate] = site.hold(stop)
    page.evaluate(
        """() => {
          window.plain = HTMLImageElement.prototype.decode;
          const held = new Promise((resolve) => (window.release = resolve));
          HTMLImageElement.prototype.decode = function () {
            window.isHeld = true;
            return held.then(() => plain.call(this));
          };
        }"""
    )
    place(page, src=placed(data, "sides.ulc") + f"?stops={stop}", **attributes)
    page.wait_for_function("window.isHeld")
    assert page.evaluate(f"{IMAGE}.hasAttribute('src')") is False
    assert page.evaluate(SIDES) == sides
    page.evaluate("release()")
    gate.set()
    wait_for(page, "load")
    page.wait_for_function(f"{IMAGE}.complete")
    assert page.evaluate(SIDES) == sides


def test_picture_that_exif_turns(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    place(page, src=placed(in_graphs.encode(Picture(photograph, None, None, exif.tobytes()[6:])), "turned.ulc"))
    wait_for(page, "load")
    assert page.evaluate(SIDES) == [160, 192]


def test_module_at_two_addresses(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    place(page, src=placed(in_graphs.encode(photograph), "twice.ulc"))
    page.evaluate("import('./ulcodec.js?again')")
    wait_for(page, "load")


def test_name_of_a_data_url_in_an_error_is_short(page: Any) -> None:
    place(page, src="data:," + 100_000 * "x")
    wait_for(page, "error")
    assert page.evaluate(TEXT) == "data:," + 194 * "x" + "…: not a .ulc file"


@pytest.mark.parametrize(
    "change",
    [
        lambda listed: None,
        lambda listed: [],
        lambda listed: "models",
        lambda listed: dict.fromkeys(listed),
        lambda listed: {key: model | {"files": None} for key, model in listed.items()},
        lambda listed: {key: model | {"files": {"hyper.onnx": 1}} for key, model in listed.items()},
        lambda listed: {key: model | {"files": {"hyper.onnx": "http://["}} for key, model in listed.items()},
        lambda listed: {key: model | {"config": {}} for key, model in listed.items()},
        lambda listed: {
            key: model | {"config": model["config"] | {"latent_channels": 2**40}} for key, model in listed.items()
        },
        lambda listed: {
            key: model | {"files": dict.fromkeys(model["files"], "hostile/header.safetensors")}
            for key, model in listed.items()
        },
    ],
)
def test_hostile_lists_of_models(
    page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray, change: Callable[[Any], Any]
) -> None:
    """Each is a ModelError, and the page goes on."""
    page.expected_errors = ["404"]
    folder = site.folder / "hostile"
    folder.mkdir(exist_ok=True)
    (folder / "header.safetensors").write_bytes(b"\xff" * 100)
    listed = json.loads((site.folder / "models" / "models.json").read_text())
    for model in listed.values():
        model["files"] = {name: f"../models/{file}" for name, file in model["files"].items()}
    (folder / "models.json").write_text(json.dumps(change(listed)))
    place(page, src=placed(in_graphs.encode(photograph), "sound.ulc"), models="hostile")
    page.evaluate("document.querySelector('ulc-image').addEventListener('error', (e) => (window.name = e.detail.name))")
    wait_for(page, "error")
    assert page.evaluate("window.name") == "ModelError"
    page.evaluate("document.querySelector('ulc-image').setAttribute('models', 'models')")
    wait_for(page, "load")


def test_runtime_that_is_missing(page: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    page.expected_errors = ["404"]
    place(page)
    page.evaluate("import('./ulcodec.js').then(({ settings }) => (settings.runtime = 'nowhere'))")
    page.evaluate(SHOW, encoded(in_graphs.encode(photograph)))
    wait_for(page, "error")
    assert page.evaluate(TEXT).startswith("picture: onnxruntime-web cannot be loaded: ")
    page.evaluate("import('./ulcodec.js').then(({ settings }) => (settings.runtime = 'onnxruntime'))")
    page.evaluate(SHOW, encoded(in_graphs.encode(photograph)))
    wait_for(page, "load")


def wait_for_workers(page: Any, count: int) -> None:
    """Wait until the page has that many workers of ulcodec; onnxruntime-web has more, for its threads."""
    for _ in range(100):
        if sum(worker.url.endswith("/worker.js") for worker in page.workers) == count:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{[worker.url for worker in page.workers]}, not {count} workers of ulcodec")


def test_a_model_fails_while_a_file_stalls(
    page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray
) -> None:
    """The worker goes on for the file that stalls, and another one takes the next picture."""
    page.expected_errors = ["404"]
    data = in_graphs.encode(photograph, quality=80)
    [gate] = site.hold(50)
    address = placed(data, "stalls.ulc")
    place(page, src=f"{address}?stops=50")
    wait_for_workers(page, 1)
    assert page.evaluate(OUTCOME, [address, {"models": "nowhere"}]) == "ModelError"
    assert page.evaluate(OUTCOME, [address, {}]) == "done"
    wait_for_workers(page, 2)
    gate.set()
    wait_for(page, "load")
    wait_for_workers(page, 1)


def test_decode_of_what_is_no_address(page: Any) -> None:
    assert page.evaluate(OUTCOME, ["http://[", {}]) == "SourceError"
    assert page.evaluate(OUTCOME, ["photo.ulc", {"models": "http://["}]) == "ModelError"


def test_answer_without_a_body(page: Any) -> None:
    page.route("**/empty.ulc", lambda route: route.fulfill(status=204))
    place(page, src="empty.ulc")
    wait_for(page, "error")
    assert page.evaluate(TEXT) == "empty.ulc: not a .ulc file"


def test_no_previews_of_a_blob(page: Any, small: Codec) -> None:
    from skimage.data import coffee

    data = small.encode(np.vstack((coffee(), coffee()[:100])), quality=100)
    assert len(data) > 2**16  # more than a part of the stream of a Blob
    place(page)
    file = "Uint8Array.from(atob(file), (c) => c.charCodeAt(0))"
    page.evaluate(f"(file) => document.querySelector('ulc-image').show(new Blob([{file}]))", encoded(data))
    wait_for(page, "load")
    assert page.evaluate("events") == [["load", None]]


def damaged(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (damaged, "the checksum of the file does not match: the file is damaged"),
        (lambda data: data[:-20], "the checksum of the file does not match: the file is damaged"),
        (lambda data: data[:40], "the file ends inside segment 0"),
        (lambda data: b"", "not a .ulc file"),
        (lambda data: b"\x89PNG" + data, "not a .ulc file"),
        (lambda data: data[:3] + b"\x02" + data[4:], "the file is a sequence of frames, not a picture"),
    ],
)
def test_an_error_is_a_text_in_place_of_the_picture(
    page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray, change: Callable[[bytes], bytes], text: str
) -> None:
    data = change(in_graphs.encode(photograph, quality=60))
    place(page, src=placed(data, "bad.ulc"))
    wait_for(page, "error")
    assert page.evaluate(TEXT) == f"bad.ulc: {text}"
    assert not page.evaluate(f"{IMAGE}.checkVisibility()")
    place_again = in_graphs.encode(photograph, quality=60)
    page.evaluate(f"document.querySelector('ulc-image').src = '{placed(place_again, 'good.ulc')}'")
    wait_for(page, "load")
    assert page.evaluate(TEXT) is None
    assert page.evaluate(f"{IMAGE}.checkVisibility()")


def test_damage_behind_a_preview(page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    data = in_graphs.encode(photograph, quality=80)
    stop = segment_ends(data)[0] + 4
    [gate] = site.hold(stop)
    place(page, src=placed(damaged(data), "late.ulc") + f"?stops={stop}")
    wait_for(page, "preview")
    gate.set()
    wait_for(page, "error")
    assert "the file is damaged" in page.evaluate(TEXT)
    assert not page.evaluate(f"{IMAGE}.checkVisibility()")


def test_what_cannot_be_fetched(page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    page.expected_errors = ["404"]
    place(page, src="missing.ulc")
    wait_for(page, "error")
    assert page.evaluate(TEXT) == "missing.ulc: it cannot be fetched: HTTP 404"
    page.evaluate("document.querySelector('ulc-image').remove()")
    place(page, src=placed(in_graphs.encode(photograph), "fine.ulc"), models="no/models/")
    wait_for(page, "error")
    assert page.evaluate(TEXT) == f"fine.ulc: {site.address}no/models/models.json: HTTP 404"


def with_profile(pixels: np.ndarray, icc: bytes) -> str:
    """A PNG with a profile as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", icc_profile=icc)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def exchanged_primaries() -> bytes:
    """An sRGB profile with the columns of red and blue exchanged."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(icc[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(icc[128:132], "big"), 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    icc[red + 4 : red + 12], icc[blue + 4 : blue + 12] = icc[blue + 4 : blue + 12], icc[red + 4 : red + 12]
    return bytes(icc)


def test_colours_of_an_icc_profile(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    """They look as those of a PNG with the same samples and profile."""
    icc = exchanged_primaries()
    data = in_graphs.encode(Picture(photograph, None, icc), quality=80)
    place(page, src=placed(data, "profile.ulc"))
    wait_for(page, "load")
    samples = in_graphs.decode_array(data)
    page.evaluate(
        "async (src) => { const i = new Image(); i.src = src; await i.decode(); document.body.append(i); }",
        with_profile(samples, icc),
    )
    shown = seen(page).astype(int)
    assert np.abs(shown - seen(page, "body > img")).max() <= 2
    assert np.abs(shown - samples[:, :, ::-1]).mean() < 5 < np.abs(shown - samples).mean()


@pytest.mark.parametrize("kind", ["alpha", "grey", "16 bits", "lossless"])
def test_kinds_of_pictures(
    page: Any, placed: Any, in_graphs: Codec, picture: np.ndarray, soft_alpha: np.ndarray, kind: str
) -> None:
    pixels = {
        "alpha": np.dstack((picture, soft_alpha)),
        "grey": picture[:, :, 0],
        "16 bits": picture.astype(np.uint16) * 257,
        "lossless": picture // 128 * 255,
    }[kind]
    data = in_graphs.encode(pixels, quality=80)
    place(page, src=placed(data, "kind.ulc"))
    wait_for(page, "load")
    page.add_style_tag(content="body { background: white } ulc-image::part(image) { background: white }")
    decoded = in_graphs.decode_array(data).astype(float)
    if kind == "16 bits":
        decoded = decoded / 257
    if kind == "grey":
        decoded = np.repeat(decoded[:, :, None], 3, axis=2)
    if kind == "alpha":
        opacity = decoded[:, :, 3:] / 255
        decoded = opacity * decoded[:, :, :3] + (1 - opacity) * 255
    assert np.abs(seen(page) - decoded).max() <= 1.5


def test_lossless_file_needs_no_model(page: Any, placed: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    place(page, src=placed(in_graphs.encode(picture // 128 * 255, quality=80), "drawn.ulc"))
    wait_for(page, "load")
    assert [url for url in requests if "onnx" in url or "safetensors" in url] == []
    assert np.array_equal(seen(page), picture // 128 * 255)


def test_loads_when_it_is_about_to_be_seen(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    page.evaluate("document.body.style.paddingTop = '5000px'")
    place(page, src=placed(in_graphs.encode(photograph), "lazy.ulc"), loading="lazy")
    page.wait_for_timeout(300)
    assert page.evaluate("events") == []
    page.evaluate("document.querySelector('ulc-image').scrollIntoView()")
    wait_for(page, "load")


def test_removed_element_stops(page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    data = in_graphs.encode(photograph, quality=80)
    [gate] = site.hold(50)
    place(page, src=placed(data, "removed.ulc") + "?stops=50")
    page.evaluate("document.querySelector('ulc-image').remove()")
    gate.set()
    place(page, src=placed(data, "after.ulc"))
    wait_for(page, "load")
    assert page.evaluate("events") == [["load", None]]


def test_many_pictures_at_once(page: Any, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    address = placed(in_graphs.encode(photograph, quality=60), "many.ulc")
    page.evaluate("import('./ulcodec.js')")
    page.evaluate(
        "(src) => { window.n = 0; for (let i = 0; i < 20; i++) { const e = document.createElement('ulc-image');"
        "e.addEventListener('load', () => n++); e.src = src; document.body.append(e); } }",
        address,
    )
    page.wait_for_function("n === 20")


def test_page_stays_responsive(page: Any, placed: Any, small: Codec) -> None:
    """The thread of the page goes on taking turns while the worker decodes, for a second or more."""
    from skimage.data import coffee

    place(page, src=placed(small.encode(coffee(), quality=50), "coffee.ulc"))
    n_turns = page.evaluate(
        """async () => {
          let turns = 0;
          for (; !events.length; turns++) await new Promise((resolve) => setTimeout(resolve, 5));
          return turns;
        }"""
    )
    assert page.evaluate("events") == [["load", None]]
    assert n_turns > 60


def test_page_of_the_site(browser: Any, site: Site, placed: Any, in_graphs: Codec, photograph: np.ndarray) -> None:
    data = in_graphs.encode(photograph, quality=80)
    address, errors = placed(data, "linked.ulc"), []
    page = browser.new_page(viewport={"width": 800, "height": 600})
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site.address}?src={address}")
    page.wait_for_selector("#save:not([hidden])")
    facts = page.locator("#facts").inner_text()
    assert facts.startswith(f"linked.ulc: 192x160, {len(data):,} bytes, {8 * len(data) / 192 / 160:.3f} bits per pixel")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "linked.png"
    saved = np.asarray(Image.open(Path(download.value.path())))
    assert np.abs(saved.astype(int) - in_graphs.decode_array(data)).max() <= 1
    page.set_input_files("#file", {"name": "own.ulc", "mimeType": "", "buffer": damaged(data)})
    page.wait_for_function(f"{TEXT} === 'own.ulc: the checksum of the file does not match: the file is damaged'")
    assert not page.locator("#save").is_visible()
    page.fill("#address", address)
    page.click("text=Show")
    page.wait_for_selector("#save:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
    assert errors == []


def test_under_a_content_security_policy(page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: Any) -> None:
    """The policy of docs/browser.md."""
    policy = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob:"
    placed(in_graphs.encode(photograph), "policy.ulc")
    html = f"""<!doctype html><meta http-equiv="Content-Security-Policy" content="{policy}">
        <script type="module" src="ulcodec.js"></script><ulc-image src="policy.ulc"></ulc-image>"""
    (site.folder / "policy.html").write_text(html)
    page.goto(f"{site.address}policy.html")
    page.wait_for_selector("ulc-image img[src^='blob:']")


def test_module_of_another_origin(
    browser: Any, site: Site, placed: Any, in_graphs: Codec, photograph: Any, tmp_path: Path
) -> None:
    data = in_graphs.encode(photograph)
    (tmp_path / "other.ulc").write_bytes(data)
    html = f"""<!doctype html><link rel="icon" href="data:,">
        <script type="module" src="{site.address}ulcodec.js"></script><ulc-image src="other.ulc"></ulc-image>"""
    (tmp_path / "index.html").write_text(html)
    other = Site(tmp_path)
    errors: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(other.address)
    page.wait_for_selector("ulc-image img[src^='blob:']")
    assert np.abs(seen(page).astype(int) - in_graphs.decode_array(data)).max() <= 1
    page.close()
    other.close()
    assert errors == []


def test_the_page_goes_on_after_a_model_that_cannot_run(
    page: Any, site: Site, placed: Any, in_graphs: Codec, photograph: Any
) -> None:
    broken = site.folder / "broken"
    broken.mkdir()
    listed = json.loads((site.folder / "models" / "models.json").read_text())
    (broken / "nothing.onnx").write_bytes(b"nothing")
    for model in listed.values():
        files = {name: f"../models/{file}" for name, file in model["files"].items()}
        model["files"] = {name: "nothing.onnx" if name == "hyper.onnx" else file for name, file in files.items()}
    (broken / "models.json").write_text(json.dumps(listed))
    address = placed(in_graphs.encode(photograph), "sound.ulc")
    place(page, src=address, models="broken/")
    wait_for(page, "error")
    assert page.evaluate(TEXT).startswith("sound.ulc: hyper.onnx: ")
    page.evaluate("document.querySelector('ulc-image').removeAttribute('models')")
    wait_for(page, "load")
