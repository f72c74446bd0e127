"""What a program of its own gives to the shared commands; the commands themselves: test_commands.py."""

import numpy as np
import pytest

from data_efficiency.command import index_commands
from data_efficiency.command.data_flags import Examples, Sources
from data_efficiency.command.parser import command_parser
from data_efficiency.difficulty_index import DifficultyIndex


class Rows:
    """Two samples of two tokens."""

    identity = {"type": "Rows"}
    vocab_size = 3

    def __len__(self):
        return 2

    def token_spans(self, first, last):
        starts = 2 * np.arange(last - first)
        return np.array([1, 1, 2, 1])[2 * first : 2 * last], starts, np.full(last - first, 2)


class OwnData:
    """Data of one name."""

    naming = "--own"

    def add_flags(self, parser, *, is_required):
        parser.add_argument("--own", action="store_true")

    def open(self, arguments, save):
        return Rows() if arguments.own else None

    def examples(self, arguments, index):
        return Examples(Rows(), lambda tokens: f"<{tokens.tolist()}>") if arguments.own else None

    def add_source_flags(self, parser):
        parser.add_argument("--turned", action="store_true")

    def sources(self, arguments, index):
        return Sources(np.array([1, 0] if arguments.turned else [0, 1]), ["one", "other"])


def test_a_program_names_its_own_data_and_its_own_first_command(tmp_path, capsys):
    parser = command_parser("")
    index_commands.add_to(parser.add_subparsers(), OwnData(), analyze="run")
    for words in (
        ["run", "--own", "--save", str(tmp_path)],
        ["show", str(tmp_path / "vocab_rarity"), "--own"],
        ["show", str(tmp_path / "vocab_rarity")],
    ):
        arguments = parser.parse_args(words)
        arguments.action(arguments)
    output = capsys.readouterr().out
    assert output.count('percentile 99: sample 1, difficulty 2\n"<[2, 1]>"') == 1


def test_the_difference_of_two_indexes(tmp_path, capsys):
    parser = command_parser("")
    index_commands.add_to(parser.add_subparsers(dest="command"), OwnData())
    for name, values in (("weak", [5, 3]), ("strong", [1, 2])):
        DifficultyIndex.write(
            tmp_path / name, np.array(values), metric=name, dataset_identity=Rows.identity
        )
    paths = [str(tmp_path / name) for name in ("weak", "strong")]
    words = ["difference", *paths, "--metric", "gap", "--save", str(tmp_path)]
    arguments = parser.parse_args(words)
    arguments.action(arguments)
    assert str(tmp_path / "gap") in capsys.readouterr().out
    assert DifficultyIndex.open(tmp_path / "gap").values.tolist() == [4, 1]
    arguments = parser.parse_args([*words, "--overwrite", "--metric", "weak"])
    with pytest.raises(ValueError, match="would be written over the input"):
        arguments.action(arguments)


def test_ranks_inside_the_sources_that_a_program_knows(tmp_path):
    parser = command_parser("")
    index_commands.add_to(parser.add_subparsers(), OwnData())
    DifficultyIndex.write(
        tmp_path / "m", np.array([5, 3]), metric="m", dataset_identity=Rows.identity
    )
    words = ["rank", str(tmp_path / "m"), "--metric", "r", "--save", str(tmp_path), "--turned"]
    arguments = parser.parse_args(words)
    arguments.action(arguments)
    ranks = DifficultyIndex.open(tmp_path / "r")
    assert ranks.values.tolist() == [0, 0], "each is the easiest of its source"
    assert ranks.source["sources"] == [["one", 1], ["other", 1]]
