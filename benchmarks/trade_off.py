"""Measure the trade-off between bits in the latent and in the decoder: short runs of `ul` over loss factors and biases.

python -m benchmarks.trade_off --data photos/ -o trade_off.json --figure trade_off.svg
python -m benchmarks.trade_off --config tiny-video --data clips/ --images 4000 -o trade_off_video.json
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
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
from ulcodec.codec.generate import samples_of
from ulcodec.diffusion.sampler import sample
from ulcodec.diffusion.schedule import ALPHA_0, PIXEL_LOG_SNR_RANGE, SIGMA_0
from ulcodec.io.locations import as_source
from ulcodec.io.sources import LeftOut
from ulcodec.metrics import psnr_db, sliced_wasserstein
from ulcodec.metrics.video import frame_difference_psnr_db
from ulcodec.model.config import TINY, TINY_VIDEO
from ulcodec.model.latent_diffusion import LatentDiffusion
from ulcodec.model.presets import preset
from ulcodec.train.data.crops import CropSet
from ulcodec.train.data.loading import load_run
from ulcodec.train.data.training_set import reader_of
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings

SETTINGS = ((1.3, 0.0), (1.5, 0.0), (1.7, 0.0), (1.9, 0.0), (2.1, 0.0), (1.5, -1.0), (1.5, -2.0), (1.5, 1.0))
PAPER = ((1.3, 0.035, 25.7), (1.5, 0.059, 27.6), (1.7, 0.083, 28.9), (1.9, 0.101, 29.6), (2.1, 0.116, 30.1))
"""Loss factor, bits and PSNR of the paper on ImageNet-512 (arXiv 2602.17270)."""

TRAINING_CROP_PX = {TINY.name: 128, TINY_VIDEO.name: 64}
CROP_PX = {TINY.name: 256, TINY_VIDEO.name: 64}
"""Sides of the crops that runs of a configuration train on, and that they are measured on."""

OF_CLIPS: dict[str, Any] = {
    "resize_px": 128, "n_frames": 16, "batch_size": 4, "learning_rate": 2e-3, "warmup_images": 400,
    "validation_share": 0.1,
}  # fmt: skip
"""Settings of runs on clips that differ from those on pictures."""

STEPS = 32


def scored(model: LatentDiffusion, crops: Tensor, weights: ObjectiveSettings) -> dict[str, Any]:
    """Score a model on crops [N, 3, X] of pictures or clips: bound of the latent, samples and direct estimates."""
    generator = torch.Generator().manual_seed(1)
    bounds: list[float] = []
    drawn: list[np.ndarray] = []
    estimated: list[np.ndarray] = []
    for x in torch.split(crops, 1):
        quality = torch.tensor([weights.ul_quality])
        z = model.encode_clean(x, quality)
        bounds.append(continuous_bound_bits(model, x, quality) / x[0, 0].numel())
        z_0 = ALPHA_0 * z + SIGMA_0 * torch.randn(z.shape, generator=generator)

        def denoise(x_t: Tensor, log_snr: Tensor, z_0: Tensor = z_0, quality: Tensor = quality) -> Tensor:
            return model.denoise_picture(x_t, log_snr, z_0, quality)

        noise = torch.randn(x.shape, generator=generator)
        log_snrs = np.linspace(*PIXEL_LOG_SNR_RANGE, STEPS + 1).tolist()
        estimate = denoise(noise, torch.tensor(log_snrs[:1]))
        for decoded, result in ((drawn, sample(denoise, noise, log_snrs)), (estimated, estimate)):
            decoded.append(samples_of((result[0] + 1) / 2))
    originals = [samples_of(x) for x in crops]
    return {
        "loss_factor": weights.loss_factor,
        "bias": weights.bias,
        "bound_bpp": fmean(bounds),
        **{f"sample_{name}": value for name, value in distances(originals, drawn).items()},
        **{f"estimate_{name}": value for name, value in distances(originals, estimated).items()},
    }


def distances(originals: list[np.ndarray], others: list[np.ndarray]) -> dict[str, Any]:
    """Measure pictures, or clips and the frame in the middle of each."""
    measured: dict[str, Any] = {"psnr_db": fmean(map(psnr_db, originals, others))}
    if originals[0].ndim == 4:
        measured["difference_psnr_db"] = fmean(map(frame_difference_psnr_db, originals, others))
        originals, others = ([clip[len(clip) // 2] for clip in clips] for clips in (originals, others))
    measured["sliced_wasserstein"] = sliced_wasserstein(originals, others)
    return measured


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


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    is_video = "sample_difference_psnr_db" in rows[0]
    columns = ["PSNR", *(["of differences"] if is_video else []), "SWD 1"]
    heads = ["loss factor", "bias", "bound bpp", *columns, *(f"estimate's {name}" for name in columns)]
    cells = []
    for row in rows:
        cell = [f"{row['loss_factor']:g}", f"{row['bias']:g}", f"{row['bound_bpp']:.3f}"]
        for kind in ("sample", "estimate"):
            cell.append(f"{row[f'{kind}_psnr_db']:.2f}")
            if is_video:
                cell.append(f"{row[f'{kind}_difference_psnr_db']:.2f}")
            cell.append(f"{row[f'{kind}_sliced_wasserstein'][0]:.0f}")
        cells.append(cell)
    print(text_table(heads, cells))


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trade_off", description=description)
    parser.add_argument("--data", nargs="+", required=True, help="pictures or videos, as for training")
    parser.add_argument("--config", choices=sorted(CROP_PX), default=TINY.name, help="default: tiny, for pictures")
    parser.add_argument("--images", type=int, default=30_000, help="crops that each run sees")
    parser.add_argument("--limit", type=int, help="only the first pictures or clips")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    settings = Stage1Settings(
        data=tuple(map(as_source, options.data)),
        out=Path(),
        config=options.config,
        objective="ul",
        n_images=options.images,
        crop_px=CROP_PX[options.config],
        limit_pictures=options.limit,
        **(OF_CLIPS if options.config == TINY_VIDEO.name else {}),
    )
    training: CropSet
    held_out: CropSet
    training, held_out = load_run(reader_of(settings), settings, LeftOut())
    crops = held_out.random_crops(len(held_out), settings.crop_px, torch.Generator().manual_seed(1))
    rows = []
    for loss_factor, bias in SETTINGS:
        weights = ObjectiveSettings(loss_factor=loss_factor, bias=bias)
        progress(f"loss factor {loss_factor}, bias {bias}", last=True)
        run = replace(settings, crop_px=TRAINING_CROP_PX[options.config], weights=weights)
        model, _ = trained(preset(options.config), training, [run])
        rows.append(scored(model, crops, weights))
    show(rows)
    record = run_record(["python", "-m", "benchmarks.trade_off", *arguments])
    counts = {"n_images": options.images, "n_pictures": len(held_out), "n_steps": STEPS}
    write_text(options.output, to_json({"run": record, **counts, "rows": rows}))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main(sys.argv[1:])
