"""The optimisation step: fixed memory, and two ways to update the moving average."""

from dataclasses import replace

import pytest
import torch

from ulcodec.train.loop import Loop
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import Stage1Step


@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
def test_steps_update_tensors_in_place(step: Stage1Step, step_settings: Stage1Settings, optimizer: str) -> None:
    """A CUDA graph stores addresses: after the first steps, no weight, moment or learning rate may move."""
    settings = replace(step_settings, optimizer=optimizer)
    loop = Loop(step.model, settings.out, settings.loop_settings(), settings.resolved())

    def addresses() -> list[int]:
        states = [value for state in loop.state.optimizer.state.values() for value in state.values()]
        rates = [group["lr"] for group in loop.state.optimizer.param_groups]
        return [
            tensor.data_ptr()
            for tensor in (*loop.state.weights, *loop.state.ema, *states, *rates, loop.optimise.ema_share)
        ]

    for _ in range(2):
        loop.step(step)
    before, values = addresses(), [weight.detach().clone() for weight in loop.state.weights]
    for _ in range(12):
        loop.step(step)
    assert addresses() == before
    assert any(not torch.equal(value, weight) for value, weight in zip(values, loop.state.weights, strict=True))


def test_ema_share_may_be_a_number_or_a_tensor(step: Stage1Step, step_settings: Stage1Settings) -> None:
    loop = Loop(step.model, step_settings.out, step_settings.loop_settings(), step_settings.resolved())
    for _ in range(3):
        loop.step(step)
    start = [average.clone() for average in loop.state.ema]
    averages_by_share = []
    for share in (0.25, torch.tensor(0.25)):
        torch._foreach_copy_(loop.state.ema, start)
        for group in loop.state.optimizer.param_groups:
            group["lr"].fill_(0.0)
        loop.optimise.advance(step.draw, share)
        averages_by_share.append([average.clone() for average in loop.state.ema])
    assert any(not torch.equal(one, before) for one, before in zip(averages_by_share[0], start, strict=True))
    for one, other in zip(*averages_by_share, strict=True):
        torch.testing.assert_close(one, other)
