"""The counters of a run against a count of what the model was really given."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import pretrain_gpt
from data_efficiency import CurriculumSampler, load_config
from megatron.data.gpt_dataset import GPTDataset
from megatron.model.transformer import TransformerLayer
from tests.end_to_end.tiny_runs import NUM_LAYERS, SEQ_LENGTH, composed_flags


class Seen:
    """What the forward passes of a run were given."""

    def __init__(self):
        self.layer_tokens = 0
        self.training = []
        """(tokens, labels) of each training forward."""
        self.evaluation = []
        """Row length of each evaluation forward, and whether tokens were dropped."""

    def see_model(self, module, arguments, keywords):
        if module.training:
            self.training.append((arguments[0], keywords["labels"]))
        else:
            dropping = module.random_ltd_scheduler.positions is not None
            self.evaluation.append((arguments[0].shape[1], dropping))

    def see_layer(self, module, arguments):
        if module.training:
            self.layer_tokens += arguments[0].shape[0] * arguments[0].shape[1]

    def loss_tokens(self):
        return sum(int((labels != -100).sum()) for _, labels in self.training)


@pytest.fixture
def seen(monkeypatch):
    seen, task = Seen(), pretrain_gpt.TASK

    def make_model(config):
        model = task.make_model(config)
        model.register_forward_pre_hook(seen.see_model, with_kwargs=True)
        for layer in model.modules():
            if isinstance(layer, TransformerLayer):
                # Inside the layer, behind the routing: it sees only the kept tokens.
                layer.input_layernorm.register_forward_pre_hook(seen.see_layer)
        return model

    monkeypatch.setattr(pretrain_gpt, "TASK", replace(task, make_model=make_model))
    return seen


def run_and_read(workspace, config, folder):
    """Training lines and last line of the log of a run of 20 steps."""
    assert pretrain_gpt.main(composed_flags(workspace, config, train_iters=20, save=folder)) == 0
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["kind"] == "end"
    return [line for line in lines if line["kind"] == "train"], lines[-1]


def check_totals(end, seen):
    assert end["corpus_tokens"] == sum(tokens.numel() for tokens, _ in seen.training)
    assert end["loss_tokens"] == seen.loss_tokens()
    assert end["layer_tokens"] == seen.layer_tokens
    assert end["effective_tokens"] == seen.layer_tokens / NUM_LAYERS
    assert end["consumed_samples"] == 20 * 8
    assert end["layer_tokens"] < NUM_LAYERS * end["corpus_tokens"]
    assert set(seen.evaluation) == {(SEQ_LENGTH, False)}


def test_truncation_and_dropping_are_counted_exactly(workspace, composed_config, tmp_path, seen):
    train, end = run_and_read(workspace, composed_config, tmp_path)
    check_totals(end, seen)
    assert sum(len(tokens) for tokens, _ in seen.training) == end["consumed_samples"]
    assert {line["sequence_length"] for line in train} == {8, 16, 24, 32}
    assert len({line["kept_length"] for line in train}) > 3
    assert sum(8 * line["sequence_length"] for line in train) == end["corpus_tokens"]


def test_reshaping_trains_and_counts_each_token_once(workspace, composed_config, tmp_path, seen):
    content = json.loads(composed_config.read_text())
    sampling = content["data_efficiency"]["data_sampling"]
    metrics = sampling["curriculum_learning"]["curriculum_metrics"]
    length = metrics["seqlen_reshape"] = metrics.pop("seqlen_truncate")
    length["schedule_config"]["difficulty_step"] = 3
    config = tmp_path / "reshape.json"
    config.write_text(json.dumps(content))
    train, end = run_and_read(workspace, config, tmp_path / "run")
    check_totals(end, seen)
    assert len({line["sequence_length"] for line in train}) == 9
    assert end["corpus_tokens"] > end["loss_tokens"] == 20 * 8 * SEQ_LENGTH

    dataset = GPTDataset(
        str(workspace / "corpus_text_document"), split="9,1,0", sequence_length=SEQ_LENGTH
    )
    settings = load_config(content).data_efficiency
    sampler = CurriculumSampler(
        dataset, settings, micro_batch_size=4, gradient_accumulation_steps=2
    )
    for samples, (tokens, labels) in zip(sampler, seen.training, strict=False):
        rows = dataset.get_batch(np.array(samples))
        assert pairs(tokens[labels != -100], labels[labels != -100]) == pairs(
            rows["tokens"].ravel(), rows["labels"].ravel()
        )


def pairs(tokens, labels):
    return Counter(zip(tokens.tolist(), labels.tolist(), strict=True))
