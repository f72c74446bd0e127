"""The command on a real corpus, from flags to files."""

import json
import re

import numpy as np
import pytest

from data_efficiency.analysis.readability import RUNS
from data_efficiency.deepspeed_format import read_difficulties
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files import RemotePath
from megatron.data.bert_dataset import BertDataset, BertSettings
from megatron.data.blended_dataset import open_dataset
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.tokenizer import build_tokenizer, train_bpe, train_wordpiece
from tests.megatron.corpus.abbreviated_text import text
from tools import analyze_data, preprocess_data

SEQ_LENGTH = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with tokenizer.json and the corpora `told`, with a sidecar, and `untold`, without."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"the {'slow ' * (number % 5)}fox {number} jumps" for number in range(200)]
    tokenizer = train_bpe(texts, 300)
    tokenizer.save(folder / "tokenizer.json")
    documents = tokenizer.encode_batch(texts)
    told = {"vocab_size": tokenizer.vocab_size, "tokenizer_fingerprint": tokenizer.fingerprint}
    for name, metadata in (("told", told), ("untold", None)):
        with IndexedDatasetWriter(str(folder / name), np.dtype("uint16")) as writer:
            writer.add_documents(np.concatenate(documents), [len(ids) for ids in documents])
            writer.finish(metadata)
    return folder


@pytest.fixture
def flags(corpus):
    return [
        "--data-path",
        str(corpus / "told"),
        "--split",
        "8,1,1",
        "--seq-length",
        str(SEQ_LENGTH),
    ]


