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

from ulcodec.codec.effort import EFFORT_STEPS, NO_REFINEMENT, Refinement, refinement_of
from ulcodec.codec.gop import Step, steps_of
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.prediction import add_residual, as_reference, decode_intra, encode_residual, predicted_samples
from ulcodec.codec.refiner import refine_once
from ulcodec.codec.tiling import analyse
from ulcodec.coding.latents import EncodedFrame, encode_frames
from ulcodec.format.container import MAX_QUALITY
from ulcodec.format.sequence import ClipFormat, FrameRecord
from ulcodec.io.picture import Picture
from ulcodec.motion.coding import encode_field
from ulcodec.motion.compensation import compensate
from ulcodec.motion.search import Reference, find_motion
from ulcodec.progress import share

QUALITY_STEPS = (0, 14, 24, 32, 40)
"""By how much the quality of a frame lies below that of the clip, by its level in the hierarchy."""

MOTION_WEIGHTS = (1, 4)
"""Weights of the bits of motion: above effort 1, the better one for the frame without a latent; else the first one."""

FIRST_OFFSETS = (0, 10)
"""By how much the quality of the first frame of a scene may lie above that of the clip."""


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
    """Records of new frames in the order of the file, and the last anchor if frames may be predicted from it.

    `squared_error`: of the decoded frames of a hierarchy, see `squared_error`.
    """

    records: list[FrameRecord]
    anchor: CodedPicture | None = None
    squared_error: float = 0.0

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
        """Refinement steps of a predicted frame's latent: the refiner is for pictures."""
        return EFFORT_STEPS[self.effort - 1]

    @property
    def refinement(self) -> Refinement:
        """How the latent of an intra frame is refined."""
        return refinement_of(self.effort, has_refiner=self.loaded.has_refiner)

    def code_intra(self, frames: Sequence[NewFrame]) -> CodedGroup:
        """Code frames each by itself."""
        pictures = [frame.pixels for frame in frames]
        coded = encode_pictures_as_frames(self.loaded, pictures, self.quality, self.refinement)
        records = [intra_record(frame, self.quality, part) for frame, part in zip(frames, coded, strict=True)]
        return CodedGroup(records)

    def code_hierarchy(self, frames: Sequence[NewFrame], anchor: CodedPicture | None) -> CodedGroup:
        """Code frames behind an anchor. The first one is the anchor if it begins a scene.

        It then gets one of the `first_qualities`. Of the whole group, bits and squared error decide, as for the frames
        that no other depends on: what stays in place is worth a better first frame, what changes is not.
        """
        if anchor is not None and not frames[0].is_cut:
            return self._code_hierarchy(frames, anchor, self.quality)
        qualities = first_qualities(self.quality) if len(frames) > 1 else [self.quality]
        lagrangian, versions = self._lagrangian(max(self.quality - QUALITY_STEPS[-1], 0)), list[CodedGroup]()
        for number, quality in enumerate(qualities):
            with share(1 / (len(qualities) - number)):
                versions.append(self._code_hierarchy(frames, None, quality))
        return min(versions, key=lambda group: 8 * group.n_bytes + lagrangian * group.squared_error)

    def _lagrangian(self, quality: int) -> float:
        return self.loaded.networks.config.lagrangian(quality / 100)

    def _code_hierarchy(
        self, frames: Sequence[NewFrame], anchor: CodedPicture | None, first_quality: int
    ) -> CodedGroup:
        """Code frames behind an anchor. If there is none, the first frame is one, of its own quality."""
        pictures = {} if anchor is None else {0: anchor}
        first = len(pictures)  # place of the first frame
        last = first + len(frames) - 1
        records, total_error, steps = list[FrameRecord](), 0.0, [] if pictures else [Step(0, (), 0, True)]
        steps += steps_of(last, ends_intra=frames[-1].is_intra)
        for number, (place, references, level, is_kept) in enumerate(steps):
            frame = frames[place - first]
            with share(1 / (len(steps) - number)):
                if references:
                    used = [pictures[reference] for reference in references]
                    record, samples = self._predicted(frame, used, level, is_kept)
                else:
                    record, samples = self._intra(frame, self.quality if place else first_quality)
            records.append(record)
            total_error += squared_error(samples, frame.pixels)
            if is_kept:
                pictures[place] = CodedPicture(frame.index, as_reference(samples))
            needed = {last}.union(*(step.references for step in steps[number + 1 :]))
            pictures = {place: kept for place, kept in pictures.items() if place in needed}
        return CodedGroup(records, pictures[last], total_error)

    def _intra(self, frame: NewFrame, quality: int) -> tuple[FrameRecord, NDArray[Any]]:
        """Code an intra frame, and decode it to samples."""
        [coded] = encode_pictures_as_frames(self.loaded, [frame.pixels], quality, self.refinement, precise=True)
        [samples] = decode_intra(self.loaded, self.clip, [coded.latent], quality, precise=True)
        return intra_record(frame, quality, coded), samples

    def _predicted(
        self, frame: NewFrame, references: Sequence[CodedPicture], level: int, is_kept: bool
    ) -> tuple[FrameRecord, NDArray[Any]]:
        """Code a predicted frame, with a latent if that is worth its bits, and decode it to samples."""
        loaded, clip = self.loaded, self.clip
        quality = max(self.quality - QUALITY_STEPS[level], 0)
        lagrangian = self._lagrangian(quality)
        plain, prediction = self._compensated(frame, references, lagrangian, is_kept)
        choices = [(plain, predicted_samples(clip, prediction))]
        coded, y_prediction = encode_residual(loaded, frame.pixels, prediction, quality, self.n_steps)
        full = replace(plain, quality=quality, payload=coded.payload, symbol_check=coded.symbol_check)
        choices.append((full, add_residual(loaded, clip, prediction, y_prediction, coded.latent, quality)))
        return min(choices, key=lambda choice: cost_bits(choice[0], choice[1], frame.pixels, lagrangian))

    def _compensated(
        self, frame: NewFrame, references: Sequence[CodedPicture], lagrangian: float, is_kept: bool
    ) -> tuple[FrameRecord, NDArray[np.uint8]]:
        """Find the motion of a frame; return its record without a latent, and the predicted picture."""
        original, indices = Picture(frame.pixels).pixels_8, tuple(picture.index for picture in references)
        searched, pixels = [picture.searched for picture in references], [picture.pixels for picture in references]
        versions = []
        for weight in MOTION_WEIGHTS if self.effort > 1 else MOTION_WEIGHTS[:1]:
            motion = find_motion(original, searched, lagrangian / weight)
            data, prediction = encode_field(motion), compensate(pixels, motion)
            versions.append(
                (FrameRecord(frame.index, indices, frame.correction, motion=data, is_kept=is_kept), prediction)
            )

        def cost(version: tuple[FrameRecord, NDArray[np.uint8]]) -> float:
            record, prediction = version
            return cost_bits(record, predicted_samples(self.clip, prediction), frame.pixels, lagrangian)

        return min(versions, key=cost)


