import pytest

from data_efficiency.command.index_flags import add_metric_flags, add_work_flags
from data_efficiency.command.parser import command_parser


def test_map_has_no_flag_of_reduce_and_the_other_way_round(capsys):
    for maps, words in ((True, ["--max-distinct-values", "3"]), (False, ["--overwrite"])):
        parser = command_parser("")
        add_metric_flags(parser)
        add_work_flags(parser, maps=maps, reduces=not maps)
        with pytest.raises(SystemExit):
            parser.parse_args(["--save", "x", *words])
        assert f"unrecognized arguments: {' '.join(words)}" in capsys.readouterr().err


def test_every_metric_is_named_in_the_help(capsys):
    parser = command_parser("")
    add_metric_flags(parser)
    text = " ".join(parser.format_help().split())
    for name in ("vocab_rarity", "seqlen", "reference_loss", "package.module:function"):
        assert name in text
