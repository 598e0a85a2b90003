"""Rounding of a layer's weights to integers that compensates for each error with the weights that are left to round."""

import torch
from torch import Tensor

DAMPING = 1e-3
"""Share of the mean second moment that is added to each moment, so that weights of unseen inputs do not change."""


def round_with_compensation(weight: Tensor, bias: Tensor, moments: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Round weights to integers so that the layer's outputs change little on the inputs that it sees.

    weight [out, in] and bias [out] are in units of the integers. moments [in + 1, in + 1] are sums of products of
    inputs, the last of which is the 1 of the bias. All float64. Returns integers within +-`limit`, and a bias that is
    not rounded. Inputs are processed from the strongest to the weakest (GPTQ, Frantar et al. 2022, arXiv 2210.17323,
    in its plain form).
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
