import copy
import json
from unittest import mock

import numpy as np
import pytest
import torch

from data_efficiency import DifficultyIndex, MetricSettings, ReferenceModel, analyze
from data_efficiency.analysis.dataset_reader import TokenSpanReader
from data_efficiency.analysis.executors import InProcessExecutor, LocalProcessExecutor
from data_efficiency.analysis.map_reduce import AnalysisError, MapReduce
from data_efficiency.analysis.metrics import seqlen
from data_efficiency.analysis.named_metrics import METRICS
from data_efficiency.analysis.token_parts import TokenParts
from data_efficiency.analysis.token_rows import TokenRows, token_rows
from tests.data_efficiency.small_corpus import word_tokenizer

TEXTS = ["the fox", "", "the the the", "fox owl the owl owl"]
LENGTHS = [2, 0, 3, 5]


@pytest.fixture
def tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(["the", "fox", "owl"]))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def rows_of(found):
    return [found.token_spans(i, i + 1)[0].tolist() for i in range(len(found))]


def test_texts_of_any_dataset_become_the_same_rows(tmp_path, tokenizer, datasets):
    stored = datasets.Dataset.from_dict({"n": [1, 2, 3, 4], "text": TEXTS})

    class Rows:
        def __len__(self):
            return len(TEXTS)

        def __getitem__(self, place):
            return {"text": TEXTS[place]}

    kinds = [stored, stored.to_iterable_dataset(), [{"text": text} for text in TEXTS], Rows()]
    for number, dataset in enumerate(kinds):
        found = token_rows(dataset, tmp_path / str(number), tokenizer=tokenizer)
        assert rows_of(found) == [[1, 2], [], [1, 1, 1], [2, 3, 1, 3, 3]]
        tokens, starts, lengths = found.token_spans(1, 4)
        assert (tokens.tolist(), starts.tolist(), lengths.tolist()) == (
            [1, 1, 1, 2, 3, 1, 3, 3],
            [0, 0, 3],
            [0, 3, 5],
        )
        assert (found.vocab_size, found.sequence_length) == (4, 5)
        assert found.tokenizer.decode(np.array([3, 1])) == "owl the"
        found.verify()
        assert rows_of(copy.deepcopy(found)) == rows_of(found)
    # A stream is trained on as what it was stored as.
    names = [TokenRows(tmp_path / str(number)).identity["type"] for number in range(4)]
    assert names == ["Dataset", "Dataset", "list", "Rows"]


def test_tokens_that_are_attended_to(tmp_path, datasets):
    padded = {"input_ids": [[5, 6, 0], [7, 0, 0]], "attention_mask": [[1, 1, 0], [1, 0, 0]]}
    dataset = datasets.Dataset.from_dict(padded)
    for kind in (None, "numpy", "torch"):
        found = token_rows(dataset.with_format(kind), tmp_path / str(kind))
        assert rows_of(found) == [[5, 6], [7]]
        assert (found.vocab_size, found.tokenizer) == (8, None)


@pytest.mark.parametrize("num_before", [1, 1500])
def test_a_mask_that_only_later_rows_have(tmp_path, num_before):
    later = {"input_ids": [0, 0, 7], "attention_mask": [0, 0, 1]}
    found = token_rows([{"input_ids": [5, 6]}] * num_before + [later] * 2, tmp_path / "t")
    assert rows_of(found) == [[5, 6]] * num_before + [[7]] * 2


def test_a_mask_is_that_of_its_column(tmp_path):
    row = {"input_ids": [1, 0], "attention_mask": [1, 0], "decoder_input_ids": [5, 6], "y": [7, 8]}
    row["decoder_attention_mask"] = [0, 1]
    for column, tokens in (("input_ids", [1]), ("decoder_input_ids", [6]), ("y", [7, 8])):
        assert rows_of(token_rows([row], tmp_path / column, column=column)) == [tokens]
    alone = {"ids": [7, 8], "attention_mask": [1, 0]}
    assert rows_of(token_rows([alone], tmp_path / "ids", column="ids")) == [[7]]


