"""Clips to sequences and back: `ClipEncoder.pieces` and `Video.frames` show the stages of both directions.

Encoding: read frames, analyse a group of them (networks), code their latents (entropy coder), write their records.
Decoding: read records, decode a group of latents, synthesise the pixels (networks). Both work group by group, so that
memory does not grow with the length of a clip.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ulcodec.codec.bitrate import RateControl
from ulcodec.codec.clips import Clip, TimedFrame
from ulcodec.codec.grouping import group_size
from ulcodec.codec.inputs import check_effort
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.pixels import grid_of
from ulcodec.codec.refinement import EFFORT_STEPS, refine
from ulcodec.codec.tiling import analyse, synthesise
from ulcodec.coding.latents import DecodedLatent, EncodedFrame, decode_frames, encode_frames
from ulcodec.errors import FormatError, ImageError
from ulcodec.format.container import MAX_PIXELS, Header
from ulcodec.format.sequence import (
    INDEX_TAG,
    MEDIA_TAG,
    ClipFormat,
    FrameRecord,
    IndexBuilder,
    SequenceHeader,
    media_record,
)
from ulcodec.format.sequence_reader import MediaStream, Order, SequenceReader, ShownFrame, parse_frame
from ulcodec.io.picture import Picture
from ulcodec.metrics import psnr_db
from ulcodec.progress import share

DEFAULT_GOP = 250

LEAST_MEDIA_BYTES = 2**12
"""Least size of a piece of the Matroska stream, except the last one."""

TOLERANCE_DB = 1.0
"""Largest loss of PSNR by which a written frame may differ from the same frame coded again, with another effort."""

MICROSECONDS = 10**6
"""Microseconds in a second: a float of time is taken as the nearest simple fraction, as 0.36 for 9/25."""

LARGEST_GROUP = 64
"""Frames that are coded together at most, repetitions included."""


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


# Encoding


@dataclass
class WrittenPart:
    """The sound front of an unfinished sequence: what an encoder needs to go on behind it.

    `size_bytes`: its length; `last_intra`: its last intra frame, None if there is none; `builder`: its index.
    """

    header: SequenceHeader
    size_bytes: int
    builder: IndexBuilder
    last_intra: FrameRecord | None = None
    n_media_bytes: int = 0

    @classmethod
    def read(cls, file: BinaryIO) -> "WrittenPart":
        """Read an unfinished file up to its last whole record. Raises a FormatError for a header that is not sound."""
        reader = SequenceReader(file, max_pixels=None)
        part, order = cls(reader.header, reader.first_record, IndexBuilder()), Order(reader.clip, 0, lenient=False)
        try:
            for offset, record in reader.records(reader.first_record):
                if record.tag == INDEX_TAG:
                    break  # it is written anew
                if record.tag == MEDIA_TAG:
                    part.n_media_bytes += len(record.contents)
                else:
                    frame = parse_frame(record)
                    order.add(frame)
                    while order.is_ready:
                        order.pop()
                    part.builder.add(frame, offset)
                    part.last_intra = frame if frame.is_intra else part.last_intra
                part.size_bytes = offset + record.size_bytes
        except FormatError:
            pass  # what follows was not written to its end
        return part


@dataclass(frozen=True)
class PlannedFrame:
    """A frame about to be coded. `pixels`: None for a repetition of frame `reference`."""

    index: int
    correction: int
    pixels: NDArray[Any] | None
    reference: int | None = None


class ClipEncoder:
    """A clip on its way into a sequence.

    `gop`: largest distance between two intra frames; `effort`: see `Codec.encode`; `written`: go on behind an
    unfinished file. Raises ImageError if that is not a part of this clip's sequence: its header, its quality, or its
    last intra frame differs.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        clip: Clip,
        rate: RateControl,
        *,
        gop: int = DEFAULT_GOP,
        effort: int = 1,
        written: WrittenPart | None = None,
    ) -> None:
        self.loaded, self.clip, self.rate, self.gop = loaded, clip, rate, gop
        self.n_steps = EFFORT_STEPS[check_effort(effort) - 1]
        self.header = SequenceHeader(loaded.fingerprint_bytes, clip.format, gop)
        self.written = written or WrittenPart(self.header, 0, IndexBuilder())
        if self.written.header != self.header:
            raise ImageError("the unfinished file is of another clip, another model or another GOP")
        if self.written.last_intra is not None:
            rate.check(self.written.last_intra.quality)
        self.builder, self.offset = self.written.builder, self.written.size_bytes
        self.n_written, self.n_media_to_skip = self.builder.n_frames, self.written.n_media_bytes
        self.media, self.started_s = b"", time.perf_counter()

    def pieces(self) -> Iterator[bytes]:
        """Iterate over the bytes of the file, record by record, those of the unfinished file left out."""
        try:
            if self.offset == 0:
                yield self._placed(self.header.to_bytes())
            for group, seconds in self._groups():
                with share(self._share_of(group), self._note()):
                    records = self._encode(group, seconds)
                for record in records:
                    self.builder.add(record, self.offset)
                    yield self._placed(record.to_bytes())
                yield from self._media_records(LEAST_MEDIA_BYTES)
            yield from self._media_records(1)
            end_correction = (self.clip.end or 0) - self.clip.format.nominal_time(self.builder.n_frames)
            yield self.builder.to_bytes(end_correction)
        finally:
            self.clip.close()

    def _placed(self, data: bytes) -> bytes:
        self.offset += len(data)
        return data

    def _groups(self) -> Iterator[tuple[list[PlannedFrame], float]]:
        """Collect frames to code together, with the time in seconds for which they are shown.

        If the clip cannot be read to its end, the frames before the error come first.
        """
        clip, group, start, n_read = self.clip.format, list[PlannedFrame](), 0, 0
        try:
            for frame, planned in self._planned():
                n_read = planned.index + 1
                if planned.index < self.n_written:
                    continue
                if group and self._is_full(group):
                    yield group, float(clip.seconds(frame.time - start))
                    group = []
                start = start if group else frame.time
                group.append(planned)
        except Exception:
            if group:
                yield group, float(len(group) / clip.frame_rate)
            raise
        if n_read < self.n_written:
            raise ImageError(f"the unfinished file has {self.n_written} frames, and the clip only {n_read}")
        if group:
            yield group, float(clip.seconds((self.clip.end or 0) - start))

    def _planned(self) -> Iterator[tuple[TimedFrame, PlannedFrame]]:
        """Read frames, and find those that equal the one before them."""
        written, previous = self.written.last_intra, None
        last_intra = None
        for index, frame in enumerate(self.clip):
            if written is not None and index == written.index:
                self._check_written(written, frame)
            if index < self.n_written:
                repeats = written is not None and index > written.index
            else:
                is_near = last_intra is not None and index - last_intra < self.gop
                repeats = is_near and previous is not None and np.array_equal(frame.pixels, previous)
            last_intra = last_intra if repeats else index
            correction = frame.time - self.clip.format.nominal_time(index)
            pixels, reference = (None, last_intra) if repeats else (frame.pixels, None)
            yield frame, PlannedFrame(index, correction, pixels, reference)
            previous = frame.pixels

    def _check_written(self, record: FrameRecord, frame: TimedFrame) -> None:
        """Raise ImageError unless a frame of the unfinished file shows the frame of this clip at its place."""
        _, pixels = decode_records(self.loaded, self.clip.format, [record])[0]
        [coded] = encode_pictures_as_frames(self.loaded, [frame.pixels], record.quality, n_steps=self.n_steps)
        again = FrameRecord(record.index, None, record.correction, record.quality, *coded)
        _, expected = decode_records(self.loaded, self.clip.format, [again])[0]
        original, *versions = (Picture(samples).pixels_8 for samples in (frame.pixels, pixels, expected))
        found_db, expected_db = (psnr_db(original, version) for version in versions)
        is_late = frame.time != self.clip.format.nominal_time(record.index) + record.correction
        if is_late or found_db < expected_db - TOLERANCE_DB:
            raise ImageError(f"frame {record.index} of the unfinished file is not that of this clip")

    def _is_full(self, group: Sequence[PlannedFrame]) -> bool:
        n_new = sum(frame.reference is None for frame in group)
        return n_new == group_size(self.loaded.device, self._grid) or len(group) == LARGEST_GROUP

    @property
    def _grid(self) -> tuple[int, int]:
        return grid_of(self.clip.format.height, self.clip.format.width)

    def _encode(self, group: Sequence[PlannedFrame], seconds: float) -> list[FrameRecord]:
        """Encode a group of frames."""
        pictures = [frame.pixels for frame in group if frame.pixels is not None]
        encode = partial(encode_pictures_as_frames, self.loaded, pictures, n_steps=self.n_steps)
        quality, coded = self.rate.encode(encode, seconds) if pictures else self.rate.idle(seconds)
        latents = iter(coded)
        return [
            FrameRecord(frame.index, frame.reference, frame.correction)
            if frame.pixels is None
            else FrameRecord(frame.index, None, frame.correction, quality, *next(latents))
            for frame in group
        ]

    def _media_records(self, least_bytes: int) -> Iterator[bytes]:
        """Take the Matroska stream as far as it is there, in a piece of at least `least_bytes`."""
        new = self.clip.take_media()
        self.media += new[self.n_media_to_skip :]
        self.n_media_to_skip = max(self.n_media_to_skip - len(new), 0)
        if len(self.media) >= least_bytes:
            yield self._placed(media_record(self.media))
            self.media = b""

    def _share_of(self, group: Sequence[PlannedFrame]) -> float:
        """Share of the remaining work."""
        n_left = (self.clip.n_frames or 0) - self.builder.n_frames
        return len(group) / max(n_left, len(group)) if self.clip.n_frames else 0.0

    def _note(self) -> str:
        """Describe the progress."""
        n_done, total = self.builder.n_frames, f" of {self.clip.n_frames}" if self.clip.n_frames else ""
        frames_per_s = (n_done - self.n_written) / (time.perf_counter() - self.started_s)
        return f"frame {n_done}{total}, {frames_per_s:.1f} frames/s"


