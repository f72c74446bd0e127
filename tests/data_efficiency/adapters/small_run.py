"""Data, a model and a configuration that tests of the adapters share."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.json_sections import length_metric, random_ltd

NUM_SAMPLES, LENGTH, NUM_LAYERS = 22, 16, 4


class Rows(torch.utils.data.Dataset):
    """Sample i is the token i, again and again."""

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, sample):
        if sample >= NUM_SAMPLES:
            raise IndexError(sample)
        tokens = torch.full((LENGTH,), sample)
        return {"input_ids": tokens, "labels": tokens}


def make_model(num_layers=NUM_LAYERS):
    """A small GPT-2."""
    torch.manual_seed(0)
    sizes = {"n_positions": LENGTH, "n_embd": 8, "n_layer": num_layers, "n_head": 2}
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=NUM_SAMPLES, **sizes, **dropout, bos_token_id=0, eos_token_id=0)
    )


def configuration(*, length=True, dropping=True, **changes):
    """A JSON file's content with a warm-up of the length and token dropping."""
    sampling, routing = {"num_epochs": 3}, {}
    if length:
        metrics = {"seqlen_truncate": length_metric(8, LENGTH, steps=4)}
        sampling["curriculum_learning"] = {"enabled": True, "curriculum_metrics": metrics}
    if dropping:
        routing["random_ltd"] = random_ltd(NUM_LAYERS, 4, LENGTH, steps=6)
    return {"data_efficiency": {"data_sampling": sampling, "data_routing": routing}} | changes
