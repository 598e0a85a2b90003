"""Measure the trade-off between bits in the latent and in the decoder: short runs of `ul` over loss factors and biases.

python -m benchmarks.trade_off --data photos/ -o trade_off.json --figure trade_off.svg
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import progress, write_text
from benchmarks.short_runs import trained
from ulcodec.bench.machine import run_record
from ulcodec.bench.run import continuous_bound_bits
from ulcodec.bench.tables import text_table, to_json
from ulcodec.codec.pixels import to_samples
from ulcodec.codec.tensors import channels_last
from ulcodec.diffusion.sampler import sample
from ulcodec.diffusion.schedule import ALPHA_0, PIXEL_LOG_SNR_RANGE, SIGMA_0
from ulcodec.format.container import Layout
from ulcodec.io.locations import as_source
from ulcodec.metrics import psnr_db, sliced_wasserstein
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings

SETTINGS = ((1.3, 0.0), (1.5, 0.0), (1.7, 0.0), (1.9, 0.0), (2.1, 0.0), (1.5, -1.0), (1.5, -2.0), (1.5, 1.0))
PAPER = ((1.3, 0.035, 25.7), (1.5, 0.059, 27.6), (1.7, 0.083, 28.9), (1.9, 0.101, 29.6), (2.1, 0.116, 30.1))
"""Loss factor, bits and PSNR of the paper on ImageNet-512 (arXiv 2602.17270)."""

TRAINING_CROP_PX = 128
CROP_PX = 256
STEPS = 32


def scored(model: UnifiedLatentModel, pictures: PictureSet, weights: ObjectiveSettings) -> dict[str, Any]:
    """Score a model on one crop per picture: bound of the latent, samples and direct estimates of the decoder."""
    generator = torch.Generator().manual_seed(1)
    crops = pictures.random_crops(len(pictures), CROP_PX, generator)
    bounds: list[float] = []
    drawn: list[np.ndarray] = []
    estimated: list[np.ndarray] = []
    for x in torch.split(crops, 1):
        quality = torch.tensor([weights.ul_quality])
        z = model.encode_clean(x, quality)
        bounds.append(continuous_bound_bits(model, x, quality) / CROP_PX**2)
        z_0 = ALPHA_0 * z + SIGMA_0 * torch.randn(z.shape, generator=generator)

        def denoise(x_t: Tensor, log_snr: Tensor, z_0: Tensor = z_0, quality: Tensor = quality) -> Tensor:
            return model.denoise_picture(x_t, log_snr, z_0, quality)

        noise = torch.randn(x.shape, generator=generator)
        log_snrs = np.linspace(*PIXEL_LOG_SNR_RANGE, STEPS + 1).tolist()
        estimate = denoise(noise, torch.tensor(log_snrs[:1]))
        for pictures_drawn, picture in ((drawn, sample(denoise, noise, log_snrs)), (estimated, estimate)):
            pictures_drawn.append(to_samples(channels_last((picture[:1] + 1) / 2)[0], Layout.RGB))
    originals = [to_samples(x, Layout.RGB) for x in channels_last(crops)]
    return {
        "loss_factor": weights.loss_factor,
        "bias": weights.bias,
        "bound_bpp": fmean(bounds),
        "sample_psnr_db": fmean(map(psnr_db, originals, drawn)),
        "sample_sliced_wasserstein": sliced_wasserstein(originals, drawn),
        "estimate_psnr_db": fmean(map(psnr_db, originals, estimated)),
        "estimate_sliced_wasserstein": sliced_wasserstein(originals, estimated),
    }


def draw(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Draw PSNR and sliced Wasserstein distance of samples against the bound, with the paper's PSNR."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "ulcodec", "font.size": 9, "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    groups = {
        "loss factor, bias 0": [row for row in rows if row["bias"] == 0],
        "bias, loss factor 1.5": sorted(
            (row for row in rows if row["loss_factor"] == 1.5), key=lambda row: row["bias"]
        ),
    }
    for name, group in groups.items():
        bounds = [row["bound_bpp"] for row in group]
        axes[0].plot(bounds, [row["sample_psnr_db"] for row in group], "o-", label=f"ours: {name}")
        axes[1].plot(bounds, [row["sample_sliced_wasserstein"][0] for row in group], "o-", label=f"ours: {name}")
    _, bits, psnr = zip(*PAPER, strict=True)
    axes[0].plot(bits, psnr, "s--", color="grey", label="paper: loss factor 1.3 to 2.1, ImageNet-512")
    axes[0].set_ylabel("PSNR of samples, dB")
    axes[1].set_ylabel("sliced Wasserstein distance of samples, finest level")
    for axis in axes:
        axis.set_xlabel("bound on the latent's description length, bits per pixel")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(target, metadata={"Date": None}, facecolor="white")


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trade_off", description=description)
    parser.add_argument("--data", nargs="+", required=True, help="folders of pictures or tar shards, as for training")
    parser.add_argument("--images", type=int, default=30_000, help="crops that each run sees")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    data = tuple(map(as_source, options.data))
    training, held_out = load_pictures(
        data, min_side_px=CROP_PX, validation_share=Stage1Settings.validation_share, limit=options.limit
    )
    rows = []
    for loss_factor, bias in SETTINGS:
        weights = ObjectiveSettings(loss_factor=loss_factor, bias=bias)
        progress(f"loss factor {loss_factor}, bias {bias}", last=True)
        settings = Stage1Settings(
            data=data,
            out=Path(),
            config=TINY.name,
            objective="ul",
            n_images=options.images,
            crop_px=TRAINING_CROP_PX,
            weights=weights,
        )
        model, _ = trained(TINY, training, [settings])
        rows.append(scored(model, held_out, weights))
    cells = [
        [
            f"{row['loss_factor']:g}",
            f"{row['bias']:g}",
            f"{row['bound_bpp']:.3f}",
            *(
                text
                for kind in ("sample", "estimate")
                for text in (f"{row[f'{kind}_psnr_db']:.2f}", f"{row[f'{kind}_sliced_wasserstein'][0]:.0f}")
            ),
        ]
        for row in rows
    ]
    print(text_table(["loss factor", "bias", "bound bpp", "PSNR", "SWD 1", "estimate's PSNR", "SWD 1"], cells))
    run = run_record(["python", "-m", "benchmarks.trade_off", *arguments])
    counts = {"n_images": options.images, "n_pictures": len(held_out), "n_steps": STEPS}
    write_text(options.output, to_json({"run": run, **counts, "rows": rows}))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main(sys.argv[1:])
