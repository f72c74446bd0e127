"""Learns a tokenizer from text and writes it as tokenizer.json.

Byte-level BPE with <|endoftext|> for GPT, or WordPiece with [CLS], [SEP], [PAD] and [MASK] for BERT.
Inputs end in .jsonl, .ndjson or .json (one object a line), or .txt, .text, .md or .rst (one document a
file); each also with .gz or .zst.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron.command import STOPPED, run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from data_efficiency.progress import Progress
from megatron.corpus.text_sources import SourceFile, find_sources, read_blocks, texts_of
from megatron.tokenizer import Tokenizer, train_bpe, train_wordpiece


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="files and folders")
    add("--json-key", default="text", metavar="KEY", help="key of the text (text)")
    add("--type", choices=["bpe", "wordpiece"], default="bpe", help="kind (bpe)")
    add("--cased", action="store_true", help="wordpiece: keep upper case and accents")
    add(
        "--vocab-size", type=int, default=8192, metavar="N", help="entries of the vocabulary (8192)"
    )
    add("--output", required=True, metavar="FILE", help="a .json file")
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


class Documents:
    """The documents of the input, in order, as often as they are wanted; each time with a progress bar."""

    def __init__(self, sources: Sequence[SourceFile], key: str) -> None:
        self._sources, self._key = sources, key

    def __iter__(self) -> Iterator[str]:
        num_bytes = sum(source.num_bytes for source in self._sources)
        with Progress("reading", num_bytes) as progress:
            for block in read_blocks(self._sources, [self._key]):
                for (text,) in texts_of(block, [self._key]):
                    yield text
                progress.update(block.num_bytes_done)


def learn(arguments: argparse.Namespace, documents: Documents) -> Tokenizer:
    """The tokenizer of the kind that is asked for."""
    if arguments.type == "wordpiece":
        return train_wordpiece(documents, arguments.vocab_size, is_cased=arguments.cased)
    if arguments.cased:
        raise ValueError(
            "--cased belongs to --type wordpiece; byte-level BPE keeps all text as it is"
        )
    return train_bpe(documents, arguments.vocab_size)


def train_and_save(arguments: argparse.Namespace) -> None:
    """Learns, saves and reports."""
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"{output}: exists; give --overwrite to replace it")
    sources, skipped = find_sources(arguments.input)
    files.refuse_writing_over([output], [*arguments.input, *(source.path for source in sources)])
    if skipped:
        print(f"left out {len(skipped)} files with other endings, such as {skipped[0]}")
    tokenizer = learn(arguments, Documents(sources, arguments.json_key))
    tokenizer.save(output)
    print(f"{output}: {tokenizer.vocab_size:,} entries")
    if tokenizer.vocab_size < arguments.vocab_size:
        print(f"the text has no more merges to learn; {arguments.vocab_size:,} were wanted")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command."""
    return run_command(
        lambda words: train_and_save(parse_arguments(words)), argv, when_stopped=STOPPED
    )


if __name__ == "__main__":
    raise SystemExit(main())
