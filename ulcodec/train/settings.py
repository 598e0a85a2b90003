"""Settings of the training stages. Needs no torch, so that the command line can read them.

A field made by `option` is an option of the command line too, with the same default and its help text.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source, as_source
from ulcodec.model.config import HYPER_PATCH_PX, PATCH_PX, ModelConfig, PaperConfig
from ulcodec.model.presets import preset
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.train.limits import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CROP_PX,
    MOST_CROPS,
    MOST_FRAMES,
    MOST_IMAGES,
    MOST_LOSS_FACTOR,
    MOST_MINUTES,
    MOST_REDUCTION,
    MOST_VIEWS,
    WIDTH_STEP,
    check_batch,
    check_bias,
    check_number,
    check_run,
    check_whole,
)

Settings = TypeVar("Settings", bound="CodecRunSettings")

LEAST_PATCH_PX = 8
"""Smallest side of a latent position in pixels, that of `paper-video`."""

OBJECTIVE_NAMES = ("codec", "ul")
OPTIMIZER_NAMES = ("adamw", "soap")

SHARED_HELP = {
    "out": "Run directory; the same command resumes a run that stopped.",
    "data": "Folder of pictures or tar shards, a tar shard, or its URL; repeatable.",
    "minutes": "Time budget.",
    "images": "Length in images seen.",
    "batch-size": "Crops per step.",
    "crop": "Side of the crops in pixels.",
    "learning-rate": "Learning rate before its decay.",
    "warmup": "Images over which the learning rate rises.",
    "decay-share": "Share of the run over which the learning rate falls.",
    "optimizer": "adamw, or soap: slower steps, fewer of them.",
    "crops-per-shard": "Streaming: crops between one shard and the next.",
    "seed": "Seed of all random numbers.",
    "device": "auto, cpu, cuda, cuda:1 ...",
    "threads": "CPU threads.",
    "limit": "Only the first pictures.",
    "compile": "On GPUs: torch.compile, and steps as CUDA graphs.",
    "codec": "The codec: name of an installed model, or a directory.",
    "bias": "Bias b of the sigmoid weighting.",
}
"""Help texts by option, for options that several stages have."""


def option(name: str, default: Any = ..., help: str | None = None, *, show_default: bool = False) -> Any:
    """Make a field that is an option of the command line.

    `name`: name of the option, without dashes, and key of `SHARED_HELP` if there is no `help`. `show_default`: whether
    the help names the default. A field without a default is a required option.
    """
    metadata = {"option": name, "help": help or SHARED_HELP[name], "show_default": show_default}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the objectives.

    `continuous_share`: in `codec`, weight of the continuous-time bound beside the bits of the reveal chain; it is
    measured on every `subset`-th picture. `loss_factor` and `bias`: the paper's c_lf and b. `ul_quality`: the quality
    input of `ul`, which is fixed. `ycbcr_weights`: weights of the squared errors of luma, Cb and Cr, whose sum is then
    the distortion of `codec`; None for the mean over R, G and B. `quality_power`: `codec` divides a picture's loss by
    its Lagrangian to this power; at 0 high qualities dominate, at 1 low ones.
    """

    continuous_share: float = 0.05
    subset: int = 4
    loss_factor: float = option("loss-factor", 1.5, "Objective ul: loss factor of the decoder.")
    bias: float = option("bias", 0.0, "Objective ul: bias b of the sigmoid weighting.")
    ul_quality: float = 0.5
    ycbcr_weights: tuple[float, float, float] | None = None
    quality_power: float = 0.5


@dataclass(frozen=True)
class LoopSettings:
    """Length, optimisation and housekeeping of a run.

    The run ends at `minutes` of training time or at `n_images`, whichever comes first. The learning rate rises over the
    first `warmup_images` and falls to zero over the last `decay_share` of the run. `slow`: pairs of an ending of
    parameter names and the factor on their learning rate. `optimizer`: one of `OPTIMIZER_NAMES`. `explosion_factor`: a
    loss this many times its recent median stops the run. `n_validations`: how often the EMA weights are scored, the
    last time at the end. `graphs`: on one GPU, replay steps as a CUDA graph where the loss function can be captured.
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
        """Raise TrainingError for settings that cannot run."""
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
"""Factors on the learning rate by the ending of a parameter's name; the first match counts.

