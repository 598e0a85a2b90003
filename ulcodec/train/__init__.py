"""Training: two stages, a prior, the video's entropy model, a denoiser and a refiner over one loop.

`stage1` trains the codec, `stage2` a base model that draws latents, `prior` a codec's prior alone, `video` the entropy
model of predicted frames, `denoiser` the decoder's diffusion, `refiner` the encoder's last step. Each is a short file
over `loop.Loop`; `settings` holds what each takes. `objective` has the losses, `data` the pictures and clips,
`latent_data` the latents of stage 2, `latents` those that are stored, `residuals` those of predicted frames; `entropy`
is what `prior` and `video` share.

Import `Stage1Settings`, `Stage2Settings`, `PriorSettings`, `VideoSettings`, `DenoiserSettings` and `RefinerSettings`
from `settings`, and `train_stage1`, `train_stage2`, `train_prior`, `train_video`, `train_denoiser` and `train_refiner`
from the module of each.
`ulcodec.export` makes a model of a run. The package imports nothing of `ulcodec.codec`.
"""
