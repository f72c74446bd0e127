"""The whole command on the kinds of data that a user has, from words to files."""

import json

import pytest

from data_efficiency import DifficultyIndex, __version__
from data_efficiency.command import main
from tests.data_efficiency.small_corpus import word_tokenizer, write_corpus

TEXTS = ["the fox", "the the the fox", "owl", "the", "fox the owl fox"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with texts.jsonl, a corpus of the same texts and tokenizer.json."""
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(["the", "fox", "owl"]))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "texts.jsonl").write_text(lines)
    numbers = {"the": 1, "fox": 2, "owl": 3}
    documents = [[numbers[word] for word in text.split()] for text in TEXTS]
    write_corpus(tmp_path / "corpus", documents)
    return tmp_path


def does(capsys, words):
    """What the command prints."""
    assert main(words.split()) == 0
    return capsys.readouterr().out


def test_texts_from_analysis_to_judgement(folder, capsys):
    analyze = "analyze texts.jsonl --tokenizer tokenizer.json --save d"
    assert does(capsys, f"{analyze} --metric seqlen").endswith("d/seqlen\n")
    assert does(capsys, analyze).endswith("d/vocab_rarity\n")
    assert DifficultyIndex.open("d/seqlen").values.tolist() == [2, 4, 1, 1, 4]
    shown = does(capsys, "show d/seqlen")
    assert '\npercentile 1: sample 2, difficulty 1\n"owl"\n' in shown
    assert '\npercentile 99: sample 4, difficulty 4\n"fox the owl fox"\n' in shown
    assert json.loads(does(capsys, "show d/seqlen --json"))["num_samples"] == 5
    judged = does(capsys, "judge d/vocab_rarity --beside d/seqlen").splitlines()
    assert judged[0] == "5 samples, 5 difficulties"
    (correlation,) = [line for line in judged if line.startswith("rank correlation with seqlen")]
    assert correlation.endswith("+0.949")
    assert "rank correlation with length: +0.949" in judged
    assert '  seqlen 4: "fox the owl fox"' in judged
    assert "checksums and order are right" in does(capsys, "verify d/seqlen")


def test_a_function_of_one_s_own_reads_items_of_a_saved_dataset(folder, capsys, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk("saved")
    (folder / "letter_counts.py").write_text(
        "def letters(batch):\n    return [len(text) for text in batch['text']]\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    own = "--metric letter_counts:letters --reads items --dtype int64"
    does(capsys, f"analyze saved --save d {own}")
    index = DifficultyIndex.open("d/letters")
    assert index.values.tolist() == [len(text) for text in TEXTS]
    index.check_dataset(datasets.load_from_disk("saved"))


def test_readability_of_rows_by_their_tokenizer(folder, capsys):
    does(capsys, "analyze texts.jsonl --tokenizer tokenizer.json --metric readability --save d")
    assert len({*DifficultyIndex.open("d/readability").values.tolist()}) > 1


def test_workers_make_what_one_process_makes(folder, capsys):
    data = "texts.jsonl --tokenizer tokenizer.json --metric seqlen --save"
    does(capsys, f"analyze {data} alone")
    for worker in (1, 0):
        does(capsys, f"map {data} shared --num-workers 2 --worker-id {worker}")
    does(capsys, f"reduce {data} shared")
    for name in ("manifest.json", "values.npy", "order.npy"):
        one, other = (folder / save / "seqlen" / name for save in ("alone", "shared"))
        assert one.read_bytes() == other.read_bytes()


def test_a_corpus_out_to_deepspeed_and_back(folder, capsys):
    data = "corpus --seq-length 2 --split 1"
    does(capsys, f"analyze {data} --vocab-size 4 --save d")
    assert '"the fox the"' in does(capsys, f"show d/vocab_rarity --data {data} --tokenizer .")
    does(capsys, "export d/vocab_rarity --output out")
    take = (
        f"import --format deepspeed --input out --metric vocab_rarity --trust-order --data {data}"
    )
    does(capsys, f"{take} --save back")
    one, other = DifficultyIndex.open("d/vocab_rarity"), DifficultyIndex.open("back/vocab_rarity")
    assert one.values.tolist() == other.values.tolist()
    assert one.dataset_identity == other.dataset_identity


def test_scores_of_rows_that_others_made(folder, capsys):
    (folder / "s.jsonl").write_text("".join(f'{{"score": {score}}}\n' for score in (5, 1, 2)))
    take = "import --format scores --input s.jsonl --field score --metric quality --save d"
    does(capsys, f"{take} --dataset-class Dataset")
    index = DifficultyIndex.open("d/quality")
    assert index.order.tolist() == [1, 2, 0]
    assert index.dataset_identity == {"type": "Dataset", "num_samples": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("analyze texts.jsonl --save x", "holds text: name the tokenizer (--tokenizer)"),
        ("analyze corpus --save x", "give --seq-length as in training"),
        ("analyze corpus --seq-length 2 --metric nothing --save x", "metric is 'nothing': one of"),
        ("show texts.jsonl", "is not a difficulty index"),
        ("judge d/a --beside e/a", "--beside names an index twice"),
        (
            "import --format scores --input s.npy --metric a --save x",
            "name the dataset: --data, or --dataset-class",
        ),
    ],
)
def test_errors_are_one_line(folder, words, message, refused):
    assert message in refused(main, words.split())


def test_texts_need_their_tokenizer_and_their_data(folder, capsys, refused):
    data = "corpus --seq-length 2 --split 1"
    does(capsys, f"analyze {data} --metric compression_ratio --save d")
    show = "show d/compression_ratio"
    assert "percentile 50" in does(capsys, show)
    assert "--tokenizer are missing" in refused(main, f"{show} --data {data}".split())
    line = refused(main, f"{show} --tokenizer tokenizer.json".split())
    assert "--data and --seq-length are missing" in line
    line = refused(main, f"{show} --data corpus --seq-length 3 --split 1 --tokenizer .".split())
    assert "sequence_length: expected 2, found 3" in line


def test_indexes_of_different_datasets_are_not_compared(folder, capsys, refused):
    does(capsys, "analyze texts.jsonl --tokenizer . --metric seqlen --save d")
    data = "corpus --seq-length 2 --split 1 --metric compression_ratio"
    does(capsys, f"analyze {data} --save c")
    line = refused(main, ["judge", "d/seqlen", "--beside", "c/compression_ratio"])
    assert "is an index of another dataset than d/seqlen" in line


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


def test_everything_by_url_is_as_here(folder, capsys, storage):
    """A corpus, JSON lines and a folder of them; metrics, judgement, differences, checks and examples."""
    datasets = pytest.importorskip("datasets")
    for name in ("corpus.bin", "corpus.idx", "texts.jsonl"):
        (storage / name).put(folder / name)
    (storage / "many" / "part.jsonl").put(folder / "texts.jsonl")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk("saved")
    for file in (folder / "saved").iterdir():
        (storage / "saved" / file.name).put(file)
    rows = "--tokenizer tokenizer.json --metric vocab_rarity"
    for data, flags in (
        ("corpus", "--seq-length 3 --split 1 --vocab-size 4"),
        ("texts.jsonl", rows),
        ("many", rows),
        ("saved", rows),
    ):
        source = folder / "texts.jsonl" if data == "many" else folder / data
        does(capsys, f"analyze {source} {flags} --save here/{data}")
        said = does(capsys, f"analyze {storage / data} {flags} --save {storage}/there/{data}")
        assert said.endswith(f"{storage}/there/{data}/vocab_rarity\n")
        for name in ("manifest.json", "values.npy", "order.npy"):
            ours = (folder / "here" / data / "vocab_rarity" / name).read_bytes()
            assert (storage / "there" / data / "vocab_rarity" / name).read_bytes() == ours, name
    place = f"{storage}/there/texts.jsonl"
    does(capsys, f"analyze {storage}/texts.jsonl {rows} --metric seqlen --save {place}")
    assert '\n"owl"\n' in does(capsys, f"show {place}/seqlen")
    assert "rank correlation" in does(capsys, f"judge {place}/seqlen --beside {place}/vocab_rarity")
    assert "are right" in does(capsys, f"verify {place}/seqlen")
    gap = f"difference {place}/seqlen {place}/vocab_rarity --save {place} --metric"
    assert does(capsys, f"{gap} gap").endswith(f"{place}/gap\n")
    assert DifficultyIndex.open(f"{place}/gap").source["first"]["path"] == f"{place}/seqlen"
    assert main(f"{gap} seqlen --overwrite".split()) == 1
    assert "seqlen would be written over an input" in capsys.readouterr().err


def test_ranks_inside_the_sources_that_rows_name(folder, capsys):
    rows = [{"text": text, "meta": {"set": "ab"[i % 2]}} for i, text in enumerate(TEXTS)]
    (folder / "mix.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    does(capsys, "analyze mix.jsonl --tokenizer tokenizer.json --metric seqlen --save d")
    words = "rank d/seqlen --metric r --save d --data mix.jsonl --tokenizer tokenizer.json"
    assert does(capsys, f"{words} --source-field meta.set").endswith("d/r\n")
    # Lengths 2, 1, 4 of the one and 4, 1 of the other.
    assert DifficultyIndex.open("d/r").values.tolist() == [3333, 5000, 0, 0, 6666]
    for wrong, message in (
        (words, "--data and --source-field are missing"),
        (f"{words} --source-field sort", "row 0 has no source: 'sort' is None"),
        (words.replace("mix", "texts") + " --source-field x", "tokens that are of another dataset"),
        ("rank d/seqlen --metric seqlen --save d", "would be written over the input"),
        (
            "rank d/seqlen --metric q --save d --data corpus --source-field x",
            "corpus is a corpus, whose samples name no source",
        ),
    ):
        assert main(wrong.split()) == 1
        assert message in capsys.readouterr().err