The linear transforms start at a DCT and carry the large coefficients. The heads write directly into pixels, latents and
means: at the full rate, one step of Adam moves all their weights together by more than the correction to be learned.
The noise costs 0.4 dB and keeps the networks behind the heads from learning (docs/lab-notes/training-recipe.md).
"""


@dataclass(frozen=True)
class Stage1Settings:
    """Settings of stage 1. Give `minutes` or `n_images`, or both: whichever comes first ends the run.

    A configuration of clips (`paper-video`, `tiny-video`) trains on videos. Its images are clips, of `n_frames` frames.
    `resize_px`: pictures and frames are given this short side before they are cropped. `reduction`, `turns`: see
    `ulcodec.train.data.augmentation`; for pictures only. `latent_warmup_images`: see
    `ulcodec.train.objective.encoder_share_at`. `init`: name or directory of a model whose weights the run starts from,
    with as many blocks or fewer; its dead units are reinitialised (`ulcodec.train.revival`). `warmup_images`: images
    over which the learning rate rises at the start; `decay_share`: share of the run over which it falls to zero at the
    end. `compile`: on GPUs, compile the networks and replay steps as CUDA graphs. `threads`: 0 leaves the choice to
    torch. `shards_in_memory`: 0 holds all pictures in memory; otherwise the number of shards that are held, of which
    one is replaced after every `crops_per_shard` crops.
    """

    data: tuple[Source, ...] = option("data")
    out: Path = option("out")
    config: str = option(
        "config",
        "small",
        "Model configuration: tiny, small, base; objective ul only: paper, paper-video, tiny-video.",
        show_default=True,
    )
    objective: str = option("objective", "codec", "codec, or ul: the losses of the paper.", show_default=True)
    minutes: float | None = option("minutes", None)
    n_images: int | None = option("images", None)
    batch_size: int = option("batch-size", 16)
    crop_px: int = option("crop", 256)
    n_frames: int = option("frames", 16, "Frames of a clip, for configurations of clips.")
    resize_px: int | None = option("resize", None, "Resample pictures or frames to this short side first.")
    reduction: float | None = option("reduction", None, "Reduce half of the crops, by random factors up to this one.")
    turns: bool = option("turns", False, "Draw crops in all eight orientations, not only mirrored.")
    learning_rate: float = option("learning-rate", 6e-4)
    warmup_images: int = option("warmup", 1600)
    decay_share: float = option("decay-share", 0.2)
    latent_warmup_images: int = option(
        "latent-warmup", 0, "Objective ul: images over which the encoder begins to pay for the latent's bits."
    )
    optimizer: str = option("optimizer", "adamw")
    seed: int = option("seed", 0)
    device: str = option("device", "auto")
    threads: int = option("threads", 0)
    validation_share: float = 0.02
    limit_pictures: int | None = None
    shards_in_memory: int = option("shards-in-memory", 0, "Streaming: tar shards in memory. Default: all pictures.")
    crops_per_shard: int = option("crops-per-shard", 10_000)
    init: str | None = option("init", None, "Model whose weights the run starts from.")
    compile: bool = option("compile", True)
    weights: ObjectiveSettings = field(default_factory=ObjectiveSettings)

    def resolved(self) -> dict[str, Any]:
        """Convert to JSON everything that decides the run."""
        values = asdict(self)
        values.update(data=[str(path) for path in self.data], out=str(self.out))
        return {"model": json.loads(json.dumps(asdict(preset(self.config)))), "stage1": values}

    @staticmethod
    def from_resolved(values: dict[str, Any]) -> "Stage1Settings":
        """Invert `resolved()["stage1"]`. Raises TrainingError for unknown or missing fields."""
        try:
            typed = {
                "data": tuple(map(as_source, values["data"])),
                "out": Path(values["out"]),
                "weights": ObjectiveSettings(**values["weights"]),
            }
            return Stage1Settings(**{**values, **typed})
        except (AttributeError, KeyError, TypeError) as error:
            raise TrainingError(f"incomplete settings of stage 1: {error}") from error

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
        """Raise TrainingError or ModelError for settings that cannot run."""
        if self.objective not in OBJECTIVE_NAMES:
            raise TrainingError(f"unknown objective {self.objective!r}; known: {', '.join(OBJECTIVE_NAMES)}")
        if self.objective == "codec" and not isinstance(preset(self.config), ModelConfig):
            raise TrainingError(f"configuration {self.config!r} writes no files: train it with the objective ul")
        self.loop_settings().check()
        check_number("the loss factor", self.weights.loss_factor, above=0, most=MOST_LOSS_FACTOR)
        check_bias(self.weights.bias)
        check_whole("the images of the latent's warm-up", self.latent_warmup_images, 0, MOST_IMAGES)
        self._check_crops()
        check_whole("the shards in memory", self.shards_in_memory, 0, MOST_IMAGES)
        check_whole("the crops for every shard", self.crops_per_shard, 1, MOST_IMAGES)
        if self.shards_in_memory and self.limit_pictures is not None:
            raise TrainingError("shards that are streamed cannot be limited to a number of pictures")

    @property
    def patch(self) -> tuple[int, ...]:
        """Numbers that divide the extents of crops: frames for a configuration of clips, rows, columns."""
        model = preset(self.config)
        return model.patch if isinstance(model, PaperConfig) else (HYPER_PATCH_PX,) * 2

    def _check_crops(self) -> None:
        """Raise TrainingError for crops that the model cannot take."""
        patch, n_frames = self.patch, 1
        if len(patch) == 3:
            n_frames = self.n_frames
            check_whole("the number of frames", n_frames, patch[0], MOST_FRAMES)
            if n_frames % patch[0]:
                raise TrainingError(f"the number of frames must be a multiple of {patch[0]}, got {n_frames}")
        check_run(self, crop_step=patch[-1], n_frames=n_frames)
        if self.resize_px is not None:
            check_whole("the short side", self.resize_px, self.crop_px, MOST_CROP_PX)
        if len(patch) == 3 and (self.reduction is not None or self.turns):
            raise TrainingError("reduced and turned crops are for pictures only")
        check_reduction(self.reduction)
        if self.reduction is not None:
            check_batch(self.batch_size, ceil(self.crop_px * self.reduction))


def check_reduction(reduction: float | None) -> None:
    """Raise TrainingError for a largest reduction that cannot be."""
    if reduction is not None:
        check_number("the reduction", reduction, above=1, most=MOST_REDUCTION)


@dataclass(frozen=True)
class CodecRunSettings:
    """What the settings of runs for a finished codec share."""

    data: tuple[Source, ...] = option("data")
    out: Path = option("out")
    model: str = option("model", "small", SHARED_HELP["codec"])

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON."""
        return {**asdict(self), "data": [str(path) for path in self.data], "out": str(self.out)}

    @classmethod
    def from_json(cls: type[Settings], values: dict[str, Any]) -> Settings:
        """Invert `to_json`. Raises TrainingError for unknown or missing fields."""
        try:
            typed = {
                "data": tuple(map(as_source, values["data"])),
                "out": Path(values["out"]),
                "model": str(values["model"]),
            }
            return cls(**{**values, **typed})
        except (AttributeError, KeyError, TypeError) as error:
            raise TrainingError(f"incomplete settings of the run: {error}") from error


