"""SOAP: Adam where a weight is no kernel, and Adam in turned axes where it is one."""

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


def test_a_table_is_trained_by_adam() -> None:
    gradients = random_gradients(8, 5)
    ours, theirs = (nn.Parameter(torch.ones(8, 5)) for _ in range(2))
    train(Soap([{"params": [ours]}], lr=0.01), ours, gradients)
    train(torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.98)), theirs, gradients)
    torch.testing.assert_close(ours, theirs)


def test_a_kernel_with_too_many_channels_is_trained_by_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LARGEST_SIDE", 2)
    gradients = random_gradients(6, 4, 3, 3)
    ours, theirs = (nn.Parameter(torch.ones(6, 4, 3, 3)) for _ in range(2))
    train(Soap([{"params": [ours]}], lr=0.01), ours, gradients)
    train(torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.98)), theirs, gradients)
    torch.testing.assert_close(ours, theirs)


def last_change(optimizer_of: Callable[[nn.Parameter], torch.optim.Optimizer], gradients: list[Tensor]) -> Tensor:
    weight = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = optimizer_of(weight)
    before = train(optimizer, weight, gradients[:-1]).clone()
    return train(optimizer, weight, gradients[-1:]) - before


def test_turned_channels_turn_the_steps_as_adam_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -3, 6)[:, None, None, None]
    gradients = [scales * torch.randn(6, 4, 1, 1, generator=generator) for _ in range(300)]
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    turned = [torch.einsum("ij,jkhw->ikhw", turn, gradient) for gradient in gradients]

    def difference(optimizer_of: Callable[[nn.Parameter], torch.optim.Optimizer]) -> float:
        change, other = (last_change(optimizer_of, sequence) for sequence in (gradients, turned))
        back = torch.einsum("ji,jkhw->ikhw", turn, other)
        return float((back - change).norm() / change.norm())

    assert difference(lambda weight: Soap([{"params": [weight]}], lr=1.0)) < 0.2
    assert difference(lambda weight: torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.98))) > 0.5


def test_bases_stay_orthonormal_and_no_gradient_is_no_harm() -> None:
    weight = nn.Parameter(torch.zeros(6, 4, 3, 3).to(memory_format=torch.channels_last))
    optimizer = Soap([{"params": [weight]}], lr=0.01)
    train(optimizer, weight, [torch.zeros(6, 4, 3, 3)] * 12 + random_gradients(6, 4, 3, 3))
    state = optimizer.state[weight]
    for side, size in (("out", 6), ("in", 4)):
        basis = state[f"basis_{side}"]
        torch.testing.assert_close(basis.T @ basis, torch.eye(size), atol=1e-5, rtol=0)
    assert weight.isfinite().all()
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_cholesky_gives_the_columns_that_qr_gives() -> None:
    generator = torch.Generator().manual_seed(5)
    turned = torch.linalg.qr(torch.randn(3, 24, 24, generator=generator, dtype=torch.float64))[0]
    spread = torch.logspace(0, -9, 24, dtype=torch.float64)
    columns = turned @ torch.diag(spread) @ (torch.eye(24) + 0.1 * torch.randn(3, 24, 24, generator=generator)).double()
    found, expected = _by_cholesky(columns), torch.linalg.qr(columns)[0]
    eye = torch.eye(24, dtype=torch.float64).expand(3, -1, -1)
    torch.testing.assert_close(found.mT @ found, eye, atol=1e-6, rtol=0)
    assert ((found * expected).sum(1).abs() > 0.999).all()


def test_rows_and_back() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = torch.randn(5, 3, 3, 3).to(memory_format=layout)
        assert as_rows(kernel).shape == (5, 9, 3)
        assert torch.equal(as_kernel(as_rows(kernel), kernel), kernel)
