import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megatron.corpus.preprocessing import encode_documents
from megatron.corpus.sentence_splitter import SentenceSplitter
from megatron.corpus.text_sources import find_sources
from megatron.corpus.verification import verify_corpus
from megatron.data.indexed_dataset import IndexedDatasetWriter

TEXTS = ["abc", " ", "de", "~", "fgh", "i"]


class LetterTokenizer:
    """Tokens are the places of letters in the alphabet; anything else gives none."""

    vocab_size = 27
    eod = 26
    fingerprint = "letters"
    control_tokens = {"cls": 22, "sep": 23, "pad": 24, "mask": 25}

    def encode(self, text):
        return [ord(letter) - ord("a") for letter in text if letter.isalpha()]

    def encode_batch(self, texts):
        return [np.array(self.encode(text), np.int32) for text in texts]


def write_input(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return find_sources([path])[0]


def write_corpus(prefix, texts):
    encoded = encode_documents(LetterTokenizer(), texts, 26)
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        writer.add_documents(encoded.tokens, encoded.lengths)
        writer.finish(
            {
                "json_key": "text",
                "tokenizer_fingerprint": "letters",
                "vocab_size": 27,
                "eod": 26,
                "num_tokenless_documents": encoded.counts.num_tokenless_documents,
            }
        )


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path / "corpus", TEXTS)
    return tmp_path / "corpus"


def test_sound_corpus_passes(tmp_path, corpus):
    sources = write_input(tmp_path / "a.jsonl", TEXTS)
    assert verify_corpus(corpus, sources, LetterTokenizer()) == 4
    assert verify_corpus(corpus, sources, LetterTokenizer(), num_sampled_documents=2) == 2


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_any_flipped_bit_is_found(tmp_path, corpus, ending):
    path = Path(f"{corpus}.{ending}")
    content = bytearray(path.read_bytes())
    content[-1 if ending == "bin" else 60] ^= 1
    path.write_bytes(content)
    sources = write_input(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(ValueError, match=rf"corpus\.{ending}: the checksum differs"):
        verify_corpus(corpus, sources, LetterTokenizer())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["abc", "de", "fgh", "j"], "document 3 is not what .*a.jsonl gives"),
        (["abc", "de", "fgh"], "4 documents, but the input has only 3"),
        ([" "], "4 documents, but the input has only 0"),
        ([*TEXTS, "k"], "4 documents, but the input has more"),
    ],
)
def test_other_input_is_found(tmp_path, corpus, texts, message):
    sources = write_input(tmp_path / "a.jsonl", texts)
    with pytest.raises(ValueError, match=message):
        verify_corpus(corpus, sources, LetterTokenizer())


def test_short_input_is_found_even_where_no_sampled_document_is_missing(tmp_path, corpus):
    sources = write_input(tmp_path / "a.jsonl", ["abc", "de", "fgh"])
    with pytest.raises(ValueError, match="4 documents, but the input has only 3"):
        verify_corpus(corpus, sources, LetterTokenizer(), num_sampled_documents=0)


def change_metadata(corpus, change):
    path = Path(f"{corpus}.meta.json")
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def test_other_tokenizer_and_token_outside_the_vocabulary(tmp_path, corpus):
    sources = write_input(tmp_path / "a.jsonl", TEXTS)
    change_metadata(corpus, lambda facts: facts.update(tokenizer_fingerprint="digits"))
    with pytest.raises(ValueError, match="made with another tokenizer"):
        verify_corpus(corpus, sources, LetterTokenizer())
    change_metadata(corpus, lambda facts: facts.update(vocab_size=26))
    with pytest.raises(ValueError, match="token id 26 is outside the vocabulary of 26"):
        verify_corpus(corpus, sources, LetterTokenizer())


def test_corpus_of_sentences(tmp_path):
    splitter = SentenceSplitter(
        {"abbrev_types": [], "collocations": [], "sent_starters": [], "ortho_context": {}}
    )
    texts = ["abc. De.", " ", "~", "fgh.\n\n~\n\ni"]

    def write(lengths):
        encoded = encode_documents(LetterTokenizer(), [text.lower() for text in texts], None)
        with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
            writer.add_documents(encoded.tokens, lengths, [2, 2])
            writer.finish(
                {
                    "json_key": "text",
                    "tokenizer_fingerprint": "letters",
                    "vocab_size": 27,
                    "eod": None,
                    "num_tokenless_documents": 1,
                    "sentence_model": splitter.fingerprint,
                }
            )

    class AnyCase(LetterTokenizer):
        def encode(self, text):
            return super().encode(text.lower())

    sources = write_input(tmp_path / "a.jsonl", texts)
    write([3, 2, 3, 1])
    assert verify_corpus(tmp_path / "corpus", sources, AnyCase(), splitter) == 2
    with pytest.raises(ValueError, match="not split into sentences as is asked for now"):
        verify_corpus(tmp_path / "corpus", sources, AnyCase())
    write([3, 2, 2, 2])
    with pytest.raises(ValueError, match="document 1 is not what .*a.jsonl gives"):
        verify_corpus(tmp_path / "corpus", sources, AnyCase(), splitter)


def test_corpus_without_a_sidecar(tmp_path, corpus):
    shutil.copy(f"{corpus}.bin", tmp_path / "other.bin")
    shutil.copy(f"{corpus}.idx", tmp_path / "other.idx")
    with pytest.raises(FileNotFoundError, match=r"other\.meta\.json: no such file"):
        verify_corpus(tmp_path / "other", [], LetterTokenizer())


def test_only_the_sampled_documents_are_tokenized_again(tmp_path):
    texts = [chr(ord("a") + number % 26) * 3 for number in range(500)]
    write_corpus(tmp_path / "corpus", texts)
    sources = write_input(tmp_path / "a.jsonl", texts)
    encoded: list[str] = []

    class Watched(LetterTokenizer):
        def encode_batch(self, texts):
            encoded.extend(texts)
            return super().encode_batch(texts)

    assert verify_corpus(tmp_path / "corpus", sources, Watched()) == 256
    assert len(encoded) == 256
    assert len(np.unique(encoded)) > 20
