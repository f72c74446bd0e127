"""BERT's pretraining: its losses and counters, on both engines, with padding, truncation and dropping."""

import json
import random

import numpy as np
import pytest
import torch

import pretrain_bert
from data_efficiency import IGNORED_LABEL
from megatron.arguments import parse_run_config
from megatron.reporting import read_log
from tests.end_to_end.bert_runs import (
    SCRIPT,
    SPLIT,
    VOCAB_SIZE,
    bert_flags,
    composed_metrics,
    selecting,
    truncating,
    write_config,
    write_sentences,
)
from tests.end_to_end.engine_runs import assert_equal_runs, finish, log_lines, start
from tests.end_to_end.seen_batches import SeenBatches
from tests.end_to_end.tiny_runs import NUM_LAYERS, SEQ_LENGTH
from tests.processes import run_python

NUM_STEPS = 20
WORDS = ["good", "bad", "the", "film", "was", "very", "not", "a", "plot", "well", "told"]
ENGINES = [None, *(pytest.param(stage, marks=pytest.mark.full) for stage in (0, 1, 2, 3))]


@pytest.fixture
def seen(monkeypatch):
    return SeenBatches().watch(monkeypatch, pretrain_bert)


def run_here(workspace, config, folder, **flags):
    """The log's lines of a run in this process."""
    assert pretrain_bert.main(bert_flags(workspace, config, save=folder, **flags)) == 0
    return log_lines(folder)


def of_kind(lines, kind):
    return [line for line in lines if line["kind"] == kind]


def is_masked(batch):
    return batch["labels"] != IGNORED_LABEL


def test_padding_truncation_and_dropping_are_counted_exactly(bert_workspace, tmp_path, seen):
    """Padding that the model is given counts, also in the layers; what was trimmed or cut does not."""
    config = write_config(tmp_path / "config.json", composed_metrics(bert_workspace))
    lines = run_here(bert_workspace, config, tmp_path / "run")
    train, end = of_kind(lines, "train"), lines[-1]
    assert end["corpus_tokens"] == seen.total(lambda batch: batch["tokens"].numel())
    assert end["loss_tokens"] == seen.total(lambda batch: is_masked(batch).sum())
    assert end["layer_tokens"] == seen.layer_tokens < NUM_LAYERS * end["corpus_tokens"]
    assert end["consumed_samples"] == NUM_STEPS * 8 == seen.total(lambda b: len(b["tokens"]))
    real = seen.total(lambda batch: batch["padding_mask"].sum())
    assert real < end["corpus_tokens"] < NUM_STEPS * 8 * SEQ_LENGTH

    assert any(not is_masked(batch).any() for batch in seen.training)
    widths = [batch["tokens"].shape[1] for batch in seen.training]
    for step, (line, before) in enumerate(zip(train, [None, *train], strict=False)):
        in_step = widths[4 * step : 4 * step + 4]
        assert line["sequence_length"] == sum(in_step) // 4
        layer_tokens = line["layer_tokens"] - (before["layer_tokens"] if before else 0)
        assert line["actual_seq_length"] == layer_tokens // (NUM_LAYERS * 8)
    assert any(len(set(widths[4 * step : 4 * step + 4])) > 1 for step in range(NUM_STEPS))
    assert {batch["tokens"].shape[1] for batch in seen.evaluation} == {SEQ_LENGTH}


def test_words_are_masked_whole(tmp_path):
    write_sentences(tmp_path / "sentences")
    sidecar = tmp_path / "sentences.meta.json"
    sidecar.write_text(
        json.dumps(json.loads(sidecar.read_text()) | {"tokenizer_fingerprint": None})
    )
    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"{'##' * (token % 2)}w{token}" for token in range(len(control), VOCAB_SIZE)]
    (tmp_path / "vocab.txt").write_text("\n".join([*control, *words]) + "\n")

    def share_cut(**flags):
        """Of the tokens that continue a word, the share whose fate is not that of the one before."""
        vocabulary = tmp_path / "vocab.txt"
        arguments = bert_flags(tmp_path, None, mask_prob=0.2, vocab_file=vocabulary, **flags)
        config = parse_run_config("", arguments, architecture="bert", num_token_types=2)
        batch = pretrain_bert.make_datasets(config)[0].get_batch(np.arange(64))
        masked = batch["labels"] != IGNORED_LABEL
        text = np.where(masked, batch["labels"], batch["tokens"])
        inside = (text[:, 1:] % 2 == 1) & (text[:, 1:] >= 5) & (text[:, :-1] >= 5)
        assert masked.sum() > 100 < inside.sum()
        return (masked[:, 1:] != masked[:, :-1])[inside].mean()

    assert share_cut() > 0.1
    assert share_cut(mask_whole_words=True) == 0


