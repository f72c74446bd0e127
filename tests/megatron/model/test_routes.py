"""Spans and layer dropout in our GPT and BERT, against slow loops, and from one folder to the next."""

import pytest
import torch

from data_efficiency import LayerDropout, RandomLTD, bag_loss_sum, convert_to_random_ltd
from data_efficiency.config import DataEfficiencyConfig
from megatron.config import ModelConfig
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from tests.megatron.small_models import MODERN

NUM_LAYERS, NUM_ROWS, LENGTH, KEPT = 4, 4, 12, 5
SPAN = RandomLTD(start=KEPT, end=KEPT, steps=1, step_size=1, layers=[[1, 2]])
SKIP = LayerDropout(start=50, end=50, steps=1, rows_per_group=2, depth="uniform")
ROUTES = {"span": [SPAN], "rows": [SKIP], "both": [SPAN, SKIP]}
MODELS = {"learned": (GPTModel, {}), "rotary": (GPTModel, MODERN), "bert": (BertModel, {})}


def make_model(name, **changes):
    torch.manual_seed(0)
    make, architecture = MODELS[name]
    fields = {"num_layers": NUM_LAYERS, "hidden_size": 16, "num_attention_heads": 4}
    fields |= {"vocab_size": 50, "max_position_embeddings": 16, "init_method_std": 0.3}
    return make(ModelConfig(**(fields | architecture | changes))).double()


def convert(model, kind, **settings):
    config = DataEfficiencyConfig.of(*ROUTES[kind], seed=3, **settings)
    return convert_to_random_ltd(model, TransformerLayer, config)


def loss_of(model, place=(2, 4)):
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, NUM_ROWS, LENGTH), generator=generator)
    if router := getattr(model, "random_ltd_scheduler", None):
        router.set_position(*place)
    if not isinstance(model, BertModel):
        return model(tokens, labels=labels)
    padding = torch.ones_like(tokens)
    padding[1, 9:] = 0
    labels[:, ::3] = -100
    return sum(model(tokens, padding_mask=padding, labels=labels, sentence_labels=tokens[:, 0] % 2))


def by_hand(model, draw):
    """Makes each layer treat every row by itself: at its kept positions, or not at all."""
    for number, layer in enumerate(model.layers):
        positions = draw.positions[0] if draw.positions is not None and number in (1, 2) else None
        rows = draw.rows[number] if draw.rows else None
        layer.forward = _slow(layer.forward, positions, rows)


def _slow(original, positions, rows):
    def forward(hidden, *args, **arguments):
        assert not args
        result = []
        for row in range(len(hidden)):
            kept = torch.arange(hidden.shape[1]) if positions is None else positions[row]
            if rows is not None and row not in rows:
                result.append(hidden[row])
                continue
            one = {name: _of_row(name, value, row, kept) for name, value in arguments.items()}
            before = hidden[row : row + 1, kept]
            change = original(before, **one) - before
            factor = 1 if rows is None else len(hidden) / len(rows)
            result.append(hidden[row].index_add(0, kept, factor * change[0]))
        return torch.stack(result)

    return forward


def _of_row(name, value, row, kept):
    if value is None:
        return None
    value = value[min(row, len(value) - 1)][None]
    if name.startswith("rotary"):
        return value[:, kept]
    return value[..., kept] if value.shape[-2] == 1 else value[..., kept, :][..., kept]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ROUTES)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_a_slow_loop(name, kind, recompute):
    model = convert(make_model(name, recompute_activations=recompute), kind)
    slow = make_model(name)
    loss = loss_of(model)
    draw = model.random_ltd_scheduler.draw
    # A second forward before the backward: recomputation must not take its subset.
    loss_of(model, (3, 0))
    loss.backward()
    by_hand(slow, draw)
    expected = loss_of(slow)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
    expected.backward()
    wanted = dict(slow.named_parameters())
    for weight, parameter in model.named_parameters():
        # Rotary tables are float32, turned alike in both.
        torch.testing.assert_close(parameter.grad, wanted[weight].grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ROUTES)
@pytest.mark.parametrize("name", MODELS)
def test_where_nothing_is_left_out_bits_and_operators_are_the_same(name, kind):
    """Beyond the last phase, and in evaluation."""
    bare, results = make_model(name), []
    for training in (True, False):
        model = convert(make_model(name), kind, full_from_step=2)
        for one in (bare, model):
            with torch.profiler.profile() as profile:
                loss = loss_of(one.train(training), (2, 0) if training else (0, 0))
            results.append((loss, sorted(event.name for event in profile.events())))
        assert torch.equal(results[-1][0], results[-2][0])
        assert results[-1][1] == results[-2][1]
    assert not torch.equal(loss_of(model.train(), (1, 0)), loss)


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_and_its_weights_go_elsewhere(name):
    model = convert(make_model(name), "both")
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for step in range(12):
        loss = loss_of(model, (step, 0))
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss_of(model.eval()).item())
        model.train()
    assert losses[-1] < 0.95 * losses[0]
    other = make_model(name).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(loss_of(other), loss_of(model.eval()))


