"""Sequences to frames: `Video.frames` shows the stages.

Read records, find the frames that each one needs, decode their latents, synthesise the pixels. Frames are decoded when
they are shown or referred to, so that memory does not grow with the length of a clip.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from PIL import Image

from ulcodec.codec.grouping import group_size
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.pixels import grid_of
from ulcodec.codec.prediction import (
    add_residual,
    as_reference,
    decode_intra,
    decode_record_latents,
    latent_of_prediction,
    predicted_samples,
)
from ulcodec.coding.latents import DecodedLatent
from ulcodec.errors import FormatError
from ulcodec.format.container import MAX_PIXELS
from ulcodec.format.sequence import FrameRecord
from ulcodec.format.sequence_reader import CodedFrame, MediaStream, SequenceReader, ShownFrame
from ulcodec.io.picture import Picture
from ulcodec.motion.coding import decode_field
from ulcodec.motion.compensation import compensate
from ulcodec.motion.field import grid_of as block_grid_of

MICROSECONDS = 10**6
"""Microseconds in a second: a float of time is taken as the nearest simple fraction, as 0.36 for 9/25."""

LARGEST_GROUP = 64
"""Frames that are decoded together at most, repetitions included."""


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame: its `index` in the order of display, its time in seconds, and its samples.

    `pixels`: uint8 [H, W, 3] or [H, W] for grey; uint16 over the full range if the clip has more than 8 bits a sample.
    """

    index: int
    time_s: Fraction
    pixels: NDArray[Any]

    def to_pil(self) -> Image.Image:
        """Convert to a Pillow image, see `Picture.to_pil`."""
        return Picture(self.pixels).to_pil()


