"""Conditions for capturing a training step as a CUDA graph, as far as a CPU can test them."""

import pytest
import torch

from ulcodec.model.fusion import fused, use_compiler
from ulcodec.train.graphs import Pace, can_be_captured, compile_parts, own_stream
from ulcodec.train.stage1 import Stage1Step

CPU = torch.device("cpu")


def test_step_is_seed_and_draw(step: Stage1Step) -> None:
    assert can_be_captured(step)
    loss, metrics = step(40)
    step.seed(40)
    drawn_loss, drawn_metrics = step.draw()
    assert drawn_loss == loss
    assert all(torch.equal(metrics[name], drawn_metrics[name]) for name in metrics)
    step.seed(44)
    assert step.draw()[0] != drawn_loss


def test_streams_and_plain_functions_are_not_captured(step: Stage1Step) -> None:
    step.is_static = False
    assert not can_be_captured(step)
    assert not can_be_captured(lambda n_images: None)


def test_host_does_not_wait_for_a_cpu() -> None:
    pace = Pace(CPU)
    with own_stream(CPU):
        pace.after_step()
    assert not pace.events


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # both from Dynamo
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_parts_give_the_same_loss_and_gradients(step: Stage1Step, request: pytest.FixtureRequest) -> None:
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
    compiled_gradient = torch.cat(
        [weight.grad.flatten() for weight in step.model.parameters() if weight.grad is not None]
    )
    expected = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    assert (compiled_gradient - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(doubled(torch.ones(2)), 2 * torch.ones(2))
