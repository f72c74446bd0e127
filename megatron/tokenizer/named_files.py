"""The tokenizer that a command's flags or a run's settings name by its files."""

from typing import Any, Protocol

from megatron.tokenizer.tokenizer import StrPath, Tokenizer
from megatron.tokenizer.tokenizer_files import build_tokenizer


class TokenizerFiles(Protocol):
    """Parsed flags or settings; the files are those of `build_tokenizer`."""

    @property
    def tokenizer_file(self) -> StrPath | None:
        """`tokenizer.json`."""

    @property
    def vocab_file(self) -> StrPath | None:
        """`vocab.json` or `vocab.txt`."""

    @property
    def merge_file(self) -> StrPath | None:
        """`merges.txt`."""


def add_tokenizer_flags(parser: Any, *, otherwise: str = "") -> None:
    """Add the flags that name a tokenizer's files to a parser of argparse, or to a group of it.

    Args:
        parser: the parser.
        otherwise: which tokenizer is taken without them, words of the help text.
    """
    add = parser.add_argument
    add("--tokenizer-file", metavar="FILE", help=f"a tokenizer.json{otherwise and '; '}{otherwise}")
    add("--vocab-file", metavar="FILE", help="GPT-2's vocab.json, or alone BERT's vocab.txt")
    add("--merge-file", metavar="FILE", help="GPT-2's merges.txt")


def named_tokenizer(files: TokenizerFiles) -> Tokenizer | None:
    """The tokenizer of the named files; None where none is named.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or files are named that do not belong together.
    """
    if not (files.tokenizer_file or files.vocab_file or files.merge_file):
        return None
    return build_tokenizer(
        tokenizer_file=files.tokenizer_file,
        vocab_file=files.vocab_file,
        merge_file=files.merge_file,
    )
