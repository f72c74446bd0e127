"""Joins token corpora (`.bin` and `.idx`) into one, as if their texts had been tokenized together."""

import argparse
import functools
from collections.abc import Sequence

from megatron.command import STOPPED, run_command
from megatron.corpus.merging import find_corpora, merge_corpora


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = argparse.ArgumentParser(
        description="Joins corpora into PREFIX.bin, .idx and .meta.json, in the order given.",
        epilog="The corpora must have been made with the same tokenizer and options; what their"
        " .meta.json says is compared and joined.",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="prefixes of corpora, and folders, of which all corpora are taken in order of name",
    )
    parser.add_argument("--output-prefix", required=True, metavar="PREFIX")
    parser.add_argument(
        "--without-metadata",
        action="store_true",
        help="take corpora without .meta.json, or of different origin, and write none",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing corpus")
    return parser.parse_args(argv)


def merge(arguments: argparse.Namespace) -> None:
    """Merges and reports."""
    prefixes = find_corpora(arguments.input)
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
    arguments = parse_arguments(argv)
    return run_command(functools.partial(merge, arguments), when_stopped=STOPPED)


if __name__ == "__main__":
    raise SystemExit(main())
