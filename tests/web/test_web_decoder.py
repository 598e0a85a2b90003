"""The decoder in a browser against the one in Python: files, errors, payloads."""

import base64
import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_decode import MAX_PIXELS, sound_files
from mutations import MUTATIONS, mutate, seal
from PIL import Image, ImageCms
from web_site import watched_page

import ulcodec
from benchmarks.browser import CHROMIUM, FLAGS
from ulcodec.codec.image import Codec
from ulcodec.coding.symbols import MAX_SYMBOL, SymbolDecoder, SymbolEncoder, decode_prefix
from ulcodec.coding.tables import FrequencyTables, gaussian_tables
from ulcodec.errors import CorruptDataError, UlcError
from ulcodec.format.cicp import Cicp
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture
from ulcodec.store.installed import shipped_models

GOLDEN = Path(__file__).parents[1] / "codec" / "golden"
DECODE = "async ([files, options]) => (await import('./probe.js')).decodeFiles(files, options)"
ABORTED = "async (file) => (await import('./probe.js')).abortedDecode(file)"
LATENTS = "async (file) => (await import('./probe.js')).latents(file)"
SYMBOLS = "async ([tables, payloads, isFront]) => (await import('./probe.js')).decodeSymbols(tables, payloads, isFront)"


def encoded(data: Any) -> str:
    return base64.b64encode(data).decode()


