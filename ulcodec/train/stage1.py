"""Stage 1: encoder, prior and decoder trained together."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.data import PictureSet, ShardStream, load_pictures
from ulcodec.devices import bfloat16_pays
from ulcodec.errors import TrainingError
from ulcodec.model.checkpoint import load_weights, read_document, read_tensors
from ulcodec.model.config import ModelConfig
from ulcodec.model.presets import build_model, preset
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.sources import LeftOut, Source, as_source
from ulcodec.train.graphs import compile_parts
from ulcodec.train.limits import MOST_IMAGES, check_common, check_whole
from ulcodec.train.loop import Loop, LoopSettings, rewind, run_config
from ulcodec.train.objective import OBJECTIVES, Metrics, ObjectiveSettings
from ulcodec.train.revival import revive
from ulcodec.train.workers import Workers, begin, without_denormals

VALIDATION_QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)

DEPTHS = ("encoder_blocks_8", "encoder_blocks_16", "decoder_blocks_16", "decoder_blocks_8", "prior_blocks")

EXTENSIBLE = (*DEPTHS, "latent_channels", "n_quality_anchors", "negative_slope")
"""Fields of a codec's configuration that may grow when a run starts from another model."""

INNOVATION = 0.6
"""How much of the DCT coefficients that come next the networks of `small` did not guess (docs/lab-notes/weights.md)."""

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
learned. At the full rate their noise costs 0.4 dB and keeps the networks behind them from learning
(docs/lab-notes/training-recipe.md).
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
        if self.objective not in OBJECTIVES:
            raise TrainingError(f"unknown objective {self.objective!r}; known: {', '.join(OBJECTIVES)}")
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


