"""Write small clips, and run `ulcodec bench` on clips."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from typer.testing import CliRunner, Result

from ulcodec_cli.main import app


def moving_frames(picture: np.ndarray, n_frames: int, width: int, height: int) -> list[np.ndarray]:
    """A view that moves over a picture by two pixels a frame."""
    return [np.ascontiguousarray(picture[8 : 8 + height, 2 * x : 2 * x + width]) for x in range(n_frames)]


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    rate: Fraction | int = 25,
    pixel_format: str = "yuv420p",
    encoder: str = "ffv1",
    title: str | None = None,
    **options: str,
) -> Path:
    """Write RGB frames as a video, by default without loss."""
    with av.open(str(path), "w") as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def invoke(paths: Sequence[Path], model: Path, out: Path, *options: str) -> Result:
    """Run the command on clips with quick defaults before `options`."""
    defaults = ["-o", out, "--model", model, "--codecs", "x264-medium,x265-medium", "--device", "cpu", "--quick"]
    return CliRunner().invoke(app, ["bench", *map(str, [*paths, *defaults]), *options])


def bench_clips(paths: Sequence[Path], model: Path, out: Path, *options: str) -> Result:
    """Run the command, which has to succeed."""
    finished = invoke(paths, model, out, *options)
    assert finished.exit_code == 0, finished.output
    return finished
