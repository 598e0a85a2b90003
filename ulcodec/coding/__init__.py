"""Entropy coding of latents in integer arithmetic, bit for bit the same on every machine.

`latents` walks a latent through the reveal passes, encoding or decoding. `integer_prior` predicts the distributions in
integers; it consists of the layers of `integer_layers`, which use the exact products of `products`. `symbols` turns
symbols into bytes by the frequency tables of `tables`, through the range coder that `backend` chooses. `quantise_prior`
(with `rounding`) makes the integers from float weights, once, at export.

Import `LatentCoder` and the functions that take one from `latents`, `IntegerPrior` from `integer_prior`, and
`integer_tensors` from `quantise_prior`. Corrupt data raise a `FormatError`, unusable integers a `ModelError`.
"""
