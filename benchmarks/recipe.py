"""Measure choices of the training recipe, by short runs that differ in one thing each.

python -m benchmarks.recipe --data photos/ -o recipe.json
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import progress, write_text
from benchmarks.short_runs import trained
from ulcodec.bench.machine import run_record
from ulcodec.bench.tables import text_table, to_json
from ulcodec.io.locations import as_source
from ulcodec.metrics import bd_rate_percent
from ulcodec.model.blocks import BottleneckBlock, conv
from ulcodec.model.config import N_PHASES, TINY, ModelConfig, spread_reveal
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.revival import dead_units
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings
from ulcodec.train.stage1 import VALIDATION_QUALITIES, validation_scores

CROP_PX, MIN_SIDE_PX = 128, 256

CONFIG = replace(TINY, latent_channels=128)
"""Narrow networks, with a latent that does not limit the quality."""

ABRUPTLY = 1e-9
"""Decay share of a run whose learning rate is constant to the end."""

LUMA_FIRST = tuple(2.28 * share for share in (6 / 8, 1 / 8, 1 / 8))
"""Weights at which white noise counts as in RGB."""


@dataclass(frozen=True)
class Trial:
    """A run of the configuration with some settings; `images`: how many times as many crops; `change` of the fresh
    model; `late_side`: how many times the side, and a square fewer, the crops have while the rate falls."""

    config: ModelConfig = CONFIG
    settings: dict[str, Any] = field(default_factory=dict)
    images: float = 1.0
    change: Callable[[UnifiedLatentModel], None] | None = None
    late_side: int = 1

    def legs(self, n_crops: int) -> list[Stage1Settings]:
        """The parts of the run for a budget of `n_crops` crops of `CROP_PX`."""
        n_images = int(n_crops * self.images)
        plain = Stage1Settings(data=(), out=Path(), config=TINY.name, crop_px=CROP_PX, n_images=n_images)
        whole = replace(plain, **self.settings)
        if self.late_side == 1:
            return [whole]
        n_full, area = int(n_images * (1 - whole.decay_share)), self.late_side**2
        n_late = (n_images - n_full) // area
        late: dict[str, Any] = {"crop_px": whole.crop_px * self.late_side, "batch_size": whole.batch_size // area}
        return [
            replace(whole, n_images=n_full, decay_share=ABRUPTLY),
            replace(whole, n_images=n_full + n_late, decay_share=n_late / (n_full + n_late), **late),
        ]


class PlainBlock(nn.Module):
    """Residual block of two 3x3 kernels at full width: 18 C^2 multiplications per position."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = conv(width, width, 3), conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(F.relu(self.first(x)))
        return result