def first_qualities(quality: int) -> list[int]:
    """Return the qualities that the first frame of a scene may have in a clip of a quality, both from 0 to 100."""
    return sorted({min(quality + offset, MAX_QUALITY) for offset in FIRST_OFFSETS})


def intra_record(frame: NewFrame, quality: int, coded: EncodedFrame) -> FrameRecord:
    return FrameRecord(frame.index, (), frame.correction, quality, coded.payload, coded.symbol_check)


def cost_bits(record: FrameRecord, samples: NDArray[Any], original: NDArray[Any], lagrangian: float) -> float:
    """Bits of a record, and weighted squared error of its samples."""
    return 8 * len(record.to_bytes()) + lagrangian * squared_error(samples, original)


def squared_error(samples: NDArray[Any], original: NDArray[Any]) -> float:
    """Squared error in levels of 8 bits, mean over the channels and summed over the pixels.

    Both arrays have one shape, [H, W, 3] or [H, W], and one type, uint8 or uint16.
    """
    scale = 255 / np.iinfo(samples.dtype).max
    error = (samples.astype(np.float32) - original) * np.float32(scale)
    return float(np.square(error).mean()) * math.prod(samples.shape[:2])


def encode_pictures_as_frames(
    loaded: LoadedModel,
    pictures: Sequence[NDArray[Any]],
    quality: int,
    refinement: Refinement = NO_REFINEMENT,
    *,
    precise: bool = False,
) -> list[EncodedFrame]:
    """Encode pictures of one size at a quality, each to the payload of an intra frame."""
    y, hyper = analyse(loaded.networks, pictures, quality, precise=precise)
    if refinement.by_refiner:
        y = refine_once(loaded, pictures, y, hyper, quality)
    if not refinement.n_steps:
        return encode_frames(loaded.coder, y, hyper, quality, overwrite_y=True)
    from ulcodec.codec.refinement import refine_picture

    frames = []
    for pixels, latent, hyper_latent in zip(pictures, y, hyper, strict=True):
        refined = refine_picture(loaded, pixels, latent, hyper_latent, quality, refinement.n_steps)
        frames += encode_frames(loaded.coder, refined.y[None], hyper_latent[None], quality, refined.thrift)
    return frames
