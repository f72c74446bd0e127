import gzip
import json
import subprocess
import sys

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.corpus.sentence_splitter import (
    SentenceSplitter,
    installed_splitter,
    learn_model,
    splitter_of_file,
    write_sentence_model,
)
from megatron.corpus.text_sources import find_sources
from tests.megatron.corpus.abbreviated_text import sentences, text

EMPTY = {"abbrev_types": [], "collocations": [], "sent_starters": [], "ortho_context": {}}


@pytest.fixture
def sources(tmp_path):
    for name in ("a", "b"):
        records = ({"text": text(i, i + 5), "title": f"A title {name}"} for i in range(40))
        lines = (json.dumps(record) for record in records)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return find_sources([tmp_path])[0]


def test_a_learned_model_knows_abbreviations(sources):
    model = learn_model(sources, ["text"])
    assert model["abbrev_types"] == ["approx", "dr", "vol"]
    expected = [*sentences(50), *sentences(51)]
    assert SentenceSplitter(model).split(text(50, 52)) == expected
    assert len(SentenceSplitter(EMPTY).split(text(50, 52))) > len(expected)


def test_blank_lines_end_sentences_and_single_ones_do_not():
    whole = "A title\n\nFirst\nsentence. Second one.  \n \n\n Third\n"
    parts = ["A title", "First\nsentence.", "Second one.", "Third"]
    assert SentenceSplitter(EMPTY).split(whole) == parts
    assert SentenceSplitter(EMPTY).split(" \n\n\n ") == []


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('aB. !?\n\t)"…'), max_size=60))
def test_no_character_is_lost(whole):
    parts = SentenceSplitter(EMPTY).split(whole)
    assert "".join("".join(parts).split()) == "".join(whole.split())
    assert all(part and part == part.strip() for part in parts)


def test_learning_is_the_same_in_every_process_and_bounded(sources, tmp_path):
    model = learn_model(sources, ["text", "title"])
    assert "title" in model["ortho_context"]
    program = f"""
from megatron.corpus.sentence_splitter import SentenceSplitter, learn_model
from megatron.corpus.text_sources import find_sources
sources = find_sources([{str(tmp_path)!r}])[0]
print(SentenceSplitter(learn_model(sources, ["text", "title"])).fingerprint)
"""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.stdout == SentenceSplitter(model).fingerprint + "\n", done.stderr
    # A line of each file is enough for so little; the damaged ends are never reached.
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("a", "b"):
        content = (json.dumps({"text": f"{text(0, 9)} {name}word"}) + "\n") * 2000
        (damaged / f"{name}.jsonl").write_text(content + "{")
    small = learn_model(find_sources([damaged])[0], ["text"], 2 * len(text(0, 9)))
    assert {"aword", "bword"} <= set(small["ortho_context"])


def test_a_model_survives_its_file(sources, tmp_path):
    model = learn_model(sources, ["text"])
    write_sentence_model(tmp_path / "new" / "m.json", model)
    splitter = splitter_of_file(tmp_path / "new" / "m.json")
    assert splitter.fingerprint == SentenceSplitter(model).fingerprint
    assert splitter.split(text(7, 9)) == [*sentences(7), *sentences(8)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.json"]
    other = dict(model, abbrev_types=[])
    assert SentenceSplitter(other).fingerprint != SentenceSplitter(model).fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "m.json is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"a": 1}', "with the keys abbrev"),
        (json.dumps(EMPTY | {"abbrev_types": [[]]}), "with the keys abbrev"),
        (json.dumps(EMPTY | {"abbrev_types": "dr"}), "with the keys abbrev"),
        (json.dumps(EMPTY | {"collocations": [["a"]]}), "with the keys abbrev"),
        (json.dumps(EMPTY | {"ortho_context": {"a": None}}), "with the keys abbrev"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, message):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        splitter_of_file(tmp_path / "m.json")
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        splitter_of_file(tmp_path / "gone")


def test_nltks_own_model_is_taken_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(LookupError):
        installed_splitter("english")
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    (folder / "collocations.tab").write_text("##number##\tinch\n")
    (folder / "sent_starters.txt").write_text("however\n")
    (folder / "abbrev_types.txt").write_text("dr\nvol\n")
    (folder / "ortho_context.tab").write_text("low\t12\n")
    model = {
        "abbrev_types": ["dr", "vol"],
        "collocations": [["##number##", "inch"]],
        "sent_starters": ["however"],
        "ortho_context": {"low": 12},
    }
    splitter = installed_splitter("english")
    assert splitter.fingerprint == SentenceSplitter(model).fingerprint
    assert splitter.split("Dr. Low is here. So is he.") == ["Dr. Low is here.", "So is he."]
    with pytest.raises(LookupError):
        installed_splitter("german")


def test_no_input_at_all_still_gives_a_model(tmp_path):
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write(" ")
    model = learn_model(find_sources([tmp_path])[0], ["text"])
    assert SentenceSplitter(model).split("One. Two.") == ["One.", "Two."]
