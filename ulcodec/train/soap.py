"""SOAP: Adam in the eigenbases of the gradient's covariances (Vyas et al. 2024, arXiv 2409.11321)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LARGEST_SIDE = 512
"""Largest number of channels of a side of a kernel that gets an eigenbasis."""

SIDES = {"out": 1, "in": 3}
"""Sides of a kernel that may have a covariance, and their axes in a stack."""

N_ROUNDS, SHIFT = 2, 1e-12
"""Rounds and shift of the Cholesky factorisation in `_by_cholesky`. A round scales the smallest singular value by up to
1e6."""

State = dict[str, Tensor]


@dataclass
class Stack:
    """Weights of one shape and learning rate, which are updated together.

    `state`: tensors whose first axis numbers the weights; the optimiser's state holds views of them. `n_steps`: steps
    counted on the host, also those that a CUDA graph replays; -1 before the step at which kernels only measure.
    """

    weights: list[Tensor]
    lr: Tensor
    state: State
    n_steps: int


class Soap(torch.optim.Optimizer):
    """SOAP for convolution kernels, Adam for everything else; no weight decay.

    A kernel's gradient [out, in, h, w] has a covariance over its output channels and one over its input channels:
    running means with `covariance_beta`. Adam's second moments are kept in their eigenbases, the first moments in the
    axes of the kernel. The bases start as these axes and follow by orthogonal iteration, since LAPACK's eigensolver
    fails on some covariances of single gradients. There is a round at each of the first `interval` steps, then one
    every `interval` steps. A kernel's first step only measures. State is float32, for kernels as [out, h w, in].

    Weights of one shape are one batch of every product. Weights without a gradient at the first step are never updated.
    `advance` never waits for the device, so that a CUDA graph can capture it; `renew` does the rest of a step outside.
    The learning rate of a group is a tensor, to be filled.
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
        self.stacks: list[Stack] = []
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device).clone()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.stacks = []

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure that measures the loss again
        self.advance()
        self.renew()

    @torch.no_grad()
    def advance(self) -> None:
        """Update the weights in the present bases."""
        if not self.stacks:
            self.build_stacks()
        for stack in self.stacks:
            if stack.n_steps >= 0:
                self.update(stack)

    @torch.no_grad()
    def renew(self) -> None:
        """Update the bases if it is time, all of one size together. Call it after every `advance`."""
        due: dict[int, list[tuple[State, str]]] = {}
        for stack in self.stacks:
            stack.n_steps += 1
            if stack.n_steps > 0 and (stack.n_steps <= self.interval or stack.n_steps % self.interval == 0):
                for side in SIDES:
                    if f"basis_{side}" in stack.state:
                        due.setdefault(stack.state[f"basis_{side}"].shape[-1], []).append((stack.state, side))
        for members in due.values():
            _update_bases(members)

    def build_stacks(self) -> None:
        """Group the weights that have gradients into stacks, with the loaded state or a new one."""
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault((*weight.shape, bool(self.state[weight])), []).append(weight)
            for weights in alike.values():
                loaded = [self.state[weight] for weight in weights]
                if loaded[0]:
                    state = {key: torch.stack([member[key] for member in loaded]) for key in loaded[0]}
                    n_steps = int(state["step"].max())
                else:
                    state = fresh_state(stacked_gradients(weights))
                    n_steps = -1 if "basis_in" in state or "basis_out" in state else 0
                self.stacks.append(Stack(weights, group["lr"], state, n_steps))
                for number, weight in enumerate(weights):
                    self.state[weight] = {key: values[number] for key, values in state.items()}

    def update(self, stack: Stack) -> None:
        gradient, state = stacked_gradients(stack.weights), stack.state
        fast, slow = self.betas
        state["step"] += 1
        step = state["step"].view(-1, *[1] * (gradient.ndim - 1))
        state["exp_avg"].lerp_(gradient, 1 - fast)
        state["exp_avg_sq"].lerp_(to_eigenbases(gradient, state).square(), 1 - slow)
        spread = (state["exp_avg_sq"] / (1 - slow**step)).sqrt_().add_(self.eps)
        change = from_eigenbases(to_eigenbases(state["exp_avg"], state) / spread, state)
        change *= stack.lr / (1 - fast**step)
        changes = [as_kernel(rows, weight) for rows, weight in zip(change, stack.weights, strict=True)]
        torch._foreach_sub_(stack.weights, changes)
        for side in SIDES:
            if f"covariance_{side}" in state:
                state[f"covariance_{side}"].lerp_(covariance(gradient, side), 1 - self.covariance_beta)


