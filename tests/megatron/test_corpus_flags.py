import logging
from argparse import ArgumentParser

import pytest

from megatron.corpus_flags import add_corpus_flags, open_corpus, tokenizer_of_corpus
from megatron.data.bert_dataset import BertDataset
from megatron.data.blended_dataset import BlendedDataset
from megatron.data.document_pieces import DocumentPieces
from megatron.data.gpt_dataset import GPTDataset
from megatron.tokenizer import train_wordpiece
from tests.megatron.data.sentence_corpus import write_sentences

TEXTS = ["the lowest of the low and the newest of the widest"] * 5


@pytest.fixture
def prefix(tmp_path):
    return write_sentences(str(tmp_path / "corpus"), [[4, 9, 3, 7, 12, 5]] * 40)


def parse(*flags):
    parser = ArgumentParser()
    add_corpus_flags(parser, is_required=True)
    return parser.parse_args([*flags, "--seq-length", "16"])


def test_each_type_opens_its_dataset(prefix):
    assert isinstance(open_corpus(parse("--data-path", prefix)), GPTDataset)
    bert = open_corpus(parse("--data-path", prefix, "--data-type", "bert", "--split", "1"))
    assert isinstance(bert, BertDataset)
    assert (bert.settings.seed, bert.settings.short_seq_prob) == (1234, 0.1)
    assert bert.documents == range(40)
    flags = ("--data-type", "bert", "--sample-seed", "0", "--short-seq-prob", "0")
    blend = open_corpus(parse("--data-path", "0.5", prefix, "0.5", prefix, *flags))
    assert isinstance(blend, BlendedDataset)
    assert [part["seed"] for part in blend.identity["parts"].values()] == [0, 0]
    assert [part["short_seq_prob"] for part in blend.identity["parts"].values()] == [0, 0]


def test_pieces_of_documents_are_those_of_the_training(prefix):
    pieces = open_corpus(parse("--data-path", prefix, "--shortest-piece", "4", "--split", "1"))
    assert isinstance(pieces, DocumentPieces)
    assert pieces.part_lengths == (4, 8, 16)
    flags = ("--data-path", prefix, "--shortest-piece", "4", "--data-type", "bert")
    with pytest.raises(ValueError, match="--shortest-piece belongs to --data-type gpt"):
        open_corpus(parse(*flags))


def test_documents_that_are_not_used_are_counted(tmp_path, prefix, caplog):
    caplog.set_level(logging.INFO)
    flags = ("--data-type", "bert", "--split", "1")
    open_corpus(parse("--data-path", prefix, *flags))
    assert caplog.messages == []
    short = write_sentences(str(tmp_path / "short"), [[4, 9], [3], [], [2]])
    open_corpus(parse("--data-path", "1", short, "1", short, *flags))
    assert caplog.messages == ["6 documents with fewer than two sentences are not used"]


@pytest.mark.parametrize("flag", ["--sample-seed", "--short-seq-prob"])
def test_flags_of_bert_alone(prefix, flag):
    with pytest.raises(ValueError, match=f"{flag} belongs to --data-type bert"):
        open_corpus(parse("--data-path", prefix, flag, "1"))


def test_a_named_tokenizer_and_one_beside_the_corpus(tmp_path, prefix):
    tokenizer = train_wordpiece(TEXTS, 80)
    tokenizer.save(tmp_path / "other.json")
    other = ("--tokenizer-file", str(tmp_path / "other.json"))
    named = parse("--data-path", prefix, "--data-type", "bert", *other)
    dataset = open_corpus(named)
    assert dataset.vocab_size == tokenizer.vocab_size
    assert dataset.identity["control_tokens"] == tokenizer.control_tokens
    assert tokenizer_of_corpus(named, dataset).fingerprint == tokenizer.fingerprint
    unnamed = parse("--data-path", prefix)
    (tmp_path / "other.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="the tokenizer of .* is not beside it"):
        tokenizer_of_corpus(unnamed, dataset)
    own = {"control_tokens": tokenizer.control_tokens, "vocab_size": tokenizer.vocab_size}
    own["tokenizer_fingerprint"] = tokenizer.fingerprint
    write_sentences(prefix, [[4, 9]] * 40, own)
    assert tokenizer_of_corpus(unnamed, open_corpus(unnamed)).fingerprint == tokenizer.fingerprint
