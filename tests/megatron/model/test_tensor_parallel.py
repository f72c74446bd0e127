import re
from dataclasses import replace

import pytest

from data_efficiency import StepShape
from data_efficiency.plan_memory import Way, memory_of
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.tensor_parallel import cut, tensor_parallel
from megatron.run_state import model_shape, numbers_outside_layers
from tests.megatron.model.tensor_parallel_worker import CASES, FEW, KINDS, large
from tests.megatron.small_models import MODERN


@pytest.mark.parametrize(("model", "route"), FEW)
def test_a_model_that_is_cut_trains_as_the_whole_one(few, model, route):
    """Losses, gradients of every weight by the weights after SGD, evaluation, and the weights' way out and in."""
    check(few, model, route)


@pytest.mark.full
@pytest.mark.parametrize(("model", "route"), CASES[len(FEW) :])
def test_so_does_every_kind_of_model_on_every_route(others, model, route):
    check(others, model, route)


def check(found, model, route):
    left, right = (each[f"{model} {route}"] for each in found)
    assert left == right
    # The engine reports losses in float32.
    assert left["losses"] < 1e-6
    for name in ("weights", "logits", "rows"):
        assert left[name] < 1e-12, name
    assert left["evaluation"] < 1e-10
    assert left["moved"] > 0.05
    assert left["round_trip"]
    assert 0.5 < left["share"] < 0.6 + 0.1 * ("bert" in model)


@pytest.mark.parametrize(("model", "route"), FEW)
def test_kept_lengths_are_rounded_and_counted_so(few, model, route):
    """Five of twelve tokens are asked for, and two processes share six of them, in two of four layers."""
    counted = few[0][f"{model} {route}"]
    assert counted["kept_length"] == 6
    assert counted["layer_tokens"] == 2 * 4 * (2 * 6 + 2 * 12)


@pytest.mark.full
def test_spans_and_rows_are_counted_so(others):
    assert others[0]["modern none"]["kept_length"] is None
    assert others[0]["modern span_of_all"]["layer_tokens"] == 2 * 4 * (3 * 6 + 12)
    assert others[0]["modern rows"]["layer_tokens"] < others[0]["modern dropping"]["layer_tokens"]


def test_each_process_drops_numbers_of_its_own(few):
    left, right = (each["dropout"] for each in few)
    assert left["shape"] == right["shape"] == [4, 6, 16]
    for each in (left, right):
        assert 0.35 < sum(each["taken"]) / len(each["taken"]) < 0.65
    both = [one and other for one, other in zip(left["taken"], right["taken"], strict=True)]
    assert 0.15 < sum(both) / len(both) < 0.35


def test_what_does_not_go_together_is_refused(few):
    messages = (
        r"a row of 7 tokens cannot be shared evenly by 2 processes",
        r"tensor_parallel.autotp_size is 2, but nothing says how this model is cut: give initialize tensor_par",
        r"tensor_parallel.autotp_size is 2, and DeepSpeed's engine holds whole layers here: take the PyTorch",
        r"bf16_weights is true, and the model is cut .*leave it out",
        r"a matrix of \(3, 1\) rows cannot be cut for 2 processes",
    )
    assert few[0]["refused"] == few[1]["refused"]
    for said, message in zip(few[0]["refused"], messages, strict=True):
        assert re.match(message, said)


@pytest.mark.full
@pytest.mark.parametrize("number", range(len(KINDS)))
def test_the_plans_memory_is_what_a_process_keeps(others, number):
    """Within 5 per cent, as of other ways; what is in memory for a moment apart."""
    sizes, name, precision, recomputes = KINDS[number]
    num_layers, _, length, num_rows = sizes
    config = large(sizes, name, recomputes)
    step = StepShape(num_rows=num_rows, sequence_length=length)
    settings = {"precision": precision, "num_processes": 2}
    settings |= {"outside": numbers_outside_layers(config)}

    def planned(layers, recomputes=recomputes):
        model = replace(model_shape(config), num_layers=layers)
        way = Way(stage=0, recomputes=recomputes, tensor=2)
        return memory_of(model, step, way, **settings)

    # Logits, and of the layer that is recomputed, which none is at the end of the forward pass, what it keeps.
    moment = num_rows * length * 512 * (8 if precision == "fp32" else 6)
    moment += planned(0).activations - planned(0, recomputes=False).activations
    activations, weights = others[0]["kept"][number]
    assert others[1]["kept"][number] == [activations, weights]
    assert planned(num_layers).activations - moment == pytest.approx(activations, rel=0.05)
    assert planned(num_layers).weights == pytest.approx(weights, rel=0.03)


def test_several_matrices_in_one_are_named():
    """With as many rows as grouped queries, keys and values have, and gate and up."""
    fields = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 60}
    fused = tensor_parallel(GPTModel(ModelConfig(**fields, **MODERN))).fused
    layer = "language_model.layers.1"
    assert fused[f"{layer}.self_attention.query_key_value.weight"] == (32, 16, 16)
    assert fused[f"{layer}.mlp.dense_h_to_4h.weight"] == (64, 64)
    assert len(fused) == 4
    plain = tensor_parallel(GPTModel(ModelConfig(**fields))).fused
    assert sorted(plain) == [
        f"language_model.layers.{number}.self_attention.query_key_value.{kind}"
        for number in (0, 1)
        for kind in ("bias", "weight")
    ]


def test_a_model_of_others_is_not_cut():
    with pytest.raises(TypeError, match="a Linear is no model of ours"):
        cut(GPTModel(ModelConfig(num_layers=1)).layers[0].mlp.dense_4h_to_h, None)
