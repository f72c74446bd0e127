"""How difficult are the samples of a dataset, and what will a run do with them?

    data-efficiency analyze texts.jsonl --tokenizer tokenizer.json --metric vocab_rarity --save difficulty
    data-efficiency show difficulty/vocab_rarity
    data-efficiency judge difficulty/vocab_rarity --beside difficulty/seqlen
    data-efficiency plan ds_config.json --train-steps 20000 --seq-length 1024 --num-layers 12 --hidden-size 768

Data are a corpus of Megatron (its path without .bin and .idx), a file of JSON lines, or a folder that
`datasets` has saved.
"""

import logging
from collections.abc import Sequence

from data_efficiency.command import config_commands, index_commands, plan_command
from data_efficiency.command.data_flags import FilesAndFolders
from data_efficiency.command.parser import CommandParser, command_parser
from data_efficiency.version import __version__


def make_parser() -> CommandParser:
    """The parser of the whole command; what it parses has the function `action` of itself."""
    parser = command_parser(__doc__)
    parser.prog = "data-efficiency"
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    index_commands.add_to(commands, FilesAndFolders())
    plan_command.add_to(commands)
    config_commands.add_to(commands)
    return parser


def carry_out(words: Sequence[str]) -> None:
    """Do what a command line says."""
    # Other packages tell of their own doings, such as where they found credentials.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("data_efficiency").setLevel(logging.INFO)
    arguments = make_parser().parse_args(words)
    arguments.action(arguments)
