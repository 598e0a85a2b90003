"""Clips to sequences: `ClipEncoder.pieces` shows the stages.

Read frames, plan a group of them, encode the frames of the group, write their records. A group is what two anchors
enclose (`ulcodec.codec.gop`), so that memory does not grow with the length of a clip.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.bitrate import RateControl
from ulcodec.codec.clips import Clip, TimedFrame
from ulcodec.codec.gop import GROUP_FRAMES, SceneCuts
from ulcodec.codec.group_coding import CodedGroup, CodedPicture, GroupCoder, NewFrame, first_qualities
from ulcodec.codec.grouping import group_size
from ulcodec.codec.inputs import check_effort
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.pixels import grid_of
from ulcodec.codec.prediction import as_reference, decode_intra, decode_record_latents
from ulcodec.errors import FormatError, ImageError
from ulcodec.format.container import MAX_QUALITY
from ulcodec.format.sequence import (
    INDEX_TAG,
    MAX_REORDERING,
    MEDIA_TAG,
    FrameRecord,
    IndexBuilder,
    SequenceHeader,
    media_record,
)
from ulcodec.format.sequence_reader import Order, SequenceReader, parse_frame
from ulcodec.io.picture import Picture
from ulcodec.metrics import psnr_db
from ulcodec.progress import share

DEFAULT_GOP = 250

LEAST_MEDIA_BYTES = 2**12
"""Least size of a piece of the Matroska stream, except the last one."""

TOLERANCE_DB = 1.0
"""Largest loss of PSNR by which a written frame may differ from the same frame coded again, with another effort."""

LARGEST_GROUP = MAX_REORDERING - 1
"""Frames that are coded together at most, repetitions included."""


@dataclass
class WrittenPart:
    """The sound front of an unfinished sequence: what an encoder needs to go on behind it.

    No frame is missing between its first and its last one. `size_bytes`: its length; `last_intra`: its last intra
    frame, None if there is none; `builder`: its index.
    """

    header: SequenceHeader
    size_bytes: int
    builder: IndexBuilder
    last_intra: FrameRecord | None = None
    n_media_bytes: int = 0

    @classmethod
    def read(cls, file: BinaryIO) -> "WrittenPart":
        """Read an unfinished file up to the last record before which no frame is missing.

        Raises a FormatError for a header that is not sound.
        """
        reader = SequenceReader(file, max_pixels=None)
        part, order = cls(reader.header, reader.first_record, IndexBuilder()), Order(reader.clip, 0, lenient=False)
        n_media_bytes, early = 0, list[tuple[FrameRecord, int]]()
        try:
            for offset, record in reader.records(reader.first_record):
                if record.tag == INDEX_TAG:
                    break  # it is written anew
                if record.tag == MEDIA_TAG:
                    n_media_bytes += len(record.contents)
                else:
                    frame = parse_frame(record)
                    order.add(frame)
                    while order.is_ready:
                        order.pop()
                    early.append((frame, offset))
                if not order.seen:
                    part._add(early)
                    part.n_media_bytes, part.size_bytes, early = n_media_bytes, offset + record.size_bytes, []
        except FormatError:
            pass  # what follows was not written to its end
        return part

    def _add(self, frames: Sequence[tuple[FrameRecord, int]]) -> None:
        """Add frames, with the offsets of their records."""
        for frame, offset in frames:
            self.builder.add(frame, offset)
            self.last_intra = frame if frame.is_intra else self.last_intra


@dataclass(frozen=True)
class Repetition:
    """A frame that equals the one before it."""

    index: int
    correction: int


PlannedFrame = NewFrame | Repetition


class ClipEncoder:
    """A clip on its way into a sequence.

    `gop`: largest distance between two intra frames; at 1, every frame is one. `effort`: see `Codec.encode_video`;
    `written`: go on behind an unfinished file. Raises ImageError if that is not a part of this clip's sequence: its
    header, its quality, or its last intra frame differs.
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
        self.effort = check_effort(effort)
        if effort > 1:
            loaded.torch_networks("an effort above 1 for videos")
        self.header = SequenceHeader(loaded.fingerprint_of_sequence(gop), clip.format, gop)
        self.written = written or WrittenPart(self.header, 0, IndexBuilder())
        if self.written.header != self.header:
            raise ImageError("the unfinished file is of another clip, another model or another GOP")
        if self.written.last_intra is not None:
            rate.check(self._qualities_of(self.written.last_intra))
        self.builder, self.offset = self.written.builder, self.written.size_bytes
        self.n_written, self.n_media_to_skip = self.builder.n_frames, self.written.n_media_bytes
        self.media, self.started_s = b"", time.perf_counter()
        self.anchor: CodedPicture | None = None

    def _qualities_of(self, first: FrameRecord) -> list[int]:
        """Return the qualities of clips that may have such an intra frame."""
        if not self.header.is_predictive:
            return [first.quality]
        return [quality for quality in range(MAX_QUALITY + 1) if first.quality in first_qualities(quality)]

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

    # Planning

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
                is_cut = isinstance(planned, NewFrame) and planned.is_cut
                if group and (is_cut or self._is_full(group)):
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

    def _is_full(self, group: Sequence[PlannedFrame]) -> bool:
        new = new_frames(group)
        if not self.header.is_predictive:
            return len(new) == group_size(self.loaded.networks.positions_at_once, self._grid)
        has_last_anchor = bool(new) and new[-1].is_intra and not new[-1].is_cut
        most = GROUP_FRAMES + bool(new and new[0].is_cut)
        return has_last_anchor or len(new) == most or len(group) == LARGEST_GROUP

    @property
    def _grid(self) -> tuple[int, int]:
        return grid_of(self.clip.format.height, self.clip.format.width)

    def _planned(self) -> Iterator[tuple[TimedFrame, PlannedFrame]]:
        """Read frames, find those that equal the one before them, and those that have to be intra frames."""
        written, cuts, last_intra = self.written.last_intra, SceneCuts(), 0
        previous: NDArray[Any] | None = None
        for index, frame in enumerate(self.clip):
            if written is not None and index == written.index:
                self._check_written(written, frame)
            correction = frame.time - self.clip.format.nominal_time(index)
            is_due = index - last_intra >= self.gop
            may_repeat = index != self.n_written and not is_due
            if may_repeat and previous is not None and np.array_equal(frame.pixels, previous):
                yield frame, Repetition(index, correction)
                continue
            is_cut = self.header.is_predictive and (cuts.is_cut(frame.pixels) or index == self.n_written)
            is_intra = is_cut or is_due or not self.header.is_predictive
            last_intra = index if is_intra else last_intra
            yield frame, NewFrame(index, correction, frame.pixels, is_intra, is_cut)
            previous = frame.pixels

    def _check_written(self, record: FrameRecord, frame: TimedFrame) -> None:
        """Raise ImageError unless a frame of the unfinished file shows the frame of this clip at its place."""
        loaded, clip, original = self.loaded, self.clip.format, Picture(frame.pixels).pixels_8
        coder = GroupCoder(loaded, clip, record.quality, self.effort)
        [again] = coder.code_intra([NewFrame(record.index, record.correction, frame.pixels)]).records
        latents = (decode_record_latents(loaded, clip, [version]) for version in (record, again))
        decoded = (decode_intra(loaded, clip, latent, record.quality, precise=False) for latent in latents)
        found_db, expected_db = (psnr_db(original, as_reference(samples)) for [samples] in decoded)
        is_late = frame.time != self.clip.format.nominal_time(record.index) + record.correction
        if is_late or found_db < expected_db - TOLERANCE_DB:
            raise ImageError(f"frame {record.index} of the unfinished file is not that of this clip")

    # Coding

    def _encode(self, group: Sequence[PlannedFrame], seconds: float) -> list[FrameRecord]:
        """Encode a group of frames, with repetitions after the frames that they repeat."""
        new, shown = new_frames(group), -1 if self.anchor is None else self.anchor.index
        repetitions: dict[int, list[FrameRecord]] = {shown: []}
        for frame in group:
            if isinstance(frame, Repetition):
                repetitions[shown].append(FrameRecord(frame.index, (shown,), frame.correction))
            else:
                shown = frame.index
                repetitions[shown] = []
        records = next(iter(repetitions.values()))
        if new:
            coded = self.rate.encode(lambda quality: self._coded(new, quality), seconds)
            self.anchor = coded.anchor
            for record in coded.records:
                records += [record, *repetitions[record.index]]
        else:
            self.rate.idle(seconds)
        return records

    def _coded(self, frames: Sequence[NewFrame], quality: int) -> CodedGroup:
        """Encode new frames at a quality."""
        coder = GroupCoder(self.loaded, self.clip.format, quality, self.effort)
        return coder.code_hierarchy(frames, self.anchor) if self.header.is_predictive else coder.code_intra(frames)

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


def new_frames(group: Sequence[PlannedFrame]) -> list[NewFrame]:
    """The frames of a group that are no repetitions."""
    return [frame for frame in group if isinstance(frame, NewFrame)]
