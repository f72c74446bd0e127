"""timm's blocks, in an environment of their own: torch 2.14.1, torchvision 0.29.1 and timm."""

import pytest
import torch

pytestmark = [pytest.mark.vit, pytest.mark.filterwarnings("ignore")]
timm = pytest.importorskip("timm", reason="timm and torchvision need an environment of their own")

from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

from data_efficiency.routing.random_ltd import convert_to_random_ltd  # noqa: E402
from tests.data_efficiency.routing.reference_loop import (  # noqa: E402
    drop_in_a_loop,
    loss_and_gradients,
)
from tests.data_efficiency.small_models import KEPT, NUM_LAYERS, ROWS, dropping  # noqa: E402

NUM_TOKENS = 17


def make_model():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=2, embed_dim=16, depth=NUM_LAYERS, num_heads=4, num_classes=5
    ).double()


def converted(kept=KEPT, **changes):
    model = convert_to_random_ltd(make_model(), Block, dropping(kept, **changes))
    model.random_ltd_scheduler.set_position(3, 7)
    return model


def images():
    return torch.randn(
        ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "sdpa"])
def test_outputs_and_gradients_are_those_of_a_slow_loop(masked, fused):
    mask = None
    if masked:
        mask = torch.rand(ROWS, 1, NUM_TOKENS, NUM_TOKENS) < 0.7
        mask |= torch.eye(NUM_TOKENS, dtype=torch.bool)
    model, slow = converted(), make_model()
    for part in (*model.blocks, *slow.blocks):
        part.attn.fused_attn = fused

    def run(network):
        return network.forward_head(network.forward_features(images(), attn_mask=mask))

    model.forward = lambda inputs: run(model)
    output = model(images())
    drop_in_a_loop(slow.blocks, model.random_ltd_scheduler.positions)
    expected = run(slow)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10)


def test_keeping_everything_is_bit_equal():
    assert torch.equal(converted(kept=NUM_TOKENS)(images()), make_model()(images()))


def test_the_class_token_can_always_be_kept():
    model = converted(always_keep=(0,))
    model(images())
    assert (model.random_ltd_scheduler.positions[..., 0] == 0).all()
    assert model.random_ltd_scheduler.draw.sequence_length == NUM_TOKENS


def test_weights_load_into_the_plain_model():
    model, plain = converted(), make_model()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight.add_(1.0)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(images()), model.eval()(images()))
