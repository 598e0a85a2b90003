"""What a CUDA graph asks of a step, as far as it shows without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ulcodec.model.build import build_model
from ulcodec.model.fusion import fused, use_compiler
from ulcodec.model.presets import preset
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.graphs import Pace, can_be_captured, compile_parts, own_stream
from ulcodec.train.loop import Loop
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import Stage1Step

CPU = torch.device("cpu")


@pytest.fixture
def settings(photographs: Path, tmp_path: Path) -> Stage1Settings:
    return Stage1Settings(
        data=(photographs,), out=tmp_path / "run", config="tiny", n_images=64, batch_size=4, crop_px=64, device="cpu"
    )


@pytest.fixture
def step(settings: Stage1Settings) -> Stage1Step:
    pictures, _ = load_pictures(settings.data, min_side_px=64, validation_share=0.1)
    torch.manual_seed(1)
    return Stage1Step(build_model(preset("tiny")), lambda n_images: pictures, settings)


def test_a_step_is_its_two_parts(step: Stage1Step) -> None:
    assert can_be_captured(step)
    whole, metrics = step(40)
    step.seed(40)
    drawn, same = step.draw()
    assert whole == drawn
    assert all(torch.equal(metrics[name], same[name]) for name in metrics)
    step.seed(44)
    assert step.draw()[0] != drawn


def test_what_has_no_parts_or_changes_its_pictures_is_not_captured(step: Stage1Step) -> None:
    step.is_static = False
    assert not can_be_captured(step)
    assert not can_be_captured(lambda n_images: None)


@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
def test_steps_fill_the_memory_they_have(step: Stage1Step, settings: Stage1Settings, optimizer: str) -> None:
    """A graph reads and writes addresses: after the first steps no weight, moment or rate may get a new one."""
    settings = replace(settings, optimizer=optimizer)
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


def test_averages_by_a_number_and_by_a_tensor_agree(step: Stage1Step, settings: Stage1Settings) -> None:
    loop = Loop(step.model, settings.out, settings.loop_settings(), settings.resolved())
    for _ in range(3):
        loop.step(step)
    start = [average.clone() for average in loop.state.ema]
    averages = []
    for share in (0.25, torch.tensor(0.25)):
        torch._foreach_copy_(loop.state.ema, start)
        for group in loop.state.optimizer.param_groups:
            group["lr"].fill_(0.0)
        loop.optimise.advance(step.draw, share)
        averages.append([average.clone() for average in loop.state.ema])
    assert any(not torch.equal(one, before) for one, before in zip(averages[0], start, strict=True))
    for one, other in zip(*averages, strict=True):
        torch.testing.assert_close(one, other)


def test_the_host_waits_for_no_cpu() -> None:
    pace = Pace(CPU)
    with own_stream(CPU):
        pace.after_step()
    assert not pace.events


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own, both
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiling_parts_changes_nothing(step: Stage1Step, request: pytest.FixtureRequest) -> None:
    use_compiler(None)
    request.addfinalizer(lambda: use_compiler(None))
    doubled = fused(lambda x: 2 * x)
    plain = step(0)[0]
    plain.backward()
    gradients = [weight.grad for weight in step.model.parameters()]
    step.model.zero_grad()
    compile_parts(step.model, "aot_eager")
    compiled = step(0)[0]
    compiled.backward()
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=0)  # bfloat16 where the CPU has it
    found = torch.cat([weight.grad.flatten() for weight in step.model.parameters() if weight.grad is not None])
    expected = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(doubled(torch.ones(2)), 2 * torch.ones(2))
