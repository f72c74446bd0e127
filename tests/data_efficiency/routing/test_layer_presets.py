import pytest
import torch
import transformers
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.layer_presets import interface_of, known_layer_class, mask_name_of
from data_efficiency.routing.random_ltd import convert_to_random_ltd, save_without_random_ltd
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.routing.reference_loop import drop_in_a_loop, loss_and_gradients
from tests.data_efficiency.small_models import KEPT, LENGTH, NUM_LAYERS, ROWS, dropping

VOCABULARY = 40
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IMAGE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 3,
}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": NUM_LAYERS}
GPT2 |= {"n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MODELS = {
    "gpt2": ("GPT2LMHeadModel", GPT2, "GPT2Block"),
    "llama": ("LlamaForCausalLM", TEXT | GROUPED, "LlamaDecoderLayer"),
    "mistral": (
        "MistralForCausalLM",
        TEXT | GROUPED | {"sliding_window": 6},
        "MistralDecoderLayer",
    ),
    "qwen2": ("Qwen2ForCausalLM", TEXT | GROUPED, "Qwen2DecoderLayer"),
    "qwen3": ("Qwen3ForCausalLM", TEXT | GROUPED | {"head_dim": 8}, "Qwen3DecoderLayer"),
    "bert": ("BertModel", TEXT | NO_DROPOUT, "BertLayer"),
    "roberta": ("RobertaModel", TEXT | NO_DROPOUT, "RobertaLayer"),
    "vit": ("ViTModel", IMAGE | NO_DROPOUT, "ViTLayer"),
    "dinov2": ("Dinov2Model", IMAGE | NO_DROPOUT, "Dinov2Layer"),
}
"""Name -> names of its classes of models and layers in transformers, and its settings."""
ENCODERS = ("bert", "roberta")
VISION = ("vit", "dinov2")
CASES = [(name, "plain") for name in MODELS]
CASES += [
    (name, mask) for name in MODELS if name not in VISION for mask in ("padding", "documents")
]


def settings(**changes):
    return dropping(**{"model_mask_name": "attention_mask"} | changes)


def make_model(name, attention, **changes):
    model_class = getattr(transformers, MODELS[name][0])
    torch.manual_seed(0)
    config = model_class.config_class(**MODELS[name][1] | changes)
    config._attn_implementation = attention
    model = model_class(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.train()


def layers_of(model, name):
    return [module for module in model.modules() if type(module).__name__ == MODELS[name][2]]


def batch(name: str, mask: str = "plain") -> dict:
    generator = torch.Generator().manual_seed(1)
    if name in VISION:
        return {
            "pixel_values": torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)
        }
    tokens = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=generator)
    inputs = {"input_ids": tokens}
    if mask == "padding":
        inputs["attention_mask"] = torch.ones(ROWS, LENGTH, dtype=torch.int64)
        inputs["attention_mask"][1, 9:] = 0
        inputs["attention_mask"][2, 11:] = 0
    elif mask == "documents":
        document = torch.tensor([0] * 4 + [1] * 5 + [2] * 3)
        together = document[:, None] == document
        if name not in ENCODERS:
            together = together.tril()
        allowed = together.expand(ROWS, 1, LENGTH, LENGTH).clone()
        allowed[2] = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        floats = torch.zeros(allowed.shape, dtype=torch.float64)
        inputs["attention_mask"] = floats.masked_fill(~allowed, torch.finfo(torch.float64).min)
    return inputs


def output_of(model, inputs) -> torch.Tensor:
    return model(**inputs)[0]


def convert(model, name, **changes):
    return convert_to_random_ltd(model, type(layers_of(model, name)[0]), settings(**changes))


def converted(name, attention, **changes):
    model = convert(make_model(name, attention), name, **changes)
    model.random_ltd_scheduler.set_position(3, 7)
    return model


def check_against_the_loop(name, attention, mask):
    model, slow = converted(name, attention), make_model(name, attention)
    inputs = batch(name, mask)
    if attention == "sdpa" and mask == "documents":
        inputs["attention_mask"] = inputs["attention_mask"] == 0
    if attention == "sdpa" and mask == "padding":
        # Padding on the left gives queries without any key, on which eager attention is not finite.
        inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    output = output_of(model, inputs)
    positions = model.random_ltd_scheduler.positions
    assert positions.shape == (2, ROWS, KEPT)
    drop_in_a_loop(layers_of(slow, name), positions)
    expected = output_of(slow, inputs)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    assert found.keys() == wanted.keys()
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(
            found[parameter], gradient, rtol=1e-7, atol=1e-9, msg=lambda text, p=parameter: p + text
        )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("name", "mask"), CASES)