def test_masked_tokens_are_kept():
    line = RandomLTD(
        start=10,
        end=10,
        steps=1,
        step_size=1,
        layers=[[1, 2]],
        always_keep=[0],
        always_keep_labelled=True,
    )
    model = make_model("bert")
    convert_to_random_ltd(model, TransformerLayer, DataEfficiencyConfig.of(line))
    loss_of(model)
    for row in model.random_ltd_scheduler.positions[0]:
        # Labels stand where the place is no multiple of 3: 8 of 12.
        assert {0, *(place for place in range(LENGTH) if place % 3)} <= set(row.tolist())


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 0.3, 0.2])], ids=["uniform", "power"])
@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_bags_of_tokens_and_labels_are_those_of_a_slow_loop(name, weights):
    model, slow = make_model(name), make_model(name)
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, NUM_ROWS, LENGTH, 3), generator=generator)
    labels[0, -1, 1:] = labels[1, -1] = -100
    loss = model(tokens, labels=labels, label_weights=weights)
    loss.backward()
    table = slow.language_model.word_embeddings
    means = torch.stack([table(tokens[..., place]) for place in range(3)]).sum(0) / 3
    hook = table.register_forward_hook(lambda *call: means)
    logits = slow(tokens[..., 0])
    hook.remove()
    expected = bag_loss_sum(logits, labels, weights)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    expected.backward()
    wanted = dict(slow.named_parameters())
    for weight, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[weight].grad, rtol=1e-5, atol=1e-7)


def test_bags_of_one_are_plain_tokens():
    model = make_model("learned")
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, NUM_ROWS, LENGTH), generator=generator)
    plain = model(tokens, labels=labels)
    torch.testing.assert_close(model(tokens[..., None], labels=labels[..., None]), plain)
    torch.testing.assert_close(model(tokens, labels=labels[..., None].expand(-1, -1, 2)), plain)
    with pytest.raises(ValueError, match="labels have shape"):
        model(tokens[..., None], labels=labels[:, :-1])
    with pytest.raises(ValueError, match="must be \\[batch, sequence\\]"):
        model(tokens[0])


@pytest.mark.parametrize("window", ["attention_window", "sliding_window"])
def test_windows_go_by_original_positions_in_a_span_and_in_the_rows_that_are_left(window):
    """Against a run in which each kept token's window was made into a mask by hand."""
    kind = "rows" if window == "sliding_window" else "both"
    model, slow = convert(make_model("rotary"), kind), make_model("rotary")
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, NUM_ROWS, LENGTH), generator=generator)
    model.random_ltd_scheduler.set_position(2, 4)
    loss = model(tokens, labels=labels, **{window: 4})
    loss.backward()
    by_hand(slow, model.random_ltd_scheduler.draw)
    places = torch.arange(LENGTH)
    same = places[:, None] // 4 == places // 4 if window == "attention_window" else None
    near = places[:, None] - places < 4
    mask = (near if same is None else same) & (places <= places[:, None])
    expected = slow(tokens, labels=labels, attention_mask=mask[None, None])
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
    expected.backward()
    wanted = dict(slow.named_parameters())
    for weight, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[weight].grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("kind", ROUTES)
def test_documents_stay_apart_in_a_span_and_in_the_rows_that_are_left(kind, windowed):
    """Against a run in which each token's document, and its window, was made into a mask by hand."""
    model, slow = convert(make_model("rotary"), kind), make_model("rotary")
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, NUM_ROWS, LENGTH), generator=generator)
    starts = torch.rand(NUM_ROWS, LENGTH, generator=generator) < 0.25
    documents, window = starts.cumsum(1), {"attention_window": 4} if windowed else {}
    model.random_ltd_scheduler.set_position(2, 4)
    loss = model(tokens, labels=labels, document_ids=documents, **window)
    loss.backward()
    by_hand(slow, model.random_ltd_scheduler.draw)
    places = torch.arange(LENGTH)
    mask = (documents[:, None] == documents[:, :, None]) & (places <= places[:, None])
    if windowed:
        mask = mask & (places[:, None] // 4 == places // 4)
    expected = slow(tokens, labels=labels, attention_mask=mask[:, None])
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
    expected.backward()
    wanted = dict(slow.named_parameters())
    for weight, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[weight].grad, rtol=1e-6, atol=1e-8)