def encode_pictures_as_frames(
    loaded: LoadedModel, pictures: Sequence[NDArray[Any]], quality: int, *, n_steps: int = 0
) -> list[EncodedFrame]:
    """Encode pictures of one size at a quality, each to the payload of an intra frame."""
    y, hyper = analyse(loaded.model, loaded.device, pictures, quality)
    if not n_steps:
        return encode_frames(loaded.coder, y, hyper, quality, overwrite_y=True)
    frames = []
    for pixels, latent, hyper_latent in zip(pictures, y, hyper, strict=True):
        with torch.inference_mode(False):  # an inference mode of the caller would disable gradients
            refined = refine(loaded.model, loaded.coder, pixels, latent, hyper_latent, quality, n_steps)
        frames += encode_frames(loaded.coder, refined.y[None], hyper_latent[None], quality, refined.thrift)
    return frames


# Decoding


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
            loaded.check_fingerprint(self.reader.header.fingerprint)
        except BaseException:
            self.close()
            raise
        self.loaded, self.format = loaded, self.reader.clip
        self.n_media_bytes = 0
        self._last: tuple[FrameRecord, NDArray[Any]] | None = None

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
        """Decode one frame, and nothing but its reference. Raises IndexError if it is not there."""
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

    def latents(self) -> Iterator[tuple[DecodedLatent, int]]:
        """Decode the latents of the intra frames, exactly as the encoder restored them, each with its quality."""
        for shown in self._shown_from(None):
            if shown.is_intra:
                [latent] = decode_record_latents(self.loaded, self.format, [shown.source])
                yield latent, shown.source.quality

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
        """Collect frames to decode together, which have one quality. Damage comes after the frames before it."""
        most = group_size(self.loaded.device, grid_of(self.format.height, self.format.width))
        group: list[ShownFrame] = []
        sources: set[int] = set()
        try:
            for shown in frames:
                is_new = shown.source.index not in sources
                is_full = (is_new and len(sources) == most) or len(group) == LARGEST_GROUP
                if group and (is_full or shown.source.quality != group[0].source.quality):
                    yield group
                    group, sources = [], set()
                group.append(shown)
                sources.add(shown.source.index)
        except FormatError:
            if group:
                yield group
            raise
        if group:
            yield group

    def _decode(self, group: Sequence[ShownFrame]) -> Iterator[VideoFrame]:
        """Decode a group of frames of one quality."""
        sources = {shown.source.index: shown.source for shown in group}
        try:
            pixels = self._pixels(list(sources.values()))
        except FormatError as error:
            if not self.reader.recover:
                raise
            if len(group) > 1:
                for shown in group:
                    yield from self._decode([shown])
            else:
                self.damage.append(error)
            return
        for shown in group:
            samples = pixels[shown.source.index].copy()  # a caller may change them, and they are kept for repetitions
            yield VideoFrame(shown.index, self.format.seconds(shown.time), samples)

    def _pixels(self, sources: Sequence[FrameRecord]) -> dict[int, NDArray[Any]]:
        """Decode intra frames of one quality, except the one that was decoded last, by their indices."""
        pixels = {} if self._last is None or self._last[0] not in sources else {self._last[0].index: self._last[1]}
        new = [source for source in sources if source.index not in pixels]
        if new:
            decoded = decode_records(self.loaded, self.format, new)
            pixels |= {source.index: frame for source, (_, frame) in zip(new, decoded, strict=True)}
        self._last = sources[-1], pixels[sources[-1].index]
        return pixels


def decode_records(
    loaded: LoadedModel, clip: ClipFormat, records: Sequence[FrameRecord]
) -> list[tuple[DecodedLatent, NDArray[Any]]]:
    """Decode intra frames of one quality: their latents and their samples. Raises as `decode_frames`."""
    latents = decode_record_latents(loaded, clip, records)
    depth = 8 if clip.bit_depth == 8 else 16
    header = Header(loaded.fingerprint_bytes, records[0].quality, clip.width, clip.height, clip.layout, depth)
    pixels = synthesise(loaded.model, loaded.device, latents, [header] * len(latents))
    return list(zip(latents, pixels, strict=True))


def decode_record_latents(loaded: LoadedModel, clip: ClipFormat, records: Sequence[FrameRecord]) -> list[DecodedLatent]:
    """Decode the latents of intra frames of one quality. Raises as `decode_frames`."""
    payloads, checks = [record.payload for record in records], [record.symbol_check for record in records]
    return decode_frames(loaded.coder, payloads, checks, records[0].quality, grid_of(clip.height, clip.width))
