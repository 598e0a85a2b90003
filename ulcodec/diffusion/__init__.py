"""The mathematics of diffusion: noise schedules, sampler, noise, and the bound on a latent's description length.

Functions of tensors, without any network. `schedule` holds the symbols and constants of Unified Latents (arXiv
2602.17270). `gaussian` is the exact denoiser of a Gaussian. `bound` estimates description lengths, `sampler` draws
samples. `noise` is tied to pixel positions, `batch_noise` is shared by the workers of a training run.

Import each function from its module; `schedule` is where to look up a symbol of the paper.
"""
