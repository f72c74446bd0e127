import copy
import io
import json
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data_efficiency.config import DataEfficiencyConfig, RandomLTD
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.random_ltd import (
    convert_to_random_ltd,
    remove_random_ltd_state_dict,
)
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.routing.recorded_layers import Layer, Stack, one_layer, run
from tests.data_efficiency.small_models import KEPT, LENGTH, ROWS, Block, SmallModel, dropping
from tests.json_sections import random_ltd


def make_model():
    return SmallModel().double()


def converted(**changes):
    return convert_to_random_ltd(make_model(), Block, dropping(**changes))


def batch():
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(0, 50, (2, ROWS, LENGTH), generator=generator)
    return tokens, labels


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_the_split_into_micro_batches_changes_nothing():
    model = converted()
    tokens, labels = batch()

    def loss_of(rows: slice) -> torch.Tensor:
        model.random_ltd_scheduler.set_position(2, 8 + rows.start)
        return model(tokens[rows], labels=labels[rows])

    whole = loss_of(slice(0, 3))
    parts = loss_of(slice(0, 1)) + loss_of(slice(1, 3))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("whole", [False, True], ids=["layers", "model"])
def test_compiled_code_serves_every_kept_length(whole):
    schedule = CustomSchedule(function=lambda step: 3 + step)
    plain, compiled = (converted(schedule=schedule) for _ in range(2))
    num_graphs = 0

    def backend(graph, inputs):
        nonlocal num_graphs
        num_graphs += 1
        return graph

    call = torch.compile(compiled, backend=backend) if whole else compiled
    for layer in () if whole else compiled.layers:
        layer.compile(backend=backend)
    tokens, labels = batch()
    for step in range(6):
        for model in (plain, compiled):
            model.random_ltd_scheduler.set_position(step, 0)
        expected = plain(tokens, labels=labels)
        torch.testing.assert_close(call(tokens, labels=labels), expected)
    torch.compiler.reset()
    assert 1 <= num_graphs <= 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_trains(dtype, autocast):
    model = SmallModel() if autocast else SmallModel().to(dtype)
    convert_to_random_ltd(model, Block, dropping())
    tokens, labels = batch()
    model.random_ltd_scheduler.set_position(0, 0)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        loss = model(tokens, labels=labels) / labels.numel()
    loss.backward()
    assert loss.dtype == torch.float32
    found = gradients(model)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32 if autocast else dtype}
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_a_deep_copy_is_a_converted_model_of_its_own():
    model = converted()
    twin = copy.deepcopy(model)
    tokens, _ = batch()
    twin.random_ltd_scheduler.set_position(3, 0)
    dropped = twin(tokens)
    assert model.random_ltd_scheduler.positions is None
    with torch.no_grad():
        twin.layers[1].dense.weight.add_(1.0)
    model.random_ltd_scheduler.set_position(3, 0)
    assert torch.equal(model(tokens), dropped)
    twin.random_ltd_scheduler.set_position(3, 0)
    assert not torch.equal(twin(tokens), dropped)


@pytest.mark.parametrize("layers", [[1, 2], [[1, 2]]], ids=["random-LTD", "span"])
def test_a_model_read_from_a_file_is_a_converted_model_of_its_own(layers):
    dropped = RandomLTD(start=4, end=LENGTH, steps=8, layers=layers)
    model = convert_to_random_ltd(SmallModel(), Block, DataEfficiencyConfig.of(dropped))
    tokens, labels = batch()
    model.random_ltd_scheduler.set_position(0, 0)
    model(tokens, labels=labels).backward()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    for mode in (True, False):
        results = []
        for one in (model, twin):
            one.train(mode).random_ltd_scheduler.set_position(1, 0)
            results.append(one(tokens))
        assert torch.equal(*results)
    assert all(layer.forward.layer is layer for layer in twin.layers)
    assert twin.layers[1].forward.router is twin.random_ltd_scheduler


def test_layers_are_chosen_by_their_order_not_by_their_name():
    layers = [Layer() for _ in range(12)]
    config = dropping(total_layer_num=12, random_ltd_layer_id=(2, 10))
    run(convert_to_random_ltd(Stack(layers), Layer, config), torch.ones(ROWS, LENGTH, 2))
    lengths = [layer.calls[0]["hidden"].shape[1] for layer in layers]
    assert [number for number, length in enumerate(lengths) if length == KEPT] == [2, 10]
    assert set(lengths) == {KEPT, LENGTH}


