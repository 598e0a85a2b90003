"""The networks and their configurations, without file access, integer arithmetic or training.

`unified.UnifiedLatentModel` is the codec's model: `encoder`, `prior`, `decoder`, made of `blocks` with the initial
weights of `initialisation`, and run over `tiles`. `likelihood` computes the prior's bits along the reveal schedule of
`reveal`. `paper` is the architecture of the paper, for pictures and clips, `base_model` that of stage 2; both use
`transformer`. `latent_diffusion` is what all models of the objective `ul` can do. `config` and `presets` hold the
configurations, `build` makes their networks. `fusion` marks functions to compile for a GPU.

Import `preset` from `presets`, `build_model` from `build`, `ModelConfig` from `config`, and `UnifiedLatentModel` from
`unified`.
"""
