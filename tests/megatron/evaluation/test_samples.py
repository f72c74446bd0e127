import json
import re

import pytest

import pretrain_bert
import pretrain_gpt
from megatron.evaluation.samples import Samples
from tests.megatron.small_models import make_tokenizer
from tests.megatron.tiny_pretraining import flags_of, make_run, settings, write_corpus

WORDS = ("--vocab-size", "512", "--max-position-embeddings", "24", "--sample-tokens", "5")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_tokenizer().save(folder / "tokenizer.json")
    return write_corpus(folder)


def words(prefix, *flags):
    tokenizer = prefix.removesuffix("corpus") + "tokenizer.json"
    return [*WORDS, "--tokenizer-file", tokenizer, *flags]


def test_texts_depend_on_weights_and_seed_alone(prefix, capsys):
    def texts(*flags):
        run = make_run(settings(prefix, *words(prefix, "--sample-prompts", "the", "a dog", *flags)))
        samples = Samples(run.config)
        first, second = samples.record(run), samples.record(run)
        assert first == second
        return [text["continuation"] for text in first["texts"]]

    assert texts() == texts("--micro-batch-size", "1") != texts("--seed", "5")
    assert capsys.readouterr().out.count("sample at step 0: 'a dog") == 6


def test_training_goes_on_to_the_same_bits_with_dropout(prefix, tmp_path):
    lines = {}
    for name, more in {"without": (), "with": ("--sample-prompts", "the cat")}.items():
        flags = ("--hidden-dropout", "0.2", "--log-interval", "1", "--sample-interval", "2", *more)
        save = ("--save", str(tmp_path / name))
        assert pretrain_gpt.main(flags_of(prefix, *words(prefix, *flags, *save))) == 0
        text = (tmp_path / name / "log.jsonl").read_text()
        lines[name] = [json.loads(line) for line in text.splitlines()]
    losses = {name: [line["loss"] for line in own if "loss" in line] for name, own in lines.items()}
    assert losses["with"] == losses["without"]
    assert [line["step"] for line in lines["with"] if line["kind"] == "sample"] == [2, 4, 6]


def test_prompts_may_be_the_lines_of_a_file(prefix, tmp_path):
    (tmp_path / "prompts.txt").write_text("the cat\n\na dog ran\n")
    flags = words(prefix, "--sample-prompts", str(tmp_path / "prompts.txt"))
    assert Samples(settings(prefix, *flags)).prompts == ["the cat", "a dog ran"]


def test_what_cannot_be_written_is_refused_before_the_first_step(prefix, tmp_path, refused):
    (tmp_path / "none").write_text("\n")
    prompts = ("--save", str(tmp_path / "run"), "--sample-prompts")
    given = words(prefix, *prompts)
    for flags, said in (
        ([*given, str(tmp_path / "none")], "--sample-prompts is .*: the file has no line"),
        ([*given, "the " * 30], "--sample-tokens is 5: with the .* more than the 24 positions"),
        ([*prompts, "a"], "--sample-prompts is given, but no tokenizer: name it by --tokenizer-"),
    ):
        assert re.search(said, refused(pretrain_gpt.main, flags_of(prefix, *flags)))
    said = refused(pretrain_bert.main, flags_of(prefix, *given, "a"))
    assert said.endswith("a BERT writes no texts; it belongs to pretrain_gpt.py")
