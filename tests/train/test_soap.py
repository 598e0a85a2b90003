"""SOAP: Adam in rotated axes for kernels of convolutions, and plain Adam for other weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ulcodec.train import soap
from ulcodec.train.soap import Soap, _by_cholesky, as_kernel, as_rows


def train(optimizer: torch.optim.Optimizer, weight: Tensor, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def random_gradients(*shape: int, count: int = 25) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(shape, generator=generator)
    return [spread * torch.randn(shape, generator=generator) for _ in range(count)]


def test_matrices_are_trained_by_adam() -> None:
    gradients = random_gradients(8, 5)
    soap_weight, adam_weight = (nn.Parameter(torch.ones(8, 5)) for _ in range(2))
    train(Soap([{"params": [soap_weight]}], lr=0.01), soap_weight, gradients)
    train(torch.optim.Adam([adam_weight], lr=0.01, betas=(0.9, 0.98)), adam_weight, gradients)
    torch.testing.assert_close(soap_weight, adam_weight)


def test_kernels_with_too_many_channels_are_trained_by_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LARGEST_SIDE", 2)
    gradients = random_gradients(6, 4, 3, 3)
    soap_weight, adam_weight = (nn.Parameter(torch.ones(6, 4, 3, 3)) for _ in range(2))
    train(Soap([{"params": [soap_weight]}], lr=0.01), soap_weight, gradients)
    train(torch.optim.Adam([adam_weight], lr=0.01, betas=(0.9, 0.98)), adam_weight, gradients)
    torch.testing.assert_close(soap_weight, adam_weight)


def last_change(optimizer_of: Callable[[nn.Parameter], torch.optim.Optimizer], gradients: list[Tensor]) -> Tensor:
    weight = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = optimizer_of(weight)
    before = train(optimizer, weight, gradients[:-1]).clone()
    return train(optimizer, weight, gradients[-1:]) - before


def test_steps_rotate_with_the_channels_unlike_those_of_adam() -> None:
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -3, 6)[:, None, None, None]
    gradients = [scales * torch.randn(6, 4, 1, 1, generator=generator) for _ in range(300)]
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    rotated = [torch.einsum("ij,jkhw->ikhw", rotation, gradient) for gradient in gradients]

    def difference(optimizer_of: Callable[[nn.Parameter], torch.optim.Optimizer]) -> float:
        change, rotated_change = (last_change(optimizer_of, sequence) for sequence in (gradients, rotated))
        rotated_back = torch.einsum("ji,jkhw->ikhw", rotation, rotated_change)
        return float((rotated_back - change).norm() / change.norm())

    assert difference(lambda weight: Soap([{"params": [weight]}], lr=1.0)) < 0.2
    assert difference(lambda weight: torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.98))) > 0.5


def test_bases_stay_orthonormal_after_zero_gradients() -> None:
    weight = nn.Parameter(torch.zeros(6, 4, 3, 3).to(memory_format=torch.channels_last))
    optimizer = Soap([{"params": [weight]}], lr=0.01)
    train(optimizer, weight, [torch.zeros(6, 4, 3, 3)] * 12 + random_gradients(6, 4, 3, 3))
    state = optimizer.state[weight]
    for side, size in (("out", 6), ("in", 4)):
        basis = state[f"basis_{side}"]
        torch.testing.assert_close(basis.T @ basis, torch.eye(size), atol=1e-5, rtol=0)
    assert weight.isfinite().all()
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_cholesky_and_qr_give_the_same_columns() -> None:
    generator = torch.Generator().manual_seed(5)
    orthogonal = torch.linalg.qr(torch.randn(3, 24, 24, generator=generator, dtype=torch.float64))[0]
    spread = torch.logspace(0, -9, 24, dtype=torch.float64)
    columns = (
        orthogonal @ torch.diag(spread) @ (torch.eye(24) + 0.1 * torch.randn(3, 24, 24, generator=generator)).double()
    )
    by_cholesky, by_qr = _by_cholesky(columns), torch.linalg.qr(columns)[0]
    eye = torch.eye(24, dtype=torch.float64).expand(3, -1, -1)
    torch.testing.assert_close(by_cholesky.mT @ by_cholesky, eye, atol=1e-6, rtol=0)
    assert ((by_cholesky * by_qr).sum(1).abs() > 0.999).all()


def test_kernels_become_rows_and_back() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = torch.randn(5, 3, 3, 3).to(memory_format=layout)
        assert as_rows(kernel).shape == (5, 9, 3)
        assert torch.equal(as_kernel(as_rows(kernel), kernel), kernel)
