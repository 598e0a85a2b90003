"""Training: two stages and a denoiser over one loop.

`stage1` trains the codec, `stage2` a base model that draws latents, `denoiser` the decoder's diffusion. Each is a short
file over `loop.Loop`; `settings` holds what each takes. `objective` has the losses, `data` the pictures.
Imports nothing of the package `codec`.
"""