def test_ranks_inside_the_parts_of_a_blend(tmp_path, corpus, flags, refused):
    path, metric = flags[1], ["--metric", "compression_ratio"]
    blend = ["--data-path", "0.9", path, "0.1", path, *flags[2:]]
    assert analyze_data.main(["run", *blend, *metric, "--save", str(tmp_path)]) == 0
    words = ["rank", str(tmp_path / "compression_ratio"), "--metric", "r", "--save", str(tmp_path)]
    assert analyze_data.main([*words, *blend]) == 0
    ranks = DifficultyIndex.open(tmp_path / "r")
    half = ranks.num_samples // 2
    assert np.array_equal(ranks.values[:half], ranks.values[half:])
    assert sorted(ranks.values[:half]) == [10_000 * place // half for place in range(half)]
    assert ranks.source["sources"] == [[path, half], [path, half]]
    assert "the sources of a mix are --data-path W1 PATH1" in refused(
        analyze_data.main, [*words, "--overwrite", *flags]
    )


def test_a_blend_has_one_index_over_its_parts(tmp_path, corpus, flags):
    path, metric = flags[1], ["--metric", "compression_ratio"]
    assert analyze_data.main(["run", *flags, *metric, "--save", str(tmp_path / "one")]) == 0
    blend = ["--data-path", "0.9", path, "0.1", path, *flags[2:]]
    assert analyze_data.main(["run", *blend, *metric, "--save", str(tmp_path / "two")]) == 0
    one = DifficultyIndex.open(tmp_path / "one" / "compression_ratio").values
    two = DifficultyIndex.open(tmp_path / "two" / "compression_ratio")
    assert np.array_equal(two.values, np.concatenate([one, one]))
    # Weights do not matter to the index.
    two.check_dataset(
        open_dataset(
            GPTDataset,
            ["1", path, "1", path],
            split_name="train",
            split="8,1,1",
            sequence_length=SEQ_LENGTH,
        )
    )


def test_readability_is_that_of_the_texts(tmp_path, corpus, flags):
    """By two processes, with the tokenizer beside the corpus; words are counted in the decoded text."""
    save = ["--save", str(tmp_path), "--num-processes", "2"]
    assert analyze_data.main(["run", *flags, "--metric", "readability", *save]) == 0
    values = DifficultyIndex.open(tmp_path / "readability").values
    dataset = GPTDataset(str(corpus / "told"), split="8,1,1", sequence_length=SEQ_LENGTH)
    tokenizer = build_tokenizer(tokenizer_file=corpus / "tokenizer.json")
    assert len(set(values.tolist())) > 3
    for sample in range(0, len(dataset), 7):
        tokens, starts, lengths = dataset.token_spans(sample, sample + 1)
        text = tokenizer.decode(tokens[starts[0] : starts[0] + lengths[0]].tolist()).lower()
        words, syllables, ends = (len(re.findall(pattern, text)) for pattern in RUNS.values())
        expected = 1.015 * words / max(1, ends) + 84.6 * syllables / max(1, words)
        assert values[sample] == pytest.approx(expected, rel=1e-6)


def test_run_show_verify(tmp_path, corpus, flags, capsys):
    save = ["--save", str(tmp_path / "d"), "--num-processes", "2"]
    assert analyze_data.main(["run", *flags, "--metric", "vocab_rarity", *save]) == 0
    index = DifficultyIndex.open(tmp_path / "d" / "vocab_rarity")
    dataset = GPTDataset(str(corpus / "told"), split="8,1,1", sequence_length=SEQ_LENGTH)
    index.check_dataset(dataset)
    output = capsys.readouterr().out
    assert f"samples          {len(dataset):,}\n" in output
    assert output.endswith(f"{index.path}\n")

    tokenizer = ["--tokenizer-file", str(corpus / "tokenizer.json")]
    picture = ["--histogram", str(tmp_path / "h.png")]
    assert analyze_data.main(["show", str(index.path), *flags, *tokenizer, *picture]) == 0
    output = capsys.readouterr().out
    assert output.count("\npercentile 50: sample ") == 1
    assert " fox" in output
    assert (tmp_path / "h.png").stat().st_size > 5000

    assert analyze_data.main(["show", str(index.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == len(dataset)
    assert analyze_data.main(["verify", str(index.path)]) == 0
    assert "checksums and order are right" in capsys.readouterr().out

    values = index.path / "values.npy"
    values.write_bytes(values.read_bytes()[:-1] + b"\xff")
    assert analyze_data.main(["verify", str(index.path)]) == 1
    assert "values.npy was changed after it was written" in capsys.readouterr().err


def test_bert_from_text_to_examples(tmp_path, capsys):
    story = text(0, 300)
    (tmp_path / "a.txt").write_text(story)
    train_wordpiece([story], 200).save(tmp_path / "tokenizer.json")
    make = ["--input", str(tmp_path / "a.txt"), "--output-prefix", str(tmp_path / "a")]
    make += ["--tokenizer-file", str(tmp_path / "tokenizer.json"), "--workers", "1"]
    assert preprocess_data.main([*make, "--split-sentences"]) == 0
    flags = ["--data-type", "bert", "--data-path", str(tmp_path / "a_text_sentence")]
    flags += ["--seq-length", "48", "--split", "1"]
    save = ["--save", str(tmp_path / "d")]
    metrics = ["seqlen", "vocab_rarity", "seqlen_vocab_rarity", "compression_ratio"]
    for metric in metrics:
        assert analyze_data.main(["run", *flags, *save, "--metric", metric]) == 0
    dataset = open_dataset(
        BertDataset,
        [str(tmp_path / "a_text_sentence")],
        BertSettings(sequence_length=48),
        split_name="train",
        split="1",
    )
    batch = dataset.get_batch(np.arange(len(dataset)))
    lengths = batch["padding_mask"].sum(1)
    indexes = {metric: DifficultyIndex.open(tmp_path / "d" / metric) for metric in metrics}
    assert indexes["seqlen"].values.tolist() == lengths.tolist()
    # The formulas, with the mask of the padding, on the rows before masking.
    rows = np.where(batch["labels"] >= 0, batch["labels"], batch["tokens"])
    counts = np.bincount(rows.ravel(), batch["padding_mask"].ravel(), dataset.vocab_size + 1)
    probabilities = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    rarity = np.floor(-(np.log(probabilities)[rows] * batch["padding_mask"]).sum(1))
    assert np.abs(indexes["vocab_rarity"].values - rarity).max() <= 1
    factor = 10 ** (np.ceil(np.log10(48 * -np.log(probabilities.min()))) + 1)
    both = indexes["seqlen_vocab_rarity"].values
    assert np.array_equal(both, lengths * factor + indexes["vocab_rarity"].values)
    capsys.readouterr()
    assert analyze_data.main(["show", str(indexes["seqlen"].path), *flags]) == 0
    examples = [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if '"' in line[:1]
    ]
    assert len(examples) == 5
    for example in examples:
        assert example.startswith("[CLS] ")
        assert example.count("[SEP]") == 2
        assert "[MASK]" not in example
        assert "[PAD]" not in example
    lines = "".join(f"{json.dumps({'score': 5})}\n")
    (tmp_path / "s.jsonl").write_text(lines)
    scores = ["--format", "scores", "--input", str(tmp_path / "s.jsonl"), "--field", "score"]
    scores += ["--scores-of", "documents", "--metric", "quality"]
    assert analyze_data.main(["import", *scores, *flags, *save]) == 0
    assert set(DifficultyIndex.open(tmp_path / "d" / "quality").values.tolist()) == {5}


def test_frequencies_alone(tmp_path, flags, capsys):
    arguments = ["run", *flags, "--metric", "total_vocab_freq", "--save", str(tmp_path)]
    assert analyze_data.main(arguments) == 0
    assert "total_vocab_freq: 301 numbers, " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["total_vocab_freq"]


@pytest.fixture
def fails(refused):
    """A function of arguments -> the one line of a command that fails."""
    return lambda arguments: refused(analyze_data.main, arguments)


def test_errors_are_one_line_and_leave_nothing(tmp_path, corpus, flags, fails):
    save = ["--save", str(tmp_path / "d")]
    corpus_flags = ["--data-path", str(corpus / "untold"), "--seq-length", "8"]
    line = fails(["run", *corpus_flags, *save])
    assert "vocab_size is None: give the entries of the vocabulary (--vocab-size)" in line
    line = fails(["run", *flags, *save, "--vocab-size", "0"])
    assert "--vocab-size is 0: must be at least 1" in line
    line = fails(["run", *corpus_flags, *save, "--vocab-size", "20"])
    assert "is outside the vocabulary of 20 entries" in line
    assert not (tmp_path / "d").exists() or list((tmp_path / "d").iterdir()) == []
    line = fails(["run", *flags, *save, "--num-processes", "0"])
    assert line == "error: --num-processes is 0: must be at least 1"
    line = fails(["run", "--data-path", "none", "--seq-length", "8", *save])
    assert line.startswith("error: ")
    assert "none" in line
    (tmp_path / "file").touch()
    fails(["run", *flags, "--save", str(tmp_path / "file")])
    line = fails(["show", str(tmp_path)])
    assert "is not a difficulty index: manifest.json is missing" in line


def test_index_of_another_dataset(tmp_path, corpus, flags, capsys, fails):
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path)]) == 0
    capsys.readouterr()
    tokenizer = ["--tokenizer-file", str(corpus / "tokenizer.json")]
    index = str(tmp_path / "vocab_rarity")
    line = fails(["show", index, *flags[:-1], "9", *tokenizer])
    assert "sequence_length: expected 8, found 9" in line
    line = fails(["show", index, *tokenizer])
    assert line == "error: examples need --data-path, --split and --seq-length as in `run`"


def test_show_finds_the_tokenizer_of_the_corpus(tmp_path, corpus, flags, capsys, fails):
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path)]) == 0
    index = str(tmp_path / "vocab_rarity")
    assert analyze_data.main(["show", index, *flags]) == 0
    output = capsys.readouterr().out
    for percentile in (1, 10, 50, 90, 99):
        assert f"\npercentile {percentile}: sample " in output
    assert " fox" in output
    (corpus / "tokenizer.json").rename(corpus / "away.json")
    try:
        line = fails(["show", index, *flags])
    finally:
        (corpus / "away.json").rename(corpus / "tokenizer.json")
    assert "is not beside it: give --tokenizer-file, or --vocab-file and --merge-file" in line


