"""The counters of a run against a count of what the model was really given."""

import json
from collections import Counter

import numpy as np
import pytest

import pretrain_gpt
from data_efficiency import IGNORED_LABEL, CurriculumSampler, load_config
from megatron.data.gpt_dataset import GPTDataset
from tests.end_to_end.engine_runs import log_lines
from tests.end_to_end.seen_batches import SeenBatches
from tests.end_to_end.tiny_runs import NUM_LAYERS, SEQ_LENGTH, composed_flags


@pytest.fixture
def seen(monkeypatch):
    return SeenBatches().watch(monkeypatch, pretrain_gpt)


def run_and_read(workspace, config, folder):
    """Training lines and last line of the log of a run of 20 steps."""
    assert pretrain_gpt.main(composed_flags(workspace, config, train_iters=20, save=folder)) == 0
    lines = log_lines(folder)
    assert lines[-1]["kind"] == "end"
    return [line for line in lines if line["kind"] == "train"], lines[-1]


def check_totals(end, seen):
    assert end["corpus_tokens"] == seen.total(lambda batch: batch["tokens"].numel())
    assert end["loss_tokens"] == seen.total(lambda batch: (batch["labels"] != IGNORED_LABEL).sum())
    assert end["layer_tokens"] == seen.layer_tokens
    assert end["effective_tokens"] == seen.layer_tokens / NUM_LAYERS
    assert end["consumed_samples"] == 20 * 8
    assert end["layer_tokens"] < NUM_LAYERS * end["corpus_tokens"]
    assert {batch["tokens"].shape[1] for batch in seen.evaluation} == {SEQ_LENGTH}
    assert seen.evaluated_lengths == {SEQ_LENGTH}


def test_truncation_and_dropping_are_counted_exactly(workspace, composed_config, tmp_path, seen):
    train, end = run_and_read(workspace, composed_config, tmp_path)
    check_totals(end, seen)
    assert seen.total(lambda batch: len(batch["tokens"])) == end["consumed_samples"]
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
    for samples, batch in zip(sampler, seen.training, strict=False):
        tokens, labels = batch["tokens"], batch["labels"]
        rows = dataset.get_batch(np.array(samples))
        assert pairs(tokens[labels != IGNORED_LABEL], labels[labels != IGNORED_LABEL]) == pairs(
            rows["tokens"].ravel(), rows["labels"].ravel()
        )


def pairs(tokens, labels):
    return Counter(zip(tokens.tolist(), labels.tolist(), strict=True))
