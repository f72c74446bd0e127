import pytest

from data_efficiency import ConfigError
from data_efficiency.files import RemotePath, write_file
from megatron.recipes import analysis_commands
from tests.megatron.recipes.recipe_files import read


def test_an_index_that_is_not_there_is_to_be_made(tmp_path):
    flags = ["--difficulty", str(tmp_path), "--tokenizer-file", "t.json"]
    (command,) = analysis_commands(read("gpt_cl_ltd_300b", "--scale-down", *flags))
    assert command == [
        *("--data-path", "corpus", "--split", "949,50,1", "--seq-length", "64"),
        *("--data-type", "gpt", "--tokenizer-file", "t.json"),
        *("--metric", "vocab_rarity", "--save", str(tmp_path)),
    ]
    (tmp_path / "vocab_rarity").mkdir()
    (tmp_path / "vocab_rarity" / "manifest.json").touch()
    assert analysis_commands(read("gpt_cl_ltd_300b", *flags)) == []
    assert analysis_commands(read("gpt_cl_truncate_300b")) == []


def test_pieces_are_those_of_the_training(tmp_path):
    flags = ("--difficulty", str(tmp_path), "--shortest-piece", "8")
    (command,) = analysis_commands(read("gpt_cl_voc_300b", "--scale-down", *flags))
    assert "--data-type gpt --shortest-piece 8 --metric" in " ".join(command)


def test_samples_of_bert_are_those_of_the_training():
    (command,) = analysis_commands(read("bert_cl_voc_reorder_1049b", "--sample-seed", "5"))
    words = " ".join(command)
    assert (
        "--data-type bert --sample-seed 5 --metric seqlen_vocab_rarity --save difficulty" in words
    )


def test_scores_of_others_are_not_computed_here(tmp_path):
    flags = ("--data-path", "corpus", "--difficulty", str(tmp_path))
    with pytest.raises(
        ConfigError, match="quality is no metric that is computed here .*import --format scores"
    ):
        analysis_commands(read("gpt_cl_quality_cma_30b", *flags))
    (tmp_path / "quality").mkdir()
    (tmp_path / "quality" / "manifest.json").touch()
    assert analysis_commands(read("gpt_cl_quality_cma_30b", *flags)) == []


def test_an_index_at_a_url(tmp_path):
    place = RemotePath(f"memory://{tmp_path}")
    flags = ["--difficulty", str(place)]
    (command,) = analysis_commands(read("gpt_cl_ltd_300b", *flags))
    assert command[-4:] == ["--metric", "vocab_rarity", "--save", str(place)]
    write_file(place / "vocab_rarity" / "manifest.json", "{}")
    assert analysis_commands(read("gpt_cl_ltd_300b", *flags)) == []
    place.remove_all()
