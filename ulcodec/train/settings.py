"""Settings of the training stages. Needs no torch, so that the command line can read them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source, as_source
from ulcodec.model.config import PATCH_PX, ModelConfig
from ulcodec.model.presets import preset
from ulcodec.train.limits import (
    MOST_CROPS,
    MOST_IMAGES,
    MOST_MINUTES,
    check_bias,
    check_common,
    check_number,
    check_whole,
)

OBJECTIVE_NAMES = ("codec", "ul")
OPTIMIZER_NAMES = ("adamw", "soap")


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the objectives.

    `continuous_share`: weight of the continuous-time bound beside the reveal chain's bits in `codec`, measured on every
    `subset`-th picture. `loss_factor` and `bias` are the paper's c_lf and b; `ul_quality` is the quality input held
    fixed in `ul`. `ycbcr_weights`: of the squared errors of luma, Cb and Cr, whose sum `codec` takes as distortion in
    place of the mean over R, G and B. `codec` divides a picture's loss by its Lagrangian to the power of
    `quality_power`: 0 lets high qualities drown the low ones, 1 the other way round.
    """

    continuous_share: float = 0.05
    subset: int = 4
    loss_factor: float = 1.5
    bias: float = 0.0
    ul_quality: float = 0.5
    ycbcr_weights: tuple[float, float, float] | None = None
    quality_power: float = 0.5


@dataclass(frozen=True)
class LoopSettings:
    """Length, optimisation and housekeeping of a run.

    The run ends at `minutes` of training time or at `n_images`, whichever is set; the rate falls to zero over the last
    `decay_share` of it. `explosion_factor`: a loss this many times its recent median stops the run.
    `slow`: pairs of a parameter-name ending and the factor on its learning rate. `optimizer`: one of `OPTIMIZER_NAMES`.
    `n_validations`: how often the EMA weights are scored on the way, the last time at the end. `graphs`: on one GPU,
    replay steps as a CUDA graph where their loss function can be captured.
    """

    minutes: float | None
    n_images: int | None
    batch_size: int
    learning_rate: float = 6e-4
    warmup_images: int = 1600
    decay_share: float = 0.2
    ema_decay: float = 0.999
    clip_norm: float = 100.0
    checkpoint_seconds: float = 120.0
    log_seconds: float = 10.0
    explosion_factor: float = 20.0
    slow: tuple[tuple[str, float], ...] = ()
    optimizer: str = "adamw"
    n_validations: int = 1
    graphs: bool = True

    def check(self) -> None:
        """Raises TrainingError for settings that cannot run."""
        if self.minutes is None and self.n_images is None:
            raise TrainingError("give the run a length: minutes or a number of images")
        if self.minutes is not None:
            check_number("minutes", self.minutes, above=0, most=MOST_MINUTES)
        if self.n_images is not None:
            check_whole("the number of images", self.n_images, 1, MOST_IMAGES)
        check_whole("the batch size", self.batch_size, 1, MOST_CROPS)
        check_number("the learning rate", self.learning_rate, above=0, most=1)
        check_whole("the images of the warm-up", self.warmup_images, 1, MOST_IMAGES)
        if self.optimizer not in OPTIMIZER_NAMES:
            raise TrainingError(f"unknown optimiser {self.optimizer!r}; known: {', '.join(OPTIMIZER_NAMES)}")
        check_number("the decay's share of the run", self.decay_share, above=0, most=1)


SLOW_PARAMETERS = (
    ("hyper_encoder.head.weight", 1.0),
    ("hyper_encoder.head.bias", 1.0),
    ("linear.weight", 0.02),
    ("linear.bias", 0.02),
    ("log_gain.values", 0.3),
    ("encoder.head.weight", 0.02),
    ("encoder.head.bias", 0.02),
    ("trunk.head.weight", 0.03),
    ("trunk.head.bias", 0.03),
    ("mean_head.weight", 0.05),
    ("mean_head.bias", 0.05),
    ("scale_head.weight", 0.2),
    ("scale_head.bias", 0.2),
    ("denoiser.head.weight", 0.3),
    ("denoiser.head.bias", 0.3),
)
"""Factors on the learning rate by the end of a parameter's name; the first that fits counts.

The linear transforms start at a DCT and carry the large coefficients; the heads write straight into pixels, latents and
means, where one step of Adam at the full rate moves all weights together by more than the correction that is to be
learned. At the full rate their noise costs 0.4 dB and keeps the networks behind them from learning (docs/lab-notes.md).
"""


