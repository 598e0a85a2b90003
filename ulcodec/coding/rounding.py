"""Rounding of a layer's weights to integers, each error made good by the weights that are still to be rounded."""

import torch
from torch import Tensor

DAMPING = 1e-3
"""Share of the mean second moment that is added to each, so that inputs which were never seen stay as they are."""


def round_with_compensation(weight: Tensor, bias: Tensor, moments: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Integers in place of `weight` whose layer gives about the same on the inputs it sees, and a bias to go with them.

    weight [out, in] and bias [out] in units of the integers; moments [in + 1, in + 1]: sums of the products of inputs,
    the last of which is the 1 of the bias. All float64. Returns integers within +-`limit` and a bias that need not be
    one. Inputs are taken from the strongest on (GPTQ, Frantar et al. 2022, arXiv 2210.17323, in the plain form).
    """
    n_inputs = weight.shape[1]
    strength = moments.diagonal()[:n_inputs]
    order = torch.cat((strength.argsort(descending=True), torch.tensor([n_inputs])))
    damped = moments + torch.eye(n_inputs + 1, dtype=moments.dtype) * (DAMPING * strength.mean()).clamp(min=1e-12)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped[order][:, order]), upper=True)
    left = torch.cat((weight, bias[:, None]), dim=1)[:, order]
    for i in range(n_inputs):
        rounded = left[:, i].round().clamp(-limit, limit)
        left[:, i + 1 :] -= torch.outer((left[:, i] - rounded) / factor[i, i], factor[i, i + 1 :])
        left[:, i] = rounded
    result = torch.empty_like(left)
    result[:, order] = left
    return result[:, :n_inputs], result[:, n_inputs]