def test_an_instance_inside_another_belongs_to_it():
    outer = Layer()
    outer.inner = Layer()
    model = convert_to_random_ltd(Stack([outer]), Layer, one_layer())
    run(model, torch.ones(ROWS, LENGTH, 2))
    assert outer.calls[0]["hidden"].shape[1] == KEPT
    assert "forward" not in vars(outer.inner)


def test_positional_arguments_are_bound_by_the_signature():
    layer = Layer()
    model = Stack([layer])
    mask = torch.rand(ROWS, 1, LENGTH, LENGTH)
    model.positional = (mask, 0.5)
    convert_to_random_ltd(model, Layer, one_layer(model_mask_name="mask"))
    run(model, torch.ones(ROWS, LENGTH, 2))
    call = layer.calls[0]
    positions = model.random_ltd_scheduler.positions[0]
    assert call["scale"] == 0.5
    assert torch.equal(call["mask"][2, 0], mask[2, 0][positions[2]][:, positions[2]])


def test_sequence_first_layers_obey_the_json():
    class SequenceFirst(Stack):
        def forward(self, hidden):
            return super().forward(hidden.transpose(0, 1)).transpose(0, 1)

    layer = Layer()
    model = SequenceFirst([layer])
    convert_to_random_ltd(model, Layer, one_layer(hidden_state_order="seq_batch_dim"))
    hidden = torch.rand(ROWS, LENGTH, 2)
    result = run(model, hidden)
    assert layer.calls[0]["hidden"].shape == (KEPT, ROWS, 2)
    doubled = (result == hidden * 2).all(-1)
    positions = model.random_ltd_scheduler.positions[0]
    assert torch.equal(doubled.nonzero()[:, 1].view(ROWS, KEPT), positions)


def test_layers_may_return_tuples():
    Output = namedtuple("Output", "hidden extra")
    for result in (
        lambda hidden: (hidden * 2, "extra"),
        lambda hidden: Output(hidden * 2, "extra"),
    ):
        layer = Layer(result)
        model = convert_to_random_ltd(Stack([layer]), Layer, one_layer())
        hidden = torch.ones(ROWS, LENGTH, 2)
        assert run(model, hidden).sum() == hidden.sum() + ROWS * KEPT * 2
        model.random_ltd_scheduler.set_position(0, 0)
        outputs: list = []
        model.layers[0].register_forward_hook(lambda *call, seen=outputs: seen.append(call[-1]))
        model(hidden)
        assert type(outputs[0]) is type(result(hidden))
        assert outputs[0][1] == "extra"


def test_configuration_in_every_form(tmp_path):
    only = {"total_layer_num": 1, "random_ltd_layer_num": 1, "random_ltd_layer_id": [0]}
    section = {"data_routing": {"random_ltd": random_ltd(3, KEPT, KEPT, 1, 1, **only)}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"data_efficiency": section}))
    in_section = DataEfficiencyConfig(random_ltd=one_layer())
    for config in (one_layer(), in_section, {"data_efficiency": section}, path, str(path)):
        model = Stack([Layer()])
        assert convert_to_random_ltd(model, Layer, config) is model
        assert run(model, torch.ones(ROWS, LENGTH, 2)).sum() == (LENGTH + KEPT) * ROWS * 2


def test_the_model_says_what_a_line_of_python_leaves_open():
    line = RandomLTD(start=KEPT, end=KEPT, steps=1, step_size=1)
    model = convert_to_random_ltd(make_model(), Block, DataEfficiencyConfig.of(line, seed=11))
    settings = model.random_ltd_scheduler.settings.random_ltd
    assert (settings.total_layer_num, settings.random_ltd_layer_id) == (4, (1, 2))
    assert settings.model_mask_name == "attention_mask"
    tokens, labels = batch()
    known = converted(model_mask_name="attention_mask")
    for one in (model, known):
        one.random_ltd_scheduler.set_position(2, 0)
    assert torch.equal(model(tokens, labels=labels), known(tokens, labels=labels))


