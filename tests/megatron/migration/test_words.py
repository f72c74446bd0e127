"""Published command lines of Megatron-DeepSpeed, as given."""

import copy
import json
import logging
import re

import pytest

import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.migration import (
    PRETRAINING,
    own_words,
    pretraining_words,
)
from megatron.tokenizer import build_tokenizer, train_wordpiece
from tests.data_efficiency.config.test_file import PUBLISHED
from tools import analyze_data, evaluate_gpt, preprocess_data

SHARED = """
--override-opt_param-scheduler --adam-beta1 0.9 --tensor-model-parallel-size 1 --num-attention-heads 16
--exit-duration-in-mins 30000000 --num-layers 24 --split 949,50,1 --log-interval 100 --eval-iters 10
--clip-grad 1.0 --seed 1234 --fp16 --load ckpt --save ckpt --no-async-tensor-model-parallel-allreduce
--tensorboard-queue-size 1 --log-timers-to-tensorboard --log-batch-size-to-tensorboard
--log-validation-ppl-to-tensorboard --tensorboard-dir tensorboard --data-impl mmap --deepspeed
--deepspeed_config ds.json --pipeline-model-parallel-size 1 --no-pipeline-parallel
"""
GPT = f"""
--vocab-file gpt2-vocab.json --merge-file gpt2-merges.txt --data-path pile_text_document {SHARED}
--adam-beta2 0.95 --init-method-std 0.013 --lr-decay-tokens 300000000000 --lr-warmup-tokens 3000000000
--micro-batch-size 8 --global-batch-size 512 --hidden-size 2048 --seq-length 2048
--max-position-embeddings 2048 --train-tokens 300000000000 --train-samples 292968750 --lr 2.0e-4
--min-lr 1.0e-06 --lr-decay-style cosine --eval-interval 100 --save-interval 2861 --weight-decay 0.1
--hysteresis 2 --num-workers 0 --checkpoint-activations --deepspeed-activation-checkpointing
--zero-stage 1
"""
BERT = f"""
--vocab-file bert-large-uncased-vocab.txt --data-path pile_bert_train_text_sentence {SHARED}
--tokenizer-type BertWordPieceLowerCase --adam-beta2 0.999 --init-method-std 0.02
--lr-decay-tokens 1048576000000 --lr-warmup-iters 10000 --micro-batch-size 16 --global-batch-size 1024
--hidden-size 1024 --seq-length 512 --max-position-embeddings 512 --train-tokens 1048576000000
--train-iters 4000000 --lr 1e-4 --min-lr 1e-5 --lr-decay-style linear --eval-interval 1000
--save-interval 20000 --weight-decay 1e-2 --num-workers 4 --zero-stage 0
"""
BERT_JSON = copy.deepcopy(PUBLISHED["data_efficiency"])
BERT_JSON["data_sampling"]["num_workers"] = 4
CURRICULUM = (
    "--data-efficiency-curriculum-learning --train-data-exact-num-epochs 1 --return-data-index"
)


@pytest.fixture
def write_json(tmp_path, monkeypatch):
    """Writes ds.json of a published run into the folder one is in."""
    monkeypatch.chdir(tmp_path)

    def write(*, curriculum=False, dropping=False, **changes):
        content = copy.deepcopy(PUBLISHED) | changes
        section = content["data_efficiency"]
        section["data_sampling"]["enabled"] = curriculum
        section["data_sampling"]["curriculum_learning"]["enabled"] = curriculum
        section["data_routing"]["random_ltd"]["enabled"] = dropping
        (tmp_path / "ds.json").write_text(json.dumps(content))

    return write


@pytest.mark.parametrize("more", ["", "--random-ltd", CURRICULUM, f"{CURRICULUM} --random-ltd"])
def test_gpt_1_3b(more, write_json, caplog):
    write_json(curriculum="curriculum" in more, dropping="ltd" in more)
    config = parse_run_config("", [*GPT.split(), *more.split()])
    assert (config.model.num_layers, config.model.hidden_size) == (24, 2048)
    assert config.model.recompute_activations
    assert config.training.train_tokens == 300_000_000_000
    assert config.training.lr_warmup_tokens == 3_000_000_000
    assert config.checkpoint.override == ("clock",)
    assert config.checkpoint.allow_missing_checkpoint
    assert config.logging.trackers == ("tensorboard",)
    assert bool(config.training.random_ltd) == ("--random-ltd" in more)
    assert (
        "--tensorboard-dir: --trackers tensorboard, events lie in the folder of --save"
        in caplog.text
    )
    assert (config.model.attention_dropout, config.model.hidden_dropout) == (0.1, 0.1)
    assert (
        "as in Megatron-DeepSpeed: --attention-dropout 0.1 --hidden-dropout 0.1 --allow"
        in caplog.text
    )


def test_bert_336m(write_json):
    write_json(train_batch_size=1024, train_micro_batch_size_per_gpu=16, data_efficiency=BERT_JSON)
    config = parse_run_config("", BERT.split(), architecture="bert", num_token_types=2)
    assert config.training.lr_warmup_iters == 10_000
    assert config.training.train_iters == 4_000_000
    assert config.data.vocab_file == "bert-large-uncased-vocab.txt"


