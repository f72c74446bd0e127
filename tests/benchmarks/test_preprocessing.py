import json

from benchmarks.preprocessing import main, misses
from megatron.tokenizer import train_bpe

GOOD = {"equal": True, "times_faster_wall": 3.1}


def test_a_small_run_writes_the_same_corpus_twice(tmp_path, capfd):
    texts = ["the first document", " ", "", *(f"number {number}\n naïve ☃" for number in range(99))]
    train_bpe(texts, 270).save(tmp_path / "tokenizer.json")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = ["--input", str(tmp_path / "a.jsonl"), "--rounds", "1", "--folder", str(tmp_path)]
    assert main([*command, "--tokenizer-file", str(tmp_path / "tokenizer.json")]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert figures["equal"]
    assert figures["num_tokens"] > 200
    assert figures["times_faster_cpu"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "tokenizer.json"]


def test_missed_targets_are_named():
    assert misses(GOOD) == []
    assert misses(GOOD | {"times_faster_wall": 2.9}) == ["2.9 times as fast, not 3.0"]
    assert misses(GOOD | {"times_faster_wall": 2.9}, timed=False) == []
    different = ["the two sides wrote different corpora"]
    assert misses(GOOD | {"equal": False}, timed=False) == different