@dataclass(frozen=True)
class Stage2Settings(CodecRunSettings):
    """Settings of stage 2. Give `minutes` or `n_images`, or both: whichever comes first ends the run.

    `model`: name or directory of a codec, or a run of stage 1 with the objective `ul`, for pictures or clips.
    `quality`: quality of the codec's latents, 0 to 100. `crop_px`: 0 for 256, or for the crop of the run. `bias`: b of
    the sigmoid weighting. `n_validations`: how often the held-out loss is measured in the run. `shards_in_memory` and
    `crops_per_shard`: as in `Stage1Settings`. `shard`: split the weights and the optimiser's state between the
    processes of torchrun, for models that do not fit one GPU; the model is then not compiled.
    """

    model: str = option(
        "model", "small", "The codec: name of an installed model, or a directory; or a run of stage 1, objective ul."
    )
    config: str = option("config", "small", "Base model: tiny, mini, small, medium, large or paper.")
    quality: int = option("quality", 10, "The codec's quality, 0 to 100, whose latents to learn.")
    minutes: float | None = option("minutes", None)
    n_images: int | None = option("images", None)
    batch_size: int = option("batch-size", 32)
    crop_px: int = option("crop", 0, "Side of the crops in pixels. Default: 256, or that of the run of stage 1.")
    learning_rate: float = option("learning-rate", 3e-4)
    bias: float = option("bias", 0.0)
    n_validations: int = 10
    seed: int = option("seed", 0)
    device: str = option("device", "auto")
    threads: int = option("threads", 0)
    validation_share: float = 0.02
    limit_pictures: int | None = option("limit", None)
    shards_in_memory: int = option(
        "shards-in-memory", 0, "Streaming, with a run of stage 1: tar shards in memory. Default: all data."
    )
    crops_per_shard: int = option("crops-per-shard", 10_000)
    shard: bool = option("shard", False, "Split the weights between the processes of torchrun (FSDP2).")
    compile: bool = option("compile", True, "Use torch.compile on GPUs.")

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
        """Raise TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_whole("quality", self.quality, 0, 100)
        check_run(replace(self, crop_px=self.crop_px or 256), crop_step=LEAST_PATCH_PX)
        check_whole("the shards in memory", self.shards_in_memory, 0, MOST_IMAGES)
        check_whole("the crops for every shard", self.crops_per_shard, 1, MOST_IMAGES)
        check_bias(self.bias)
        check_whole("the number of validations", self.n_validations, 0, MOST_IMAGES)

    def for_run(self, stage1: dict[str, Any] | None, step: int) -> "Stage2Settings":
        """Return the settings with the crop chosen, for a codec's latents or those of a run with settings `stage1`.

        `step`: number that divides the sides of latents. Raises TrainingError for settings that do not fit them.
        """
        if stage1 is None:
            chosen = replace(self, crop_px=self.crop_px or 256)
            check_run(chosen, crop_step=PATCH_PX * step)
            if self.shards_in_memory:
                raise TrainingError("shards can be streamed for a run of stage 1 only: a codec's latents are stored")
            return chosen
        data = self.data_settings(stage1)
        data.check()
        if data.crop_px % (step * data.patch[-1]):
            raise TrainingError(f"the crop must be a multiple of {step * data.patch[-1]} pixels, got {data.crop_px}")
        return replace(self, crop_px=data.crop_px)

    def data_settings(self, stage1: dict[str, Any]) -> Stage1Settings:
        """Return settings of stage 1, for the data of a run of stage 2 on latents of a run with settings `stage1`."""
        trained = Stage1Settings.from_resolved(stage1)
        return replace(
            trained,
            data=self.data,
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            crop_px=self.crop_px or trained.crop_px,
            reduction=None,
            turns=False,
            seed=self.seed,
            validation_share=self.validation_share,
            limit_pictures=self.limit_pictures,
            shards_in_memory=self.shards_in_memory,
            crops_per_shard=self.crops_per_shard,
        )


@dataclass(frozen=True)
class EntropySettings(CodecRunSettings):
    """What the settings of a prior and of a video's entropy model share: both learn from latents that are stored.

    Give `minutes` or `n_images`, or both: the first ends the run. An image is a window of a latent. `prior_blocks`:
    numbers of residual blocks, separated by commas, of a prior with a network for each reveal pass.
    """

    prior_blocks: str | None = None
    minutes: float | None = option("minutes", None)
    n_images: int | None = option("images", None)
    views: int = 1
    batch_size: int = option("batch-size", 32)
    crop_px: int = option("crop", 256)
    learning_rate: float = option("learning-rate", 1e-3)
    warmup_images: int = option("warmup", 1600)
    decay_share: float = option("decay-share", 0.5)
    optimizer: str = option("optimizer", "soap", "soap, or adamw: faster steps, more of them.")
    seed: int = option("seed", 0)
    device: str = option("device", "auto")
    threads: int = option("threads", 0)
    validation_share: float = 0.02
    limit_pictures: int | None = option("limit", None)
    compile: bool = option("compile", True)

    def blocks_of(self, codec: ModelConfig) -> tuple[int, ...] | None:
        """Return `prior_blocks` as numbers. Raises TrainingError if they do not fit the reveal passes of a codec."""
        blocks = self.blocks()
        if blocks is not None and len(blocks) != len(codec.reveal_passes):
            raise TrainingError(f"the codec has {len(codec.reveal_passes)} reveal passes, got blocks for {len(blocks)}")
        return blocks

    def blocks(self) -> tuple[int, ...] | None:
        """Parse `prior_blocks`. Raises TrainingError for anything but numbers in range."""
        if self.prior_blocks is None:
            return None
        try:
            blocks = tuple(int(number) for number in str(self.prior_blocks).split(","))
        except ValueError as error:
            raise TrainingError(f"the prior's blocks must be numbers, as 4,6,8,10, got {self.prior_blocks}") from error
        for number in blocks:
            check_whole("the number of blocks", number, 0, MOST_BLOCKS)
        return blocks

    @property
    def weights(self) -> ObjectiveSettings:
        """Weights of the objective: those of stage 1."""
        return ObjectiveSettings()

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_images=self.warmup_images,
            decay_share=self.decay_share,
            optimizer=self.optimizer,
            n_validations=5,
            graphs=self.compile,
            slow=SLOW_PARAMETERS,
        )

    def check(self) -> None:
        """Raise TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_run(self, crop_step=HYPER_PATCH_PX)
        check_whole("the number of views", self.views, 1, MOST_VIEWS)
        self.blocks()