def test_what_the_model_does_not_say_is_named():
    config = DataEfficiencyConfig.of(RandomLTD(start=4, steps=1))
    with pytest.raises(
        ConfigError, match="max_value is 'auto': the rows' length is not known here"
    ):
        convert_to_random_ltd(make_model(), Block, config)
    with pytest.raises(ValueError, match="the model has no layer of class Dropout"):
        convert_to_random_ltd(make_model(), nn.Dropout, config.with_length(16))


def test_an_engine_brings_its_configuration_and_gets_the_router():
    model = Stack([Layer()])
    engine = SimpleNamespace(
        module=model,
        data_efficiency_config=DataEfficiencyConfig(random_ltd=one_layer()),
        random_ltd_scheduler=None,
    )
    assert convert_to_random_ltd(engine, Layer) is engine
    assert engine.random_ltd_scheduler is model.random_ltd_scheduler
    assert run(model, torch.ones(ROWS, LENGTH, 2)).sum() == (LENGTH + KEPT) * ROWS * 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config is missing: a bare SmallModel"),
        (DataEfficiencyConfig(), "random_ltd is missing or not enabled"),
    ],
)
def test_settings_without_a_route_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        convert_to_random_ltd(make_model(), Block, config)


def test_only_modules_can_be_converted():
    with pytest.raises(TypeError, match="neither a module nor has one"):
        convert_to_random_ltd("model", Block, dropping())


class ByKeyword(Stack):
    def forward(self, hidden):
        return self.layers[0](hidden=hidden)


class Shortening(Stack):
    def enter(self, hidden):
        return hidden[:, :-1]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (Stack([Layer(lambda hidden: {"hidden": hidden})]), TypeError, "Layer returned a dict"),
        (Stack([Layer(lambda hidden: ())]), TypeError, "Layer returned a tuple"),
        (Stack([Layer(lambda hidden: hidden[:, 1:])]), ValueError, "returned shape"),
        (ByKeyword([Layer()]), TypeError, "without its hidden states as first positional"),
        (
            Shortening([Layer(), Layer()]),
            ValueError,
            "a layer got hidden states of 3 rows of 10 tokens, but the forward's first one 3 rows",
        ),
        (Stack([Layer()], bias=torch.ones(LENGTH)), ValueError, "argument bias holds a tensor"),
        (
            Stack([Layer()], mask=torch.ones(ROWS, LENGTH)),
            ValueError,
            "argument mask holds a tensor",
        ),
    ],
)
def test_calls_that_cannot_be_right_are_refused(model, error, message):
    config = dropping(total_layer_num=2, random_ltd_layer_id=(0, 1))
    convert_to_random_ltd(model, Layer, config if len(model.layers) == 2 else one_layer())
    with pytest.raises(error, match=message):
        run(model, torch.ones(ROWS, LENGTH, 2))


def test_unnamed_arguments_are_checked_too():
    class Starred(Layer):
        def forward(self, hidden, *others):
            return hidden

    model = Stack([Starred()])
    model.positional = (torch.ones(LENGTH),)
    convert_to_random_ltd(model, Starred, one_layer())
    with pytest.raises(ValueError, match="argument number 1 holds a tensor"):
        run(model, torch.ones(ROWS, LENGTH, 2))


def test_interchanged_axes_are_refused():
    model = Stack([Layer()])
    convert_to_random_ltd(model, Layer, one_layer(hidden_state_order="seq_batch_dim"))
    with pytest.raises(ValueError, match="got hidden states of 12 rows of 3 tokens, but .* 3 rows"):
        run(model, torch.ones(ROWS, LENGTH, 2))


def test_wrapped_names_become_plain_in_the_same_order():
    wrapped = {"b.random_ltd_layer.weight": 1, "a.weight": 2, "c.0.random_ltd_layer.d": 3}
    plain = remove_random_ltd_state_dict(wrapped)
    assert list(plain.items()) == [("b.weight", 1), ("a.weight", 2), ("c.0.d", 3)]
    with pytest.raises(ValueError, match=r"'b\.weight' twice"):
        remove_random_ltd_state_dict({"b.weight": 1, "b.random_ltd_layer.weight": 1})
