"""Turns JSON-lines files, text files or folders into token corpora (`.bin` and `.idx`)."""

import argparse
import functools
import os
import time
from collections.abc import Sequence

from megatron.data.commands import run_command
from megatron.data.corpus_verification import verify_corpus
from megatron.data.preprocessing import CorpusCounts, PreprocessingJob, preprocess
from megatron.data.text_sources import STANDARD_INPUT, find_sources
from megatron.tokenizer import build_tokenizer


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = argparse.ArgumentParser(
        description="Tokenizes text into {prefix}_{key}_document.bin, .idx and .meta.json.",
        epilog="Inputs end in .jsonl, .ndjson or .json (one object a line), or .txt, .text, .md or"
        " .rst (one document a file); each also with .gz or .zst. Or in .parquet (columns are keys),"
        " which needs pyarrow. '-' is standard input, JSON lines.",
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="PATH", help="files and folders"
    )
    parser.add_argument(
        "--json-keys", nargs="+", default=["text"], metavar="KEY", help="one corpus a key (text)"
    )
    parser.add_argument("--output-prefix", required=True, metavar="PREFIX")
    parser.add_argument("--tokenizer-file", metavar="FILE", help="a tokenizer.json")
    parser.add_argument("--vocab-file", metavar="FILE", help="GPT-2's vocab.json")
    parser.add_argument("--merge-file", metavar="FILE", help="GPT-2's merges.txt")
    parser.add_argument(
        "--append-eod", action="store_true", help="close each document with <|endoftext|>"
    )
    parser.add_argument(
        "--workers", type=int, default=num_usable_cores(), metavar="N", help="processes (all cores)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read everything again and compare it with the input"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing corpora")
    return parser.parse_args(argv)


def num_usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(arguments: argparse.Namespace) -> None:
    """Tokenizes, reports and, if asked, verifies."""
    sources, skipped = find_sources(arguments.input, with_standard_input=True)
    if arguments.verify and STANDARD_INPUT in {source.path for source in sources}:
        raise ValueError("--verify reads the input again, but standard input can be read only once")
    if skipped:
        print(f"left out {len(skipped)} files with other endings, such as {skipped[0]}")
    job = PreprocessingJob(
        sources=sources,
        json_keys=arguments.json_keys,
        output_prefix=arguments.output_prefix,
        tokenizer_factory=functools.partial(
            build_tokenizer,
            tokenizer_file=arguments.tokenizer_file,
            vocab_file=arguments.vocab_file,
            merge_file=arguments.merge_file,
        ),
        append_eod=arguments.append_eod,
        num_workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    start = time.monotonic()
    counts = preprocess(job)
    seconds = time.monotonic() - start
    for key, count in counts.items():
        print(f"{job.corpus_prefix(key)}: {describe(count)}")
    num_tokens = sum(count.num_tokens for count in counts.values())
    print(f"{seconds:.1f} s, {num_tokens / seconds:,.0f} tokens/s with {job.num_workers} workers")
    if arguments.verify:
        tokenizer = job.tokenizer_factory()
        for key in job.json_keys:
            num_equal = verify_corpus(job.corpus_prefix(key), sources, tokenizer)
            print(f"{job.corpus_prefix(key)}: verified, {num_equal} documents tokenized again")


def describe(count: CorpusCounts) -> str:
    """One line about a corpus."""
    line = f"{count.num_documents:,} documents, {count.num_tokens:,} tokens"
    if count.num_empty_documents:
        line += f", {count.num_empty_documents:,} empty documents left out"
    if count.num_tokenless_documents:
        line += f", {count.num_tokenless_documents:,} without any token left out"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command."""
    arguments = parse_arguments(argv)
    return run_command(functools.partial(run, arguments))


if __name__ == "__main__":
    raise SystemExit(main())
