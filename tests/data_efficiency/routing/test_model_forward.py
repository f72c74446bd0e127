from types import MethodType

import pytest
import torch

from data_efficiency.routing.random_ltd import convert_to_random_ltd
from tests.data_efficiency.routing.recorded_layers import Layer, Stack, one_layer, run
from tests.data_efficiency.small_models import KEPT, LENGTH, ROWS, Block, SmallModel, dropping


def make_model():
    return SmallModel().double()


def converted():
    return convert_to_random_ltd(make_model(), Block, dropping())


def batch():
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(0, 50, (2, ROWS, LENGTH), generator=generator)
    return tokens, labels


def test_evaluation_drops_nothing_and_needs_no_position():
    model = converted()
    tokens, _ = batch()
    model.random_ltd_scheduler.set_position(0, 0)
    dropped = model(tokens)
    model.eval()
    assert torch.equal(model(tokens), make_model()(tokens))
    assert not torch.equal(dropped, model(tokens))
    model.train()
    with pytest.raises(RuntimeError, match="set_position"):
        model(tokens)


def test_a_forward_that_is_made_a_method_of_the_model_anew_is_the_same():
    """As accelerate.unwrap_model(model, keep_fp32_wrapper=False) does it."""
    model, (tokens, labels) = converted(), batch()
    losses = []
    for _ in range(2):
        model.random_ltd_scheduler.set_position(0, 0)
        losses.append(model(tokens, labels=labels))
        model.forward = MethodType(model.forward, model)
    assert torch.equal(*losses)


@pytest.mark.parametrize("part", ["layers", "model"])
def test_a_part_in_evaluation_mode_drops_nothing_though_the_other_trains(part):
    model, (tokens, _) = converted(), batch()
    model.random_ltd_scheduler.set_position(0, 0)
    model(tokens)
    model.random_ltd_scheduler.set_position(1, 0)
    for module in model.layers if part == "layers" else [model]:
        module.training = False
    assert torch.equal(model(tokens), make_model()(tokens))


def test_the_batch_may_come_by_keyword():
    model = convert_to_random_ltd(Stack([Layer()]), Layer, one_layer())
    model.random_ltd_scheduler.set_position(0, 0)
    assert model(hidden=torch.ones(ROWS, LENGTH, 2)).sum() == (LENGTH + KEPT) * ROWS * 2


@pytest.mark.parametrize("images", [torch.ones(ROWS, 2, 3, 4), [{"pixels": torch.ones(ROWS, 24)}]])
def test_where_the_models_arguments_do_not_tell_the_length_the_first_layer_does(images):
    class Patches(Stack):
        def forward(self, images):
            pixels = images if isinstance(images, torch.Tensor) else images[0]["pixels"]
            return super().forward(pixels.reshape(ROWS, LENGTH, 2))

    model = convert_to_random_ltd(Patches([Layer()]), Layer, one_layer())
    assert run(model, images).sum() == (LENGTH + KEPT) * ROWS * 2


def test_attention_weights_are_refused_in_training_only():
    class Telling(Stack):
        def forward(self, hidden, output_attentions=False):
            return super().forward(hidden)

    model = convert_to_random_ltd(Telling([Layer()]), Layer, one_layer())
    model.random_ltd_scheduler.set_position(0, 0)
    hidden = torch.ones(ROWS, LENGTH, 2)
    with pytest.raises(ValueError, match="output_attentions is set"):
        model(hidden, output_attentions=True)
    assert model.eval()(hidden, output_attentions=True).sum() == 2 * hidden.sum()
