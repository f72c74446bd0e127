"""What a layer makes of shares; that several processes train as one shows tests/megatron/model/test_tensor_parallel.py."""

from types import SimpleNamespace

import pytest
import torch

from data_efficiency import LayerInterface, convert_to_random_ltd
from tests.data_efficiency.small_models import Block, SmallModel, dropping
from tests.json_sections import dropping_config


class Halves:
    """One process that writes down what it is asked for, and stands for the only one of a row."""

    size = 1

    def __init__(self):
        self.asked = []

    def whole(self, tensor, axis):
        self.asked.append(("whole", tensor.shape[axis]))
        return tensor

    def own(self, tensor, axis):
        self.asked.append(("own", tensor.shape[axis]))
        return tensor


def converted(shares, **interface):
    model = SmallModel()
    owner = SimpleNamespace(module=model, row_shares=shares)
    found = LayerInterface(masks=("attention_mask",), **interface)
    convert_to_random_ltd(owner, Block, dropping(), interface=found)
    model.random_ltd_scheduler.set_position(0, 0)
    return model


def test_a_layer_asks_for_whole_rows_and_leaves_its_own():
    """Twelve tokens are gathered, five of them kept and shared, gathered again, merged, and all shared."""
    shares, tokens = Halves(), torch.arange(24).view(2, 12)
    found = converted(shares, proved=True)(tokens, labels=tokens)
    assert shares.asked == 2 * [("whole", 12), ("own", 5), ("whole", 5), ("own", 12)]
    assert torch.equal(found, converted(None, proved=True)(tokens, labels=tokens))


def test_layers_that_would_have_to_be_proved_are_refused():
    with pytest.raises(ValueError, match="processes share each row, and Block is no layer"):
        converted(Halves())


def test_a_model_that_nobody_cut_is_refused():
    content = dropping_config(model_mask_name="attention_mask")
    content["tensor_parallel"] = {"autotp_size": 2}
    with pytest.raises(
        ValueError, match="autotp_size is 2, but this model is not cut so: convert the engine"
    ):
        convert_to_random_ltd(SmallModel(), Block, content)
