"""The pictures or clips of a run of stage 1, or of a run on its latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.io.sources import LeftOut
from ulcodec.model.config import PaperConfig
from ulcodec.model.presets import preset
from ulcodec.train.data.augmentation import AugmentedPictures
from ulcodec.train.data.crops import CropSet
from ulcodec.train.data.loading import load_run
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.data.readers import PictureReader, Reader
from ulcodec.train.data.stream import ShardStream
from ulcodec.train.settings import Stage1Settings


class TrainingSet(NamedTuple):
    """The data to train on after a number of images, those held out, and a line that counts them."""

    at: Callable[[int], CropSet]
    held_out: CropSet
    counts: str


def reader_of(settings: Stage1Settings) -> Reader[Any]:
    """Make the reader of pictures, or of clips for a configuration of clips."""
    config = preset(settings.config)
    if isinstance(config, PaperConfig) and config.n_axes == 3:
        from ulcodec.train.data.clip_reader import ClipReader  # only runs on clips need the video libraries
        from ulcodec.train.data.clips import StretchSettings

        stretches = StretchSettings(settings.crop_px, settings.n_frames, config.patch[-1], settings.resize_px)
        return ClipReader(stretches, settings.seed)
    return PictureReader(settings.crop_px, settings.resize_px)


def some_crops(settings: Stage1Settings, count: int) -> Tensor:
    """Draw random crops [count, 3, X] in [0, 1] of the first pictures or clips of a run's data.

    Raises TrainingError if there are none.
    """
    reader, left_out = reader_of(settings), LeftOut()
    files = reader.files(settings.data, left_out)
    examples = [example for _, example in reader.examples(files, left_out, count)]
    if not examples:
        raise TrainingError(left_out.after(f"found no {reader.what}"))
    crops: CropSet = reader.pack(examples)
    return crops.random_crops(count, settings.crop_px, torch.Generator().manual_seed(settings.seed))


def augmented(data: CropSet, settings: Stage1Settings) -> CropSet:
    """Change the crops of a run's pictures at random, if its settings say so."""
    if settings.reduction is None and not settings.turns:
        return data
    assert isinstance(data, PictureSet)  # settings for clips are refused
    return AugmentedPictures(data, settings.reduction or 1.0, settings.turns)


def training_set(settings: Stage1Settings, device: torch.device) -> TrainingSet:
    """Load the data of a run, or open its stream of shards. Raises TrainingError."""
    reader = reader_of(settings)
    if settings.shards_in_memory:
        stream = ShardStream(
            settings.data,
            reader,
            n_held=settings.shards_in_memory,
            crops_per_shard=settings.crops_per_shard,
            validation_share=settings.validation_share,
            seed=settings.seed,
            device=device,
        )
        held_out = stream.validation()
        counts = f"{len(stream.shards)} shards, {stream.n_held} at a time, and {len(held_out)} validation {reader.noun}"
        counts = stream.left_out.after(counts)
        return TrainingSet(lambda n_images: augmented(stream.at(n_images), settings), held_out, counts)
    left_out = LeftOut()
    training, validation = (part.to(device) for part in load_run(reader, settings, left_out))
    counts = f"{len(training)} training and {len(validation)} validation {reader.noun}"
    crops = augmented(training, settings)
    return TrainingSet(lambda n_images: crops, validation, left_out.after(counts))
