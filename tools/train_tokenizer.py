"""Learns a byte-level BPE tokenizer from text and writes it as `tokenizer.json`."""

import argparse
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron.data.commands import run_command
from megatron.data.progress import ByteProgress
from megatron.data.text_sources import SourceFile, find_sources, read_blocks, texts_of
from megatron.tokenizer import train_bpe


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = argparse.ArgumentParser(
        description="Learns a byte-level BPE with <|endoftext|> from text.",
        epilog="Inputs end in .jsonl, .ndjson or .json (one object a line), or .txt, .text, .md or"
        " .rst (one document a file); each also with .gz or .zst.",
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="PATH", help="files and folders"
    )
    parser.add_argument("--json-key", default="text", metavar="KEY", help="key of the text (text)")
    parser.add_argument(
        "--vocab-size", type=int, default=8192, metavar="N", help="entries of the vocabulary (8192)"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="a .json file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


def texts(sources: Sequence[SourceFile], key: str) -> Iterator[str]:
    """The documents of the input, in order, with a progress bar."""
    with ByteProgress("reading", sum(source.num_bytes for source in sources)) as progress:
        for block in read_blocks(sources):
            for (text,) in texts_of(block, [key]):
                yield text
            progress.update(block.num_bytes_done)


def run(arguments: argparse.Namespace) -> None:
    """Learns, saves and reports."""
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"{output}: exists; give --overwrite to replace it")
    sources, skipped = find_sources(arguments.input)
    if skipped:
        print(f"left out {len(skipped)} files with other endings, such as {skipped[0]}")
    tokenizer = train_bpe(texts(sources, arguments.json_key), arguments.vocab_size)
    tokenizer.save(output)
    print(f"{output}: {tokenizer.vocab_size:,} entries")
    if tokenizer.vocab_size < arguments.vocab_size:
        print(f"the text has no more merges to learn; {arguments.vocab_size:,} were wanted")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command."""
    arguments = parse_arguments(argv)
    return run_command(functools.partial(run, arguments))


if __name__ == "__main__":
    raise SystemExit(main())
