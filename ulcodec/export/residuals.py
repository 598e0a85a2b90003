"""Calibrate the entropy model of predicted frames to the latents of its run, each coded at its own quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from ulcodec.codec.networks import Array
from ulcodec.codec.tensors import channels_last, latent_tensor, quality_tensor
from ulcodec.coding.latents import LatentCoder, encode_frames, hyper_grid
from ulcodec.devices import choose_device
from ulcodec.export.calibration import fitted
from ulcodec.model.blocks import QualityTable
from ulcodec.model.likelihood import chain_bits
from ulcodec.model.unified import EntropyModel
from ulcodec.progress import tracked
from ulcodec.store.model_directory import StoredEntropyModel, StoredModel
from ulcodec.store.tensor_files import read_tensors
from ulcodec.train.latents import LatentSet

N_GROUPS, N_QUALITIES, WINDOW = 48, 6, 32
"""Groups of latents, qualities of each, and most positions per side of a latent."""

MEASURED_GROUPS, N_RANGES = 8, 3
"""Groups whose files are measured, and ranges of their qualities."""

Group = Mapping[int, Tensor]
"""Latents [h, w, C] float16 in bins by their qualities, 0 to 100, in increasing order."""


@dataclass(frozen=True)
class ResidualCoding:
    """Codes groups of stored latents, as `ulcodec.codec.prediction` does. `encoder_log_gain`: the codec's."""

    model: EntropyModel
    coder: LatentCoder
    device: torch.device
    encoder_log_gain: QualityTable

    def analyse(self, group: Group, quality: int) -> tuple[Array, Array]:
        """Return the latent [h, w, C] of a quality, and its hyper-latent."""
        y = group[quality].to(self.device, torch.float32).permute(2, 0, 1)[None]
        q = quality_tensor(quality, self.device)
        with torch.inference_mode():
            hyper = self.model.hyper_encoder(y / self.encoder_log_gain.gain(q), q)
        return channels_last(y)[0], channels_last(hyper)[0]


def groups_of_run(run_dir: Path) -> list[Group]:
    """Read some of a run's training latents, in groups that cover the qualities evenly; none if it has no latents."""
    path = run_dir / "latents"
    if not path.exists():
        return []
    latents, qualities = LatentSet.of(read_tensors(path, "training"))
    n_groups = max(1, min(N_GROUPS, len(qualities) // N_QUALITIES))
    groups = list[Group]()
    for number in range(n_groups):
        places = [(step + (number + 0.5) / n_groups) / N_QUALITIES for step in range(N_QUALITIES)]
        chosen = [int(place * len(qualities)) for place in places]
        groups.append(
            {round(100 * float(qualities[place])): latents.picture(place)[:WINDOW, :WINDOW] for place in chosen}
        )
    return groups


def with_calibrated_video(stored: StoredModel, groups: Sequence[Group]) -> StoredModel:
    """Round, shift and fit the video's integers to the files of groups, see `fitted`."""
    assert stored.video is not None
    video = fitted(stored.video, lambda part: residual_coding(stored, part), groups, list)
    return replace(stored, video=video)


def residual_coding(stored: StoredModel, video: StoredEntropyModel) -> ResidualCoding:
    """Load an entropy model of predicted frames, and what its codec's encoder gives it."""
    device = choose_device("auto")
    log_gain = stored.networks(device).encoder.log_gain
    return ResidualCoding(video.networks(device), video.coder(device), device, log_gain)


def residual_costs(stored: StoredModel, groups: Sequence[Group]) -> dict[int, float]:
    """Measure payloads above the float prior's bound, in percent, in ranges of the quality; keys are their means."""
    assert stored.video is not None
    coding = residual_coding(stored, stored.video)
    files = sorted(((quality, group) for group in groups for quality in group), key=lambda file: file[0])
    ends = [round(number * len(files) / N_RANGES) for number in range(N_RANGES + 1)]
    parts = [part for start, end in pairwise(ends) if (part := files[start:end])]
    costs = {}
    for part in tracked(parts, "measuring files"):
        bits = [measured_bits(coding, quality, group) for quality, group in part]
        payload_bits, bound_bits = (sum(values) for values in zip(*bits, strict=True))
        costs[round(fmean(quality for quality, _ in part))] = 100 * (payload_bits / bound_bits - 1)
    return costs


def measured_bits(coding: ResidualCoding, quality: int, group: Group) -> tuple[float, float]:
    """Measure the payload of a latent, and the float prior's bound on it."""
    y, hyper = coding.analyse(group, quality)
    [frame] = encode_frames(coding.coder, y[None], hyper[None], quality)
    grid, latent = (y.shape[0], y.shape[1]), frame.latent
    restored = latent_tensor(latent.y_16, grid, coding.device)
    restored_hyper = latent_tensor(latent.hyper_16, hyper_grid(grid), coding.device)
    with torch.inference_mode(), torch.autocast(coding.device.type, enabled=False):
        bound_bits = chain_bits(coding.model, restored, restored_hyper, quality_tensor(quality, coding.device))
    return 8.0 * len(frame.payload), float(bound_bits)
