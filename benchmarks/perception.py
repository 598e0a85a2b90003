"""Measure the distortion-perception plane: PSNR against realism, for realism 0 to 1 and for peers.

python -m benchmarks.perception kodak -o perception.json --figure perception.svg
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ulcodec
from benchmarks.report import progress, write_text
from ulcodec.bench.machine import run_record
from ulcodec.bench.peers import PEERS, AbsentError, Peer
from ulcodec.bench.pictures import Picture, find_pictures
from ulcodec.bench.run import level_of_size
from ulcodec.bench.tables import text_table, to_json
from ulcodec.codec.image import Codec
from ulcodec.codec.rate_control import encode_to_size
from ulcodec.codec.realism import Realism
from ulcodec.errors import ImageError
from ulcodec.io import picture as io_picture
from ulcodec.metrics import bits_per_pixel, psnr_db, sliced_wasserstein, spectral_power_ratio
from ulcodec.metrics.critic import critic_accuracy

Pixels = NDArray[np.uint8]

RATES_BPP = (0.05, 0.1, 0.2, 0.4)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PEER_KEYS = ("avif", "jpegxl", "webp")
CRITIC_STEPS = 200


def front_of_size(codec: Codec, picture: Picture, n_bytes: int) -> tuple[bytes, float]:
    """Encode to at most `n_bytes`; if quality 0 is larger, return its file and the fraction of it to decode."""
    try:
        return encode_to_size(codec, io_picture.Picture(picture.pixels), n_bytes), 1.0
    except ImageError:
        data = codec.encode(picture.pixels, quality=0)
        return data, n_bytes / len(data)


def scored(originals: Sequence[Pixels], decoded: Sequence[Pixels], critic_steps: int) -> dict[str, Any]:
    """Score decoded pictures: PSNR, sliced Wasserstein distances, power of octaves, accuracy of the critic."""
    return {
        "psnr_db": fmean(map(psnr_db, originals, decoded)),
        "sliced_wasserstein": sliced_wasserstein(originals, decoded),
        "power_ratio": spectral_power_ratio(originals, decoded),
        "critic_accuracy": critic_accuracy(originals, decoded, n_steps=critic_steps),
    }


def our_rows(
    codec: Codec, pictures: Sequence[Picture], rate: float, n_steps: int, critic_steps: int
) -> list[dict[str, Any]]:
    files = []
    for picture in pictures:
        progress(f"{rate} bits per pixel: ulcodec, {picture.name}")
        files.append(front_of_size(codec, picture, int(rate * picture.width * picture.height / 8)))
    bpp = fmean(
        bits_per_pixel(int(fraction * len(data)), p.width, p.height)
        for (data, fraction), p in zip(files, pictures, strict=True)
    )
    rows = []
    for share in SHARES:
        progress(f"{rate} bits per pixel: realism {share}")
        drawing = Realism(share, n_steps)
        decoded = [codec.decode_array(data, fraction=fraction, realism=drawing) for data, fraction in files]
        scores = scored([p.pixels for p in pictures], decoded, critic_steps)
        n_cut = sum(fraction < 1 for _, fraction in files)
        rows.append({"codec": "ulcodec", "realism": share, "rate_bpp": rate, "bpp": bpp, "n_cut": n_cut, **scores})
    return rows


def peer_row(peer: Peer, pictures: Sequence[Picture], rate: float, critic_steps: int) -> dict[str, Any]:
    decoded, rates = [], []
    for picture in pictures:
        progress(f"{rate} bits per pixel: {peer.title}, {picture.name}")
        level = level_of_size(peer, picture.pixels, int(rate * picture.width * picture.height / 8))
        data = peer.encode(picture.pixels, level)
        rates.append(bits_per_pixel(len(data), picture.width, picture.height))
        decoded.append(peer.decode(data, picture.pixels.shape))
    scores = scored([p.pixels for p in pictures], decoded, critic_steps)
    return {"codec": peer.key, "realism": None, "rate_bpp": rate, "bpp": fmean(rates), "n_cut": 0, **scores}


def installed_peers() -> list[Peer]:
    """The installed peers of `PEER_KEYS`; prints the others on stderr."""
    peers = []
    for peer in PEERS.values():
        if peer.key in PEER_KEYS:
            try:
                peer.library()
                peers.append(peer)
            except AbsentError as error:
                print(f"absent: {peer.title}: {error}", file=sys.stderr)
    return peers


def draw(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Draw PSNR against the finest sliced Wasserstein distance and the accuracy of the critic, a line per rate."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "ulcodec", "font.size": 9, "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained", sharex=True)
    measures: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("sliced Wasserstein distance, finest level", lambda row: row["sliced_wasserstein"][0]),
        ("accuracy of the critic (0.5: cannot tell)", lambda row: row["critic_accuracy"]),
    ]
    rates = sorted({row["rate_bpp"] for row in rows})
    markers = {"avif": "s", "jpegxl": "^", "webp": "x"}
    for axis, (label, measure) in zip(axes, measures, strict=True):
        for index, rate in enumerate(rates):
            at_rate = [row for row in rows if row["rate_bpp"] == rate]
            ours = [row for row in at_rate if row["codec"] == "ulcodec"]
            points = [(row["psnr_db"], measure(row)) for row in ours]
            axis.plot(*zip(*points, strict=True), "o-", color=f"C{index}", label=f"ulcodec, {rate} bits per pixel")
            for row in at_rate:
                if row["codec"] in markers:
                    name = row["codec"] if index == 0 else None
                    axis.plot(row["psnr_db"], measure(row), markers[row["codec"]], color=f"C{index}", label=name)
        axis.set_xlabel("PSNR, dB")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(target, metadata={"Date": None}, facecolor="white")


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perception", description=description)
    parser.add_argument("pictures", type=Path, nargs="?", help="folder; default: scikit-image's pictures")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES_BPP), help="bits per pixel")
    parser.add_argument("--steps", type=int, default=Realism().n_steps, help="steps of the sampler")
    parser.add_argument("--critic-steps", type=int, default=CRITIC_STEPS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    codec, pictures, peers = ulcodec.load(options.model), find_pictures(options.pictures), installed_peers()
    pictures = pictures[: options.limit]
    rows: list[dict[str, Any]] = []
    for rate in options.rates:
        rows += our_rows(codec, pictures, rate, options.steps, options.critic_steps)
        rows += [peer_row(peer, pictures, rate, options.critic_steps) for peer in peers]
    progress(f"{len(pictures)} pictures, {options.steps} steps", last=True)
    cells = [
        [
            row["codec"],
            "" if row["realism"] is None else f"{row['realism']:g}",
            f"{row['bpp']:.3f}",
            f"{row['psnr_db']:.2f}",
            *(f"{distance:.0f}" for distance in row["sliced_wasserstein"]),
            *(f"{ratio:.2f}" for ratio in row["power_ratio"][:2]),
            f"{row['critic_accuracy']:.2f}",
        ]
        for row in rows
    ]
    print(text_table(["codec", "realism", "bpp", "PSNR", "SWD 1", "SWD 2", "SWD 3", "power 1", "2", "critic"], cells))
    run = run_record(["python", "-m", "benchmarks.perception", *arguments], codec)
    write_text(options.output, to_json({"run": run, "n_steps": options.steps, "rows": rows}))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main(sys.argv[1:])
