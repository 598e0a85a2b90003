"""`ulcodec.datasets` with WebDataset and `torch.utils.data`, beside decoding each file by itself."""

import gc
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import ulcodec.datasets
from ulcodec.codec.image import Codec
from ulcodec.codec.loading import load_once
from ulcodec.codec.realism import Realism
from ulcodec.datasets import UlcDataset, UlcDecoder
from ulcodec.errors import ChecksumError, FormatError, ModelError, UnknownModelError
from ulcodec.io.picture import Picture
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model

N_SAMPLES = 10

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",  # WebDataset closes a shard only when it was read to its end
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let such warnings come while they are ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def files(tiny_codec: Codec, picture: np.ndarray) -> list[bytes]:
    """Files of two sizes."""
    crops = [picture[number : number + (24 if number % 3 else 50), 2 * number :][:, :40] for number in range(N_SAMPLES)]
    return [tiny_codec.encode(np.ascontiguousarray(crop), quality=60) for crop in crops]


@pytest.fixture(scope="module")
def shards(files: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two shards as WebDataset writes them: pictures with labels and texts."""
    folder = tmp_path_factory.mktemp("shards")
    for start in (0, N_SAMPLES // 2):
        with wds.TarWriter(str(folder / f"{start}.tar")) as writer:
            for number in range(start, start + N_SAMPLES // 2):
                sample = {"__key__": f"{number:03d}", "ulc": files[number], "cls": number % 3, "txt": "a text"}
                writer.write(sample | ({"left.ulc": files[0]} if number == 4 else {}))
    return [str(folder / f"{start}.tar") for start in (0, N_SAMPLES // 2)]


@pytest.fixture
def decoder(tiny_model_dir: Path) -> UlcDecoder:
    return UlcDecoder(tiny_model_dir, device="cpu", batch_size=3)


def expected(codec: Codec, files: Sequence[bytes]) -> list[Tensor]:
    return [torch.from_numpy(codec.decode_array(data).transpose(2, 0, 1).copy()) for data in files]


def assert_equal(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    assert len(tensors) == len(others)
    for tensor, other in zip(tensors, others, strict=True):
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor, other)


def raw(shards: list[str]) -> wds.WebDataset:
    return wds.WebDataset(shards, shardshuffle=False)


def single(shards: list[str], decoder: UlcDecoder) -> wds.WebDataset:
    return raw(shards).decode(decoder)


def batched(shards: list[str], decoder: UlcDecoder) -> wds.WebDataset:
    return raw(shards).decode().compose(decoder.samples)


@pytest.mark.parametrize("make", [single, batched])
def test_webdataset_yields_decoded_pictures(
    files: list[bytes], shards: list[str], decoder: UlcDecoder, tiny_codec: Codec, make: Callable[..., wds.WebDataset]
) -> None:
    samples = list(make(shards, decoder))
    assert_equal([sample["ulc"] for sample in samples], expected(tiny_codec, files))
    assert [sample["cls"] for sample in samples] == [number % 3 for number in range(N_SAMPLES)]
    assert {sample["txt"] for sample in samples} == {"a text"}
    assert_equal([samples[4]["left.ulc"]], expected(tiny_codec, files[:1]))
    tuples = list(make(shards, decoder).to_tuple("ulc", "cls"))
    assert_equal([picture for picture, _ in tuples], [sample["ulc"] for sample in samples])


def test_workers_of_a_loader_decode_or_leave_it_to_the_main_process(
    files: list[bytes], shards: list[str], tiny_model_dir: Path, tiny_codec: Codec
) -> None:
    decoder = UlcDecoder(tiny_model_dir, batch_size=4)
    wanted = expected(tiny_codec, files)
    loader = DataLoader(batched(shards, decoder), batch_size=None, num_workers=2)
    assert_equal([sample["ulc"] for sample in sorted(loader, key=lambda sample: sample["__key__"])], wanted)
    compressed = DataLoader(raw(shards).decode(), batch_size=None, num_workers=2)
    samples = sorted(decoder.samples(compressed), key=lambda sample: sample["__key__"])
    assert_equal([sample["ulc"] for sample in samples], wanted)


def test_automatic_device_is_the_cpu_in_a_worker(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process cannot use the GPU of its parent."""
    asked = []
    monkeypatch.setattr(ulcodec.datasets, "load_once", lambda model, device: asked.append(device))
    for worker in (None, object()):
        monkeypatch.setattr(ulcodec.datasets, "get_worker_info", lambda worker=worker: worker)
        for device in ("auto", "cuda"):
            UlcDecoder(device=device).codec(tiny_model_dir)
    assert asked == ["auto", "cuda", "cpu", "cuda"]


def test_files_are_decoded_in_batches_by_one_model(
    files: list[bytes], decoder: UlcDecoder, tiny_codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    decode_batch = ulcodec.datasets.decode_batch

    def noted(codec: Codec, part: Sequence[bytes], **options: int) -> list[Picture]:
        sizes.append((codec, len(part)))
        return decode_batch(codec, part, **options)

    monkeypatch.setattr(ulcodec.datasets, "decode_batch", noted)
    copy = pickle.loads(pickle.dumps(decoder))
    assert_equal(copy.decode(files), expected(tiny_codec, files))
    assert [size for _, size in sizes] == [3, 3, 3, 1]
    assert {codec for codec, _ in sizes} == {load_once(decoder.model, "cpu")}
    assert decoder.decode([]) == []


def test_values_and_layouts_of_tensors(picture: np.ndarray, tiny_codec: Codec, tiny_model_dir: Path) -> None:
    alpha = np.tile(np.arange(96, dtype=np.uint8), (80, 1))
    pictures = {
        "colour": Picture(picture),
        "grey": Picture(picture[:, :, 0].copy()),
        "alpha": Picture(picture, alpha),
        "deep": Picture(picture.astype(np.uint16) * 257 + 3),
        "deep grey": Picture(picture[:, :, 1].astype(np.uint16) * 257 + 3),
    }
    for name, original in pictures.items():
        data = tiny_codec.encode(original, quality=70)
        decoded = tiny_codec.decode_picture(data)
        [bytes_] = UlcDecoder(tiny_model_dir, device="cpu").decode([data])
        assert bytes_.dtype == torch.uint8
        assert np.array_equal(bytes_.numpy().transpose(1, 2, 0), decoded.rgb_8), name
        [values] = UlcDecoder(tiny_model_dir, device="cpu", dtype=torch.float32).decode([data])
        assert (values.dtype, tuple(values.shape), values.is_contiguous()) == (torch.float32, (3, 80, 96), True)
        largest = 65535 if "deep" in name else 255
        wanted = np.broadcast_to(np.atleast_3d(decoded.pixels), (80, 96, 3)) / largest
        assert np.abs(values.numpy().transpose(1, 2, 0) - wanted).max() < 1e-7, name
        [half] = UlcDecoder(tiny_model_dir, device="cpu", dtype=torch.bfloat16).decode([data])
        assert torch.equal(half, values.bfloat16())


def test_pictures_with_realism(
    files: list[bytes], tiny_codec: Codec, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = replace(tiny_codec, has_denoiser=True)
    monkeypatch.setattr(ulcodec.datasets, "load_once", lambda model, device: codec)
    sampled = UlcDecoder(tiny_model_dir, realism=Realism(1, 2, 7)).decode(files[:2])
    for tensor, data in zip(sampled, files, strict=False):
        alone = codec.decode_array(data, realism=Realism(1, 2, 7)).astype(int)
        assert np.abs(tensor.numpy().transpose(1, 2, 0) - alone).max() <= 1


def test_damaged_file_is_named_or_left_to_the_handler(
    files: list[bytes], shards: list[str], decoder: UlcDecoder, tmp_path: Path
) -> None:
    broken = bytearray(files[4])
    broken[-9] ^= 4
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number, data in enumerate([*files[:4], bytes(broken), *files[5:]]):
            writer.write({"__key__": f"{number:03d}", "ulc": data})
    dataset = raw([str(tmp_path / "a.tar")])
    with pytest.raises(ChecksumError, match=rf"^{tmp_path}/a.tar: 004\.ulc: "):
        list(dataset.compose(decoder.samples))

    def kept(handler: Callable[[Exception], bool]) -> list[str]:
        return [sample["__key__"] for sample in decoder.samples(dataset, handler)]

    assert kept(lambda error: True) == [f"{number:03d}" for number in range(N_SAMPLES) if number != 4]
    assert kept(lambda error: False) == ["000", "001", "002", "003"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(kept(wds.warn_and_continue)) == N_SAMPLES - 1
    assert "004.ulc" in str(caught[0].message)
    with pytest.raises(wds.autodecode.DecodingError) as raised:
        list(dataset.decode(decoder))
    assert isinstance(raised.value.__cause__, ChecksumError)


def test_model_that_cannot_be_loaded_is_no_fault_of_a_file(files: list[bytes], tmp_path: Path) -> None:
    samples = [{"__key__": "a", "ulc": files[0]}]
    with pytest.raises(ModelError, match="no model"):
        list(UlcDecoder(tmp_path / "nothing").samples(samples, lambda error: True))


def test_file_of_another_model_is_left_to_the_handler(
    files: list[bytes], shared_prior_model: UnifiedLatentModel, tmp_path: Path
) -> None:
    save_model(tmp_path / "other", "other", shared_prior_model, {})
    samples = [{"__key__": "a", "ulc": files[0]}]
    other = UlcDecoder(tmp_path / "other", device="cpu")
    with pytest.raises(UnknownModelError, match=r"^a\.ulc: "):
        list(other.samples(samples))
    assert list(other.samples(samples, lambda error: True)) == []


def test_samples_that_are_decoded_or_have_no_picture_pass(files: list[bytes], decoder: UlcDecoder) -> None:
    [first] = decoder.decode(files[:1])
    samples = [{"__key__": "a", "ulc": first}, {"__key__": "b", "txt": "x"}, {"__key__": "c", "ULC": files[0]}]
    decoded = list(decoder.samples(samples))
    assert decoded[0]["ulc"] is first
    assert decoded[1] == {"__key__": "b", "txt": "x"}
    assert torch.equal(decoded[2]["ULC"], first)
    assert decoder(".txt", b"x") is None
    with pytest.raises(TypeError, match="got list: decode before batching"):
        list(decoder.samples([{"__key__": ["a", "b"], "ulc": files[:2]}]))


def test_dataset_gives_whole_batches_to_the_decoder(
    files: list[bytes], decoder: UlcDecoder, tiny_codec: Codec, tmp_path: Path
) -> None:
    for number, data in enumerate(files):
        (tmp_path / f"{number}.ulc").write_bytes(data)
    paths = [tmp_path / f"{number}.ulc" for number in range(N_SAMPLES)]
    wanted = expected(tiny_codec, files)
    plain = UlcDataset(paths, decoder=decoder)
    assert (len(plain), plain.classes) == (N_SAMPLES, [])
    assert_equal([plain[number] for number in range(N_SAMPLES)], wanted)
    labelled = UlcDataset(paths, range(N_SAMPLES), decoder=decoder, transform=lambda x: x[:, :24, :22])
    for n_workers in (0, 2):
        loader = DataLoader(labelled, batch_size=4, num_workers=n_workers)
        batches = list(loader)
        assert [tuple(pictures.shape) for pictures, _ in batches] == [(4, 3, 24, 22), (4, 3, 24, 22), (2, 3, 24, 22)]
        assert_equal([p for pictures, _ in batches for p in pictures], [picture[:, :24, :22] for picture in wanted])
        assert [int(label) for _, labels in batches for label in labels] == list(range(N_SAMPLES))
    [(pictures, labels)] = DataLoader(Subset(labelled, [7, 2]), batch_size=2)
    assert (labels.tolist(), len(pictures)) == ([7, 2], 2)
    (tmp_path / "3.ulc").write_bytes(files[3][:-3])
    (tmp_path / "3.ulc").rename(tmp_path / "3.x.ULC")
    with pytest.raises(FormatError, match=rf"^{tmp_path}/3\.x\.ULC: "):
        UlcDataset([*paths[:3], tmp_path / "3.x.ULC"], decoder=decoder).__getitems__([2, 3])
    with pytest.raises(OSError, match="none"):
        UlcDataset([tmp_path / "none.ulc"], decoder=decoder)[0]


def test_dataset_of_class_folders(files: list[bytes], decoder: UlcDecoder, tmp_path: Path) -> None:
    for number, name in enumerate(("b/1.ulc", "a/x/2.ulc", "a/1.ULC", "a/notes.txt", "c/none.txt", "top.ulc")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(files[number])
    (tmp_path / "b" / "folder.ulc").mkdir()
    dataset = UlcDataset.of_folder(tmp_path, decoder=decoder)
    names = [
        (str(file.relative_to(tmp_path)), target) for file, target in zip(dataset.files, dataset.targets, strict=True)
    ]
    assert names == [("a/1.ULC", 0), ("a/x/2.ulc", 0), ("b/1.ulc", 1)]
    assert dataset.classes == ["a", "b", "c"]
    assert torch.equal(dataset[2][0], decoder.decode(files[:1])[0])
    with pytest.raises(FileNotFoundError, match="in the subfolders"):
        UlcDataset.of_folder(tmp_path / "c")


def test_wrong_arguments_are_refused(files: list[bytes], tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype"):
        UlcDecoder(dtype=torch.int16)
    with pytest.raises(ValueError, match="dtype"):
        UlcDecoder(dtype="float32")
    with pytest.raises(ValueError, match="realism"):
        UlcDecoder(realism=1.5)
    with pytest.raises(ValueError, match="a sequence of paths"):
        UlcDataset("a.ulc")
    with pytest.raises(ValueError, match="batch_size"):
        UlcDecoder(batch_size=0)
    with pytest.raises(ValueError, match="2 files, but 1 targets"):
        UlcDataset(["a", "b"], [1])
    with pytest.raises(ModelError):
        UlcDecoder(tmp_path / "nothing").decode(files)
    with pytest.raises(FormatError, match="pixels"):
        UlcDecoder(tiny_model_dir, max_pixels=10).decode(files)
