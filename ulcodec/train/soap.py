"""SOAP: Adam in the eigenbases of the gradient's covariances (Vyas et al. 2024, arXiv 2409.11321)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

LARGEST_SIDE = 512
"""A side of a kernel with more channels keeps its own axes."""


class Soap(torch.optim.Optimizer):
    """SOAP for convolution kernels, Adam for everything else; no weight decay.

    A kernel's gradient [out, in, h, w] has a covariance over its output channels and one over its input channels:
    running means with `covariance_beta`. Adam's second moments live in their eigenbases; the first ones in the kernel's
    own axes. The bases start as these axes and follow by orthogonal iteration (LAPACK's eigensolver gives up on some
    covariances of single gradients): a round at each of the first `interval` steps, then one every `interval` steps. A
    kernel's first step only measures. State is float32, kernels' in the order [out, h w, in].
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        covariance_beta: float = 0.95,
        interval: int = 10,
        eps: float = 1e-8,
    ):
        super().__init__(groups, {"lr": lr})
        self.betas, self.covariance_beta, self.interval, self.eps = betas, covariance_beta, interval, eps

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure that measures the loss again
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, group["lr"])

    def update(self, weight: Tensor, lr: float) -> None:
        assert weight.grad is not None
        gradient, state = as_rows(weight.grad), self.state[weight]
        own_sides = sides(gradient)
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            for side in own_sides:
                state[f"covariance_{side}"] = covariance(gradient, side)
                state[f"basis_{side}"] = torch.eye(len(state[f"covariance_{side}"]), device=gradient.device)
            if own_sides:
                return
        fast, slow = self.betas
        state["step"] += 1
        step = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - fast)
        state["exp_avg_sq"].lerp_(to_eigenbases(gradient, state).square(), 1 - slow)
        spread = (state["exp_avg_sq"] / (1 - slow**step)).sqrt_().add_(self.eps)
        change = from_eigenbases(to_eigenbases(state["exp_avg"], state) / spread, state)
        weight.sub_(as_kernel(change, weight), alpha=lr / (1 - fast**step))
        renew = step <= self.interval or step % self.interval == 0
        for side in own_sides:
            self.follow(state, side, covariance(gradient, side), renew=renew)

    def follow(self, state: dict[str, Tensor], side: str, found: Tensor, *, renew: bool) -> None:
        """Update a side's covariance and, when it is time, its eigenbasis, strongest first."""
        mean = state[f"covariance_{side}"].lerp_(found, 1 - self.covariance_beta)
        if renew:
            basis = state[f"basis_{side}"]
            product = mean @ basis
            order = (basis * product).sum(0).argsort(descending=True)
            state[f"basis_{side}"] = torch.linalg.qr(product[:, order])[0].contiguous()
            state["exp_avg_sq"] = state["exp_avg_sq"].index_select(0 if side == "out" else 2, order)


def as_rows(kernel: Tensor) -> Tensor:
    """A kernel [out, in, h, w] as [out, h w, in]; other weights as they are."""
    return kernel.permute(0, 2, 3, 1).flatten(1, 2).contiguous() if kernel.ndim == 4 else kernel


def as_kernel(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_rows`, for a weight shaped as `like`."""
    if like.ndim < 4:
        return rows
    return rows.view(rows.shape[0], *like.shape[2:], rows.shape[2]).permute(0, 3, 1, 2)


def sides(rows: Tensor) -> list[str]:
    """The sides that have a covariance: none of a weight that is no kernel."""
    if rows.ndim < 3:
        return []
    return [side for side, size in (("out", rows.shape[0]), ("in", rows.shape[2])) if size <= LARGEST_SIDE]


def covariance(rows: Tensor, side: str) -> Tensor:
    matrix = rows.flatten(1) if side == "out" else rows.flatten(0, 1).T
    return matrix @ matrix.T


def to_eigenbases(rows: Tensor, state: dict[str, Tensor]) -> Tensor:
    if "basis_out" in state:
        rows = (state["basis_out"].T @ rows.flatten(1)).view(rows.shape)
    return rows @ state["basis_in"] if "basis_in" in state else rows


def from_eigenbases(rows: Tensor, state: dict[str, Tensor]) -> Tensor:
    if "basis_out" in state:
        rows = (state["basis_out"] @ rows.flatten(1)).view(rows.shape)
    return rows @ state["basis_in"].T if "basis_in" in state else rows
