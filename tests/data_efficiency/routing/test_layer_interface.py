import pytest
import torch

from data_efficiency.config import RandomLTDConfig
from data_efficiency.routing.layer_interface import LayerInterface, interface_of
from data_efficiency.schedule import RootSchedule
from megatron.model.transformer import TransformerLayer

POSITIONS = torch.tensor([[0, 2], [1, 3]])
INTERFACE = LayerInterface(masks=("mask",), token_tables={"table": 1})


def settings(**changes) -> RandomLTDConfig:
    fields = {
        "total_layer_num": 4,
        "random_ltd_layer_num": 2,
        "random_ltd_layer_id": (1, 2),
        "model_mask_name": "attention_mask",
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
        "schedule": RootSchedule(
            min_difficulty=8, max_difficulty=16, total_curriculum_step=10, difficulty_step=8
        ),
        "seed": 1,
    }
    return RandomLTDConfig(**(fields | changes))


@pytest.mark.parametrize(
    "shape", [(2, 4), (2, 4, 4), (2, 3, 4, 4), (1, 1, 4, 4), (2, 1, 1, 4), (2, 1, 4, 1), (1, 4)]
)
def test_masks_are_taken_at_queries_and_keys(shape):
    mask = torch.rand(shape) < 0.5
    result = INTERFACE.shorten("mask", mask, POSITIONS, 4)
    assert result.shape[0] == 2
    for row in range(2):
        expected = mask[row if shape[0] == 2 else 0]
        for axis in range(max(0, expected.dim() - 2), expected.dim()):
            if expected.shape[axis] == 4:
                expected = expected.index_select(axis, POSITIONS[row])
        assert torch.equal(result[row], expected)


def test_tables_are_taken_at_tokens():
    table = torch.randn(1, 4, 3)
    result = INTERFACE.shorten("table", table, POSITIONS, 4)
    assert torch.equal(result[1], table[0, [1, 3]])


@pytest.mark.parametrize("value", [None, 3, "text", torch.ones(2, 5), [torch.ones(3)]])
def test_what_has_no_sequence_axis_comes_back_as_it_is(value):
    assert INTERFACE.shorten("other", value, POSITIONS, 4) is value


def test_an_absent_mask_stays_absent():
    assert INTERFACE.shorten("mask", None, POSITIONS, 4) is None


@pytest.mark.parametrize(
    "value", [torch.ones(2, 4), (torch.ones(2), torch.ones(1, 4)), {"key": [torch.ones(4)]}]
)
def test_an_undescribed_tensor_as_long_as_the_sequence_is_refused(value):
    with pytest.raises(ValueError, match=r"argument other holds a tensor .* nothing says how"):
        INTERFACE.shorten("other", value, POSITIONS, 4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask", torch.ones(4), r"mask mask has shape \(4,\)"),
        ("mask", torch.ones(3, 4), "first axis must be the batch of 2 rows"),
        ("mask", torch.ones(2, 1, 4, 6), r"axis 3 must be as long as the sequence \(4\)"),
        ("table", torch.ones(1, 1, 4), r"axis 1 must be as long as the sequence \(4\)"),
    ],
)
def test_a_described_argument_must_fit(name, value, message):
    with pytest.raises(ValueError, match=message):
        INTERFACE.shorten(name, value, POSITIONS, 4)


def test_a_described_argument_must_be_a_tensor():
    with pytest.raises(TypeError, match="argument table is a list"):
        INTERFACE.shorten("table", [1, 2], POSITIONS, 4)


def test_our_layer_and_its_heirs_have_a_preset_whatever_the_json_says():
    class Heir(TransformerLayer):
        pass

    for layer_class in (TransformerLayer, Heir):
        interface = interface_of(layer_class, settings(hidden_state_order="seq_batch_dim"))
        assert (interface.batch_axis, interface.sequence_axis) == (0, 1)
        assert interface.masks == ("attention_mask",)
        assert dict(interface.token_tables) == {"rotary_cos": 1, "rotary_sin": 1}


def test_the_json_describes_other_layers():
    interface = interface_of(torch.nn.Linear, settings(hidden_state_order="seq_batch_dim"))
    assert (interface.batch_axis, interface.sequence_axis) == (1, 0)
    assert interface.masks == ("attention_mask",)
    assert interface_of(torch.nn.Linear, settings(model_mask_name=None)) == LayerInterface()