@dataclass(frozen=True)
class PriorSettings(EntropySettings):
    """Settings of the training of a codec's prior, see `EntropySettings`.

    `model`: name or directory of the codec, whose encoder and decoder stay as they are. `prior_blocks`: blocks of a
    prior that starts from the codec's; by default the codec's own goes on. `views`: how often each picture is encoded,
    each time at another quality and in another orientation. `reduction`: half of the training views are reduced, by
    random factors up to this one. `teacher_share`: weight of what the codec's own prior expects in the loss of a new
    one, from 0 to 1; see `ulcodec.train.objective.taught_loss`.
    """

    prior_blocks: str | None = option(
        "prior-blocks", None, "Blocks of a new prior in each pass, as 4,6,8,10. Default: the codec's prior goes on."
    )
    views: int = option("views", 2, "Encodings of each picture: other qualities, turned and mirrored.")
    reduction: float | None = option("reduction", None, "Reduce half of the views, by random factors up to this one.")
    teacher_share: float = option(
        "teacher-share", 0.0, "Share that a new prior learns from the codec's own, 0 to 1; the rest from symbols."
    )

    def check(self) -> None:
        """Raise TrainingError for settings that cannot run."""
        super().check()
        check_reduction(self.reduction)
        if self.teacher_share == 0:
            return
        check_number("the teacher's share", self.teacher_share, above=0, most=1)
        if self.prior_blocks is None:
            raise TrainingError("a codec's prior teaches a new one: --teacher-share needs --prior-blocks")

    def model_config(self, codec: ModelConfig) -> ModelConfig:
        """Return the configuration of a codec with the prior of the run.

        Raises TrainingError if `prior_blocks` does not fit the codec.
        """
        blocks = self.blocks_of(codec)
        return codec if blocks is None else replace(codec, shared_prior=False, prior_blocks=blocks)