def test_the_losses_have_names_and_fall(bert_workspace, tmp_path, seen, capsys):
    config = write_config(
        tmp_path / "config.json",
        {
            "seqlen_vocab_rarity": selecting(bert_workspace, "seqlen_vocab_rarity"),
            "seqlen_truncate": truncating(),
        },
        dropping=False,
    )
    flags = {"random_ltd": None, "train_iters": 40, "eval_interval": 10, "lr": 3e-3}
    lines = run_here(bert_workspace, config, tmp_path / "run", mask_prob=0.15, **flags)
    assert lines[0]["losses"] == ["masked_lm", "sentence"]
    valid = of_kind(lines, "valid")
    for line in [*of_kind(lines, "train"), *valid]:
        assert line["loss"] == line["masked_lm_loss"] + line["sentence_loss"]
    assert valid[0]["masked_lm_loss"] < np.log(400)
    assert valid[-1]["masked_lm_loss"] < valid[0]["masked_lm_loss"] - 0.3
    assert valid[-1]["perplexity"] == pytest.approx(np.exp(valid[-1]["masked_lm_loss"]))
    output = capsys.readouterr().out
    assert f"(masked_lm {valid[-1]['masked_lm_loss']:.4f}, sentence" in output
    # An evaluation masks the same tokens each time; in training a second visit masks others.
    first, second = (seen.evaluation[len(seen.evaluation) // 4 * part :] for part in (0, 1))
    for left, right in zip(first, second, strict=False):
        assert torch.equal(left["tokens"], right["tokens"])
        assert torch.equal(left["labels"], right["labels"])


def test_evaluation_masks_do_not_follow_the_seed(bert_workspace, tmp_path, seen):
    config = write_config(tmp_path / "config.json", {}, dropping=False)
    off = {"random_ltd": None, "data_efficiency_curriculum_learning": None, "train_iters": 1}
    batches = []
    for seed in (1, 2):
        run_here(bert_workspace, config, tmp_path / str(seed), seed=seed, **off)
        batches.append((seen.evaluation, seen.training))
        seen.evaluation, seen.training = [], []
    (left, left_training), (right, right_training) = batches
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(left, right, strict=True))
    assert not torch.equal(left_training[0]["tokens"], right_training[0]["tokens"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_token_types": 1}, "--num-token-types is 1: BERT tells two segments apart"),
        ({"mask_prob": 1.5}, "--mask-prob is 1.5: must be from 0 to 1"),
        ({"vocab_size": 300}, "--vocab-size is 300: the corpus"),
        ({"split": "0,1,0"}, "the train split of"),
    ],
)
def test_wrong_settings_are_one_line(bert_workspace, tmp_path, refused, flags, message):
    config = write_config(tmp_path / "config.json", composed_metrics(bert_workspace))
    line = refused(pretrain_bert.main, bert_flags(bert_workspace, config, **flags))
    assert line.startswith(f"error: {message}")


@pytest.fixture(scope="module")
def one_process(bert_workspace):
    """Folder of a run on plain PyTorch with one process; its flags for another folder and engine."""

    def flags(folder, stage=None):
        config = write_config(
            bert_workspace / f"engines_{stage}.json", composed_metrics(bert_workspace), stage=stage
        )
        # Padding is trimmed by micro-batch, so its size must not depend on the processes.
        return bert_flags(
            bert_workspace,
            config,
            save=folder,
            save_interval=10,
            keep_last=0,
            deepspeed=True if stage is not None else None,
        )

    folder = bert_workspace / "one_process"
    finish(start(flags(folder), script=SCRIPT))
    return folder, flags


@pytest.mark.parametrize("stage", ENGINES)
def test_two_processes_equal_one(one_process, tmp_path, stage):
    """Also where a micro-batch, or all of a process's, has no masked token."""
    expected, flags = one_process
    totals = [line["loss_tokens"] for line in of_kind(log_lines(expected), "train")]
    # With a single masked token in a step, one of the two processes has none.
    assert {0, 1} <= set(np.diff(totals, prepend=0))
    finish(start(flags(tmp_path, stage), 2, SCRIPT))
    assert_equal_runs(tmp_path, expected)
    for left, right in zip(log_lines(tmp_path), log_lines(expected), strict=True):
        for name in ("masked_lm_loss", "sentence_loss"):
            assert left.get(name) == pytest.approx(right.get(name), abs=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 3])
