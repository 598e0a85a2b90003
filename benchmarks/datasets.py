"""Train a classifier from `.ulc` shards and from JPEG, and time the loading of both.

python -m benchmarks.datasets -o datasets.json
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor, nn

import ulcodec
from benchmarks.batch import crops
from benchmarks.report import progress, write_text
from ulcodec.bench.machine import run_record
from ulcodec.bench.pictures import find_pictures
from ulcodec.bench.tables import text_table, to_json
from ulcodec.datasets import UlcDecoder

NAMES = ("astronaut", "brick", "camera", "cell", "chelsea", "coffee",
         "coins", "grass", "gravel", "ihc", "moon", "motorcycle_left")  # fmt: skip
"""Photographs of scikit-image, the classes."""

TILE_PX = 64
JPEG_QUALITIES = (75, 50, 25, 10)
ULC_QUALITIES = (70, 50, 30, 10)
REALISMS = (0.0, 0.5, 1.0)
SPEED_SIDES_PX = (64, 256)
SPEED_QUALITY = 50
RUNS = 5

Labelled = list[tuple[np.ndarray, int]]


def tiles() -> tuple[Labelled, Labelled]:
    """Cut the photographs into grey tiles, uint8 [64, 64], with the number of their photograph; half are for tests."""
    generator = np.random.default_rng(0)
    training: Labelled = []
    test: Labelled = []
    for label, name in enumerate(NAMES):
        with Image.open(str(files("skimage.data") / f"{name}.png")) as image:
            grey = np.asarray(image.convert("L"))
        n_rows, n_columns = grey.shape[0] // TILE_PX, grey.shape[1] // TILE_PX
        for number, place in enumerate(generator.permutation(n_rows * n_columns)):
            top, left = TILE_PX * (place // n_columns), TILE_PX * (place % n_columns)
            tile = np.ascontiguousarray(grey[top : top + TILE_PX, left : left + TILE_PX])
            (test if number % 2 else training).append((tile, label))
    return training, test


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def write_shard(path: Path, pictures: Iterable[tuple[Any, int]], extension: str) -> None:
    """Write a shard of pictures, as bytes or as arrays, and labels."""
    with wds.TarWriter(str(path)) as shard:
        for number, (picture, label) in enumerate(pictures):
            shard.write({"__key__": f"{number:06d}", extension: picture, "cls": label})


def encoded(shard: Path, quality: int, model: str, device: str) -> Path:
    """Encode a shard with the command line; return the new one."""
    target = shard.with_name(f"{shard.stem}-{quality}.tar")
    command = ["encode", str(shard), "-o", str(target), "-q", str(quality), "--model", model, "--device", device]
    subprocess.run([sys.executable, "-m", "ulcodec_cli", *command], check=True, stdout=subprocess.DEVNULL)
    return target


def raw(shard: Path) -> Any:
    return wds.WebDataset(str(shard), shardshuffle=False, empty_check=False)


def decoded(shard: Path, decoder: UlcDecoder) -> Any:
    """Samples whose pictures are float32 [3, H, W] in [0, 1]."""
    return raw(shard).decode("torchrgb").compose(decoder.samples)


def loaded(shard: Path, decoder: UlcDecoder) -> tuple[Tensor, Tensor, int]:
    """Read a shard: grey pictures float32 [N, 1, H, W] in [0, 1], labels [N], and the bytes of the pictures."""
    n_bytes = sum(len(sample[key]) for sample in raw(shard) for key in ("png", "jpg", "ulc") if key in sample)
    pictures, labels = zip(*decoded(shard, decoder).to_tuple("ulc;jpg;png", "cls"), strict=True)
    return torch.stack(pictures)[:, :1], torch.tensor(labels), n_bytes


def trained_on(pictures: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Module:
    """Train the classifier of the cookbook."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 1
    for width in (32, 64, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(NAMES)))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):  # type: ignore[no-untyped-call]  # torch lacks types
            turned = torch.rot90(pictures[batch], int(torch.randint(4, ())), (2, 3))
            loss = nn.functional.cross_entropy(network(turned), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # likewise
            optimizer.step()
        schedule.step()
    return network.eval()


def accuracies(
    shard: Path, decoder: UlcDecoder, original: Tensor, test: tuple[Tensor, Tensor], options: argparse.Namespace
) -> dict[str, Any]:
    """Train on a shard with several seeds, and test on original tiles. `original`: the tiles of the shard."""
    pictures, labels, n_bytes = loaded(shard, decoder)
    mse = float((pictures - original).square().mean())
    percent = []
    for seed in range(options.seeds):
        network = trained_on(pictures, labels, seed, options.epochs)
        with torch.inference_mode():
            percent.append(100 * float((network(test[0]).argmax(1) == test[1]).float().mean()))
    return {
        "bytes_per_picture": n_bytes / len(labels),
        "psnr_db": -10 * np.log10(mse) if mse else None,
        "accuracy_percent": mean(percent),
        "standard_deviation_percent": stdev(percent) if len(percent) > 1 else 0.0,
    }


def accuracy_rows(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare formats and qualities."""
    training, test = tiles()
    make = partial(UlcDecoder, options.model, device=options.device, dtype=torch.float32)
    write_shard(folder / "test.tar", test, "png")
    write_shard(folder / "original.tar", training, "png")
    test_pictures, test_labels, _ = loaded(folder / "test.tar", make())
    original, _, _ = loaded(folder / "original.tar", make())
    cases: list[tuple[str, int | None, float, Path]] = [("original", None, 0.0, folder / "original.tar")]
    for quality in options.jpeg_qualities:
        write_shard(folder / f"jpeg-{quality}.tar", [(jpeg(tile, quality), label) for tile, label in training], "jpg")
        cases.append(("jpeg", quality, 0.0, folder / f"jpeg-{quality}.tar"))
    for quality in options.qualities:
        shard = encoded(folder / "original.tar", quality, options.model, options.device)
        cases += [("ulc", quality, realism, shard) for realism in options.realisms]
    rows = []
    for format, quality, realism, shard in cases:
        progress(f"{format} {quality or ''} {realism or ''}", last=True)
        result = accuracies(shard, make(realism=realism), original, (test_pictures, test_labels), options)
        rows.append({"format": format, "quality": quality, "realism": realism, **result})
    return rows


def pictures_per_s(samples: Iterable[Any]) -> float:
    """Median over the runs of pictures a second, after a first run that loads the model."""
    rates = []
    for _ in range(1 + RUNS):
        start_s = time.perf_counter()
        n_read = sum(1 for _ in samples)
        rates.append(n_read / (time.perf_counter() - start_s))
    return median(rates[1:])


def speed_rows(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the loading of pictures by size and way, each from one shard, in this process or in two workers."""
    photographs = find_pictures(options.images)
    rows = []
    for side_px in SPEED_SIDES_PX:
        progress(f"loading of {side_px}x{side_px}", last=True)
        count = options.pictures * SPEED_SIDES_PX[0] // side_px
        pictures = [(pixels, 0) for pixels in crops(photographs, side_px, count)]
        write_shard(folder / "png.tar", pictures, "png")
        write_shard(folder / "jpeg.tar", [(jpeg(pixels, 75), label) for pixels, label in pictures], "jpg")
        shard = encoded(folder / "png.tar", SPEED_QUALITY, options.model, options.device)
        decoder, sampling = (UlcDecoder(options.model, device=options.device, realism=share) for share in (0.0, 1.0))
        halves = [folder / f"half-{number}.tar" for number in range(2)]
        data = [(sample["ulc"], 0) for sample in raw(shard)]
        for half, part in zip(halves, (data[: count // 2], data[count // 2 :]), strict=True):
            write_shard(half, part, "ulc")
        both = wds.WebDataset([str(half) for half in halves], shardshuffle=False).decode().compose(decoder.samples)
        workers = torch.utils.data.DataLoader(both, batch_size=None, num_workers=2, persistent_workers=True)
        ways: dict[str, Iterable[Any]] = {
            "jpeg": raw(folder / "jpeg.tar").decode("torchrgb8"),
            "ulc, one at a time": raw(shard).decode(decoder),
            "ulc, batches of 32": raw(shard).decode().compose(decoder.samples),
            "ulc, batches of 32, realism 1": raw(shard).decode().compose(sampling.samples),
            "ulc, batches of 32, two workers": workers,
        }
        for way, samples in ways.items():
            rows.append({"side_px": side_px, "way": way, "pictures_per_s": pictures_per_s(samples)})
    return rows


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets", description=description)
    parser.add_argument("--images", type=Path, help="folder of photographs for timing (default: sample pictures)")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seeds", type=int, default=RUNS, help="trainings of each case")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the tiles")
    parser.add_argument("--jpeg-qualities", type=int, nargs="*", default=JPEG_QUALITIES, metavar="Q")
    parser.add_argument("--qualities", type=int, nargs="+", default=ULC_QUALITIES, metavar="Q", help="of .ulc files")
    parser.add_argument("--realisms", type=float, nargs="+", default=REALISMS, metavar="R", help="of decoding")
    parser.add_argument("--pictures", type=int, default=256, help="pictures of 64x64 for timing")
    parser.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        speed = speed_rows(Path(folder), options)
        accuracy = accuracy_rows(Path(folder), options)
    heads = ["format", "quality", "realism", "bytes a picture", "PSNR dB", "accuracy %", "+-"]
    cells = [
        [
            row["format"],
            str(row["quality"] or ""),
            f"{row['realism']:g}" if row["format"] == "ulc" else "",
            f"{row['bytes_per_picture']:.0f}",
            f"{row['psnr_db']:.1f}" if row["psnr_db"] is not None else "",
            f"{row['accuracy_percent']:.1f}",
            f"{row['standard_deviation_percent']:.1f}",
        ]
        for row in accuracy
    ]
    print(text_table(heads, cells))
    lines = [[str(row["side_px"]), row["way"], f"{row['pictures_per_s']:.0f}"] for row in speed]
    print(text_table(["side px", "loading", "pictures a second"], lines))
    if options.output:
        codec = ulcodec.load(options.model, device=options.device)
        record = run_record(["python", "-m", "benchmarks.datasets", *arguments], codec)
        sizes = {"n_seeds": options.seeds, "n_epochs": options.epochs, "n_timed": options.pictures}
        write_text(options.output, to_json({"run": record, **sizes, "accuracy": accuracy, "loading": speed}))


if __name__ == "__main__":
    main(sys.argv[1:])
