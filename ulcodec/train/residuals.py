"""Latents of predicted frames, as an encoder makes them, for the video's entropy model to learn from.

A frame with the quality of its latent is predicted from one or two frames around it. These are coded as intra frames of
the same or a higher quality. With the predicted picture p, the latent is `d = E(x) - E(p)`.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.devices import autocast
from ulcodec.errors import TrainingError
from ulcodec.io.sources import LeftOut
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.motion.compensation import compensate
from ulcodec.motion.search import Reference, find_motion
from ulcodec.train.data.clips import Clip, Frames, clips_of_run
from ulcodec.train.data.loading import held_out_every
from ulcodec.train.data.pictures import empty_set
from ulcodec.train.latents import LatentSet, Tensors
from ulcodec.train.log import Timer
from ulcodec.train.objective import decode_pictures
from ulcodec.train.settings import VideoSettings

FORWARD_SHARES = {1: 0.3, 2: 0.2, 4: 0.2, 8: 0.2, 16: 0.1}
"""How often the reference of a P frame lies so many frames before it."""

BOTH_SHARES = {1: 0.4, 2: 0.25, 4: 0.2, 8: 0.15}
"""How often the references of a B frame lie so many frames before and after it."""

BOTH_SHARE = 0.65
"""Share of B frames."""

HIGHEST_QUALITY, HIGHEST_OFFSET = 100, 50
"""Highest quality of predicted frames, and highest difference of their references' quality to theirs."""

GOLDEN_RATIO = (5**0.5 - 1) / 2
REPORT_SECONDS = 10.0


class View(NamedTuple):
    """A predicted frame of a clip: its index, the indices of its references, and the qualities of both."""

    frame: int
    references: tuple[int, ...]
    quality: int
    reference_quality: int


def draw_view(n_frames: int, quality: int, random: np.random.Generator) -> View:
    """Draw a predicted frame of a clip of at least two frames."""
    has_both = n_frames > 2 and random.random() < BOTH_SHARE
    shares = BOTH_SHARES if has_both else FORWARD_SHARES
    longest = (n_frames - 1) // 2 if has_both else n_frames - 1
    distances = [distance for distance in shares if distance <= longest]
    weights = np.array([shares[distance] for distance in distances])
    distance = int(random.choice(distances, p=weights / weights.sum()))
    frame = int(random.integers(distance, n_frames - distance if has_both else n_frames))
    references = (frame - distance, frame + distance) if has_both else (frame - distance,)
    offset = int(random.integers(HIGHEST_OFFSET + 1))
    return View(frame, references, quality, min(quality + offset, 100))


@torch.no_grad()
def residual_latent(model: UnifiedLatentModel, frames: Frames, view: View) -> Tensor:
    """Compute the latent of a predicted frame in bins: float16 [h, w, C], on the CPU."""
    references = decoded(model, frames[list(view.references)], view.reference_quality)
    lagrangian = model.config.lagrangian(view.quality / 100)
    motion = find_motion(frames[view.frame], [Reference(pixels) for pixels in references], lagrangian)
    prediction = compensate(references, motion)
    x = batch_of(model, np.stack((frames[view.frame], prediction)))
    with autocast(x.device, precise=True):  # as in files: the difference is small beside its terms
        y, _ = model.encoder(x, x.new_full((2,), view.quality / 100))
    residual: Tensor = y[0] - y[1]
    return residual.permute(1, 2, 0).half().cpu()


def decoded(model: UnifiedLatentModel, frames: Frames, quality: int) -> list[NDArray[np.uint8]]:
    """Encode and decode frames as intra frames, rounded to 8 bits as references are."""
    x = batch_of(model, frames)
    with autocast(x.device):
        _, mean = decode_pictures(model, x, x.new_full((len(x),), quality / 100))
    pixels = (255 * mean.float()).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def batch_of(model: UnifiedLatentModel, frames: Frames) -> Tensor:
    """Convert frames to the model's input: float32 [N, 3, H, W] in [0, 1]."""
    x = torch.from_numpy(frames).to(next(model.parameters()).device)
    return (x.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)


class Collection:
    """Latents of predicted frames that are being encoded, with their qualities from 0 to 100."""

    def __init__(self) -> None:
        self.latents: list[Tensor] = []
        self.qualities: list[int] = []

    def add(self, model: UnifiedLatentModel, clip: Clip, n_views: int, random: np.random.Generator) -> None:
        """Encode predicted frames of a clip. Multiples of the golden ratio spread the qualities evenly."""
        for _ in range(n_views):
            place = (len(self.latents) + 1) * GOLDEN_RATIO % 1
            view = draw_view(len(clip.frames), int(place * (HIGHEST_QUALITY + 1)), random)
            self.latents.append(residual_latent(model, clip.frames, view))
            self.qualities.append(view.quality)

    def tensors(self) -> Tensors:
        """Return the tensors of a `LatentSet`, and forget the latents."""
        order = np.argsort(self.qualities, kind="stable")
        sizes = np.array([latent.shape[:2] for latent in self.latents], dtype=np.int64)[order]
        latents = empty_set(sizes, self.latents[0].shape[2], torch.float16)
        for number, source in enumerate(order):
            latents.picture(number).copy_(self.latents[source])
            self.latents[source] = torch.empty(0)
        qualities = torch.tensor(self.qualities, dtype=torch.float32)[torch.from_numpy(order)] / 100
        return LatentSet(latents, qualities).tensors()


def encode_clips(model: UnifiedLatentModel, settings: VideoSettings, left_out: LeftOut) -> tuple[Tensors, Tensors]:
    """Encode predicted frames of the clips of a run: training and validation latents, the tensors of a `LatentSet`.

    Whole scenes are held out, every `1 / validation_share`-th. `left_out` counts clips that are not used. Raises
    TrainingError if there are fewer than two scenes.
    """
    training, validation = encode_scenes(model, clips_of_run(settings, left_out), settings)
    if not training.latents or not validation.latents:
        n_scenes = int(bool(validation.latents))
        message = f"found clips of {n_scenes} scenes with sides of at least {settings.crop_px} px; need two or more"
        raise TrainingError(left_out.after(message))
    return training.tensors(), validation.tensors()


def encode_scenes(
    model: UnifiedLatentModel, clips: Iterable[Clip], settings: VideoSettings
) -> tuple[Collection, Collection]:
    """Encode predicted frames of clips for training and for validation, and report the progress."""
    every, scenes = held_out_every(settings.validation_share), dict[str, int]()
    training, validation = parts = Collection(), Collection()
    started_s = time.monotonic()
    timer = Timer(REPORT_SECONDS, started_s)
    for number, clip in enumerate(clips):
        is_held_out = scenes.setdefault(clip.scene, len(scenes)) % every == 0
        parts[is_held_out].add(model, clip, settings.views, np.random.default_rng((settings.seed, number)))
        if timer.is_due(now_s := time.monotonic()):
            timer.restart(now_s)
            n_frames = len(training.latents) + len(validation.latents)
            print(
                f"encoded {n_frames} frames of {number + 1} clips, {(now_s - started_s) / n_frames:.2f} s each",
                flush=True,
            )
    return training, validation