VIDEO_PRIOR_WIDTH, VIDEO_FIRST_BLOCKS, VIDEO_HYPER_CHANNELS = 192, 2, 16
"""Sizes of the video's entropy model. Each reveal pass has one more block than the one before."""


@dataclass(frozen=True)
class VideoSettings(EntropySettings):
    """Settings of the training of the entropy model of predicted frames, see `EntropySettings`.

    `model`: name or directory of the codec, which stays as it is. `init`: name or directory of a model whose video part
    the run starts from, such as that of an earlier codec. `prior_width`, `prior_blocks`, `hyper_channels`: sizes of the
    entropy model; by default small ones, at most those of the codec. `views`: predicted frames of a clip.
    """

    data: tuple[Source, ...] = option(
        "data", help="Folder of videos or tar shards, a video, a tar shard, or its URL; repeatable."
    )
    init: str | None = option("init", None, "Model whose video part the run starts from.")
    prior_blocks: str | None = option("prior-blocks", None, "Blocks of the prior in each pass. Default: 2,3,4,5.")
    prior_width: int | None = option("prior-width", None, "Channels of the prior. Default: 192.")
    hyper_channels: int | None = option("hyper-channels", None, "Channels of the hyper-latent. Default: 16.")
    views: int = option("views", 10, "Predicted frames of each clip.")
    batch_size: int = option("batch-size", 16)
    validation_share: float = 0.05
    limit_pictures: int | None = option("limit", None, "Only the first clips.")

    def model_config(self, codec: ModelConfig) -> ModelConfig:
        """Return the configuration of a codec with the entropy model of the run.

        Raises TrainingError if `prior_blocks` does not fit the codec.
        """
        width, channels = self.prior_width, self.hyper_channels
        return replace(
            codec,
            shared_prior=False,
            prior_blocks=self.blocks_of(codec) or small_blocks(codec),
            prior_width=min(VIDEO_PRIOR_WIDTH, codec.prior_width) if width is None else width,
            hyper_channels=min(VIDEO_HYPER_CHANNELS, codec.hyper_channels) if channels is None else channels,
        )

    def check(self) -> None:
        """Raise TrainingError for settings that cannot run."""
        super().check()
        if self.prior_width is not None:
            check_whole("the width of the prior", self.prior_width, WIDTH_STEP, MOST_CHANNELS)
            if self.prior_width % WIDTH_STEP:
                raise TrainingError(
                    f"the width of the prior must be a multiple of {WIDTH_STEP}, got {self.prior_width}"
                )
        if self.hyper_channels is not None:
            check_whole("the channels of the hyper-latent", self.hyper_channels, 1, MOST_CHANNELS)


