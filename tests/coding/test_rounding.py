"""Rounding of weights with compensation of the errors."""

import torch

from ulcodec.coding.rounding import round_with_compensation


def layer(n_outputs: int = 16, n_inputs: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    weight = 20 * torch.randn(n_outputs, n_inputs, generator=generator, dtype=torch.float64)
    return weight, 20 * torch.randn(n_outputs, generator=generator, dtype=torch.float64)


def test_uncorrelated_inputs_give_the_nearest_integers() -> None:
    weight, bias = layer()
    integers, compensated_bias = round_with_compensation(weight, bias, torch.eye(41, dtype=torch.float64), 127)
    assert torch.equal(integers, weight.round().clamp(-127, 127))
    torch.testing.assert_close(compensated_bias, bias)


def test_correlated_inputs_share_the_error() -> None:
    weight, bias = layer()
    generator = torch.Generator().manual_seed(3)
    factors = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    x = factors @ torch.randn(4, 40, generator=generator, dtype=torch.float64)
    x = torch.cat((x + 0.1 * torch.randn(500, 40, generator=generator, dtype=torch.float64) + 1, torch.ones(500, 1)), 1)
    integers, compensated_bias = round_with_compensation(weight, bias, x.T @ x, 127)
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() <= 127

    def error(new_weight: torch.Tensor, new_bias: torch.Tensor) -> float:
        change = torch.cat((new_weight - weight, (new_bias - bias)[:, None]), dim=1)
        return float((x @ change.T).norm())

    assert error(integers, compensated_bias) < error(weight.round(), bias) / 3


def test_unseen_inputs_give_the_nearest_integers() -> None:
    weight, bias = layer()
    integers, _ = round_with_compensation(weight, bias, torch.zeros(41, 41, dtype=torch.float64), 127)
    assert torch.equal(integers, weight.round().clamp(-127, 127))
