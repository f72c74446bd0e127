import pytest
import torch
from torch import nn
from torch.nn import functional

from data_efficiency.routing.bags import (
    accept_bags,
    bag_loss_sum,
    label_shares,
    num_loss_positions,
)
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from tests.data_efficiency.routing.reference_loop import loss_and_gradients
from tests.data_efficiency.routing.zoo import layers_of, make_model
from tests.data_efficiency.small_models import dropping

SIZE, ROWS, LENGTH, VOCABULARY = 3, 2, 7, 40
WEIGHTS = torch.tensor([6 / 11, 3 / 11, 2 / 11], dtype=torch.float64)


def labels_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, VOCABULARY, (ROWS, LENGTH, SIZE), generator=generator)
    labels[0, -1, 1:] = labels[1, -1] = -100
    return labels


def slow_loss(logits, labels, weights=None):
    total = logits.new_zeros(())
    for row in range(ROWS):
        for place in range(LENGTH):
            there = [k for k in range(SIZE) if labels[row, place, k] >= 0]
            own = [1.0 if weights is None else weights[k].item() for k in there]
            for k, weight in zip(there, own, strict=True):
                probability = logits[row, place].softmax(-1)[labels[row, place, k]]
                total = total - weight / sum(own) * probability.log()
    return total


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["uniform", "power"])
def test_the_loss_is_the_mean_of_each_label_by_itself(weights):
    logits = torch.randn(ROWS, LENGTH, VOCABULARY, dtype=torch.float64, requires_grad=True)
    found, expected = (
        bag_loss_sum(logits, labels_of(), weights),
        slow_loss(logits, labels_of(), weights),
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits)
    )


def test_plain_labels_have_the_plain_loss():
    logits, labels = torch.randn(ROWS, LENGTH, VOCABULARY), labels_of()[..., 0]
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert torch.equal(bag_loss_sum(logits, labels), expected)
    assert bag_loss_sum(logits.bfloat16(), labels).dtype == torch.float32
    assert bag_loss_sum(logits.bfloat16(), labels_of()).dtype == torch.float32


def test_what_is_counted():
    labels = labels_of()
    assert num_loss_positions(labels) == ROWS * LENGTH - 1
    assert num_loss_positions(labels[..., 0]) == ROWS * LENGTH - 1
    shares = label_shares(labels, WEIGHTS)
    torch.testing.assert_close(shares[0, 0], WEIGHTS)
    assert shares[0, -1].tolist() == [1, 0, 0]
    assert shares[1, -1].tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("routed", [False, True])
def test_models_of_hugging_face_take_bags_through_their_embeddings(name, routed):
    model, slow = (make_model(name) for _ in range(2))
    if routed:
        layers = layers_of(model, name)
        settings = dropping(total_layer_num=len(layers))
        for one in (model, slow):
            convert_to_random_ltd(one, type(layers[0]), settings)
            one.random_ltd_scheduler.set_position(1, 0)
    accept_bags(model)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, VOCABULARY, (ROWS, LENGTH, SIZE), generator=generator)
    output = model(input_ids=tokens)[0]
    table = slow.get_input_embeddings().weight
    rows = [
        torch.stack([sum(table[token] for token in bag) / SIZE for bag in row]) for row in tokens
    ]
    expected = slow(inputs_embeds=torch.stack(rows))[0]
    assert output.shape[:2] == (ROWS, LENGTH)
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    assert found.keys() == wanted.keys()
    for weight, gradient in wanted.items():
        torch.testing.assert_close(found[weight], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_compiled_model_has_one_piece_of_code_more_for_the_bags(name):
    torch.compiler.reset()
    plain, compiled = (accept_bags(make_model(name)) for _ in range(2))
    pieces, num_pieces = [], 0

    def backend(graph, inputs):
        nonlocal num_pieces
        num_pieces += 1
        return graph

    compiled.compile(backend=backend)
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        bags = torch.randint(3, VOCABULARY, (ROWS, LENGTH, SIZE), generator=generator)
        tokens = bags if step < 3 else bags[..., 0].contiguous()
        found, expected = (model(input_ids=tokens)[0] for model in (compiled, plain))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        _, gradients = loss_and_gradients(compiled, found)
        for weight, gradient in loss_and_gradients(plain, expected)[1].items():
            torch.testing.assert_close(gradients[weight], gradient, rtol=1e-5, atol=1e-6)
        pieces.append(num_pieces)
    torch.compiler.reset()
    assert pieces == sorted([pieces[0]] * 3 + [pieces[-1]] * 3)
    assert 1 <= pieces[0] < pieces[-1] <= 3


@pytest.mark.filterwarnings("ignore")
def test_plain_tokens_pass_and_labels_beside_bags_are_refused():
    model, bare = accept_bags(make_model("llama")), make_model("llama")
    tokens = torch.randint(
        3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(model(tokens)[0], bare(tokens)[0])
    bags = tokens[..., None].expand(-1, -1, SIZE)
    with pytest.raises(ValueError, match="bags of tokens are given with attention_mask"):
        model(input_ids=bags, attention_mask=torch.ones_like(tokens))
    with pytest.raises(ValueError, match="given with argument 1"):
        model(bags, torch.ones_like(tokens))


def test_labels_beside_plain_tokens_are_refused_in_training():
    """The loader's labels are the next tokens, and the model's own loss would take those behind them."""
    model = accept_bags(make_model("llama"))
    tokens = torch.full((ROWS, LENGTH), 3)
    with pytest.raises(ValueError, match="labels are given .* take bag_loss_sum of its logits"):
        model(input_ids=tokens, labels=tokens)
    assert model.eval()(input_ids=tokens, labels=tokens)[0].shape[:2] == tokens.shape


def test_logits_of_tokens_taken_for_rows_are_refused():
    """GPT-2 takes three axes for more rows, and its loss fell as if all were well."""
    labels = torch.zeros(2, 4, 3, dtype=torch.int64)
    for wrong in (labels, labels[..., 0]):
        with pytest.raises(ValueError, match=r"logits are \[2, 4, 3, 7\] .* accept_bags"):
            bag_loss_sum(torch.zeros(2, 4, 3, 7), wrong)


def test_a_model_without_embeddings_is_refused():
    with pytest.raises(TypeError, match="a Linear has no get_input_embeddings"):
        accept_bags(nn.Linear(1, 1))
