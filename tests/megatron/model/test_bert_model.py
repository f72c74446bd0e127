from functools import partial

import pytest
import torch
from torch.nn import functional

from data_efficiency import IGNORED_LABEL, convert_to_random_ltd
from megatron.config import ModelConfig
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from tests.json_sections import dropping_config
from tests.megatron.small_models import tiny

LENGTH = 24
POSITIONS = pytest.mark.parametrize("position", ["before", "after"])
make_model = partial(tiny, BertModel, num_layers=3, num_token_types=2)


def batch(num_rows: int = 3) -> dict[str, torch.Tensor]:
    """Rows of 24, 16, 8 ... real tokens."""
    generator = torch.Generator().manual_seed(1)
    tokens, originals = torch.randint(0, 60, (2, num_rows, LENGTH), generator=generator)
    lengths = torch.arange(LENGTH, 0, -8)[:num_rows].unsqueeze(1)
    places = torch.arange(LENGTH)
    return {
        "tokens": tokens,
        "token_types": ((places >= 4) & (places < lengths)).long(),
        "padding_mask": places < lengths,
        "labels": torch.where((places % 5 == 1) & (places < lengths), originals, IGNORED_LABEL),
        "sentence_labels": torch.arange(num_rows) % 2,
    }


def inputs(**changes) -> dict[str, torch.Tensor]:
    given = batch() | changes
    return {name: given[name] for name in ("tokens", "token_types", "padding_mask")}


@POSITIONS
def test_losses_are_the_sums_over_masked_tokens_and_over_rows(position):
    model = make_model(normalization_position=position)
    given = batch()
    logits, sentence_logits = model(**inputs())
    assert logits.shape == (3, LENGTH, 64)
    assert sentence_logits.shape == (3, 2)
    losses = model(**given)
    assert [(loss.shape, loss.dtype) for loss in losses] == [((), torch.float32)] * 2
    expected = (
        functional.cross_entropy(logits.flatten(0, 1), given["labels"].flatten(), reduction="sum"),
        functional.cross_entropy(sentence_logits, given["sentence_labels"], reduction="sum"),
    )
    torch.testing.assert_close(losses, expected)
    parameters = list(model.parameters())
    found = torch.autograd.grad(sum(losses), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(sum(expected), parameters))
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_rows_without_a_masked_token_have_no_masked_loss():
    given = batch()
    loss, _ = make_model()(**given | {"labels": torch.full_like(given["labels"], IGNORED_LABEL)})
    loss.backward()
    assert loss == 0


@POSITIONS
def test_tokens_see_both_sides_but_no_padding(position):
    model = make_model(normalization_position=position).eval()
    states = model.encode(**inputs())
    for row, place in ((0, 0), (0, LENGTH - 1), (1, 15)):
        tokens = batch()["tokens"].clone()
        tokens[row, place] = (tokens[row, place] + 1) % 60
        changed = (model.encode(**inputs(tokens=tokens)) != states).any(-1)
        real = batch()["padding_mask"]
        assert changed[row][real[row]].all()
    for row, place in ((1, 16), (2, LENGTH - 1)):
        tokens = batch()["tokens"].clone()
        tokens[row, place] = (tokens[row, place] + 1) % 60
        changed = (model.encode(**inputs(tokens=tokens)) != states).any(-1)
        assert not changed[real].any()


def test_padding_makes_no_difference_and_a_mask_of_ones_is_no_mask():
    model = make_model().eval()
    given = inputs()
    states = model.encode(**given)
    short = model.encode(given["tokens"][1:2, :16], token_types=given["token_types"][1:2, :16])
    torch.testing.assert_close(states[1:2, :16], short)
    ones = torch.ones_like(given["tokens"])
    torch.testing.assert_close(
        model.encode(given["tokens"], padding_mask=ones), model.encode(given["tokens"])
    )


def test_segments_tell_apart_and_default_to_the_first():
    model = make_model().eval()
    tokens = batch()["tokens"]
    states = model.encode(tokens)
    assert torch.equal(model.encode(tokens, token_types=torch.zeros_like(tokens)), states)
    assert not torch.allclose(model.encode(tokens, token_types=torch.ones_like(tokens)), states)


@POSITIONS
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_random_ltd_drops_tokens_of_padded_rows(position, dropout):
    model = make_model(
        num_layers=4,
        normalization_position=position,
        attention_dropout=dropout,
        hidden_dropout=dropout,
    )
    seen = []
    # The last row has a single real token: a layer's kept tokens may all be padding.
    given = batch(3)
    given["padding_mask"][2, 1:] = False
    given["labels"][2] = IGNORED_LABEL
    for layer in model.layers:
        layer.self_attention.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0].shape[1], kwargs["attention_mask"].shape)),
            with_kwargs=True,
        )
    content = dropping_config(
        least=8,
        most=LENGTH,
        steps=10,
        step_size=8,
        model_mask_name="attention_mask",
        model_type="encoder",
    )
    model = convert_to_random_ltd(model, TransformerLayer, content)
    for step in range(3):
        model.random_ltd_scheduler.set_position(step, 0)
        seen.clear()
        losses = model(**given)
        assert seen == [
            (length, (3, 1, 1, length)) for length in (LENGTH, seen[1][0], seen[1][0], LENGTH)
        ]
        assert seen[1][0] < LENGTH
        model.zero_grad()
        sum(losses).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@POSITIONS
def test_recomputation_gives_the_same_gradients(position):
    gradients = []
    for recompute in (False, True):
        model = make_model(recompute_activations=recompute, normalization_position=position)
        sum(model(**batch())).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_bad_input_is_refused():
    model, given = make_model(), batch()
    for name in ("token_types", "padding_mask", "labels"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(3, 23\), tokens \(3, 24\)"):
            model(**given | {name: given[name][:, 1:]})
    with pytest.raises(ValueError, match="must be given together"):
        model(**given | {"sentence_labels": None})
    with pytest.raises(ValueError, match="label id 60 is outside"):
        model(**given | {"labels": torch.full_like(given["labels"], 60)})
    with pytest.raises(ValueError, match="token type 2 is outside the model's 2"):
        model(**given | {"token_types": torch.full_like(given["tokens"], 2)})
    with pytest.raises(ValueError, match="BERT ties them"):
        make_model(untie_embeddings_and_output_weights=True)
    for field, value in (("normalization_position", "after"), ("num_token_types", 2)):
        with pytest.raises(ValueError, match="GPT has"):
            GPTModel(ModelConfig(**{field: value}))
