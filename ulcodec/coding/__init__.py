"""Entropy coding of latents in integer arithmetic, bit for bit the same on every machine.

`latents` walks a latent through the reveal passes, encoding or decoding. `integer_prior` predicts in integers what is
coded, by the exact products of `products`; `symbols` and `tables` turn predictions and symbols into bytes through a
range coder. `quantise_prior` makes the integers from float weights, once, at export.
"""
