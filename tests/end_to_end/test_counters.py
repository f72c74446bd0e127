"""The counters of a run against a count of what the model was really given."""

import json

import pytest

import pretrain_gpt
from megatron.model.transformer import TransformerLayer
from tests.end_to_end.tiny_runs import NUM_LAYERS, composed_flags


@pytest.fixture
def seen(monkeypatch):
    """Positions given in training to each linear map of the first kind in a layer, and rows."""
    totals = {"corpus": 0, "layers": 0, "loss": 0, "samples": 0}
    made = pretrain_gpt.TASK.make_model

    def count_layer(module, arguments):
        if module.training:
            totals["layers"] += arguments[0].shape[0] * arguments[0].shape[1]

    def count_model(module, arguments, keywords):
        if module.training:
            rows, length = arguments[0].shape
            totals["samples"] += rows
            totals["corpus"] += rows * length
            totals["loss"] += keywords["labels"].numel()

    def make_model(config):
        model = made(config)
        model.register_forward_pre_hook(count_model, with_kwargs=True)
        for layer in model.modules():
            if isinstance(layer, TransformerLayer):
                # Inside the layer, behind the routing: it sees only the kept tokens.
                layer.input_layernorm.register_forward_pre_hook(count_layer)
        return model

    task = pretrain_gpt.TASK
    monkeypatch.setattr(
        pretrain_gpt, "TASK", type(task)(**{**vars(task), "make_model": make_model})
    )
    return totals


def test_truncation_and_dropping_are_counted_exactly(workspace, composed_config, tmp_path, seen):
    flags = composed_flags(workspace, composed_config, train_iters=20, save=tmp_path)
    assert pretrain_gpt.main(flags) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    end = lines[-1]
    assert end["kind"] == "end"
    assert end["corpus_tokens"] == seen["corpus"]
    assert end["loss_tokens"] == seen["loss"]
    assert end["layer_tokens"] == seen["layers"]
    assert end["consumed_samples"] == seen["samples"]
    assert end["effective_tokens"] == seen["layers"] / NUM_LAYERS
    assert end["corpus_tokens"] < 20 * 8 * 32
    assert end["layer_tokens"] < NUM_LAYERS * end["corpus_tokens"]
    train = [line for line in lines if line["kind"] == "train"]
    assert {line["sequence_length"] for line in train} == {8, 16, 24, 32}
    assert len({line["kept_length"] for line in train}) > 3
    assert sum(8 * line["sequence_length"] for line in train) == end["corpus_tokens"]
