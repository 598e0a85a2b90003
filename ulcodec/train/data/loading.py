"""Load training data into memory: decode every file once, split into training and validation."""

from collections.abc import Iterable

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut
from ulcodec.train.data.crops import Set
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.data.readers import PictureReader, Reader, split
from ulcodec.train.limits import RunSettings


def pictures_of_run(settings: RunSettings, left_out: LeftOut) -> tuple[PictureSet, PictureSet]:
    """Load the pictures of a run, see `load`."""
    return load_run(PictureReader(settings.crop_px), settings, left_out)


def load_run(reader: Reader[Set], settings: RunSettings, left_out: LeftOut) -> tuple[Set, Set]:
    """Load the training data of a run, see `load`."""
    return load(
        reader,
        settings.data,
        validation_share=settings.validation_share,
        limit=settings.limit_pictures,
        left_out=left_out,
    )


def held_out_every(validation_share: float) -> int:
    """Interval between pictures, or scenes of clips, that are held out."""
    return max(2, round(1 / validation_share))


def load_pictures(
    sources: Iterable[Source],
    *,
    min_side_px: int,
    validation_share: float,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> tuple[PictureSet, PictureSet]:
    """Load pictures with both sides at least `min_side_px`, see `load`."""
    reader = PictureReader(min_side_px)
    return load(reader, sources, validation_share=validation_share, limit=limit, left_out=left_out)


def load(
    reader: Reader[Set],
    sources: Iterable[Source],
    *,
    validation_share: float,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> tuple[Set, Set]:
    """Decode every picture or video once; return the sets for training and for validation.

    Every `1 / validation_share`-th usable picture or scene goes to validation, at least one. `left_out` counts the
    files that are not used. Raises TrainingError if one of the sets would be empty.
    """
    counted = LeftOut() if left_out is None else left_out
    examples = reader.examples(reader.files(sources, counted), counted, limit)
    training, held_out = split(examples, held_out_every(validation_share))
    if not training:
        found = len(held_out)
        raise TrainingError(counted.after(f"found {found} {reader.what}; need two or more{reader.of_scenes}"))
    return reader.pack(training), reader.pack(held_out)
