"""Rate and distortion on a set of pictures, beside the prior's bound, JPEG and published curves.

`benchmarks/README.md` defines every field of the report.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import ulcodec
from benchmarks.report import markdown_table, progress, run_record, text_table, to_json, write_text
from ulcodec.bench.curves import Curve, bd_rows, increasing, psnr_at, read_anchors
from ulcodec.bench.peers import PEERS, Peer, available
from ulcodec.bench.pictures import Picture, find_pictures
from ulcodec.metrics import MS_SSIM_MIN_SIDE, bits_per_pixel, ms_ssim, psnr_db

DEFAULT_QUALITIES = tuple(range(0, 101, 10))
BOUND_FACTOR, BOUND_BYTES = 1.01, 24
HERE = ", measured here"
MARKDOWN_CURVES = ("VTM-9.1", "AVIF-444-s6", "AVIF-444-s6-tune-psnr", "BPG-444", "WebP-m6", "JPEG-420")


@dataclass(frozen=True)
class CodedPicture:
    """One picture at one quality."""

    picture: str
    width: int
    height: int
    quality: int
    file_bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    bound_bits: float
    overhead_bytes: float
    excess_bytes: float


@dataclass(frozen=True)
class PictureSet:
    """The pictures and their files, each of which is encoded once."""

    codec: ulcodec.Codec
    pictures: list[Picture]
    encoded: dict[int, list[bytes]] = field(default_factory=dict)

    def files(self, quality: int) -> list[bytes]:
        if quality not in self.encoded:
            self.encoded[quality] = [self.encode(picture, quality) for picture in self.pictures]
        return self.encoded[quality]

    def encode(self, picture: Picture, quality: int) -> bytes:
        progress(f"encoding quality {quality}: {picture.name}")
        return self.codec.encode(picture.pixels, quality=quality)

    def mean_bpp(self, quality: int) -> float:
        pairs = zip(self.files(quality), self.pictures, strict=True)
        return fmean(bits_per_pixel(len(file), picture.width, picture.height) for file, picture in pairs)

    def measure(self, quality: int) -> list[CodedPicture]:
        pairs = zip(self.pictures, self.files(quality), strict=True)
        return [measure(self.codec, picture, file, quality) for picture, file in pairs]


def measure(codec: ulcodec.Codec, picture: Picture, file: bytes, quality: int) -> CodedPicture:
    progress(f"decoding quality {quality}: {picture.name}")
    bound_bits, decoded = codec.describe(file)["bound_bits"], codec.decode_array(file)
    large = min(picture.width, picture.height) >= MS_SSIM_MIN_SIDE
    return CodedPicture(
        picture=picture.name,
        width=picture.width,
        height=picture.height,
        quality=quality,
        file_bytes=len(file),
        bpp=bits_per_pixel(len(file), picture.width, picture.height),
        psnr_db=psnr_db(picture.pixels, decoded),
        ms_ssim=ms_ssim(picture.pixels, decoded) if large else None,
        bound_bits=bound_bits,
        overhead_bytes=len(file) - bound_bits / 8,
        excess_bytes=len(file) - (BOUND_FACTOR * bound_bits / 8 + BOUND_BYTES),
    )


def closest_quality(mean_bpp: Callable[[int], float], target_bpp: float) -> int:
    """The quality of 0..100 whose mean rate is closest to the target; rates must not fall with the quality."""
    low, high = 0, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mean_bpp(middle) < target_bpp else (low, middle)
    return min((low, high), key=lambda quality: abs(mean_bpp(quality) - target_bpp))


def peer_point(peer: Peer, pictures: Sequence[Picture], level: float) -> tuple[float, float]:
    """Mean bits per pixel and mean PSNR of the pictures at one level of a peer."""
    progress(f"{peer.title}, level {level:g}")
    files = [peer.encode(picture.pixels, level) for picture in pictures]
    decoded = (peer.decode(file, p.pixels.shape) for file, p in zip(files, pictures, strict=True))
    return (
        fmean(bits_per_pixel(len(file), p.width, p.height) for file, p in zip(files, pictures, strict=True)),
        fmean(psnr_db(p.pixels, pixels) for p, pixels in zip(pictures, decoded, strict=True)),
    )


def peer_curve(peer: Peer, pictures: Sequence[Picture]) -> Curve:
    return increasing([peer_point(peer, pictures, level) for level in peer.levels])


def quality_row(coded: Sequence[CodedPicture], jpeg: Curve) -> dict[str, Any]:
    """Means over the pictures at one quality, beside JPEG at the same mean rate."""
    bpp, decibels = fmean(c.bpp for c in coded), fmean(c.psnr_db for c in coded)
    jpeg_db = psnr_at(jpeg, bpp)
    similarities = [c.ms_ssim for c in coded if c.ms_ssim is not None]
    return {
        "quality": coded[0].quality,
        "bpp": bpp,
        "bound_bpp": fmean(c.bound_bits / (c.width * c.height) for c in coded),
        "psnr_db": decibels,
        "ms_ssim": fmean(similarities) if similarities else None,
        "jpeg_420_psnr_db": jpeg_db,
        "gain_on_jpeg_420_db": None if jpeg_db is None else decibels - jpeg_db,
        "mean_overhead_bytes": fmean(c.overhead_bytes for c in coded),
        "worst_excess_bytes": max(c.excess_bytes for c in coded),
        "n_within_bound": sum(c.excess_bytes <= 0 for c in coded),
        "n_pictures": len(coded),
    }


def bound_summary(coded: Sequence[CodedPicture]) -> dict[str, Any]:
    """How the files stand to `bound * 1.01 + 24 bytes`."""
    worst = max(coded, key=lambda c: c.excess_bytes)
    return {
        "n_files": len(coded),
        "n_within_bound": sum(c.excess_bytes <= 0 for c in coded),
        "worst_excess_bytes": worst.excess_bytes,
        "worst_picture": worst.picture,
        "worst_quality": worst.quality,
    }


def evaluate(
    codec: ulcodec.Codec,
    pictures: list[Picture],
    qualities: Sequence[int],
    targets_bpp: Sequence[float],
    anchors: dict[str, Curve],
    peers: Sequence[Peer] = (),
) -> dict[str, Any]:
    """Every table of the report. The qualities that meet the targets are added to `qualities`, JPEG to `peers`."""
    present, absent = available([PEERS["jpeg"], *(peer for peer in peers if peer.key != "jpeg")])
    measured = {peer: peer_curve(peer, pictures) for peer in present}
    jpeg = measured[PEERS["jpeg"]]
    coding = PictureSet(codec, pictures)
    targets = [{"target_bpp": target, "quality": closest_quality(coding.mean_bpp, target)} for target in targets_bpp]
    chosen = sorted({*qualities, *(int(target["quality"]) for target in targets)})
    coded = [coding.measure(quality) for quality in chosen]
    rows = [quality_row(at_quality, jpeg) for at_quality in coded]
    files = [file for at_quality in coded for file in at_quality]
    curve = Curve([row["bpp"] for row in rows], [row["psnr_db"] for row in rows])
    return {
        "targets": targets,
        "qualities": rows,
        "bound": bound_summary(files),
        "bd_rates": bd_rows(anchors | {peer.title + HERE: found for peer, found in measured.items()}, curve),
        "peers": [
            {"key": peer.key, "title": peer.title, "library": peer.library(), **asdict(found)}
            for peer, found in measured.items()
        ],
        "absent_peers": absent,
        "jpeg_420": [{"bpp": bpp, "psnr_db": decibels} for bpp, decibels in zip(jpeg.bpp, jpeg.psnr_db, strict=True)],
        "files": [asdict(file) for file in files],
    }


def decimals(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def quality_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = [
        "quality",
        "bpp",
        "bound bpp",
        "PSNR dB",
        "MS-SSIM",
        "JPEG 4:2:0 dB",
        "gain dB",
        "overhead B",
        "within bound",
    ]
    rows = [
        [
            str(row["quality"]),
            decimals(row["bpp"], 4),
            decimals(row["bound_bpp"], 4),
            decimals(row["psnr_db"], 2),
            decimals(row["ms_ssim"], 4),
            decimals(row["jpeg_420_psnr_db"], 2),
            decimals(row["gain_on_jpeg_420_db"], 2),
            decimals(row["mean_overhead_bytes"], 1),
            f"{row['n_within_bound']}/{row['n_pictures']}",
        ]
        for row in report["qualities"]
    ]
    return header, rows


def bd_table(report: dict[str, Any], names: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """BD-rates against the anchors named, or all."""
    rows = [
        [row["anchor"], decimals(row["bd_rate_percent"], 1), decimals(row["low_db"], 2), decimals(row["high_db"], 2)]
        for row in report["bd_rates"]
        if names is None or row["anchor"] in names or row["anchor"].endswith(HERE)
    ]
    return ["anchor", "BD-rate %", "from dB", "to dB"], rows


def bound_line(bound: dict[str, Any]) -> str:
    return (
        f"{bound['n_within_bound']} of {bound['n_files']} files are within the prior's bound + 1 % + {BOUND_BYTES} B;"
        f" the worst stands at {bound['worst_excess_bytes']:+.1f} bytes from it "
        f"({bound['worst_picture']}, quality {bound['worst_quality']})."
    )


def jpeg_line(report: dict[str, Any]) -> str:
    first = report["jpeg_420"][0]
    return f"Smallest JPEG 4:2:0 of these pictures: {first['bpp']:.4f} bits per pixel, {first['psnr_db']:.2f} dB."


def printed(report: dict[str, Any]) -> str:
    targets = [f"target {t['target_bpp']:g} bits per pixel: quality {t['quality']}" for t in report["targets"]]
    tables = [text_table(*quality_table(report)), text_table(*bd_table(report))]
    absent = [f"absent: {title} ({reason})" for title, reason in report["absent_peers"].items()]
    return "\n".join([*targets, *absent, tables[0], bound_line(report["bound"]), jpeg_line(report), "", tables[1]])


def markdown(report: dict[str, Any]) -> str:
    run = report["run"]
    source = f"Model `{run['model']}` ({run['model_fingerprint']}), commit {run['commit']}: `{run['command']}`"
    tables = [markdown_table(*quality_table(report)), markdown_table(*bd_table(report, MARKDOWN_CURVES))]
    return "\n\n".join([tables[0], f"{bound_line(report['bound'])} {jpeg_line(report)}", tables[1], source]) + "\n"


def quality_list(text: str) -> list[int]:
    qualities = [int(part) for part in text.split(",")]
    if not all(0 <= quality <= 100 for quality in qualities):
        raise argparse.ArgumentTypeError("qualities are 0 to 100")
    return qualities


def rate_list(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def peer_list(text: str) -> list[Peer]:
    if unknown := [key for key in text.split(",") if key not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown peers: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    return [PEERS[key] for key in text.split(",")]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m benchmarks.rate_distortion", description=__doc__.splitlines()[0])
    result.add_argument("--images", type=Path, help="folder of pictures (default: the sample pictures of scikit-image)")
    result.add_argument("--limit", type=int, help="only the first pictures")
    result.add_argument("--model", default="small", help="name of a model, or a model directory")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda")
    result.add_argument(
        "--qualities", type=quality_list, help="0..100, with commas (default: 0,10,... or only the targets')"
    )
    result.add_argument("--target-bpp", type=rate_list, default=[], help="mean rates to find qualities for")
    result.add_argument("--anchors", type=Path, help="JSON of published curves on the same pictures")
    result.add_argument(
        "--peers", type=peer_list, default=[], help=f"codecs to measure beside JPEG, with commas: {', '.join(PEERS)}"
    )
    result.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    result.add_argument("--markdown", type=Path, help="write the main tables here")
    return result


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    try:
        anchors, pictures = read_anchors(options.anchors), find_pictures(options.images, options.limit)
        codec = ulcodec.load(options.model, device=options.device)
    except (OSError, ulcodec.UlcError) as error:
        sys.exit(f"error: {error}")
    qualities = options.qualities or (() if options.target_bpp else DEFAULT_QUALITIES)
    tables = evaluate(codec, pictures, qualities, options.target_bpp, anchors, options.peers)
    report = {"run": run_record("rate_distortion", arguments, codec), **tables}
    progress(f"{len(tables['files'])} files measured", last=True)
    print(printed(report))
    if options.output:
        write_text(options.output, to_json(report))
    if options.markdown:
        write_text(options.markdown, markdown(report))


if __name__ == "__main__":
    main(sys.argv[1:])
