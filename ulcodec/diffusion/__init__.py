"""The mathematics of diffusion: noise schedules, sampler, noise, and the bound on a latent's description length.

Pure functions of tensors; they know no network. `schedule` holds the symbols and constants of Unified Latents
(arXiv 2602.17270).
"""