class DepthwiseBlock(nn.Module):
    """Residual block of a depthwise 5x5 kernel and two 1x1 kernels, twice the width between: 4 C^2 + 25 C."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.expand, self.reduce = conv(width, 2 * width), conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.reduce(F.relu(self.expand(self.spatial(x))))
        return result


def with_blocks(block: Callable[[int], nn.Module]) -> Callable[[UnifiedLatentModel], None]:
    """A change that replaces the residual blocks in encoder and trunk."""

    def change(model: UnifiedLatentModel) -> None:
        for stack in (model.encoder.blocks_8, model.encoder.blocks_16, model.decoder.trunk.blocks_8,
                      model.decoder.trunk.blocks_16):  # fmt: skip
            for index, old in enumerate(stack):
                assert isinstance(old, BottleneckBlock)
                stack[index] = block(old.expand.out_channels)

    return change


def without_hyper_latent(model: UnifiedLatentModel) -> None:
    """Disable the hyper-latent: with no gain, it rounds to zero."""
    model.hyper_encoder.log_gain.requires_grad_(False).values.fill_(-20)


def revealing(reveal: tuple[str, ...]) -> ModelConfig:
    """The configuration with another reveal schedule, and as many blocks in every pass."""
    n_passes = len(set("".join(reveal)))
    return replace(CONFIG, reveal=reveal, prior_blocks=CONFIG.prior_blocks[:1] * n_passes)


def channel_slices(steps: str) -> tuple[str, ...]:
    """A reveal schedule by channel groups, a pass each, the same at all positions."""
    return tuple(step * N_PHASES for step in steps)


def weights(**values: Any) -> dict[str, Any]:
    return {"weights": ObjectiveSettings(**values)}


TRIALS: dict[str, Trial] = {
    "as it is": Trial(),
    "another seed": Trial(settings={"seed": 1}),
    "reveal: four equal steps": Trial(revealing(spread_reveal("11223344"))),
    "reveal: three steps, 1/8 3/8 1/2": Trial(revealing(spread_reveal("12223333"))),
    "reveal: five steps, 1/8 1/8 1/8 1/8 1/2": Trial(revealing(spread_reveal("12345555"))),
    "reveal: two halves": Trial(revealing(spread_reveal("11112222"))),
    "reveal: every 16th channel, doubling": Trial(revealing(channel_slices("1122333344444444"))),
    "one prior network for all passes": Trial(replace(CONFIG, shared_prior=True, prior_blocks=CONFIG.prior_blocks[:1])),
    "no hyper-latent": Trial(change=without_hyper_latent),
    "blocks of two 3x3 kernels": Trial(change=with_blocks(PlainBlock)),
    "depthwise blocks": Trial(change=with_blocks(DepthwiseBlock)),
    "blocks that leak": Trial(replace(CONFIG, negative_slope=0.1)),
    "half the latent channels": Trial(replace(CONFIG, latent_channels=CONFIG.latent_channels // 2)),
    "twice the latent channels": Trial(replace(CONFIG, latent_channels=2 * CONFIG.latent_channels)),
    "no continuous bound": Trial(settings=weights(continuous_share=0.0)),
    "four times its share": Trial(settings=weights(continuous_share=0.2)),
    "errors of luma, Cb, Cr by 6 : 1 : 1": Trial(settings=weights(ycbcr_weights=LUMA_FIRST)),
    "SOAP": Trial(settings={"optimizer": "soap"}),
    "SOAP, twice the learning rate": Trial(settings={"optimizer": "soap", "learning_rate": 1.2e-3}),
    "losses over the Lagrangian's power 0.25": Trial(settings=weights(quality_power=0.25)),
    "losses over the Lagrangian's power 0.75": Trial(settings=weights(quality_power=0.75)),
    "half the learning rate": Trial(settings={"learning_rate": 3e-4}),
    "twice the learning rate": Trial(settings={"learning_rate": 1.2e-3}),
    "decay over half of the run": Trial(settings={"decay_share": 0.5}),
    "decay from the start": Trial(settings={"decay_share": 1.0}),
    "half the batch": Trial(settings={"batch_size": 8}),
    "all eight orientations": Trial(settings={"turns": True}),
    "half of the crops reduced by 1 to 2": Trial(settings={"reduction": 2.0}),
    "both": Trial(settings={"turns": True, "reduction": 2.0}),
    "crops of 256, a quarter of them": Trial(settings={"crop_px": 256, "batch_size": 4}, images=0.25),
    "crops of 256 while the rate falls": Trial(late_side=2),
}


def scores_of(name: str, trial: Trial, training: PictureSet, held_out: PictureSet, images: int) -> dict[str, Any]:
    """Held-out scores of a trial's EMA weights, measured alike for all trials."""
    model, seconds = trained(trial.config, training, trial.legs(images), trial.change)
    scores: dict[str, float] = {}
    dead = dead_units(model, lambda: scores.update(validation_scores(model, held_out, Trial().legs(images)[0])))
    return {
        "trial": name,
        "seconds": seconds,
        "dead_percent": 100 * torch.cat(dead).float().mean().item(),
        "loss": scores["loss"],
        "bpp": [scores[f"chain_bpp@{q:g}"] for q in VALIDATION_QUALITIES],
        "psnr_db": [scores[f"psnr_db@{q:g}"] for q in VALIDATION_QUALITIES],
    }


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=description)
    parser.add_argument("--data", nargs="+", required=True, help="folders of pictures or tar shards, as for training")
    parser.add_argument("--images", type=int, default=16_000, help="crops that a run sees")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), help="trials, the first the anchor")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    training, held_out = load_pictures(
        map(as_source, options.data), min_side_px=MIN_SIDE_PX, validation_share=Stage1Settings.validation_share
    )
    rows: list[dict[str, Any]] = []
    for name in options.only:
        progress(name, last=True)
        row = scores_of(name, TRIALS[name], training, held_out, options.images)
        anchor = rows[0] if rows else row
        row["bits_percent"] = bits_percent(anchor, row)
        row["loss_percent"] = 100 * (row["loss"] / anchor["loss"] - 1)
        rows.append(row)
        write_text(options.output, to_json({"run": run_record(["python", "-m", "benchmarks.recipe", *arguments]),
                                            "n_images": options.images, "rows": rows}))  # fmt: skip
    cells = [
        [
            row["trial"],
            *(percent(row[f"{measure}_percent"]) for measure in ("loss", "bits")),
            f"{row['dead_percent']:.1f} %",
            f"{row['seconds']:.0f} s",
        ]
        for row in rows
    ]
    print(text_table(["trial", "loss", "bits at equal PSNR", "dead units", "training"], cells))


def bits_percent(anchor: dict[str, Any], row: dict[str, Any]) -> float | None:
    """BD-rate; None without a common range of PSNR."""
    try:
        return bd_rate_percent(anchor["bpp"], anchor["psnr_db"], row["bpp"], row["psnr_db"])
    except ValueError:
        return None


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"


if __name__ == "__main__":
    main(sys.argv[1:])
