"""Spans and layer dropout in many classes of layers, against references without the library's code."""

import copy
import inspect

import pytest
import torch

from data_efficiency.config import DataEfficiencyConfig, LayerDropoutConfig
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.routing.masked_reference import drop_by_masking
from tests.data_efficiency.routing.reference_loop import loss_and_gradients
from tests.data_efficiency.routing.test_zoo import RIGHT, forward, some
from tests.data_efficiency.routing.zoo import ROWS, ZOO, batch, layers_of, make_model
from tests.data_efficiency.small_models import dropping

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ("llama", "bert", "vit", "gpt2", "mixtral", "whisper_decoder")
KINDS = ("spans", "rows", "both")


def convert(model, name, kind):
    """All layers but the first are one span; rows skip all of them."""
    layers = layers_of(model, name)
    chosen = tuple(range(1, len(layers))) or (0,)
    parameters = inspect.signature(type(layers[0]).forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    takes_mask = "attention_mask" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
    span = dropping(
        total_layer_num=len(layers),
        random_ltd_layer_num=len(chosen),
        random_ltd_layer_id=chosen,
        spans=(chosen,),
        model_mask_name="attention_mask" if takes_mask else None,
        hidden_state_order=ZOO[name].get("order", "batch_seq_dim"),
    )
    rows = LayerDropoutConfig(
        schedule=CustomSchedule(function=lambda step: 67),
        seed=3,
        rows_per_group=ROWS,
        depth="uniform",
    )
    section = DataEfficiencyConfig(
        random_ltd=None if kind == "rows" else span,
        layer_dropout=None if kind == "spans" else rows,
    )
    convert_to_random_ltd(model, type(layers[0]), section)
    return chosen


def skip_by_masking(layers, kept_rows):
    """Makes each layer [rows, sequence, hidden] change only the rows that are kept, and these by more."""
    for layer, kept in zip(layers, kept_rows, strict=True):
        layer.forward = _skipped(layer.forward, kept)


def _skipped(original, kept):
    def forward(hidden, *args, **kwargs):
        result = original(hidden, *args, **kwargs)
        first = result[0] if isinstance(result, tuple) else result
        factor = torch.zeros(hidden.shape[0], 1, 1, dtype=hidden.dtype)
        factor[kept] = hidden.shape[0] / len(kept)
        changed = hidden + (first - hidden) * factor
        return (changed, *result[1:]) if isinstance(result, tuple) else changed

    forward.__signature__ = inspect.signature(original)
    return forward


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", some(RIGHT, QUICK))
def test_routes_are_right(name, kind):
    if kind != "spans" and ZOO[name].get("order") == "seq_batch_dim":
        pytest.skip("the reference has batches first")
    model = make_model(name, "sdpa" if ZOO[name].get("only") != "eager" else "eager")
    slow, inputs = copy.deepcopy(model), batch(model, name)
    plain = forward(slow, inputs)
    chosen = convert(model, name, kind)
    output = forward_in_whole_groups(model, inputs)
    draw = model.random_ltd_scheduler.draw
    layers = layers_of(slow, name)
    if kind != "spans":
        assert all(len(rows) == 2 for rows in draw.rows)
        skip_by_masking(layers, draw.rows)
    if kind != "rows":
        drop_by_masking([layers[one] for one in chosen], [draw.positions[0]] * len(chosen))
    expected = forward(slow, inputs)
    # Some layers compute norms or the choice of experts in float32 whatever the model's dtype.
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output, plain, rtol=1e-5, atol=1e-5)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    assert found.keys() == wanted.keys()
    for weight, gradient in wanted.items():
        largest = max(1.0, gradient.abs().max().item())
        gap = (found[weight] - gradient).abs().max().item()
        assert gap <= 1e-5 * largest, (weight, gap, largest)


def forward_in_whole_groups(model, inputs, step=3):
    torch.manual_seed(0)
    model.random_ltd_scheduler.set_position(step, 2 * ROWS)
    return model(**inputs)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", some(RIGHT, QUICK))
def test_checkpointing_gives_the_same_gradients(name, kind):
    found = []
    for recompute in (False, True):
        model = make_model(name)
        if not model.supports_gradient_checkpointing:
            pytest.skip(f"{name} has no checkpointing of its own")
        convert(model, name, kind)
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        output = forward_in_whole_groups(model, batch(model, name))
        found.append((output.detach(), loss_and_gradients(model, output)[1]))
    (output, gradients), (again, recomputed) = found
    torch.testing.assert_close(again, output, rtol=1e-9, atol=1e-9)
    assert gradients.keys() == recomputed.keys()
    for weight, gradient in gradients.items():
        # Not bit for bit: sums may come in another order, and some attention is in float32.
        torch.testing.assert_close(recomputed[weight], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit"])
def test_it_trains_and_is_saved_as_the_model_that_it_was(name, kind, tmp_path):
    model = make_model(name, dtype=torch.float32)
    inputs = batch(model, name)
    wanted = torch.randn(
        model.eval()(**inputs)[0].shape, generator=torch.Generator().manual_seed(2)
    )
    convert(model, name, kind)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for step in range(8):
        output = forward_in_whole_groups(model.train(), inputs, step)
        (output - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((model.eval()(**inputs)[0] - wanted).square().mean().item())
    assert losses[-1] < 0.95 * losses[0]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert not hasattr(again, "random_ltd_scheduler")
    assert torch.equal(again(**inputs)[0], model(**inputs)[0])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("whole", [True, False], ids=["model", "layers"])
@pytest.mark.parametrize("kind", ["spans", "both"])
@pytest.mark.parametrize("name", some(("llama", "bert", "vit", "gpt2"), quick=()))
def test_compiled_with_inductor_it_is_the_same(name, kind, whole):
    torch.compiler.reset()
    plain, compiled = make_model(name, "sdpa"), make_model(name, "sdpa")
    for model in (plain, compiled):
        convert(model, name, kind)
    call = torch.compile(compiled) if whole else compiled
    for layer in () if whole else layers_of(compiled, name):
        layer.compile()
    for step in (0, 1):
        inputs = batch(plain, name)
        expected = forward_in_whole_groups(plain, inputs, step)
        compiled.random_ltd_scheduler.set_position(step, 2 * ROWS)
        output = call(**inputs)[0]
        assert compiled.random_ltd_scheduler.last_shape() == plain.random_ltd_scheduler.last_shape()
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
        _, wanted = loss_and_gradients(plain, expected)
        _, found = loss_and_gradients(compiled, output)
        for weight, gradient in wanted.items():
            torch.testing.assert_close(found[weight], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "vit"])
def test_it_trains_and_its_weights_go_elsewhere(name, kind, tmp_path):
    model = make_model(name, "sdpa", torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.3)
    names = list(model.state_dict())
    convert(model, name, kind)
    inputs = batch(model, name)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for step in range(20):
        output = forward_in_whole_groups(model, inputs, step)
        loss = (output - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert list(model.state_dict()) == names
    model.eval().save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert not hasattr(other, "random_ltd_scheduler")
    assert torch.equal(other(**inputs)[0], model(**inputs)[0])
