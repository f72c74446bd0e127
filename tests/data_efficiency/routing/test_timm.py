"""timm's blocks, in an environment of their own: torch 2.14.1, torchvision 0.29.1 and timm."""

import pytest
import torch

pytestmark = [pytest.mark.vit, pytest.mark.filterwarnings("ignore")]
timm = pytest.importorskip("timm", reason="timm and torchvision need an environment of their own")

from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

from data_efficiency.config import DataEfficiencyConfig, LayerDropout, RandomLTD  # noqa: E402
from data_efficiency.routing.random_ltd import convert_to_random_ltd  # noqa: E402
from tests.data_efficiency.routing.reference_loop import (  # noqa: E402
    drop_in_a_loop,
    loss_and_gradients,
)
from tests.data_efficiency.small_models import KEPT, NUM_LAYERS, ROWS, dropping  # noqa: E402

NUM_TOKENS = 17
SCHEDULE = {"start": KEPT, "end": KEPT, "steps": 1, "step_size": 1}
SKIP = LayerDropout(start=67, end=67, steps=1, rows_per_group=ROWS, depth="uniform")


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


ROUTES = {
    "tokens": [RandomLTD(**SCHEDULE, layers=[1, 2])],
    "span": [RandomLTD(**SCHEDULE, layers=[[1, 2]], always_keep=[0])],
    "rows": [SKIP],
    "both": [RandomLTD(**SCHEDULE, layers=[[1, 2]]), SKIP],
}


def routed(kind, **settings):
    model, section = make_model(), DataEfficiencyConfig.of(*ROUTES[kind], seed=3, **settings)
    return convert_to_random_ltd(model, Block, section)


def loss_from(output):
    return torch.nn.functional.cross_entropy(output, torch.arange(ROWS))


def loss_of(model, step=3):
    model.random_ltd_scheduler.set_position(step, 2 * ROWS)
    return loss_from(model(images()))


def by_hand(blocks, draw):
    """Makes each block treat every row by itself: at its kept positions, or not at all."""

    def slow(original, subsets, rows):
        def forward(hidden, attn_mask=None, **nothing):
            result = []
            for row, whole in enumerate(hidden):
                kept = torch.arange(len(whole)) if subsets is None else subsets[row]
                before = whole[kept][None]
                change = (original(before) - before)[0] * (1 if rows is None else ROWS / len(rows))
                skips = rows is not None and row not in rows
                result.append(whole if skips else whole.index_add(0, kept, change))
            return torch.stack(result)

        return forward

    for number, block in enumerate(blocks):
        subsets = None
        if draw.positions is not None and number in (1, 2):
            subsets = draw.positions[min(number - 1, len(draw.positions) - 1)]
        block.forward = slow(block.forward, subsets, draw.rows[number] if draw.rows else None)


@pytest.mark.parametrize("kind", ROUTES)
def test_every_route_is_that_of_a_loop_by_hand(kind):
    model, slow = routed(kind), make_model()
    loss_of(model).backward()
    draw = model.random_ltd_scheduler.draw
    assert kind in ("tokens", "rows") or len(draw.positions) == 1
    assert kind in ("tokens", "span") or [len(one) for one in draw.rows] == [2] * NUM_LAYERS
    by_hand(slow.blocks, draw)
    output = slow(images())
    loss_from(output).backward()
    torch.testing.assert_close(loss_of(model), loss_from(output))
    wanted = dict(slow.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ROUTES)
def test_it_trains_evaluates_plainly_and_its_weights_go_elsewhere(kind):
    model, plain = routed(kind, full_from_step=9), make_model()
    assert torch.equal(loss_of(model.eval()), loss_from(plain.eval()(images())))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for step in range(10):
        loss = loss_of(model.train(), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss_of(model.eval()).item())
    assert losses[-1] < 0.7 * losses[0]
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(images()), model(images()))
    # In the last phase training computes everything, too.
    assert torch.equal(loss_of(model.train(), 9), loss_from(plain.train()(images())))
