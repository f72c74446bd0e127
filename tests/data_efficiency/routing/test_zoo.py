"""Many classes of layers: dropping is right, as a reference without the library's code tells, or refused."""

import copy
import inspect
from functools import partial

import pytest
import torch

from data_efficiency.routing.random_ltd import convert_to_random_ltd
from tests.data_efficiency.routing.masked_reference import drop_by_masking
from tests.data_efficiency.routing.reference_loop import loss_and_gradients
from tests.data_efficiency.routing.zoo import ZOO, batch, layers_of, make_model
from tests.data_efficiency.small_models import KEPT, dropping

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ("gpt2", "gemma3_text", "mixtral", "deepseek_v3", "whisper_decoder", "clip_vision", "gptj")
QUICK += (
    "bart_decoder",
    "gpt_oss",
    "umt5",
    "llama4_text",
    "gemma3n_text",
    "albert",
    "convbert",
    "swin",
)
RIGHT = [name for name, entry in ZOO.items() if entry["outcome"] != "refused"]
COMPILED = ("gpt2", "llama", "bert", "vit", "gpt_neox", "phi3", "modernbert", "distilbert")
COMPILED += ("whisper_encoder", "bart_decoder", "gptj", "clip_text")


def some(names, quick=QUICK):
    return [pytest.param(n, marks=() if n in quick else pytest.mark.full) for n in names]