def test_outputs_and_gradients_are_those_of_a_slow_loop(name, mask, attention):
    check_against_the_loop(name, attention, mask)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "mask"),
    [
        # One that tells its sequence length, and one whose layers must find it.
        pytest.param(
            *case,
            marks=() if case in {("llama", "padding"), ("vit", "plain")} else pytest.mark.full,
        )
        for case in CASES
    ],
)
def test_compiled_layers_do_the_same(name, mask):
    torch.compiler.reset()
    model, compiled = converted(name, "sdpa"), converted(name, "sdpa")
    for layer in layers_of(compiled, name):
        layer.compile(backend="aot_eager")
    inputs = batch(name, mask)
    expected, output = output_of(model, inputs), output_of(compiled, inputs)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    _, wanted = loss_and_gradients(model, expected)
    _, found = loss_and_gradients(compiled, output)
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_keeping_everything_is_bit_equal(name):
    whole = CustomSchedule(function=lambda step: 17)
    model, plain = converted(name, "sdpa", schedule=whole), make_model(name, "sdpa")
    inputs = batch(name, "plain" if name in VISION else "padding")
    output, expected = output_of(model, inputs), output_of(plain, inputs)
    assert torch.equal(output, expected)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(plain, expected)
    assert all(torch.equal(found[parameter], wanted[parameter]) for parameter in wanted)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_bit_equal_gradients(name, reentrant):
    """With two forwards pending, the second on other subsets."""
    inputs = batch(name)
    results = []
    for recompute in (False, True):
        model = converted(name, "sdpa")
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        first = output_of(model, inputs)
        model.random_ltd_scheduler.set_position(4, 0)
        second = output_of(model, inputs)
        _, gradients = loss_and_gradients(model, first + 2 * second)
        results.append((first, second, gradients))
    plain, recomputed = results
    assert torch.equal(plain[0], recomputed[0])
    assert torch.equal(plain[1], recomputed[1])
    assert not torch.equal(plain[0], plain[1])
    for parameter, gradient in plain[2].items():
        assert torch.equal(recomputed[2][parameter], gradient), parameter


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_rotations_follow_the_original_positions(name):
    """Attention of kept tokens is that of the whole sequence with all others masked out."""
    model, whole = converted(name, "eager"), make_model(name, "eager")
    inputs = batch(name)
    seen = []
    for layer in (layers_of(model, name)[1], layers_of(whole, name)[1]):
        layer.self_attn.register_forward_hook(lambda *call: seen.append(call[-1][1]))
    output_of(model, inputs)
    chosen = model.random_ltd_scheduler.positions[0]
    output_of(whole, inputs)
    shortened, full = seen
    for row in range(ROWS):
        among_kept = full[row][:, chosen[row]][:, :, chosen[row]]
        expected = among_kept / among_kept.sum(-1, keepdim=True)
        torch.testing.assert_close(shortened[row], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_an_empty_cache_is_set_aside_and_a_filled_one_refused(name):
    changes = {"is_decoder": True} if name == "bert" else {}
    model = convert(make_model(name, "sdpa", **changes), name)
    inputs = batch(name)
    model.random_ltd_scheduler.set_position(0, 0)
    without = model(**inputs, use_cache=False)[0]
    model.random_ltd_scheduler.set_position(0, 0)
    assert torch.equal(model(**inputs, use_cache=True)[0], without)
    model.eval()
    cache = model(
        **inputs, past_key_values=transformers.DynamicCache(config=model.config)
    ).past_key_values
    model.train()
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(ValueError, match="past_key_values holds keys of 12 earlier tokens"):
        model(**inputs, past_key_values=cache)


def test_evaluation_generates_with_a_cache():
    model, plain = converted("gpt2", "sdpa").eval(), make_model("gpt2", "sdpa").eval()
    prompt = batch("gpt2")
    arguments = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(**prompt, **arguments), plain.generate(**prompt, **arguments))


@pytest.mark.parametrize("name", MODELS)
def test_weights_keep_their_names(name, tmp_path):
    model, plain = converted(name, "sdpa"), make_model(name, "sdpa")
    assert list(model.state_dict()) == list(plain.state_dict())
    model.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(output_of(loaded.eval(), batch(name)), output_of(model.eval(), batch(name)))
    loaded.load_state_dict(save_without_random_ltd(model))


