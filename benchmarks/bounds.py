"""Compare both bounds on the description length of latents: continuous-time bound, and reveal chain.

    python -m benchmarks.bounds --model runs/exported --images FOLDER

For crops of pictures at one quality it prints, in bits per pixel: UL's bound on `KL[q(z_0 | x) || p(z_0)]` (the prior
without the hyper-latent, Gaussian noise, averaged over noise levels), the float prior's bound along the reveal chain of
what was coded (hyper-latent included), and the file.
"""

import argparse
from pathlib import Path

import torch

import ulcodec
from ulcodec.bench.pictures import find_pictures, fitted
from ulcodec.codec.image import Codec
from ulcodec.codec.tensors import to_padded_tensor
from ulcodec.diffusion.bound import latent_bound_nats
from ulcodec.diffusion.schedule import NATS_TO_BITS

CROP_PX = 256
N_LEVELS = 64


def continuous_bits(codec: Codec, x: torch.Tensor, quality: int) -> float:
    """Bound of a picture x [1, 3, H, W] by Unified Latents, averaged over `N_LEVELS` stratified noise levels."""
    q = torch.full((N_LEVELS,), quality / 100, device=codec.device)
    generator = torch.Generator(codec.device).manual_seed(0)
    with torch.inference_mode():
        z = codec.model.encode_clean(x, q[:1]).expand(N_LEVELS, -1, -1, -1)
        nats = latent_bound_nats(lambda z_t, log_snr: codec.model.denoise_latent(z_t, log_snr, q), z, generator)
    return float(nats.mean()) * NATS_TO_BITS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, help="folder of pictures (default: the sample pictures of scikit-image)")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--quality", type=int, default=50)
    arguments = parser.parse_args()
    codec = ulcodec.load(arguments.model)
    n_px = CROP_PX**2
    print(f"{'picture':<24}{'continuous':>12}{'chain':>12}{'file':>12}   bits per pixel")
    for picture in find_pictures(arguments.images, arguments.limit):
        pixels = fitted(picture, CROP_PX, CROP_PX).pixels
        described = codec.describe(codec.encode(pixels, quality=arguments.quality))
        continuous = continuous_bits(codec, to_padded_tensor(pixels, codec.device), arguments.quality)
        row = (continuous, described["bound_bits"], described["file_bits"])
        print(f"{picture.name:<24}" + "".join(f"{bits / n_px:12.4f}" for bits in row))


if __name__ == "__main__":
    main()
