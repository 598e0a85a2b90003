"""The networks, their configurations, and nothing else: no file access, no integer arithmetic, no training.

`unified.UnifiedLatentModel` is the codec's model: `encoder`, `prior`, `decoder`. `likelihood` gives the prior's bits
along the reveal schedule of `reveal`. `paper` is the architecture of the paper, `base_model` the one of stage 2; both
are made of `transformer`. `presets` names the configurations of `config`, `build` makes their networks.
"""
