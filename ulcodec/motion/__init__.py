"""Motion of predicted frames: the motion field, its bytes, the prediction that it makes, and its search.

`field` defines a motion field. `coding` turns it into bytes and back. `compensation` predicts a picture from decoded
pictures and a field. Both are part of the format, in integer arithmetic: every machine gets the same bytes and pixels.
`search` finds the field; only the encoder needs it, so it may use floating point.

Shapes: `R` reference pictures, 1 or 2; `H W` pixels; `h w` blocks of 16x16 pixels; `C` colour channels.

Import `MotionField` from `field`, `encode_field` and `decode_field` from `coding`, `compensate` from `compensation`,
`Reference` and `find_motion` from `search`. Corrupt bytes raise `CorruptDataError`.
"""