def test_a_stream_that_shuffles_has_no_numbers(tmp_path, datasets):
    stream = datasets.Dataset.from_dict({"input_ids": [[1], [2], [3]]}).to_iterable_dataset()
    shuffling = stream.shuffle(seed=1).map(lambda row: row).take(2)
    with pytest.raises(ValueError, match=r"analyze it before shuffle\(\)"):
        token_rows(shuffling, tmp_path / "t")


def test_metrics_of_a_dataset_and_of_a_stream_are_those_of_its_rows(tmp_path, tokenizer, datasets):
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    settings = MetricSettings(tokenizer=tokenizer)
    lengths = analyze(dataset, "seqlen", tmp_path / "a", settings)
    assert lengths.values.tolist() == LENGTHS
    rarity = analyze(dataset, "vocab_rarity", tmp_path / "a", settings, num_processes=2)
    # the: 5, fox: 2, owl: 3, and one for [UNK], which was never seen.
    expected = [np.log(11 / 5) + np.log(11 / 2), 0, 3 * np.log(11 / 5)]
    expected.append(np.log(11 / 2) + np.log(11 / 5) + 3 * np.log(11 / 3))
    assert rarity.values.tolist() == np.floor(expected).astype(int).tolist()
    rarity.check_dataset(dataset)
    analyze(dataset.to_iterable_dataset(), "vocab_rarity", tmp_path / "b", settings)
    streamed = DifficultyIndex.open(tmp_path / "b" / "vocab_rarity")
    assert streamed.values.tolist() == rarity.values.tolist()
    streamed.check_dataset(dataset)


def load_model(device):
    """Every token of the vocabulary is as probable as any other."""
    return ReferenceModel(
        logits=lambda tokens: torch.zeros(*tokens.shape, 4), vocab_size=4, max_length=None
    )


def test_every_metric_works_on_a_dataset(tmp_path, tokenizer, datasets):
    dataset = datasets.Dataset.from_dict({"content": [text * 3 for text in TEXTS if text]})
    settings = MetricSettings(
        tokenizer=tokenizer, load_model=load_model, model_identity={"model": "uniform"}
    )
    results = {name: analyze(dataset, name, tmp_path, settings) for name in METRICS}
    loss = results.pop("reference_loss").values
    assert loss == pytest.approx(np.full(3, np.log(4)))
    assert results.pop("total_vocab_freq").value.sum() == sum(results["seqlen"].values)
    for name, index in results.items():
        index.check_dataset(dataset)
        assert index.num_distinct_values > 1, name


def test_rows_of_another_dataset_are_not_taken(tmp_path, tokenizer, datasets):
    dataset = datasets.Dataset.from_dict({"text": TEXTS, "other": TEXTS[::-1]})
    first = token_rows(dataset, tmp_path / "t", tokenizer=tokenizer)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    token_rows(dataset, tmp_path / "t", tokenizer=tokenizer)
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    changed = dataset.map(lambda row: {"text": row["text"] + " fox"})
    for other, column in ((changed, None), (dataset, "other")):
        with pytest.raises(FileExistsError, match="holds tokens that are of another dataset"):
            token_rows(other, tmp_path / "t", column=column, tokenizer=tokenizer)
    with pytest.raises(FileExistsError, match="may be of another dataset"):
        token_rows([{"text": "fox"}], tmp_path / "t", tokenizer=tokenizer)
    found = token_rows(changed, tmp_path / "t", tokenizer=tokenizer, overwrite=True)
    assert rows_of(found)[0] == [1, 2, 2]


def test_rows_that_results_were_made_of_are_not_replaced_by_others(tmp_path, tokenizer, datasets):
    settings = MetricSettings(tokenizer=tokenizer)
    first, other = (datasets.Dataset.from_dict({"text": texts}) for texts in (TEXTS, TEXTS[::-1]))
    analyze(first, "seqlen", tmp_path / "d", settings)
    with pytest.raises(FileExistsError, match="seqlen beside it were made of them: remove"):
        analyze(other, "vocab_rarity", tmp_path / "d", settings, overwrite=True)
    again = analyze(first, "seqlen", tmp_path / "d", settings, overwrite=True)
    assert again.values.tolist() == LENGTHS