def test_a_run_goes_on_with_the_other_engine(one_process, tmp_path, stage):
    expected, flags = one_process
    first = flags(tmp_path, stage)
    first[first.index("--train-iters") + 1] = "10"
    both = ["--lr-decay-iters", str(NUM_STEPS)]
    finish(start([*first, *both], 2, SCRIPT))
    finish(start([*flags(tmp_path), *both, "--load", str(tmp_path)], script=SCRIPT))
    assert_equal_runs(tmp_path, expected)


@pytest.mark.full
def test_from_text_to_a_finetuned_and_a_converted_model(tmp_path):
    """Text, WordPiece, sentences, an index, pretraining; then Hugging Face's folder, and GLUE's form."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("nltk")
    generator = random.Random(0)
    lines = []
    for _ in range(200):
        sentences = [" ".join(generator.choices(WORDS, k=6)).capitalize() for _ in range(6)]
        lines.append(json.dumps({"text": ". ".join(sentences) + "."}))
    text, tokenizer = tmp_path / "text.jsonl", tmp_path / "tokenizer.json"
    text.write_text("\n".join(lines) + "\n")
    run_python(
        *("tools/train_tokenizer.py", "--input", text, "--type", "wordpiece"),
        *("--vocab-size", 120, "--output", tokenizer),
    )
    run_python(
        *("tools/preprocess_data.py", "--input", text, "--tokenizer-file", tokenizer),
        *("--split-sentences", "--output-prefix", tmp_path / "corpus", "--workers", 1),
    )
    corpus = ("--data-path", tmp_path / "corpus_text_sentence", "--seq-length", SEQ_LENGTH)
    run_python(
        *("tools/analyze_data.py", "run", *corpus, "--data-type", "bert", "--split", SPLIT),
        *("--metric", "seqlen_vocab_rarity", "--save", tmp_path / "difficulty"),
    )
    metrics = {"difficulty": selecting(tmp_path, "seqlen_vocab_rarity")}
    config = write_config(tmp_path / "config.json", metrics)
    flags = bert_flags(
        tmp_path,
        config,
        data_path=tmp_path / "corpus_text_sentence",
        tokenizer_file=tokenizer,
        vocab_size=120,
        normalization_position="after",
        gelu="exact",
        save=tmp_path / "run",
    )
    run_python(SCRIPT, *flags)
    run_python(
        *("tools/convert_checkpoint.py", "--input", tmp_path / "run"),
        *("--output", tmp_path / "hf", "--to", "huggingface"),
    )
    converted = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "hf")
    assert type(converted).__name__ == "BertForPreTraining"
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    for part in ("train", "dev"):
        rows = ["sentence\tlabel", *(f"a {WORDS[i % 2]} film\t{1 - i % 2}" for i in range(32))]
        (tmp_path / "glue" / "SST-2" / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    run_python(
        *("tools/finetune_bert.py", "--pretrained", tmp_path / "run", "--data", tmp_path / "glue"),
        *("--save", tmp_path / "result", "--task", "SST-2", "--epochs", 1, "--lr", 1e-3),
        *("--max-length", SEQ_LENGTH),
    )
    assert read_log(tmp_path / "result").valid[-1]["dev accuracy"] >= 0