def test_map_by_workers_and_reduce_equal_run(tmp_path, flags, monkeypatch, capsys, fails):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert analyze_data.main(["run", *flags, "--save", str(alone)]) == 0
    line = fails(["map", *flags, "--save", str(shared)])
    assert "analyze the metric total_vocab_freq first (map and reduce)" in line
    for metric in ("total_vocab_freq", "vocab_rarity"):
        work = [*flags, "--save", str(shared), "--metric", metric]
        assert analyze_data.main(["map", *work, "--num-workers", "2", "--worker-id", "1"]) == 0
        with monkeypatch.context() as launched:
            for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
                launched.setenv(name, value)
            assert analyze_data.main(["map", *work]) == 0
        assert f"worker 0 of 2: {metric} is mapped\n" in capsys.readouterr().out
        assert analyze_data.main(["reduce", *work]) == 0
    for file in (alone / "vocab_rarity").iterdir():
        assert (shared / "vocab_rarity" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "worker", [["--worker-id", "2", "--num-workers", "2"], ["--worker-id", "0"]]
)
def test_a_worker_number_that_cannot_be(tmp_path, flags, fails, worker):
    line = fails(["map", *flags, "--save", str(tmp_path), *worker])
    assert "give both, the first from 0 to one less than the second" in line


