"""Frames of a clip to records: a group of frames in a hierarchy, or frames that are all intra.

The encoder decodes what it codes, since that is what other frames are predicted from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.gop import Step, steps_of
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.prediction import add_residual, as_reference, decode_intra, encode_residual, predicted_samples
from ulcodec.codec.refinement import EFFORT_STEPS, refine_picture
from ulcodec.codec.tiling import analyse
from ulcodec.coding.latents import EncodedFrame, encode_frames
from ulcodec.format.sequence import ClipFormat, FrameRecord
from ulcodec.io.picture import Picture
from ulcodec.motion.coding import encode_field
from ulcodec.motion.compensation import compensate
from ulcodec.motion.search import Reference, find_motion
from ulcodec.progress import share

QUALITY_STEPS = (0, 14, 24, 32, 40)
"""By how much the quality of a frame lies below that of the clip, by its level in the hierarchy."""


@dataclass(frozen=True)
class NewFrame:
    """A frame about to be coded: its index, the correction of its time, and its samples as in `VideoFrame`.

    `is_intra`: it has to be an intra frame; `is_cut`: a scene begins with it, and no frame is predicted across.
    """

    index: int
    correction: int
    pixels: NDArray[Any]
    is_intra: bool = False
    is_cut: bool = False


@dataclass(frozen=True)
class CodedPicture:
    """A coded frame that others may be predicted from: its index, and its samples as decoded, rounded to 8 bits."""

    index: int
    pixels: NDArray[np.uint8]

    @cached_property
    def searched(self) -> Reference:
        """The picture with what motion search needs of it."""
        return Reference(self.pixels)


@dataclass(frozen=True)
class CodedGroup:
    """Records of new frames in the order of the file, and the last anchor if frames may be predicted from it."""

    records: list[FrameRecord]
    anchor: CodedPicture | None = None

    @property
    def n_bytes(self) -> int:
        return sum(len(record.to_bytes()) for record in self.records)


@dataclass(frozen=True)
class GroupCoder:
    """Codes groups of frames of a clip at a quality. `effort`: 1 to 9, see `Codec.encode_video`."""

    loaded: LoadedModel
    clip: ClipFormat
    quality: int
    effort: int

    @property
    def n_steps(self) -> int:
        """Refinement steps of a frame's latent."""
        return EFFORT_STEPS[self.effort - 1]

    def code_intra(self, frames: Sequence[NewFrame]) -> CodedGroup:
        """Code frames each by itself."""
        pictures = [frame.pixels for frame in frames]
        coded = encode_pictures_as_frames(self.loaded, pictures, self.quality, n_steps=self.n_steps)
        records = [intra_record(frame, self.quality, part) for frame, part in zip(frames, coded, strict=True)]
        return CodedGroup(records)

    def code_hierarchy(self, frames: Sequence[NewFrame], anchor: CodedPicture | None) -> CodedGroup:
        """Code frames behind an anchor. The first one is the anchor if it begins a scene."""
        pictures = {} if anchor is None or frames[0].is_cut else {0: anchor}
        first = len(pictures)  # place of the first frame
        last = first + len(frames) - 1
        records, steps = list[FrameRecord](), [] if pictures else [Step(0, (), 0, True)]
        steps += steps_of(last, ends_intra=frames[-1].is_intra)
        for number, (place, references, level, is_kept) in enumerate(steps):
            frame = frames[place - first]
            with share(1 / (len(steps) - number)):
                if references:
                    used = [pictures[reference] for reference in references]
                    record, picture = self._predicted(frame, used, level, is_kept)
                else:
                    record, picture = self._intra(frame)
            records.append(record)
            if is_kept:
                pictures[place] = picture
            needed = {last}.union(*(step.references for step in steps[number + 1 :]))
            pictures = {place: kept for place, kept in pictures.items() if place in needed}
        return CodedGroup(records, pictures[last])

    def _intra(self, frame: NewFrame) -> tuple[FrameRecord, CodedPicture]:
        """Code an intra frame, and decode it."""
        [coded] = encode_pictures_as_frames(
            self.loaded, [frame.pixels], self.quality, n_steps=self.n_steps, precise=True
        )
        [samples] = decode_intra(self.loaded, self.clip, [coded.latent], self.quality, precise=True)
        return intra_record(frame, self.quality, coded), CodedPicture(frame.index, as_reference(samples))

    def _predicted(
        self, frame: NewFrame, references: Sequence[CodedPicture], level: int, is_kept: bool
    ) -> tuple[FrameRecord, CodedPicture]:
        """Code a predicted frame, with a latent if that is worth its bits, and decode it."""
        loaded, clip = self.loaded, self.clip
        quality = max(self.quality - QUALITY_STEPS[level], 0)
        lagrangian = loaded.model.config.lagrangian(quality / 100)
        original = Picture(frame.pixels).pixels_8
        motion = find_motion(original, [picture.searched for picture in references], lagrangian)
        prediction = compensate([picture.pixels for picture in references], motion)
        indices = tuple(picture.index for picture in references)
        plain = FrameRecord(frame.index, indices, frame.correction, motion=encode_field(motion), is_kept=is_kept)
        choices = [(plain, predicted_samples(clip, prediction))]
        coded, y_prediction = encode_residual(loaded, frame.pixels, prediction, quality, self.n_steps)
        full = replace(plain, quality=quality, payload=coded.payload, symbol_check=coded.symbol_check)
        choices.append((full, add_residual(loaded, clip, prediction, y_prediction, coded.latent, quality)))
        record, samples = min(choices, key=lambda choice: cost_bits(choice[0], choice[1], frame.pixels, lagrangian))
        return record, CodedPicture(frame.index, as_reference(samples))


def intra_record(frame: NewFrame, quality: int, coded: EncodedFrame) -> FrameRecord:
    return FrameRecord(frame.index, (), frame.correction, quality, coded.payload, coded.symbol_check)


def cost_bits(record: FrameRecord, samples: NDArray[Any], original: NDArray[Any], lagrangian: float) -> float:
    """Bits of a record and weighted squared error of its samples, which have the depth and shape of the original."""
    scale = 255 / np.iinfo(samples.dtype).max
    error = (samples.astype(np.float32) - original) * np.float32(scale)
    squared_error = float(np.square(error).mean()) * math.prod(samples.shape[:2])
    return 8 * len(record.to_bytes()) + lagrangian * squared_error


def encode_pictures_as_frames(
    loaded: LoadedModel,
    pictures: Sequence[NDArray[Any]],
    quality: int,
    *,
    n_steps: int = 0,
    precise: bool = False,
) -> list[EncodedFrame]:
    """Encode pictures of one size at a quality, each to the payload of an intra frame."""
    y, hyper = analyse(loaded.model, loaded.device, pictures, quality, precise=precise)
    if not n_steps:
        return encode_frames(loaded.coder, y, hyper, quality, overwrite_y=True)
    frames = []
    for pixels, latent, hyper_latent in zip(pictures, y, hyper, strict=True):
        refined = refine_picture(loaded, pixels, latent, hyper_latent, quality, n_steps)
        frames += encode_frames(loaded.coder, refined.y[None], hyper_latent[None], quality, refined.thrift)
    return frames
