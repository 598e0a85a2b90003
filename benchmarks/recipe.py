"""What a choice of the training recipe is worth: short runs that differ in one thing each.

python -m benchmarks.recipe --data photos/ -o recipe.json
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.report import progress, write_text
from benchmarks.short_runs import trained
from ulcodec.bench.machine import run_record
from ulcodec.bench.tables import text_table, to_json
from ulcodec.data import PictureSet, load_pictures
from ulcodec.metrics import bd_rate_percent
from ulcodec.model.config import N_PHASES, TINY, ModelConfig, spread_reveal
from ulcodec.sources import as_source
from ulcodec.train.objective import ObjectiveSettings
from ulcodec.train.stage1 import VALIDATION_QUALITIES, Stage1Settings, validation_scores

CROP_PX, MIN_SIDE_PX = 128, 256

CONFIG = replace(TINY, latent_channels=128)
"""Narrow networks, but a latent that does not by itself limit the quality."""


@dataclass(frozen=True)
class Trial:
    """A run of the configuration with some settings; `images`: how many times as many crops."""

    config: ModelConfig = CONFIG
    settings: dict[str, Any] = field(default_factory=dict)
    images: float = 1.0


def channel_slices(steps: str) -> ModelConfig:
    """Channel groups that have a step each, the same everywhere."""
    return replace(CONFIG, reveal=tuple(step * N_PHASES for step in steps))


def weights(**values: Any) -> dict[str, Any]:
    return {"weights": ObjectiveSettings(**values)}


TRIALS: dict[str, Trial] = {
    "as it is": Trial(),
    "another seed": Trial(settings={"seed": 1}),
    "reveal: four equal steps": Trial(replace(CONFIG, reveal=spread_reveal("11223344"))),
    "reveal: three steps, 1/8 3/8 1/2": Trial(replace(CONFIG, reveal=spread_reveal("12224444"))),
    "reveal: two halves": Trial(replace(CONFIG, reveal=spread_reveal("11114444"))),
    "reveal: every 16th channel, doubling": Trial(channel_slices("1122333344444444")),
    "half the latent channels": Trial(replace(CONFIG, latent_channels=CONFIG.latent_channels // 2)),
    "twice the latent channels": Trial(replace(CONFIG, latent_channels=2 * CONFIG.latent_channels)),
    "no continuous bound": Trial(settings=weights(continuous_share=0.0)),
    "four times its share": Trial(settings=weights(continuous_share=0.2)),
    "half the learning rate": Trial(settings={"learning_rate": 3e-4}),
    "twice the learning rate": Trial(settings={"learning_rate": 1.2e-3}),
    "decay over half of the run": Trial(settings={"decay_share": 0.5}),
    "decay from the start": Trial(settings={"decay_share": 1.0}),
    "half the batch": Trial(settings={"batch_size": 8}),
    "crops of 256, a quarter of them": Trial(settings={"crop_px": 256, "batch_size": 4}, images=0.25),
}


def scores_of(name: str, trial: Trial, training: PictureSet, held_out: PictureSet, images: int) -> dict[str, Any]:
    """Held-out scores of the trial's EMA weights, measured alike for all."""
    plain = Stage1Settings(data=(), out=Path(), config=TINY.name, crop_px=CROP_PX)
    settings = replace(plain, **{"n_images": int(images * trial.images), **trial.settings})
    model, seconds = trained(trial.config, training, settings)
    scores = validation_scores(model, held_out, plain)
    return {
        "trial": name,
        "seconds": seconds,
        "loss": scores["loss"],
        "bpp": [scores[f"chain_bpp@{q:g}"] for q in VALIDATION_QUALITIES],
        "psnr_db": [scores[f"psnr_db@{q:g}"] for q in VALIDATION_QUALITIES],
    }


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=description)
    parser.add_argument("--data", nargs="+", required=True, help="folders of pictures or tar shards, as for training")
    parser.add_argument("--images", type=int, default=16_000, help="crops that a run sees")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    training, held_out = load_pictures(
        map(as_source, options.data), min_side_px=MIN_SIDE_PX, validation_share=Stage1Settings.validation_share
    )
    rows: list[dict[str, Any]] = []
    for name, trial in TRIALS.items():
        progress(name, last=True)
        row = scores_of(name, trial, training, held_out, options.images)
        anchor = rows[0] if rows else row
        row["bits_percent"] = bits_percent(anchor, row)
        row["loss_percent"] = 100 * (row["loss"] / anchor["loss"] - 1)
        rows.append(row)
        write_text(options.output, to_json({"run": run_record(["python", "-m", "benchmarks.recipe", *arguments]),
                                            "n_images": options.images, "rows": rows}))  # fmt: skip
    cells = [
        [row["trial"], *(percent(row[f"{measure}_percent"]) for measure in ("loss", "bits")), f"{row['seconds']:.0f} s"]
        for row in rows
    ]
    print(text_table(["trial", "loss", "bits at equal PSNR", "training"], cells))


def bits_percent(anchor: dict[str, Any], row: dict[str, Any]) -> float | None:
    """BD-rate, None where no PSNR is reached by both."""
    try:
        return bd_rate_percent(anchor["bpp"], anchor["psnr_db"], row["bpp"], row["psnr_db"])
    except ValueError:
        return None


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"


if __name__ == "__main__":
    main(sys.argv[1:])
