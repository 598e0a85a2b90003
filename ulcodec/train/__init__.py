"""Training: two stages and a denoiser over one loop.

`stage1` trains the codec, `stage2` a base model that draws latents, `denoiser` the decoder's diffusion. Each is a short
file over `loop.Loop`; `settings` holds what each takes. `objective` has the losses, `data` the pictures.

Import `Stage1Settings`, `Stage2Settings` and `DenoiserSettings` from `settings`, and `train_stage1`, `train_stage2` and
`train_denoiser` from the module of each. `ulcodec.export` makes a model of a run. The package imports nothing of
`ulcodec.codec`.
"""