def test_what_cannot_be_right_is_refused():
    model = converted("llama", "sdpa")
    with pytest.raises(ValueError, match="argument cu_seq_lens_q holds a tensor"):
        model(**batch("llama"), cu_seq_lens_q=torch.tensor([0, 4, 12], dtype=torch.int32))
    model = converted("gpt2", "eager")
    with pytest.raises(ValueError, match="output_attentions is set"):
        model(**batch("gpt2"), output_attentions=True)
    model = make_model("llama", "sdpa")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attention implementation is 'flash_attention_2'"):
        convert(model, "llama")


def test_a_class_without_a_preset_is_refused_at_its_first_call():
    class Foreign(torch.nn.Module):
        def forward(self, hidden, rotary=None):
            return hidden

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(Foreign() for _ in range(NUM_LAYERS))

        def forward(self, hidden):
            for layer in self.layers:
                hidden = layer(hidden, rotary=(torch.ones(1, LENGTH, 4),) * 2)
            return hidden

    def run(model):
        model.random_ltd_scheduler.set_position(0, 0)
        return model(torch.ones(ROWS, LENGTH, 8))

    bare = settings(model_mask_name=None)
    with pytest.raises(ValueError, match="argument rotary .* give convert_to_random_ltd a LayerI"):
        run(convert_to_random_ltd(Model(), Foreign, bare))
    described = LayerInterface(token_tables={"rotary": 1})
    run(convert_to_random_ltd(Model(), Foreign, bare, interface=described))


def test_the_json_describes_other_layers():
    interface = interface_of(torch.nn.Linear, settings(hidden_state_order="seq_batch_dim"))
    assert (interface.batch_axis, interface.sequence_axis) == (1, 0)
    assert interface.masks == ("attention_mask",)
    assert interface_of(torch.nn.Linear, settings(model_mask_name=None)) == LayerInterface()


def test_the_layers_of_a_known_model_are_found():
    assert known_layer_class(make_model("gpt2", "sdpa")) is GPT2Block
    assert known_layer_class(make_model("dinov2", "sdpa")) is Dinov2Layer

    config = make_model("gpt2", "sdpa").config

    class MyBlock(GPT2Block):
        pass

    assert known_layer_class(torch.nn.Sequential(MyBlock(config), MyBlock(config))) is MyBlock


def test_models_of_unknown_or_several_layer_classes_are_refused():
    model = torch.nn.Sequential(*(torch.nn.TransformerEncoderLayer(8, 2) for _ in range(3)))
    with pytest.raises(ValueError, match=r"layers of none .* TransformerEncoderLayer \(3\)"):
        known_layer_class(model)
    two = torch.nn.Sequential(*(make_model(name, "sdpa") for name in ("gpt2", "dinov2")))
    with pytest.raises(ValueError, match="layers of GPT2Block, Dinov2Layer of the classes"):
        known_layer_class(two)


def test_a_model_of_two_lengths_is_converted_in_parts():
    part = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    part |= {"num_attention_heads": 4, "vocab_size": VOCABULARY, "image_size": 8, "patch_size": 2}
    config = transformers.CLIPConfig(text_config=part, vision_config=part, projection_dim=16)
    inputs = {"input_ids": torch.ones(ROWS, LENGTH, dtype=torch.int64)}
    inputs["pixel_values"] = torch.zeros(ROWS, 3, 8, 8)
    model = transformers.CLIPModel(config).train()
    layer_class = known_layer_class(model)
    convert_to_random_ltd(model, layer_class, settings())
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(ValueError, match=r"convert one part of the model, .* a CLIPEncoderLayer\)"):
        model(**inputs)
    model = transformers.CLIPModel(config).train()
    tower = model.vision_model
    convert_to_random_ltd(
        tower, layer_class, settings(total_layer_num=2, random_ltd_layer_id=(0, 1))
    )
    tower.random_ltd_scheduler.set_position(0, 0)
    model(**inputs)
    assert tower.random_ltd_scheduler.last_shape().sequence_length == 17


def test_the_mask_is_found_by_the_name_of_an_argument():
    class Plain(torch.nn.Module):
        def forward(self, hidden):
            return hidden

    class Masked(torch.nn.Module):
        def forward(self, hidden, key_padding_mask=None):
            return hidden

    class Twice(torch.nn.Module):
        def forward(self, hidden, src_mask=None, src_key_padding_mask=None):
            return hidden

    assert mask_name_of(Plain) is None
    assert mask_name_of(Masked) == "key_padding_mask"
    # Of these the names are known already.
    assert mask_name_of(GPT2Block) is None
    with pytest.raises(ValueError, match="takes src_mask, src_key_padding_mask: say which"):
        mask_name_of(Twice)
