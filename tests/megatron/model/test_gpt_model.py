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


def rows_with_few_labels():
    tokens = torch.randint(0, 60, (5, 16), generator=torch.Generator().manual_seed(3))
    labels = tokens.roll(-1, 1).clone()
    labels[1, 4:], labels[3] = -100, -100
    return tokens, labels


def test_losses_of_rows_are_those_of_each_row_alone():
    model = make_model().double()
    tokens, labels = rows_with_few_labels()
    loss, rows = model(tokens, labels=labels, by_row=True)
    assert torch.equal(loss, model(tokens, labels=labels))
    for number, row in enumerate(rows.tolist()):
        one = slice(number, number + 1)
        terms = max(1, int((labels[one] != -100).sum()))
        alone = model(tokens[one], labels=labels[one]) / terms
        assert row == pytest.approx(alone.item(), abs=1e-9)
    assert not rows.requires_grad
    with pytest.raises(ValueError, match="rows of bags have no losses of their own"):
        model(tokens[..., None], labels=labels[..., None], by_row=True)


def test_selective_backpropagation_learns_from_the_hardest_rows_alone():
    """In training; an evaluation counts all."""
    model, plain = (make_model().double() for _ in "ab")
    model.backpropagated_share = 0.4
    tokens, labels = rows_with_few_labels()
    _, rows = plain(tokens, labels=labels, by_row=True)
    hardest = rows.topk(2).indices
    loss = model(tokens, labels=labels)
    loss.backward()
    kept = plain(tokens[hardest], labels=labels[hardest])
    terms = [(labels[part] != -100).sum() for part in (slice(None), hardest)]
    expected = kept * terms[0] / terms[1]
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    both = [one.eval()(tokens, labels=labels) for one in (model, plain)]
    assert torch.equal(*both)
