from functools import partial

import pytest
import torch

from data_efficiency import IGNORED_LABEL
from megatron.model.gpt_model import GPTModel
from tests.megatron.small_models import MODERN, tiny

UNTIED = {"untie_embeddings_and_output_weights": True}
make_model = partial(tiny, GPTModel)


def batch(length: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(0, 60, (2, 3, length), generator=generator)
    labels[0, :5] = IGNORED_LABEL
    return tokens, labels


@pytest.mark.parametrize("length", [24, 7, 1])
@pytest.mark.parametrize("architecture", [{}, MODERN | UNTIED], ids=["gpt2", "modern"])
def test_the_loss_is_the_sum_over_labels(architecture, length):
    model = make_model(**architecture)
    tokens, labels = batch(length)
    logits = model(tokens)
    assert logits.shape == (3, length, 64)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    loss = model(tokens, labels=labels)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, labels=labels), expected)


@pytest.mark.parametrize("architecture", [{}, MODERN | UNTIED], ids=["gpt2", "modern"])
def test_under_bfloat16_autocast_loss_and_gradients_stay_close(architecture):
    model = make_model(**architecture)
    tokens, labels = batch()
    loss = model(tokens, labels=labels)
    loss.backward()
    exact = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(tokens, labels=labels)
    rough.backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, loss, rtol=1e-3, atol=0)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - exact[name]).norm() < 0.05 * exact[name].norm() + 1e-3, name


def test_the_output_layer_is_the_embedding_unless_untied():
    tied, untied = make_model(), make_model(**UNTIED)
    assert tied.output_weight is tied.language_model.word_embeddings.weight
    assert untied.output_weight is untied.output_layer.weight
    names = set(untied.state_dict()) - set(tied.state_dict())
    assert names == {"output_layer.weight"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, 23, dtype=torch.int64), r"labels have shape \(3, 23\), tokens \(3, 24\)"),
        (torch.full((3, 24), 61), "label id 61 is outside the vocabulary of 60 entries"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        make_model()(batch()[0], labels=labels)