@dataclass(frozen=True)
class Stage1Settings:
    """What `ulcodec train stage1` takes. Give `minutes` or `n_images` (or both: whichever comes first ends the run).

    `init`: a model directory whose weights the run starts from, of as many blocks or fewer; its dead units are drawn
    anew (`ulcodec.train.revival`). `warmup_images`: over how many the rate rises to its full height at the beginning;
    `decay_share`: over how much of the run it falls to zero at its end. `compile`: on GPUs, compile the networks and
    replay steps as CUDA graphs. `threads`: 0 leaves torch's own choice. `shards_in_memory`: 0 holds all pictures;
    otherwise so many shards, one of which is replaced after every `crops_per_shard` crops.
    """

    data: tuple[Source, ...]
    out: Path
    config: str = "small"
    objective: str = "codec"
    minutes: float | None = None
    n_images: int | None = None
    batch_size: int = 16
    crop_px: int = 256
    learning_rate: float = 6e-4
    decay_share: float = 0.2
    optimizer: str = "adamw"
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    validation_share: float = 0.02
    limit_pictures: int | None = None
    shards_in_memory: int = 0
    crops_per_shard: int = 10_000
    init: Path | None = None
    compile: bool = True
    warmup_images: int = 1600
    weights: ObjectiveSettings = field(default_factory=ObjectiveSettings)

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the run, as JSON values."""
        values = asdict(self)
        values.update(
            data=[str(path) for path in self.data], out=str(self.out), init=str(self.init) if self.init else None
        )
        return {"model": json.loads(json.dumps(asdict(preset(self.config)))), "stage1": values}

    @staticmethod
    def from_resolved(values: dict[str, Any]) -> "Stage1Settings":
        """Inverse of `resolved()["stage1"]`."""
        typed = {
            "data": tuple(map(as_source, values["data"])),
            "out": Path(values["out"]),
            "init": Path(values["init"]) if values["init"] else None,
            "weights": ObjectiveSettings(**values["weights"]),
        }
        return Stage1Settings(**{**values, **typed})

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            decay_share=self.decay_share,
            optimizer=self.optimizer,
            warmup_images=self.warmup_images,
            graphs=self.compile,
            slow=SLOW_PARAMETERS,
        )

    def check(self) -> None:
        """Raises TrainingError or ModelError for settings that cannot run."""
        if self.objective not in OBJECTIVE_NAMES:
            raise TrainingError(f"unknown objective {self.objective!r}; known: {', '.join(OBJECTIVE_NAMES)}")
        if self.objective == "codec" and not isinstance(preset(self.config), ModelConfig):
            raise TrainingError(f"configuration {self.config!r} writes no files: train it with the objective ul")
        self.loop_settings().check()
        check_common(
            batch_size=self.batch_size,
            crop_px=self.crop_px,
            crop_step=64,
            seed=self.seed,
            threads=self.threads,
            limit_pictures=self.limit_pictures,
            share=self.validation_share,
        )
        check_whole("the shards in memory", self.shards_in_memory, 0, MOST_IMAGES)
        check_whole("the crops for every shard", self.crops_per_shard, 1, MOST_IMAGES)
        if self.shards_in_memory and self.limit_pictures is not None:
            raise TrainingError("shards that are streamed cannot be limited to a number of pictures")


@dataclass(frozen=True)
class Stage2Settings:
    """What `ulcodec train stage2` takes. Give `minutes` or `n_images` (or both: whichever comes first ends the run).

    `model`: name or directory of the codec; `quality` (0 to 100): whose latents. `bias`: b of the sigmoid weighting.
    `n_validations`: how often in the run the held-out loss is measured. `shard`: split the weights and the optimiser's
    state between the processes of torchrun, for models that do not fit one GPU; it is not compiled then.
    """

    data: tuple[Source, ...]
    out: Path
    model: str = "small"
    config: str = "small"
    quality: int = 10
    minutes: float | None = None
    n_images: int | None = None
    batch_size: int = 32
    crop_px: int = 256
    learning_rate: float = 3e-4
    bias: float = 0.0
    n_validations: int = 10
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    validation_share: float = 0.02
    limit_pictures: int | None = None
    shard: bool = False
    compile: bool = True

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "data": [str(path) for path in self.data], "out": str(self.out)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Stage2Settings":
        return Stage2Settings(**{**values, "data": tuple(map(as_source, values["data"])), "out": Path(values["out"])})

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            clip_norm=1.0,
            n_validations=self.n_validations,
        )

    def check(self) -> None:
        """Raises TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_whole("quality", self.quality, 0, 100)
        check_common(
            batch_size=self.batch_size,
            crop_px=self.crop_px,
            crop_step=PATCH_PX,
            seed=self.seed,
            threads=self.threads,
            limit_pictures=self.limit_pictures,
            share=self.validation_share,
        )
        check_bias(self.bias)
        check_whole("the number of validations", self.n_validations, 0, MOST_IMAGES)


@dataclass(frozen=True)
class DenoiserSettings:
    """What `ulcodec train denoiser` takes. Give `minutes` or `n_images` (or both: whichever comes first ends the run).

    `model`: name or directory of the codec. `init`: the same of a model whose denoiser the run starts from, such as the
    one trained around the codec before; the codec's own unless told. Its dead units are drawn anew
    (`ulcodec.train.revival`). `bias`: b of the sigmoid weighting, in log-SNR of the residual.
    """

    data: tuple[Source, ...]
    out: Path
    model: str = "small"
    init: str | None = None
    minutes: float | None = None
    n_images: int | None = None
    batch_size: int = 8
    crop_px: int = 256
    learning_rate: float = 6e-4
    optimizer: str = "adamw"
    bias: float = 2.0
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    validation_share: float = 0.02
    limit_pictures: int | None = None
    compile: bool = True

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "data": [str(path) for path in self.data], "out": str(self.out)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "DenoiserSettings":
        return DenoiserSettings(**{**values, "data": tuple(map(as_source, values["data"])), "out": Path(values["out"])})

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            clip_norm=1.0,
            graphs=self.compile,
        )

    def check(self) -> None:
        """Raises TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_common(
            batch_size=self.batch_size,
            crop_px=self.crop_px,
            crop_step=64,
            seed=self.seed,
            threads=self.threads,
            limit_pictures=self.limit_pictures,
            share=self.validation_share,
        )
        check_bias(self.bias)