def small_blocks(codec: ModelConfig) -> tuple[int, ...]:
    """Return numbers of blocks for each reveal pass, at most those of a codec's prior."""
    blocks = range(VIDEO_FIRST_BLOCKS, VIDEO_FIRST_BLOCKS + len(codec.reveal_passes))
    most = codec.prior_blocks * len(blocks) if codec.shared_prior else codec.prior_blocks
    return tuple(map(min, blocks, most))


@dataclass(frozen=True)
class DenoiserSettings(CodecRunSettings):
    """Settings of the denoiser's training. Give `minutes` or `n_images`, or both: whichever comes first ends the run.

    `model`: name or directory of the codec. `init`: name or directory of a model whose denoiser the run starts from,
    such as the one trained around an earlier codec; by default the codec's own. Its dead units are reinitialised
    (`ulcodec.train.revival`). `bias`: b of the sigmoid weighting, in log-SNR of the residual.
    """

    init: str | None = option("init", None, "Model whose denoiser the run starts from.")
    minutes: float | None = option("minutes", None)
    n_images: int | None = option("images", None)
    batch_size: int = option("batch-size", 8)
    crop_px: int = option("crop", 256)
    learning_rate: float = option("learning-rate", 6e-4)
    optimizer: str = option("optimizer", "adamw")
    bias: float = option("bias", 2.0)
    seed: int = option("seed", 0)
    device: str = option("device", "auto")
    threads: int = option("threads", 0)
    validation_share: float = 0.02
    limit_pictures: int | None = option("limit", None)
    compile: bool = option("compile", True)

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
        """Raise TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_run(self, crop_step=HYPER_PATCH_PX)
        check_bias(self.bias)


@dataclass(frozen=True)
class RefinerSettings(CodecRunSettings):
    """Settings of the refiner's training. Give `minutes` or `n_images`, or both: whichever comes first ends the run.

    `model`: name or directory of the codec, which stays as it is. `init`: name or directory of a model whose refiner
    the run starts from, such as that of an earlier codec. By default the codec's own refiner goes on, if it has the
    same `width` and `blocks`.
    """

    init: str | None = option("init", None, "Model whose refiner the run starts from.")
    width: int = option("width", RefinerConfig.width, "Channels of the refiner.", show_default=True)
    blocks: int = option("blocks", RefinerConfig.n_blocks, "Blocks of the refiner.", show_default=True)
    minutes: float | None = option("minutes", None)
    n_images: int | None = option("images", None)
    batch_size: int = option("batch-size", 16)
    crop_px: int = option("crop", 256)
    learning_rate: float = option("learning-rate", 1e-3)
    warmup_images: int = option("warmup", 480)
    decay_share: float = option("decay-share", 0.5)
    optimizer: str = option("optimizer", "adamw")
    n_validations: int = 5
    seed: int = option("seed", 0)
    device: str = option("device", "auto")
    threads: int = option("threads", 0)
    validation_share: float = 0.02
    limit_pictures: int | None = option("limit", None)
    compile: bool = option("compile", True)

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_images=self.warmup_images,
            decay_share=self.decay_share,
            ema_decay=0.99,
            optimizer=self.optimizer,
            clip_norm=1.0,
            n_validations=self.n_validations,
            graphs=self.compile,
        )

    def refiner_config(self) -> RefinerConfig:
        """Return the shape of the refiner. Raises ModelError for sizes that no refiner can have."""
        return RefinerConfig(self.width, self.blocks)

    def check(self) -> None:
        """Raise TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_run(self, crop_step=HYPER_PATCH_PX)
        check_whole("the width of the refiner", self.width, 2, MOST_CHANNELS)
        check_whole("the number of blocks", self.blocks, 0, MOST_BLOCKS)