def convert(model, name, **changes):
    """All layers but the first drop tokens."""
    layers = layers_of(model, name)
    chosen = tuple(range(1, len(layers))) or (0,)
    parameters = inspect.signature(type(layers[0]).forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    takes_mask = "attention_mask" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
    settings = dropping(
        total_layer_num=len(layers),
        random_ltd_layer_num=len(chosen),
        random_ltd_layer_id=chosen,
        model_mask_name="attention_mask" if takes_mask else None,
        hidden_state_order=ZOO[name].get("order", "batch_seq_dim"),
        **changes,
    )
    convert_to_random_ltd(model, type(layers[0]), settings)
    return [layers[number] for number in chosen]


def forward(model, inputs, step=3):
    torch.manual_seed(0)
    if router := getattr(model, "random_ltd_scheduler", None):
        router.set_position(step, 7)
    return model(**inputs)[0]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", some(ZOO))
def test_dropping_is_right_or_refused(name, attention, padding):
    # Masks of padding reach float64's lowest number, which eager attention cannot hold.
    exact = attention == "sdpa" and ZOO[name].get("only") != "eager" or padding == "none"
    model = make_model(name, attention, torch.float64 if exact else torch.float32)
    slow, inputs = copy.deepcopy(model), batch(model, name, padding)
    if ZOO[name]["outcome"] == "refused":
        with pytest.raises((ValueError, TypeError), match=ZOO[name]["layer"]):
            forward(convert(model, name) and model, inputs)
        return
    plain = forward(slow, inputs)
    dropping_layers = convert(model, name)
    assert dropping_layers[0].forward.interface.proved == (ZOO[name]["outcome"] == "preset")
    output = forward(model, inputs)
    positions = model.random_ltd_scheduler.positions
    assert positions.shape[2] == KEPT
    number = {layer: place for place, layer in enumerate(layers_of(model, name))}
    drop_by_masking([layers_of(slow, name)[number[one]] for one in dropping_layers], positions)
    expected = forward(slow, inputs)
    # Some layers compute norms or the choice of experts in float32 whatever the model's dtype.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if exact else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(output, expected, **tolerance)
    assert not torch.allclose(output, plain, **tolerance)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    assert found.keys() == wanted.keys()
    for weight, gradient in wanted.items():
        largest = max(1.0, gradient.abs().max().item())
        gap = (found[weight] - gradient).abs().max().item()
        assert gap <= tolerance["rtol"] * largest, (weight, gap, largest)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", some(RIGHT))
def test_checkpointing_gives_the_same_gradients(name, reentrant):
    found = []
    for recompute in (False, True):
        model = make_model(name)
        if not model.supports_gradient_checkpointing:
            pytest.skip(f"{name} has no checkpointing of its own")
        convert(model, name)
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            if hasattr(model, "get_input_embeddings"):
                model.enable_input_require_grads()
        output = forward(model, batch(model, name))
        found.append((output.detach(), loss_and_gradients(model, output)[1]))
    (output, gradients), (again, recomputed) = found
    torch.testing.assert_close(again, output, rtol=1e-9, atol=1e-9)
    assert gradients.keys() == recomputed.keys()
    for weight, gradient in gradients.items():
        # Not bit for bit: sums may come in another order, and some attention is in float32.
        torch.testing.assert_close(recomputed[weight], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("whole", [True, False], ids=["model", "layers"])
@pytest.mark.parametrize("name", some(COMPILED, quick=()))
def test_compiled_with_inductor_it_is_the_same(name, whole):
    torch.compiler.reset()
    plain, compiled = make_model(name, "sdpa"), make_model(name, "sdpa")
    for model in (plain, compiled):
        convert(model, name)
    call = compiled
    if whole:
        call = partial(_call, torch.compile(compiled), compiled.random_ltd_scheduler)
    else:
        for layer in layers_of(compiled, name):
            layer.compile()
    for step in (0, 1):
        inputs = batch(plain, name)
        expected = forward(plain, inputs, step)
        output = call(inputs, step) if whole else forward(compiled, inputs, step)
        router = compiled.random_ltd_scheduler
        assert torch.equal(router.positions, plain.random_ltd_scheduler.positions)
        assert router.last_shape() == plain.random_ltd_scheduler.last_shape()
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
        _, wanted = loss_and_gradients(plain, expected)
        _, found = loss_and_gradients(compiled, output)
        for weight, gradient in wanted.items():
            torch.testing.assert_close(found[weight], gradient, rtol=1e-5, atol=1e-6)


def _call(model, router, inputs, step):
    router.set_position(step, 7)
    return model(**inputs)[0]


def _bart(step):
    """Decoders longer and shorter than their encoder, and as long."""
    generator = torch.Generator().manual_seed(step)
    lengths = ((13, 17), (13, 9), (20, 20))[step]
    names = ("input_ids", "decoder_input_ids")
    return {
        name: torch.randint(3, 40, (3, length), generator=generator)
        for name, length in zip(names, lengths, strict=True)
    }


def _masked_images(step):
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    return {"bool_masked_pos": torch.rand(3, 16, generator=generator) < 0.5, "pixel_values": pixels}


def _sound(step):
    """Half as many positions as frames, and decoders that are longer."""
    generator = torch.Generator().manual_seed(step)
    sound = torch.randn(3, 10, 26, generator=generator, dtype=torch.float64)
    tokens = torch.randint(3, 40, (3, 17), generator=generator)
    return {"input_features": sound, "decoder_input_ids": tokens}


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("name", "inputs", "lengths"),
    [
        pytest.param("bart_decoder", _bart, (17, 9, 20), marks=pytest.mark.full),
        pytest.param("dinov2", _masked_images, (17, 17, 17), marks=pytest.mark.full),
        ("whisper_encoder", _sound, (13, 13, 13)),
    ],
)
def test_the_length_drawn_for_is_the_one_that_layers_see(name, inputs, lengths, whole):
    torch.compiler.reset()
    plain, compiled = make_model(name, "sdpa"), make_model(name, "sdpa")
    for model in (plain, compiled):
        convert(model, name)
    call = torch.compile(compiled, backend="eager") if whole else compiled
    for layer in () if whole else layers_of(compiled, name):
        layer.compile(backend="eager")
    router = compiled.random_ltd_scheduler
    for step, length in enumerate(lengths):
        given = inputs(step)
        output, expected = _call(call, router, given, step), forward(plain, given, step)
        assert torch.equal(router.positions, plain.random_ltd_scheduler.positions)
        assert router.last_shape() == plain.random_ltd_scheduler.last_shape()
        assert router.last_shape().sequence_length == length
        torch.testing.assert_close(output, expected)
    torch.compiler.reset()