def test_quantised_values(tmp_path, flags):
    save = ["--save", str(tmp_path), "--max-distinct-values", "5"]
    assert analyze_data.main(["run", *flags, *save]) == 0
    assert DifficultyIndex.open(tmp_path / "vocab_rarity").num_distinct_values == 5


def test_reference_loss_needs_a_model(tmp_path, flags, fails):
    work = ["run", *flags, "--save", str(tmp_path), "--metric", "reference_loss"]
    assert "needs a model (--model)" in fails(work)
    line = fails([*work, "--model", str(tmp_path)])
    assert "is no Hugging Face model: it needs config.json and *.safetensors" in line


def test_export_and_import_in_deepspeeds_format(tmp_path, flags, capsys, fails):
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path / "d")]) == 0
    index = DifficultyIndex.open(tmp_path / "d" / "vocab_rarity")
    exported = str(tmp_path / "exported")
    for more in ([], ["--legacy-codes"]):
        command = ["export", str(index.path), "--output", exported + "".join(more), *more]
        assert analyze_data.main(command) == 0
        values = read_difficulties(exported + "".join(more), "vocab_rarity")
        assert values.tolist() == index.values.tolist()
    assert f'"index_to_sample_path": "{exported}' in capsys.readouterr().out

    back = ["import", "--format", "deepspeed", "--input", exported, "--metric", "vocab_rarity"]
    back += ["--save", str(tmp_path / "back"), *flags]
    assert "give either the shuffle index" in fails(back)
    assert analyze_data.main([*back, "--trust-order"]) == 0
    assert "imported         format deepspeed, order trusted\n" in capsys.readouterr().out
    imported = DifficultyIndex.open(tmp_path / "back" / "vocab_rarity")
    assert imported.order.tolist() == index.order.tolist()
    assert imported.dataset_fingerprint == index.dataset_fingerprint
    assert "already exists" in fails([*back, "--trust-order"])
    line = fails([*back[:-1], "9", "--trust-order", "--overwrite"])
    assert "name the dataset they were computed on" in line
    line = fails([*back, "--trust-order", "--input", "a", "b"])
    assert line == "error: --input names 2 paths: one folder is needed"


def test_scores_of_documents_and_of_other_datasets(tmp_path, flags, fails):
    scores = np.arange(200) % 7
    lines = (json.dumps({"metadata": {"score": int(score)}}) for score in scores)
    (tmp_path / "s.jsonl").write_text("\n".join(lines))
    command = ["import", "--format", "scores", "--input", str(tmp_path / "s.jsonl")]
    command += ["--field", "metadata.score", "--metric", "quality", "--save", str(tmp_path)]
    assert analyze_data.main([*command, *flags, "--scores-of", "documents"]) == 0
    index = DifficultyIndex.open(tmp_path / "quality")
    index.verify()
    assert 0 <= index.min_value < index.max_value <= 6
    assert index.source["scores_of"] == "documents"
    line = fails([*command, *flags, "--overwrite"])
    assert "200 difficulties for " in line
    line = fails([*command, "--overwrite"])
    assert line == "error: name the dataset: --data-path and --seq-length, or --dataset-class"
    assert analyze_data.main([*command, "--dataset-class", "Images", "--overwrite"]) == 0
    identity = DifficultyIndex.open(tmp_path / "quality").dataset_identity
    assert identity == {"type": "Images", "num_samples": 200}


def test_a_corpus_at_a_url(tmp_path, corpus, flags, monkeypatch):
    monkeypatch.setenv("DATA_EFFICIENCY_CACHE", str(tmp_path / "cache"))
    place = RemotePath(f"memory://{tmp_path}")
    for ending in ("bin", "idx", "meta.json"):
        (place / f"told.{ending}").put(corpus / f"told.{ending}")
    there = ["--data-path", f"{place}/told", *flags[2:], "--save", f"{place}/d"]
    assert analyze_data.main(["run", *there]) == 0
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path / "d")]) == 0
    for name in ("manifest.json", "values.npy", "order.npy"):
        ours = (tmp_path / "d" / "vocab_rarity" / name).read_bytes()
        assert (place / "d" / "vocab_rarity" / name).read_bytes() == ours
    place.remove_all()