def test_shards_of_other_rows_are_not_put_together_with_those_of_these(tmp_path):
    def job(length):
        rows = token_rows([{"input_ids": [1] * length}] * 8, tmp_path / "tokens", overwrite=True)
        return MapReduce(TokenSpanReader(rows), [seqlen()], tmp_path, num_shards=2)

    job(3).run_map(InProcessExecutor(), 0, 2)
    job(5).run_map(InProcessExecutor(), 1, 2)
    with pytest.raises(AnalysisError, match=r"shard 0 \(samples 0..3\) was made from other rows"):
        job(5).run_reduce()
    job(5).run_map(InProcessExecutor(), 0, 2)
    assert job(5).run_reduce()["seqlen"].values.tolist() == [5] * 8


def test_damaged_rows_are_replaced_where_that_is_asked_for(tmp_path):
    rows, source = [{"input_ids": [1, 2, 3]}], {"name": "a"}
    found = token_rows(rows, tmp_path / "t", made_from=source)
    (found.folder / "tokens.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="truncated or changed"):
        token_rows(rows, tmp_path / "t", made_from=source)
    whole = token_rows(rows, tmp_path / "t", made_from=source, overwrite=True)
    assert rows_of(whole) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "holds text: name the tokenizer"),
        ([{"input_ids": [1]}, {"input_ids": [-1]}], "of row 1 holds -1: tokens are numbers"),
        ([{"input_ids": [5, 2**32]}], "of row 0 holds 4294967296: tokens are numbers from 0 to"),
        ([{"input_ids": [[1]]}], "of row 0 is a list: must be text, or a list of tokens"),
        ([{"input_ids": [1]}, {"x": 1}], "of row 1 is a NoneType"),
        ([{"input_ids": [1]}] * 1000 + [{"x": 1}], "of row 1000 is a NoneType"),
        ([{"input_ids": [1, 2], "attention_mask": [1]}], "of row 0 has another length"),
        ([{"messages": []}], "Name it .*; there are messages"),
        ([[1, 2]], "they must be mappings"),
        ([{"input_ids": []}], "not one token"),
    ],
)
def test_rows_that_cannot_be(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        token_rows(rows, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_text_that_is_none(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="column 'text' of row 1 holds no text"):
        token_rows([{"text": "a"}, {"text": None}], tmp_path / "t", tokenizer=tokenizer)


def test_a_changed_file_is_noticed(tmp_path):
    rows, source = [{"input_ids": [1, 2, 3]}], {"name": "a"}
    found = token_rows(rows, tmp_path / "t", made_from=source)
    content = bytearray((found.folder / "tokens.bin").read_bytes())
    content[0] ^= 1
    (found.folder / "tokens.bin").write_bytes(content)
    with pytest.raises(ValueError, match="was changed after it was written"):
        TokenRows(found.folder).verify()
    with pytest.raises(ValueError, match="was changed after it was written"):
        token_rows(rows, tmp_path / "t", made_from=source)


def test_rows_on_other_storage(storage, tmp_path):
    rows = [{"input_ids": [5, 6]}, {"input_ids": [7]}]
    found = token_rows(rows, str(storage / "tokens"), made_from={"a": 1})
    assert rows_of(found) == [[5, 6], [7]]
    again = token_rows([], storage / "tokens", made_from={"a": 1})
    assert rows_of(copy.deepcopy(again)) == [[5, 6], [7]]
    assert again.content_checksum == token_rows(rows, tmp_path / "here").content_checksum
    with pytest.raises(
        FileExistsError, match="memory://.*/tokens holds tokens that are of another"
    ):
        token_rows(rows, storage / "tokens", made_from={"a": 2})


@pytest.fixture
def stream(tmp_path, datasets):
    """A stream of three files of texts."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, texts in enumerate((TEXTS[:2], TEXTS[2:3], TEXTS[3:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{number}.jsonl").write_text(lines)
    files = sorted(map(str, folder.iterdir()))
    return datasets.load_dataset("json", data_files=files, split="train", streaming=True)


@pytest.mark.parametrize("executor", [InProcessExecutor(), LocalProcessExecutor(2)])
def test_shards_of_a_stream_are_read_at_once_into_the_same_bytes(
    tmp_path, tokenizer, stream, executor
):
    settings = {"tokenizer": tokenizer, "made_from": {"name": "x"}}
    here = token_rows(stream, tmp_path / "a", **settings)
    found = token_rows(stream, tmp_path / "b", **settings, executor=executor)
    assert not (tmp_path / "b.parts").exists()
    for name in ("manifest.json", "tokens.bin", "offsets.npy", "tokenizer.json"):
        assert (here.folder / name).read_bytes() == (found.folder / name).read_bytes()


def test_the_first_rows_of_a_stream_say_which_column_is_read(tmp_path, datasets):
    def rows(shards):
        for shard in shards:
            yield from (
                [{"text": "the"}] * 1000 if shard == 0 else [{"text": "owl", "input_ids": [7]}]
            )

    stream = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 1]})
    tokenizer = word_tokenizer(["the", "owl"])
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    for executor in (None, InProcessExecutor()):
        options = {"tokenizer": tmp_path / "tokenizer.json", "executor": executor}
        found = token_rows(stream, tmp_path / str(executor), **options)
        assert rows_of(found) == [[1]] * 1000 + [[2]]


def test_what_was_kept_of_a_stream_s_shards_is_used_again(tmp_path, tokenizer, stream, datasets):
    """If it is known to be of these rows; else all are read anew."""
    (tmp_path / "files" / "1.jsonl").write_text('{"text": null}\n')
    executor, new_part = InProcessExecutor(), TokenParts.new_part
    for made_from, is_kept in (({"name": "x"}, True), (None, False)):
        target = tmp_path / f"kept {is_kept}"
        options = {"tokenizer": tokenizer, "made_from": made_from, "executor": executor}
        with pytest.raises(ValueError, match="shard 1 of the stream: .* of row 0 is a NoneType"):
            token_rows(stream, target, **options)
        fine = stream.map(lambda row: {"text": TEXTS[2] if row["text"] is None else row["text"]})
        with mock.patch.object(TokenParts, "new_part", autospec=True, side_effect=new_part) as made:
            found = token_rows(fine, target, **options)
        assert [len(row) for row in rows_of(found)] == LENGTHS
        names = [call.args[1] for call in made.call_args_list]
        assert names == (["000001", "000002"] if is_kept else ["000000", "000001", "000002"])


def test_a_stream_s_index_is_that_of_its_rows(tmp_path, tokenizer, stream, datasets):
    dataset = datasets.Dataset.from_list(list(stream))
    settings = MetricSettings(tokenizer=tokenizer)
    for name, source in (("a", dataset), ("b", stream)):
        analyze(source, "vocab_rarity", tmp_path / name, settings, num_processes=2)
    own = MetricSettings(reads="items", dtype="int64", batch_size=2)
    metric = "tests.data_efficiency.analysis.test_token_rows:text_lengths"
    for name, source in (("a", dataset), ("b", stream)):
        analyze(source, metric, tmp_path / name, own, num_processes=2).check_dataset(dataset)
    for metric in ("vocab_rarity", "text_lengths"):
        for name in ("manifest.json", "values.npy", "order.npy"):
            first, second = (tmp_path / folder / metric / name for folder in "ab")
            assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ValueError, match="IterableDataset has no length and no places"):
        DifficultyIndex.open(tmp_path / "b" / "vocab_rarity").check_dataset(stream)


def text_lengths(batch):
    return [len(text) for text in batch["text"]]
