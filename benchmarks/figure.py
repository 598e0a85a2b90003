"""Draw the rate-distortion figure of the README from a committed report.

python -m benchmarks.figure benchmarks/results/0.1.0/kodak/results.json -o docs/images/kodak.svg
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from ulcodec.bench.peers import OURS
from ulcodec.bench.report import curve_of

SHOWN = ("vvc", "avif-psnr", "avif", "jpegxl", "webp", "jpeg")
RATES = (0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figure", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path, help="results.json of ulcodec bench")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    curves = {codec["key"]: curve_of(report["curves"][codec["key"]]) for codec in report["codecs"]}
    titles = {codec["key"]: codec["title"] for codec in report["codecs"]}
    ours = curves.pop(OURS)
    plt.rcParams.update(
        {"svg.hashsalt": "ulcodec", "font.size": 10, "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    axes.plot(ours.bpp, ours.quality, "o-", color="#0b66c3", linewidth=2.2, markersize=5, label=titles[OURS], zorder=3)
    for key in SHOWN:
        if key in curves:
            axes.plot(curves[key].bpp, curves[key].quality, linewidth=1.4, label=titles[key])
    axes.set_xscale("log")
    axes.set_xlim(0.9 * ours.bpp[0], 1.1 * ours.bpp[-1])
    axes.set_ylim(ours.quality[0] - 4.5, ours.quality[-1] + 1.5)
    axes.xaxis.set_major_locator(FixedLocator(RATES))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("bits per pixel of the file")
    axes.set_ylabel("PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(options.output, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
