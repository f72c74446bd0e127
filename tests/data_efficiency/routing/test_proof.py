"""What the proof at the first forward accepts, refuses, and leaves alone."""

import copy
import random
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.only_kept import OnlyKept
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.routing.masked_reference import drop_by_masking
from tests.data_efficiency.small_models import DROPPING, LENGTH, NUM_LAYERS, ROWS, dropping

SIZE = 16


class Plain(nn.Module):
    """Causal attention by a fused kernel; other classes change a part of it."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(SIZE), nn.Linear(SIZE, 3 * SIZE)
        self.outer, self.dense = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.add_parts()

    def add_parts(self):
        pass

    def forward(self, hidden, **given):
        heads = self.inner(self.norm(hidden)).unflatten(-1, (3, 4, -1)).transpose(1, 3)
        context = self.attend(*heads.unbind(2), **given).transpose(1, 2).flatten(2)
        return hidden + self.change(self.outer(context)) + functional.gelu(self.dense(hidden))

    def attend(self, query, key, value):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def change(self, update):
        return update


class Eager(Plain):
    def attend(self, query, key, value):
        scores = query @ key.transpose(-1, -2) + self.bias(query.shape[-2])
        return functional.softmax(scores, dim=-1) @ value

    def bias(self, length):
        return torch.zeros(length, length).masked_fill(_distance(length) < 0, -torch.inf)


class KeysFirst(Eager):
    def attend(self, query, key, value):
        return (key @ query.transpose(-1, -2)).softmax(-2).transpose(-1, -2) @ value


class Sink(Eager):
    def add_parts(self):
        self.sink = nn.Parameter(torch.zeros(4))

    def attend(self, query, key, value):
        scores = query @ key.transpose(-1, -2)
        sink = self.sink[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat((scores, sink), -1).softmax(-1)[..., :-1] @ value


class Dropout(Plain):
    def attend(self, query, key, value):
        attend = functional.scaled_dot_product_attention
        return attend(query, key, value, is_causal=True, dropout_p=0.3)

    def change(self, update):
        whole = torch.rand(update.shape[0], 1, 1) < 0.9
        return functional.dropout(update, 0.3) * whole + torch.randn_like(update) * 0.1


class Multihead(Plain):
    def add_parts(self):
        self.attention = nn.MultiheadAttention(SIZE, 4, batch_first=True)

    def forward(self, hidden):
        return hidden + self.attention(hidden, hidden, hidden)[0]


class Pointwise(Plain):
    def attend(self, query, key, value):
        return value


class ThroughMethod(Plain):
    """Its attention is an attribute that holds a method, as some models choose their kernels."""

    def add_parts(self):
        self.attend = partial(self.chosen)

    def chosen(self, query, key, value):
        return functional.scaled_dot_product_attention(query, key, value)


class Stack(nn.Module):
    def __init__(self, kind, **given):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(kind() for _ in range(NUM_LAYERS))
        self.given = given

    def forward(self, hidden):
        for layer in self.layers:
            result = layer(hidden, **self.given)
            hidden = result[0] if isinstance(result, tuple) else result
        return hidden


def _distance(length):
    places = torch.arange(length)
    return places[:, None] - places


def batch(length=LENGTH, rows=ROWS):
    return torch.randn(rows, length, SIZE, generator=torch.Generator().manual_seed(1))


def run(model, hidden=None, step=0):
    model.random_ltd_scheduler.set_position(step, 0)
    return model(batch() if hidden is None else hidden)


def converted(kind, given=(), **changes):
    interface = changes.pop("interface", None)
    model = Stack(kind, **dict(given))
    return convert_to_random_ltd(
        model, type(model.layers[0]), dropping(**changes), interface=interface
    )


@pytest.mark.parametrize("rows", [1, 2, ROWS, LENGTH])
@pytest.mark.parametrize(
    "kind", [Plain, Eager, KeysFirst, Sink, Multihead, Pointwise, ThroughMethod]
)
def test_layers_that_are_right_are_accepted(kind, rows):
    model, slow = converted(kind), Stack(kind)
    output = run(model, batch(rows=rows))
    positions = model.random_ltd_scheduler.positions
    drop_by_masking([slow.layers[number] for number in DROPPING], positions)
    torch.testing.assert_close(output, slow(batch(rows=rows)), rtol=1e-5, atol=1e-5)


class Window(Eager):
    def bias(self, length):
        return super().bias(length).masked_fill(_distance(length) >= 6, -torch.inf)


class TinyUpdate(Window):
    def add_parts(self):
        self.scale = nn.Parameter(torch.full((SIZE,), 1e-7))

    def change(self, update):
        return update * self.scale


class ZeroTable(Eager):
    def add_parts(self):
        self.table = nn.Parameter(torch.zeros(64))

    def bias(self, length):
        return super().bias(length) + self.table[_distance(length)]


class Learned(Plain):
    def add_parts(self):
        self.places = nn.Embedding(64, SIZE)
        nn.init.zeros_(self.places.weight)

    def forward(self, hidden):
        return super().forward(hidden + self.places(torch.arange(hidden.shape[1])))


class Shift(Plain):
    def forward(self, hidden):
        return super().forward(hidden + functional.pad(hidden, (0, 0, 1, -1)))


class FirstToken(Plain):
    def forward(self, hidden):
        return super().forward(hidden) + hidden[:, :1]


class BatchNorm(Plain):
    def add_parts(self):
        self.batch_norm = nn.BatchNorm1d(SIZE)

    def forward(self, hidden):
        return super().forward(self.batch_norm(hidden.transpose(1, 2)).transpose(1, 2))


class OtherRows(Plain):
    def forward(self, hidden):
        return super().forward(hidden) + hidden.mean(0, keepdim=True)


class Linear(Plain):
    def attend(self, query, key, value):
        return query.exp() @ (key.exp().transpose(-1, -2) @ value)


class ByLength(Plain):
    def attend(self, query, key, value):
        return functional.scaled_dot_product_attention(query * query.shape[-2], key, value)


class FunctionalConvolution(Plain):
    def add_parts(self):
        self.weight = nn.Parameter(torch.zeros(SIZE, 1, 3))

    def change(self, update):
        padded = functional.pad(update.transpose(1, 2), (2, 0))
        return functional.conv1d(padded, self.weight, groups=SIZE).transpose(1, 2)


class FixedLength(Eager):
    def bias(self, length):
        return torch.zeros(LENGTH, LENGTH)


@pytest.mark.parametrize(
    "kind",
    [
        *(Window, TinyUpdate, ZeroTable, Learned, Shift, FirstToken, BatchNorm, OtherRows, Linear),
        *(ByLength, FunctionalConvolution, FixedLength),
    ],
)
def test_layers_that_would_be_wrong_are_refused_by_name(kind):
    model = converted(kind)
    with pytest.raises(ValueError, match=f"^{kind.__name__} may not drop tokens: .*proved=True"):
        run(model)


def test_a_layer_that_is_called_twice_is_refused():
    class Twice(Stack):
        def forward(self, hidden):
            return super().forward(super().forward(hidden))

    for compile_it in (False, True):
        model = convert_to_random_ltd(Twice(Plain), Plain, dropping())
        model.random_ltd_scheduler.set_position(0, 0)
        call = torch.compile(model, backend="eager") if compile_it else model
        with pytest.raises(
            ValueError, match="one Plain was called twice in a forward of the model"
        ):
            call(batch())
    torch.compiler.reset()


def test_nothing_of_the_model_changes():
    model = converted(Dropout)
    model.register_buffer("seen", torch.zeros(()))
    calls, before = [], copy.deepcopy(model.state_dict())
    for layer in model.layers:
        layer.norm.register_forward_hook(lambda *call: calls.append(call))
    states = torch.get_rng_state(), random.getstate()
    layer, matmul = model.layers[1], torch.backends.mkldnn.matmul
    precision = matmul.fp32_precision
    model.random_ltd_scheduler.proofs.prove(layer.forward, (), (batch(),), {})
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert matmul.fp32_precision == precision
    assert calls == []
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_what_is_random_is_the_same_with_and_without_the_proof():
    proved = LayerInterface(proved=True)
    found = []
    for interface in (None, proved):
        model = converted(Dropout, interface=interface)
        torch.manual_seed(3)
        found.append(run(model))
    assert torch.equal(*found)


def test_a_declared_class_is_not_proved_but_named(caplog):
    assert run(converted(Window, interface=LayerInterface(proved=True))).shape == batch().shape
    assert "Window drops tokens unproved" in caplog.text


def test_alike_layers_are_proved_once_and_others_each(monkeypatch):
    proved = []
    prove = "data_efficiency.routing.proof.prove"
    monkeypatch.setattr(prove, lambda dropping, *_: proved.append(dropping.layer_id))

    class Numbered(Plain):
        count = 0

        def add_parts(self):
            self.layer_idx = Numbered.count
            Numbered.count += 1

    def proofs(change):
        proved.clear()
        model = Stack(Numbered)
        change(model.layers)
        convert_to_random_ltd(
            model, Numbered, dropping(random_ltd_layer_num=4, random_ltd_layer_id=(0, 1, 2, 3))
        )
        for step in range(2):
            run(model, step=step)
        return list(proved)

    assert proofs(lambda layers: None) == [0]
    assert proofs(lambda layers: setattr(layers[2], "window", 1)) == [0, 2]
    assert proofs(
        lambda layers: [setattr(layer, "window", i) for i, layer in enumerate(layers)]
    ) == [*(0, 1, 2, 3)]
    assert proofs(lambda layers: layers[3].register_buffer("table", torch.ones(3))) == [0, 3]
    assert proofs(
        lambda layers: setattr(layers[1], "dense", nn.Linear(SIZE, SIZE, bias=False))
    ) == [*(0, 1)]


def test_longer_sequences_are_proved_anew():
    class Window20(Eager):
        def bias(self, length):
            return super().bias(length).masked_fill(_distance(length) >= 20, -torch.inf)

    model = converted(Window20)
    for length in (8, 20, 12):
        run(model, batch(length))
    with pytest.raises(ValueError, match="Window20 may not drop"):
        run(model, batch(21))


def test_another_form_of_call_is_proved_anew():
    class Counting(Plain):
        def forward(self, hidden, mask=None):
            places = 0 if mask is None else mask.cumsum(-1)[..., None]
            return super().forward(hidden + places)

    model = converted(Counting, model_mask_name="mask")
    run(model)
    model.given = {"mask": torch.ones(ROWS, LENGTH)}
    with pytest.raises(ValueError, match="Counting may not drop"):
        run(model)


def test_nothing_is_proved_while_nothing_is_dropped(monkeypatch):
    whole = CustomSchedule(function=lambda step: LENGTH)
    monkeypatch.setattr("data_efficiency.routing.proof.prove", None)
    run(converted(Window, schedule=whole))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_proved_in_float32(dtype):
    assert run(converted(Plain).to(dtype), batch().to(dtype)).dtype == dtype
    with pytest.raises(ValueError, match="ByLength may not drop"):
        run(converted(ByLength).to(dtype), batch().to(dtype))


def test_another_sequence_as_long_is_not_taken_for_the_layers():
    kind = partial(nn.TransformerDecoderLayer, SIZE, 4, 32, 0.0, batch_first=True)
    for length in (LENGTH, LENGTH + 1, 7):
        given = {"memory": torch.randn(ROWS, length, SIZE)}
        run(converted(kind, given, interface=LayerInterface(untouched=("memory",))))


def test_interchanged_axes_are_found():
    model = converted(partial(nn.TransformerEncoderLayer, SIZE, 4, 32, 0.0))
    with pytest.raises(ValueError, match="TransformerEncoderLayer may not drop tokens"):
        run(model)


class OwnBlock(GPT2Block):
    def forward(self, hidden, *args, **kwargs):
        return super().forward(hidden + hidden.mean(1, keepdim=True), *args, **kwargs)


class OwnPart(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden):
        return self.inner(hidden) + hidden.mean(1, keepdim=True)


def _derive(layer):
    layer.__class__ = OwnBlock


def _replace(layer):
    layer.mlp = OwnPart(layer.mlp)


def _patch(layer):
    layer.attn.forward = partial(_with_mean, layer.attn.forward)


def _with_mean(forward, hidden, *args, **kwargs):
    return forward(hidden + hidden.mean(1, keepdim=True), *args, **kwargs)


@pytest.mark.parametrize("change", [_derive, _replace, _patch])
def test_code_of_ones_own_in_a_known_class_is_proved(change):
    config = {"n_layer": NUM_LAYERS, "n_embd": SIZE, "n_head": 4, "vocab_size": 40}
    model = GPT2Model(GPT2Config(**config, bos_token_id=1, eos_token_id=2)).train()
    for layer in model.h:
        change(layer)
    convert_to_random_ltd(model, type(model.h[0]), dropping(model_mask_name="attention_mask"))
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(ValueError, match="Block may not drop tokens"):
        model(input_ids=torch.zeros(ROWS, LENGTH, dtype=torch.int64))


def test_a_forward_that_cannot_be_copied_is_refused():
    model = Stack(Plain)
    for layer in model.layers:
        forward = layer.forward
        layer.forward = lambda hidden, forward=forward: forward(hidden)
    convert_to_random_ltd(model, Plain, dropping())
    with pytest.raises(
        ValueError, match="Plain may not drop tokens: its forward was replaced by a fu"
    ):
        run(model)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"is_causal": True},
        {"attn_mask": torch.randn(7, 7)},
        {"attn_mask": torch.rand(7, 7) < 0.7},
        {"scale": 0.3, "dropout_p": 0.4},
    ],
    ids=["none", "causal", "additive", "boolean", "scaled"],
)
@pytest.mark.parametrize("num_heads", [4, 2])
def test_attention_by_plain_operators_is_that_of_the_kernels(given, num_heads):
    query, key, value = torch.randn(2, 4, 7, 8), *torch.randn(2, 2, num_heads, 7, 8)
    attend = partial(
        functional.scaled_dot_product_attention, query, key, value, enable_gqa=num_heads < 4
    )
    with torch.no_grad(), OnlyKept(None):
        found = attend(**given)
    torch.testing.assert_close(found, attend(**given | {"dropout_p": 0.0}), rtol=1e-4, atol=1e-5)