def as_rows(kernel: Tensor) -> Tensor:
    """Reshape a kernel [out, in, h, w] to [out, h w, in]; leave other weights."""
    return kernel.permute(0, 2, 3, 1).flatten(1, 2).contiguous() if kernel.ndim == 4 else kernel


def as_kernel(rows: Tensor, like: Tensor) -> Tensor:
    """Invert `as_rows` for a weight of the shape of `like`."""
    if like.ndim < 4:
        return rows
    return rows.view(rows.shape[0], *like.shape[2:], rows.shape[2]).permute(0, 3, 1, 2)


def stacked_gradients(weights: list[Tensor]) -> Tensor:
    """Stack gradients: [N, out, h w, in] for kernels, [N, ...] for other weights."""
    return torch.stack([as_rows(weight.grad) for weight in weights if weight.grad is not None])


def fresh_state(gradient: Tensor) -> State:
    """Initial state of a stack, from its first gradients."""
    state = {
        "step": gradient.new_zeros(len(gradient)),
        "exp_avg": torch.zeros_like(gradient),
        "exp_avg_sq": torch.zeros_like(gradient),
    }
    for side, axis in SIDES.items():
        if gradient.ndim == 4 and gradient.shape[axis] <= LARGEST_SIDE:
            state[f"covariance_{side}"] = covariance(gradient, side)
            eye = torch.eye(gradient.shape[axis], device=gradient.device)
            state[f"basis_{side}"] = eye.repeat(len(gradient), 1, 1)
    return state


def covariance(rows: Tensor, side: str) -> Tensor:
    """Covariance over the C channels of a side: [N, out, h w, in] -> [N, C, C]."""
    matrix = rows.flatten(2) if side == "out" else rows.flatten(1, 2).mT
    return matrix @ matrix.mT


def to_eigenbases(rows: Tensor, state: State) -> Tensor:
    if "basis_out" in state:
        rows = (state["basis_out"].mT @ rows.flatten(2)).view(rows.shape)
    return (rows.flatten(1, 2) @ state["basis_in"]).view(rows.shape) if "basis_in" in state else rows


def from_eigenbases(rows: Tensor, state: State) -> Tensor:
    if "basis_out" in state:
        rows = (state["basis_out"] @ rows.flatten(2)).view(rows.shape)
    return (rows.flatten(1, 2) @ state["basis_in"].mT).view(rows.shape) if "basis_in" in state else rows


def _update_bases(members: list[tuple[State, str]]) -> None:
    """Do a round of orthogonal iteration on the bases of sides of one size, strongest direction first."""
    bases, covariances = (
        torch.cat([state[f"{name}_{side}"] for state, side in members]).double() for name in ("basis", "covariance")
    )
    product = covariances @ bases
    strength = (bases * product).sum(1)
    product += bases * (1e-12 * strength.mean(1) + 1e-30)[:, None, None]  # without a gradient the basis stays
    order = strength.argsort(dim=1, descending=True)
    product = product.gather(2, order[:, None].expand_as(product))
    counts = [len(state["step"]) for state, _ in members]
    renewed, orders = torch.split(_orthonormalise(product), counts), torch.split(order, counts)
    for (state, side), basis, stack_order in zip(members, renewed, orders, strict=True):
        state[f"basis_{side}"].copy_(basis)
        moments, axis = state["exp_avg_sq"], SIDES[side]
        index = stack_order.view(len(stack_order), *(-1 if dimension == axis else 1 for dimension in range(1, 4)))
        moments.copy_(moments.gather(axis, index.expand_as(moments)))


def _orthonormalise(columns: Tensor) -> Tensor:
    """Orthonormalise the columns of float64 matrices [N, C, C] from left to right, up to signs, as Gram-Schmidt.

    On a CPU by QR factorisation in float32. On GPUs, where QR takes one matrix at a time, by shifted Cholesky QR for
    the whole batch (Fukaya et al. 2020, arXiv 1809.11085).
    """
    if columns.device.type == "cpu":
        unit: Tensor = torch.linalg.qr((columns / columns.norm(dim=1, keepdim=True)).float())[0]
        return unit
    return _by_cholesky(columns)


def _by_cholesky(columns: Tensor) -> Tensor:
    """Orthonormalise by shifted Cholesky QR, float64 [N, C, C], on any device."""
    shift = SHIFT * torch.eye(columns.shape[2], dtype=columns.dtype, device=columns.device)
    for _ in range(N_ROUNDS):
        columns = columns / columns.norm(dim=1, keepdim=True)
        factor = torch.linalg.cholesky_ex(columns.mT @ columns + shift)[0]
        columns = torch.linalg.solve_triangular(factor.mT, columns, upper=True, left=False)
    return columns