class Stage1Step:
    """One training step as a function of the images seen so far.

    They choose the pictures and seed everything random in it, so that a resumed run draws what an unbroken one would
    have.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures_at: Callable[[int], PictureSet],
        settings: Stage1Settings,
        workers: Workers | None = None,
    ):
        self.model, self.pictures_at, self.settings = model, pictures_at, settings
        self.workers = workers or Workers()
        self.device = next(model.parameters()).device
        self.generator = self.workers.generator(self.device)
        self.autocast = bfloat16_pays(self.device)
        self.is_static = not settings.shards_in_memory
        objective = OBJECTIVES[settings.objective]
        self.loss = objective
        if settings.compile and self.device.type == "cuda":
            if settings.objective == "codec":
                compile_parts(model)
            else:
                self.loss = torch.compile(objective)

    def __call__(self, n_images: int) -> tuple[Tensor, Metrics]:
        self.seed(n_images)
        return self.draw()

    def seed(self, n_images: int) -> None:
        seed = self.settings.seed * 1_000_003 + n_images
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from the global generators
        self.pictures = self.pictures_at(n_images)

    def draw(self) -> tuple[Tensor, Metrics]:
        settings = self.settings
        x = self.pictures.random_crops(settings.batch_size, settings.crop_px, self.generator, self.workers.rows)
        quality = self.workers.rows(self.qualities())
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.loss(
                self.model, x.contiguous(memory_format=torch.channels_last), quality, settings.weights, self.generator
            )

    def qualities(self) -> Tensor:
        """[B] qualities in [0, 1]: one in each of B equal strata, shuffled, so that every batch sees all rates."""
        batch = self.settings.batch_size
        if self.settings.objective == "ul":
            return torch.full((batch,), self.settings.weights.ul_quality, device=self.device)
        offsets = torch.rand(batch, generator=self.generator, device=self.device)
        order = torch.rand(batch, generator=self.generator, device=self.device).argsort()
        return (order + offsets) / batch


def validation_scores(model: nn.Module, pictures: PictureSet, settings: Stage1Settings) -> dict[str, float]:
    """Loss, rate and PSNR over one fixed crop of every held-out picture at five qualities, in float32."""
    generator = torch.Generator(pictures.pixels.device).manual_seed(1)
    n_crops = max(1, len(pictures))
    objective = OBJECTIVES[settings.objective]
    totals: dict[str, float] = {}
    qualities = VALIDATION_QUALITIES if settings.objective == "codec" else (settings.weights.ul_quality,)
    model.eval()
    with torch.no_grad():
        for quality in qualities:
            x = pictures.random_crops(n_crops, settings.crop_px, generator.manual_seed(1))
            q = torch.full((n_crops,), quality, device=x.device)
            loss, metrics = objective(model, x, q, settings.weights, generator)
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, 0.0) + float(value) / len(qualities)
                if settings.objective == "codec" and name in ("chain_bpp", "psnr_db"):
                    totals[f"{name}@{quality:g}"] = float(value)
    model.train()
    return totals


@without_denormals()
def train_stage1(settings: Stage1Settings) -> Path:
    """Run or resume stage 1. Returns the run directory; `ulcodec train export` turns it into a model directory.

    Raises TrainingError for settings that cannot run, unreadable data, or a loss that is not finite or explodes.
    """
    settings.check()
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    model = build_model(preset(settings.config))
    if settings.init is not None:
        load_initial_weights(model, settings.init, settings.resolved()["model"])
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loop = Loop(model, settings.out, settings.loop_settings(), settings.resolved(), workers)
    pictures_at, held_out, counts = training_pictures(settings, device)
    if settings.init is not None and loop.n_images == 0:
        counts += "; " + revive(loop, Stage1Step(model, pictures_at, replace(settings, compile=False), workers))
    if workers.first:
        print(f"{counts}; {device}, {workers.count} of them; resuming at {loop.n_images} images")
    step = Stage1Step(model, pictures_at, settings, workers)

    def validate(trained: nn.Module) -> dict[str, float]:
        return validation_scores(trained, held_out, settings)

    loop.run(step, validate)
    return settings.out


def training_pictures(
    settings: Stage1Settings, device: torch.device
) -> tuple[Callable[[int], PictureSet], PictureSet, str]:
    """The pictures to train on after so many images, those held out, and how many there are in words."""
    if settings.shards_in_memory:
        stream = ShardStream(
            settings.data,
            n_held=settings.shards_in_memory,
            crops_per_shard=settings.crops_per_shard,
            min_side_px=settings.crop_px,
            validation_share=settings.validation_share,
            seed=settings.seed,
            device=device,
        )
        held_out = stream.validation()
        counts = f"{len(stream.shards)} shards, {stream.n_held} at a time, and {len(held_out)} validation pictures"
        return stream.at, held_out, stream.left_out.after(counts)
    left_out = LeftOut()
    training, validation = load_pictures(
        settings.data,
        min_side_px=settings.crop_px,
        validation_share=settings.validation_share,
        limit=settings.limit_pictures,
        left_out=left_out,
    )
    training = training.to(device)
    counts = f"{len(training)} training and {len(validation)} validation pictures"
    return lambda n_images: training, validation.to(device), left_out.after(counts)


def resume_stage1(
    run_dir: Path,
    *,
    minutes: float | None = None,
    n_images: int | None = None,
    data: tuple[Source, ...] = (),
) -> Path:
    """Continue a run with the settings that its checkpoint holds, to a new length if one is given.

    A run whose learning rate fell already goes back to the state before that, and falls at its new end. Raises
    TrainingError if there is no checkpoint, if that state is beyond the new length, or as `train_stage1`.
    """
    longer = minutes is not None or n_images is not None
    settings = Stage1Settings.from_resolved(run_config(run_dir)["stage1"])
    settings = replace(settings, out=run_dir, init=None, data=data or settings.data)
    if longer:
        settings = replace(settings, minutes=minutes, n_images=n_images)
        settings.check()
        rewind(run_dir, settings.loop_settings(), settings.device)
    return train_stage1(settings)


def load_initial_weights(model: nn.Module, directory: Path, config: dict[str, Any]) -> None:
    """Start from a model directory of the same configuration, or of a smaller codec (see `is_smaller`).

    Blocks that it lacks come last in their network and start at nothing, so that the deeper codec begins as the other
    (Net2DeeperNet, Chen et al. 2016, arXiv 1511.05641). Raises TrainingError for any other configuration.
    """
    found = read_document(directory, "config").get("model")
    grows = isinstance(model, UnifiedLatentModel) and isinstance(found, dict) and is_smaller(found, config)
    if found != config and not grows:
        raise TrainingError(f"{directory} holds another model configuration")
    weights = read_tensors(directory, "weights")
    if grows:
        for name, fresh in model.state_dict().items():
            if name in weights:
                weights[name] = grown(name, weights[name], fresh)
            else:
                weights[name] = torch.zeros_like(fresh) if ".expand." in name else fresh
    load_weights(model, weights)


def grown(name: str, stored: Tensor, fresh: Tensor) -> Tensor:
    """A smaller codec's weight in a larger one's shape, `fresh` being the value that the larger one starts with.

    Further latent channels start as the DCT coefficients that come next, coded and restored by the linear transforms
    alone: no other network hears of them yet, and the prior gives each the average channel's spread beside its own
    gain. Further quality anchors continue the line through the last two.
    """
    result = fresh.clone()
    if name.endswith(".values") and len(fresh) > len(stored):
        further = torch.arange(1, len(fresh) - len(stored) + 1)[:, None]
        stored = torch.cat((stored, stored[-1] + further * (stored[-1] - stored[-2])))
    elif name.startswith("prior.scale_head."):
        result[:] = stored.float().mean(0)
    elif name == "encoder.linear.weight":
        result *= INNOVATION
    elif stored.ndim == 4 and name != "decoder.trunk.linear.weight":
        result[:, stored.shape[1] :] = 0
    result[tuple(slice(size) for size in stored.shape)] = stored
    return result


def is_smaller(found: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether the second codec's configuration is the first's but for its name and what it has more of.

    That may be blocks, latent channels, the negative slope, and anchors of quality above the last, with the Lagrangians
    to go with them.
    """
    found = {"negative_slope": 0.0, **found}  # models from before there was one are ReLU
    differ = ("name", "lagrangian_high", *EXTENSIBLE)
    return (
        found.keys() == config.keys()
        and all(found[key] == value for key, value in config.items() if key not in differ)
        and all(found[key] <= config[key] for key in EXTENSIBLE)
        and math.isclose(lagrangian_ratio(found), lagrangian_ratio(config), rel_tol=1e-9)
    )


def lagrangian_ratio(config: dict[str, Any]) -> float:
    """Of each quality anchor to the one before, as a logarithm."""
    low, high = float(config["lagrangian_low"]), float(config["lagrangian_high"])
    return math.log(high / low) / (int(config["n_quality_anchors"]) - 1)
