"""Random-LTD attached but dropping nothing: the same bits by the same operators."""

from collections import Counter

import pytest
import torch

from data_efficiency import convert_to_random_ltd
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from tests.end_to_end.tiny_runs import NUM_LAYERS, SEQ_LENGTH, random_ltd_section

LAST_STEP = 16


def make_model():
    torch.manual_seed(0)
    shape = {"num_layers": NUM_LAYERS, "hidden_size": 32, "num_attention_heads": 2}
    return GPTModel(ModelConfig(vocab_size=400, max_position_embeddings=SEQ_LENGTH, **shape))


def make_attached_model():
    routing = {"enabled": True, "random_ltd": random_ltd_section(total_steps=LAST_STEP)}
    section = {"enabled": True, "data_routing": routing}
    config = {"train_batch_size": 2, "data_efficiency": section}
    return convert_to_random_ltd(make_model(), TransformerLayer, config)


def run(model, training, step=LAST_STEP):
    """The loss, the gradients, and how often each operator ran."""
    if training and hasattr(model, "random_ltd_scheduler"):
        model.random_ltd_scheduler.set_position(step, 0)
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(0, 400, (2, 2, SEQ_LENGTH), generator=generator)
    with torch.profiler.profile() as profile:
        loss = model.train(training)(tokens, labels=labels)
        loss.backward()
    operators = Counter({event.key: event.count for event in profile.key_averages()})
    return loss, [parameter.grad for parameter in model.parameters()], operators


@pytest.mark.parametrize("training", [True, False], ids=["full_length", "evaluation"])
def test_same_bits_and_same_operators(training):
    loss, gradients, operators = run(make_model(), training)
    attached_loss, attached_gradients, attached_operators = run(make_attached_model(), training)
    assert torch.equal(attached_loss, loss)
    assert all(map(torch.equal, attached_gradients, gradients))
    assert attached_operators == operators


def test_dropping_takes_other_operators():
    assert run(make_attached_model(), True, step=0)[2] != run(make_model(), True)[2]
