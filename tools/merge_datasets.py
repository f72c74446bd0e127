"""Joins token corpora into PREFIX.bin, .idx and .meta.json, as if their texts had been tokenized together.

They come in the order given, and must have been made with the same tokenizer and options; what their
.meta.json says is compared and joined.
"""

import argparse
import os
from collections.abc import Sequence

from megatron.command import STOPPED, run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.corpus.merging import find_corpora, merge_corpora


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="prefixes of corpora, and folders, of which all corpora are taken in order of name",
    )
    add(
        "--output-prefix",
        required=True,
        metavar="PREFIX",
        help="makes PREFIX.bin, .idx, .meta.json",
    )
    add(
        "--without-metadata",
        action="store_true",
        help="take corpora without .meta.json, or of different origin, and write none",
    )
    add("--overwrite", action="store_true", help="replace an existing corpus")
    return parser.parse_args(argv)


def merge(arguments: argparse.Namespace) -> None:
    """Merges and reports."""
    prefixes = find_corpora(arguments.input)
    files.refuse_writing_over([arguments.output_prefix], filter(os.path.isdir, arguments.input))
    merged = merge_corpora(
        prefixes,
        arguments.output_prefix,
        overwrite=arguments.overwrite,
        with_metadata=not arguments.without_metadata,
    )
    print(
        f"{merged.prefix}: {merged.num_documents:,} documents, {merged.num_tokens:,} tokens of"
        f" {len(prefixes)} corpora"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command."""
    return run_command(lambda words: merge(parse_arguments(words)), argv, when_stopped=STOPPED)


if __name__ == "__main__":
    raise SystemExit(main())