def test_what_is_not_here_is_refused_at_once_and_all_of_it(capsys):
    index = (
        "--train-doc-idx-path a.npy --train-sample-idx-path b.npy --train-shuffle-idx-path c.npy"
    )
    words = [*GPT.split(), *index.split(), "--log-optimizer-states-to-tensorboard"]
    assert (
        pretrain_gpt.main([*words, "--pipeline-model-parallel-size=2", "--context-parallel-size=4"])
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith("error: flags that have no place here (docs/migration.md says which")
    for part in (
        "--train-doc-idx-path a.npy: a sample's number is its place in the corpus",
        "--train-shuffle-idx-path c.npy: ",
        "--log-optimizer-states-to-tensorboard: it is not measured; instead: leave it out",
        "--pipeline-model-parallel-size 2: a schedule of stages would own the step, .*; instead: --tensor-model-",
        "--context-parallel-size 4: dropped tokens make .* uneven; instead: --tensor-model-parallel-size, which",
    ):
        assert re.search(part, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "--mask-prob 0.15",
        "--mask-whole-words",
        "--no-mask-whole-words",
        "--short-seq-prob 0.1",
        "--sample-seed 1234",
    ],
)
def test_what_only_bert_has_is_refused_though_it_be_the_default(words):
    given = ["--data-path", "x", "--train-iters", "1", *words.split()]
    with pytest.raises(ValueError, match=r"--.*: a GPT's samples have no masks and no pairs; it"):
        parse_run_config("", given)
    assert parse_run_config("", given, architecture="bert").training.train_iters == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--zero-stage 1.0 --pipeline-model-parallel-size 1.0", ""),
        ("--openai-gelu", "--gelu tanh"),
        ("--encoder-num-layers 7", "--num-layers 7"),
        ("--encoder-num-layers=7", "--num-layers 7"),
        ("--lr -5 --use-flash-attn-v2", "--lr -5 --attention-implementation flash"),
        ("--override seed --override-opt_param-scheduler", "--override clock seed"),
        ("--override-opt_param-scheduler --override seed split", "--override clock seed split"),
        ("--num-experts 1 1 --lr 1", "--lr 1"),
        ("--lr 3", "--lr 3"),
    ],
)
def test_in_our_words(words, expected):
    assert own_words(words.split(), PRETRAINING) == expected.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-experts 1 4", "--num-experts 1 4: layers have no experts"),
        ("--data-impl cached", "--data-impl cached: corpora are memory-mapped"),
        ("--zero-stage --lr 1", "--zero-stage: needs a value"),
        ("--no-pipeline-parallel=1", "--no-pipeline-parallel: takes no value"),
        ("--hysteresis 3", "fp16.hysteresis there"),
        ("--tokenizer-type HFTokenizer", "instead: --tokenizer-file tokenizer.json"),
    ],
)
def test_refused(words, message):
    with pytest.raises(ValueError, match=message):
        own_words(words.split(), PRETRAINING)


@pytest.mark.parametrize("more", ["--exit-on-missing-checkpoint", "--load elsewhere"])
def test_a_missing_checkpoint_is_an_error_elsewhere(more, write_json):
    write_json()
    config = parse_run_config("", [*GPT.split(), *more.split()])
    assert not config.checkpoint.allow_missing_checkpoint


def test_own_command_lines_are_left_alone(caplog):
    words = ["--lr", "1", "--lr-warmup-iters", "5", "--lr-decay-tokens", "9"]
    assert pretraining_words(words, is_bert=False) == words
    assert caplog.records == []


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (preprocess_data.main, "--keep-newlines", "--keep-newlines: sentences are cut as nltk's"),
        (analyze_data.main, "--analyzing-task map", "--analyzing-task map: the steps are commands"),
        (preprocess_data.main, "--dataset-impl lazy", "--dataset-impl lazy: corpora are memory"),
    ],
)
def test_other_commands(main, words, message, refused):
    assert message in refused(main, words.split())


def test_an_evaluation_in_our_words(caplog):
    caplog.set_level(logging.WARNING)
    theirs = "--load runs/gpt --task_list piqa --results_path a.json --eval_fp32 --adaptive_seq_len"
    arguments = evaluate_gpt.parse_arguments(theirs.split())
    assert (str(arguments.checkpoint), arguments.tasks, arguments.dtype) == (
        "runs/gpt",
        "piqa",
        "float32",
    )
    assert str(arguments.output) == "a.json"


FOREIGN = ["--data-path", "x", "--train-iters", "9", "--no-pipeline-parallel"]


def test_a_foreign_line_has_the_defaults_it_has_there():
    training = parse_run_config("", FOREIGN).training
    assert training.lr_decay_style == "linear"
    assert parse_run_config("", FOREIGN[:-1]).training.lr_decay_style == "cosine"
    config = parse_run_config("", [*FOREIGN, "--hidden-dropout=0.3", "--log-interval", "7"])
    assert (config.model.attention_dropout, config.model.hidden_dropout) == (0.1, 0.3)
    assert config.logging.log_interval == 7


def test_a_run_files_defaults_stay():
    config = parse_run_config(
        "", ["--config", "bert_baseline_1049b", *FOREIGN], architecture="bert"
    )
    assert config.logging.log_interval == 100
    config = parse_run_config("", ["--config", "gpt_baseline_300b", *FOREIGN])
    assert config.training.lr_decay_style == "cosine"


def test_the_vocabulary_is_the_tokenizers(tmp_path):
    train_wordpiece(["the cat sat on the mat"] * 5, 64).save(tmp_path / "tokenizer.json")
    named = ["--tokenizer-file", str(tmp_path / "tokenizer.json")]
    size = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json").vocab_size
    assert parse_run_config("", [*FOREIGN, *named]).model.vocab_size == size
    assert parse_run_config("", [*FOREIGN, *named, "--vocab-size", "99"]).model.vocab_size == 99
    assert parse_run_config("", [*FOREIGN[:-1], *named]).model.vocab_size == 50257