class Video:
    """A sequence opened for decoding: iterate over it, or take a frame by its index or its time.

    `source`: a path, the bytes of a file, or a binary file object; only a forward iteration works if that cannot seek.
    `recover`: leave out damaged frames, and those that depend on them; `damage` then holds the errors.
    `n_media_bytes`: bytes of audio and subtitles that iterations have passed. Raises a
    FormatError for a header that is not sound, UnknownModelError for another model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source: str | Path | bytes | BinaryIO,
        *,
        max_pixels: int = MAX_PIXELS,
        recover: bool = False,
    ) -> None:
        self._owns_file = isinstance(source, str | Path | bytes | bytearray | memoryview)
        if isinstance(source, bytes | bytearray | memoryview):
            file: BinaryIO = BytesIO(source)
        else:
            file = Path(source).open("rb") if isinstance(source, str | Path) else source  # noqa: SIM115
        self._file = file
        try:
            self.reader = SequenceReader(file, max_pixels=max_pixels, recover=recover)
            self.loaded = loaded.as_maker_of(self.reader.header.fingerprint)
        except BaseException:
            self.close()
            raise
        self.format = self.reader.clip
        self.n_media_bytes = 0

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owns_file:
            self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def can_seek(self) -> bool:
        """Whether frames can be taken in any order."""
        return self.reader.size_bytes is not None

    @property
    def damage(self) -> list[FormatError]:
        """The errors that `recover` has skipped so far."""
        return self.reader.damage

    @property
    def n_frames(self) -> int | None:
        """Number of frames; None for an unfinished file, and for one that cannot seek before it was read."""
        return None if self.reader.index is None else self.reader.index.n_frames

    @property
    def duration_s(self) -> Fraction | None:
        """End of the last frame in seconds; None where `n_frames` is."""
        return None if self.reader.index is None else self.format.seconds(self.reader.index.end)

    def __len__(self) -> int:
        if self.n_frames is None:
            raise TypeError("an unfinished sequence has no length")
        return self.n_frames

    def __iter__(self) -> Iterator[VideoFrame]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[VideoFrame]:
        """Decode the frames from `start` on, before `stop`, in the order of display.

        Raises a FormatError for damage, after the frames before it; TruncatedError after the last frame of an
        unfinished file.
        """
        for group in self._groups(self._shown(start, stop)):
            yield from self._decode(group)

    def __getitem__(self, index: int) -> VideoFrame:
        """Decode one frame, and nothing but what it refers to. Raises IndexError if it is not there."""
        wanted = index if index >= 0 else index + len(self)
        shown = next(self._shown(wanted, wanted + 1), None) if wanted >= 0 else None
        frame = None if shown is None else next(self._decode([shown]), None)
        if frame is None:
            raise IndexError(f"the sequence has no frame {index}")
        return frame

    def at(self, time_s: float | Fraction) -> VideoFrame:
        """Decode the frame that is shown at a time in seconds: the first or the last one outside of the clip."""
        if not math.isfinite(time_s):
            raise ValueError(f"expected a finite time in seconds, got {time_s}")
        exact = time_s if isinstance(time_s, Fraction) else Fraction(time_s).limit_denominator(MICROSECONDS)
        ticks = int(exact // self.format.time_base)
        index = self.reader.index
        found = None
        for shown in self._shown_from(None if index is None else index.intra_at_time(ticks)):
            if found is not None and shown.time > ticks:
                break
            found = shown
        frame = None if found is None else next(self._decode([found]), None)
        if frame is None:
            raise IndexError(f"the sequence has no frame at {float(time_s):g} s")
        return frame

    def latents(self) -> Iterator[tuple[DecodedLatent, bool, int]]:
        """Decode the latents of the frames that have one, exactly as the encoder restored them.

        Yields each with whether it is the latent of a predicted frame, and its quality.
        """
        for shown in self._shown_from(None):
            record = shown.source.record
            if not shown.is_repetition and record.payload is not None:
                [latent] = decode_record_latents(self.loaded, self.format, [record])
                yield latent, record.is_predicted, record.quality

    def media(self) -> BufferedReader:
        """Open the Matroska stream of audio and subtitles, to be read forward; it is empty if there is none."""
        return BufferedReader(MediaStream(self.reader, owner=self))

    def _shown(self, start: int, stop: int | None) -> Iterator[ShownFrame]:
        """Iterate over the frames from `start` on, before `stop`, without decoding them."""
        index = self.reader.index
        for shown in self._shown_from(index.intra_at(start) if index is not None and start else None):
            if stop is not None and shown.index >= stop:
                return
            if shown.index >= start:
                yield shown

    def _shown_from(self, place: int | None) -> Iterator[ShownFrame]:
        for part in self.reader.read(place):
            if isinstance(part, ShownFrame):
                yield part
            else:
                self.n_media_bytes += len(part)

    def _groups(self, frames: Iterator[ShownFrame]) -> Iterator[list[ShownFrame]]:
        """Collect frames to decode together: intra frames of one quality. Damage comes after the frames before it."""
        most = group_size(self.loaded.networks.positions_at_once, grid_of(self.format.height, self.format.width))
        group: list[ShownFrame] = []
        sources: set[int] = set()
        try:
            for shown in frames:
                source = shown.source.record
                is_new = source.index not in sources
                is_full = (is_new and len(sources) == most) or len(group) == LARGEST_GROUP
                is_other = source.is_predicted or (group and source.quality != group[0].source.record.quality)
                if group and (is_full or is_other):
                    yield group
                    group, sources = [], set()
                group.append(shown)
                sources.add(source.index)
                if source.is_predicted:
                    yield group
                    group, sources = [], set()
        except FormatError:
            if group:
                yield group
            raise
        if group:
            yield group

    def _decode(self, group: Sequence[ShownFrame]) -> Iterator[VideoFrame]:
        """Decode a group of frames."""
        with suppress(FormatError):  # of one of them: then each is decoded by itself
            self._decode_intra([shown.source for shown in group])
        for shown in group:
            try:
                samples = self._samples(shown.source).copy()  # a caller may change them; others are predicted from them
            except FormatError as error:
                if not self.reader.recover:
                    raise
                if error not in self.damage:
                    self.damage.append(error)
            else:
                yield VideoFrame(shown.index, self.format.seconds(shown.time), samples)

    def _decode_intra(self, frames: Sequence[CodedFrame]) -> None:
        """Decode the intra frames among frames, which have one quality, as far as they are not."""
        new = {frame.record.index: frame for frame in frames if frame.decoded is None and frame.record.is_intra}
        if new:
            decoded = self._intra_samples([frame.record for frame in new.values()])
            for frame, samples in zip(new.values(), decoded, strict=True):
                frame.keep(samples)

    def _intra_samples(self, records: Sequence[FrameRecord]) -> list[NDArray[Any]]:
        """Decode intra frames of one quality to samples."""
        latents = decode_record_latents(self.loaded, self.format, records)
        precise = self.reader.header.is_predictive
        return decode_intra(self.loaded, self.format, latents, records[0].quality, precise=precise)

    def _samples(self, wanted: CodedFrame) -> NDArray[Any]:
        """Decode a frame after its references, as far as they are not decoded. Raises a FormatError for damage."""
        stack = [wanted]
        while stack:
            frame = stack[-1]
            missing = [reference for reference in frame.references if reference.decoded is None]
            if frame.decoded is not None or not missing:
                stack.pop()
                if frame.decoded is None:
                    frame.keep(self._decoded(frame))
            stack += missing
        if isinstance(wanted.decoded, FormatError):
            raise wanted.decoded
        samples: NDArray[Any] = wanted.decoded
        return samples

    def _decoded(self, frame: CodedFrame) -> NDArray[Any] | FormatError:
        """Decode a frame whose references are decoded: its samples, or the error that was found in it or in them."""
        record, clip = frame.record, self.format
        for reference in frame.references:
            if isinstance(reference.decoded, FormatError):
                return reference.decoded
        try:
            if record.is_intra:
                return self._intra_samples([record])[0]
            blocks = block_grid_of(clip.height, clip.width)
            field = decode_field(record.motion or b"", len(frame.references), blocks)
            prediction = compensate([as_reference(reference.decoded) for reference in frame.references], field)
            if record.payload is None:
                return predicted_samples(clip, prediction)
            [residual] = decode_record_latents(self.loaded, clip, [record])
        except FormatError as error:
            return error
        y_prediction = latent_of_prediction(self.loaded, prediction, record.quality)
        return add_residual(self.loaded, clip, prediction, y_prediction, residual, record.quality)
