import copy
from types import SimpleNamespace

import pytest
from torch import nn

from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.routing.unfit_layers import refuse_wrapper
from tests.data_efficiency.routing.recorded_layers import Layer, Stack, one_layer
from tests.data_efficiency.small_models import Block, SmallModel, dropping


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dropping(total_layer_num=5), "total_layer_num is 5, but the model has 4 layers of class"),
        (dropping(random_ltd_layer_num=3), "random_ltd_layer_num is 3, but .* has 2 entries"),
        (dropping(random_ltd_layer_id=(1, 1)), r"\[1, 1\]: names a layer twice"),
        (dropping(random_ltd_layer_id=(1, 4)), r"\[1, 4\]: each must be at least 0 and below 4"),
        (dropping(random_ltd_layer_id=(-1, 2)), r"\[-1, 2\]: each must be"),
        (
            dropping(model_mask_name="mask"),
            "model_mask_name is 'mask', but Block.forward",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, message):
    model = SmallModel()
    with pytest.raises(ValueError, match=message):
        convert_to_random_ltd(model, Block, config)
    assert not hasattr(model, "random_ltd_scheduler")


def test_converting_twice_is_refused():
    model = convert_to_random_ltd(SmallModel(), Block, dropping())
    for again in (model, copy.deepcopy(model)):
        with pytest.raises(ValueError, match="converted to random-LTD already"):
            convert_to_random_ltd(again, Block, dropping())


def test_a_model_that_is_called_in_parts_or_copies_is_refused():
    class PipelineModule(nn.Module):
        """Named as DeepSpeed's."""

    for wrapper, message in (
        (PipelineModule(), "cannot be composed with pipeline parallelism"),
        (nn.DataParallel(nn.Linear(2, 2)), r"nn\.DataParallel runs copies"),
    ):
        with pytest.raises(ValueError, match=message):
            refuse_wrapper(wrapper)
    refuse_wrapper(nn.Linear(2, 2))


@pytest.mark.parametrize("part", [nn.GRU(2, 2), nn.LSTMCell(2, 2), nn.Conv1d(1, 1, 3)])
def test_layers_in_which_tokens_see_the_one_before_are_refused(part):
    model = Stack([Layer(), Layer()])
    model.layers[1].mixer = part
    both = dropping(total_layer_num=2, random_ltd_layer_id=(0, 1))
    named = f"Layer 1 has a {type(part).__name__}, .* leave it out of random_ltd_layer_id"
    with pytest.raises(ValueError, match=named):
        convert_to_random_ltd(model, Layer, both)
    first = dropping(total_layer_num=2, random_ltd_layer_num=1, random_ltd_layer_id=(0,))
    convert_to_random_ltd(model, Layer, first)


def test_a_convolution_over_single_tokens_is_none():
    model = Stack([Layer()])
    model.layers[0].mixer = nn.Conv1d(2, 2, 1)
    convert_to_random_ltd(model, Layer, one_layer())


def test_a_layer_that_stands_twice_is_refused():
    model = Stack([Layer()])
    model.again = model.layers[0]
    with pytest.raises(ValueError, match="Layer 0 stands at 2 places of the model"):
        convert_to_random_ltd(model, Layer, one_layer())


def test_attention_that_reads_positions_instead_of_masks_is_refused():
    layer = Layer()
    layer.config = SimpleNamespace(_attn_implementation="flex_attention")
    with pytest.raises(ValueError, match="the attention implementation is 'flex_attention'"):
        convert_to_random_ltd(Stack([layer]), Layer, one_layer())


def test_processes_share_rows_as_the_configuration_says_and_in_known_layers_only():
    engine = SimpleNamespace(
        module=Stack([Layer()]),
        data_efficiency_config=DataEfficiencyConfig(random_ltd=one_layer()),
        row_shares=SimpleNamespace(size=2),
    )
    with pytest.raises(ValueError, match="autotp_size is 1, but this model is not cut so"):
        convert_to_random_ltd(engine, Layer)
    config = DataEfficiencyConfig(random_ltd=one_layer(), row_shares=2)
    engine.data_efficiency_config = config
    with pytest.raises(ValueError, match="Layer is no layer that random-LTD knows"):
        convert_to_random_ltd(engine, Layer)