def decode(page: Any, files: list[bytes], **options: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = page.evaluate(DECODE, [[encoded(data) for data in files], options])
    return results


def samples_of(result: dict[str, Any]) -> np.ndarray:
    """The samples of a decoded picture, shaped as `Codec.decode_array` does."""
    assert "error" not in result, result
    dtype = np.uint16 if result["bitDepth"] == 16 else np.uint8
    samples = np.frombuffer(base64.b64decode(result["samples"]), dtype)
    shape = (result["height"], result["width"], result["nChannels"])
    return samples.reshape(shape if shape[2] > 1 else shape[:2])


def assert_alike(samples: np.ndarray, expected: np.ndarray) -> None:
    """Samples of 8 bits are within 1, and 99.9 % of them are equal; those of 16 bits are within 4."""
    assert (samples.shape, samples.dtype) == (expected.shape, expected.dtype)
    difference = np.abs(samples.astype(int) - expected)
    if samples.dtype == np.uint16:
        assert difference.max() <= 4
    else:
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= max(0.001 * difference.size, 2)


def enlarged(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A larger picture that repeats nothing, so that its file is not lossless."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_golden_files(page: Any, small: Codec, name: str) -> None:
    data = (GOLDEN / f"{name}.ulc").read_bytes()
    parts = [
        np.frombuffer(base64.b64decode(part), "<i4").astype("<i8") for part in page.evaluate(LATENTS, encoded(data))
    ]
    expected = json.loads((GOLDEN / "latents.json").read_text())[name]
    assert sha256(np.concatenate(parts).tobytes()).hexdigest() == expected
    [result] = decode(page, [data])
    assert_alike(samples_of(result), small.decode_array(data))


def test_photograph_of_the_shipped_model(page: Any, small: Codec) -> None:
    from skimage.data import chelsea

    data = small.encode(chelsea(), quality=50)
    [result] = decode(page, [data])
    assert_alike(samples_of(result), small.decode_array(data))
    assert result["device"] == "cpu"


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("codec_name", ["in_graphs", "tiny_codec"])
def test_sizes_and_layouts(
    page: Any, picture: np.ndarray, soft_alpha: np.ndarray, codec_name: str, request: pytest.FixtureRequest
) -> None:
    codec = request.getfixturevalue(codec_name)
    wide = enlarged(picture, 1728, 160)  # more than a tile of the prior
    pictures = [picture, picture[:1, :1], picture[:37, :51], picture[:, :, 0], wide, np.dstack((picture, soft_alpha))]
    pictures += [np.dstack((picture[:, :, 0], soft_alpha)), picture.astype(np.uint16) * 257]
    pictures += [np.dstack((picture, soft_alpha)).astype(np.uint16) * 257, picture.astype(np.uint16) * 16]
    files = [codec.encode(samples, quality=quality) for samples in pictures for quality in (0, 60, 100)]
    files += [codec.encode(np.dstack((picture, soft_alpha)), quality=60, alpha_quality=30)]
    files += [codec.encode(picture // 128 * 255), codec.encode(np.dstack((picture // 128 * 255, soft_alpha)))]
    for data, result in zip(files, decode(page, files), strict=True):
        assert_alike(samples_of(result), codec.decode_array(data))


def test_metadata(page: Any, in_graphs: Codec, picture: np.ndarray, soft_alpha: np.ndarray) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    exif, xmp = Image.Exif(), b"<x:xmpmeta/>"
    exif[0x010E] = "a test"
    original = Picture(picture, soft_alpha, icc, exif.tobytes()[6:], xmp, Cicp(9, 16))
    [result] = decode(page, [in_graphs.encode(original)])
    fields = {name: base64.b64decode(result[name]) for name in ("icc", "exif", "xmp", "cicp")}
    assert fields == {"icc": icc, "exif": original.exif, "xmp": xmp, "cicp": bytes(Cicp(9, 16))}


def test_truncated_files(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    whole = Container.from_bytes(in_graphs.encode(picture, quality=80))
    n_bytes = len(whole.to_bytes())
    files = [whole.truncated(n).to_bytes() for n in (1, 2, 3)]
    files += [whole.within(n_bytes * n // 40).to_bytes() for n in range(6, 40)]
    for data, result in zip(files, decode(page, files), strict=True):
        assert_alike(samples_of(result), in_graphs.decode_array(data))


def outcome(codec: Codec, data: bytes) -> str | np.ndarray:
    """The samples of a file, or the name of its error."""
    try:
        return codec.decode_array(data, max_pixels=MAX_PIXELS)
    except UlcError as error:
        return type(error).__name__


def mutated_files(files: list[bytes], count: int) -> list[bytes]:
    """Each mutation alone, with and without right checksums, and mixtures of them."""
    mutated = []
    for mutation in MUTATIONS:
        for number in range(count):
            rng = random.Random(f"{mutation.__name__} {number}")
            data = bytearray(rng.choice(files))
            mutation(data, rng)
            mutated += [bytes(data), seal(bytes(data))]
    return mutated + [mutate(files, random.Random(f"mixture {number}")) for number in range(4 * count)]


def test_mutated_files_give_the_same_errors_and_pictures(page: Any, in_graphs: Codec) -> None:
    files = mutated_files(sound_files(in_graphs), 25)
    results = decode(page, files, maxPixels=MAX_PIXELS)
    outcomes = set()
    for data, result in zip(files, results, strict=True):
        expected = outcome(in_graphs, data)
        if isinstance(expected, str):
            assert result.get("error") == expected, (data.hex(), result.get("message"))
            outcomes.add(expected)
        else:
            assert_alike(samples_of(result), expected)
            outcomes.add("decoded")
    names = {
        "NotUlcError",
        "UnsupportedVersionError",
        "TruncatedError",
        "LimitError",
        "ChecksumError",
        "UnknownModelError",
    }
    assert outcomes >= names | {"CorruptDataError", "ArithmeticMismatchError", "decoded"}


def test_every_prefix_of_a_file_is_an_error(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    data = in_graphs.encode(Picture(picture[:17, :16], None, None, bytes(40)), quality=10)
    files = [data[:n] for n in range(len(data))]
    results = decode(page, files)
    assert [result.get("error") for result in results] == [outcome(in_graphs, part) for part in files]


def random_tables(rng: np.random.Generator) -> FrequencyTables:
    """Gaussian tables, one of a single dominant symbol, and one of the rarest symbols."""
    tables = gaussian_tables(np.concatenate(([0], np.geomspace(0.11, 60, 12))))
    frequencies = tables.frequencies.copy()
    frequencies[3, : tables.lengths[3]] = 1
    frequencies[3, 1] = 2**24 - tables.lengths[3] + 1
    weights = rng.integers(1, 2**10, tables.lengths[5]).astype(np.int64)
    weights[0] += 2**24 - weights.sum()
    frequencies[5, : tables.lengths[5]] = weights
    return FrequencyTables(frequencies, tables.lengths, tables.minima)


def random_group(rng: np.random.Generator, tables: FrequencyTables) -> tuple[np.ndarray, np.ndarray]:
    """Symbols, some of them escaped, and their table indices."""
    n = int(rng.choice([0, 1, 2, 5, 30, 300]))
    index = rng.integers(0, len(tables.lengths), n).astype(np.uint8)
    symbols = np.rint(rng.standard_normal(n) * tables.lengths[index] / 10).astype(np.int32)
    is_far = rng.random(n) < rng.choice([0, 0.1])
    symbols[is_far] = rng.integers(-MAX_SYMBOL, MAX_SYMBOL + 1, is_far.sum()) >> rng.integers(0, 20, is_far.sum())
    symbols[tables.lengths[index] == 1] = 0
    return symbols, index


def damaged_payloads(payload: bytes, rng: np.random.Generator) -> list[bytes]:
    """The payload, and versions with other ends: cut, longer, changed."""
    flipped = bytearray(payload or b"\1")
    flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
    ends = [payload[:-1] + bytes([(payload[-1] + step) % 256]) for step in (-1, 1, 2)] if payload else []
    longer = [payload + end for end in (b"\0", b"\1", b"\x80", bytes(3) + b"\1", rng.bytes(12))]
    return [
        payload,
        payload[:-1],
        payload[: len(payload) // 2],
        bytes(flipped),
        rng.bytes(len(payload)),
        *ends,
        *longer,
    ]


@pytest.mark.parametrize("is_front", [False, True])
def test_payloads(page: Any, is_front: bool) -> None:
    rng = np.random.default_rng(0)
    tables = random_tables(rng)
    payloads, expected = [], []
    for _ in range(200):
        symbols, index = random_group(rng, tables)
        encoder = SymbolEncoder()
        encoder.encode(symbols, index, tables)
        for payload in damaged_payloads(encoder.finish(), rng):
            payloads.append([encoded(payload), encoded(index.tobytes())])
            try:
                if is_front:
                    expected.append(decode_prefix(payload, index, tables))
                    continue
                decoder = SymbolDecoder(payload)
                expected.append(decoder.decode(index, tables))
                decoder.finish()
            except CorruptDataError:
                if not is_front and len(expected) == len(payloads):
                    expected.pop()
                expected.append(None)
    parts = [encoded(part.tobytes()) for part in (tables.frequencies, tables.lengths, tables.minima)]
    results = page.evaluate(SYMBOLS, [parts, payloads, is_front])
    n_sound = 0
    for result, symbols in zip(results, expected, strict=True):
        if symbols is None:
            assert result.get("error") == "CorruptDataError"
        else:
            assert np.array_equal(np.frombuffer(base64.b64decode(result["symbols"]), "<i4"), symbols)
            n_sound += 1
    assert n_sound >= 200


def test_large_picture(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    """12 megapixels, in many tiles."""
    data = in_graphs.encode(enlarged(picture, 4000, 3000), quality=40)
    assert not Container.from_bytes(data).is_lossless
    [result] = decode(page, [data])
    assert_alike(samples_of(result), in_graphs.decode_array(data))


def test_abort_ends_the_work_on_a_picture(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    """The networks give the thread back between their runs, so that it hears of the end."""
    data = in_graphs.encode(enlarged(picture, 1920, 1600), quality=40)
    assert page.evaluate(ABORTED, encoded(data)) == "AbortError"


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_change_nothing(page: Any, in_graphs: Codec, picture: np.ndarray, n_threads: int) -> None:
    assert page.evaluate("crossOriginIsolated")
    data = in_graphs.encode(picture, quality=60)
    [result] = decode(page, [data], settings={"nThreads": n_threads})
    assert_alike(samples_of(result), in_graphs.decode_array(data))


def test_unknown_model(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    data = bytearray(in_graphs.encode(picture))
    data[4:8] = b"\x12\x34\x56\x78"
    [result] = decode(page, [seal(bytes(data))])
    assert result["error"] == "UnknownModelError"
    [shipped] = shipped_models()
    assert f"fingerprint 12345678; here there is small ({shipped.fingerprint}), tiny" in result["message"]


def test_limit_of_pixels(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    [result] = decode(page, [in_graphs.encode(picture)], maxPixels=7679)
    assert (result["error"], result["message"]) == ("LimitError", "the picture has 96x80 pixels; the limit is 7679")


def test_where_there_is_no_gpu_the_cpu_decodes(page: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    page.expected_errors = ["the GPU failed, the CPU takes over", "No available adapters", "requestAdapter"]
    data = in_graphs.encode(picture, quality=60)
    [result] = decode(page, [data], settings={"device": "gpu"})
    assert_alike(samples_of(result), in_graphs.decode_array(data))
    assert result["device"] == "cpu"


def test_gpu_decodes_the_same_latents(driver: Any, site: Any, in_graphs: Codec, picture: np.ndarray) -> None:
    """WebGPU as SwiftShader imitates it on the CPU."""

    flags = [*FLAGS, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
    pages = watched_page(browser, site)
    page = next(pages)
    if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
        pytest.skip("needs a Chromium with SwiftShader")
    data = in_graphs.encode(picture, quality=60)
    [result] = decode(page, [data], settings={"device": "gpu"})
    assert_alike(samples_of(result), in_graphs.decode_array(data))
    assert result["device"] == "gpu"
    assert list(pages) == []
    browser.close()


def test_settings_of_both_kinds_of_prior(graph_model_dir: Path, tiny_model_dir: Path) -> None:
    """The tiny models that the other tests decode have both kinds."""
    kinds = {
        ulcodec.load(path, device="cpu").networks.config.shared_prior for path in (graph_model_dir, tiny_model_dir)
    }
    assert kinds == {True, False}
