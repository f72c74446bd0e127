"""Tokenizes text into {prefix}_{key}_document.bin, .idx and .meta.json.

Split into sentences, for BERT, it becomes {prefix}_{key}_sentence.bin and so on. Inputs end in .jsonl,
.ndjson or .json (one object a line), or .txt, .text, .md or .rst (one document a file); each also with
.gz or .zst. Or in .parquet (columns are keys), which needs pyarrow. '-' is standard input, JSON lines.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron.command import STOPPED, run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.corpus.preprocessing import CorpusCounts, PreprocessingJob, preprocess
from megatron.corpus.sentence_splitter import (
    SentenceSplitter,
    installed_splitter,
    learn_model,
    splitter_of_file,
    write_sentence_model,
)
from megatron.corpus.text_sources import STANDARD_INPUT, find_sources
from megatron.corpus.verification import verify_corpus
from megatron.migration import PREPROCESSING, own_words
from megatron.tokenizer import add_tokenizer_flags, build_tokenizer


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="files and folders")
    add("--json-keys", nargs="+", default=["text"], metavar="KEY", help="one corpus a key (text)")
    add(
        "--output-prefix",
        required=True,
        metavar="PREFIX",
        help="makes PREFIX_{key}_document.bin, .idx, .meta.json",
    )
    add_tokenizer_flags(parser)
    add("--append-eod", action="store_true", help="close each document with <|endoftext|>")
    sentences = parser.add_argument_group("sentences").add_argument
    sentences(
        "--split-sentences",
        action="store_true",
        help="make sentences the sequences of the corpus, as BERT needs it",
    )
    sentences(
        "--language",
        default="english",
        metavar="NAME",
        help="of nltk's Punkt model (english); where it is not installed, one is learned from the input"
        " and kept as {prefix}_sentence_model.json",
    )
    sentences(
        "--sentence-model",
        metavar="FILE",
        help="a model learned before; give it where parts of one corpus are made apart",
    )
    add(
        "--workers", type=int, default=num_usable_cores(), metavar="N", help="processes (all cores)"
    )
    add("--verify", action="store_true", help="read everything again and compare it with the input")
    add("--overwrite", action="store_true", help="replace existing corpora")
    return parser.parse_args(None if argv is None else own_words(argv, PREPROCESSING))


def num_usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


SplitterFactory = Callable[[], SentenceSplitter]


def find_splitter(arguments: argparse.Namespace) -> tuple[SplitterFactory | None, Path | None]:
    """What makes the splitter, if one is wanted; and the file of its model, if it is yet to be learned."""
    if not arguments.split_sentences:
        if arguments.sentence_model is not None:
            raise ValueError("--sentence-model belongs to --split-sentences")
        return None, None
    if arguments.sentence_model is not None:
        return functools.partial(splitter_of_file, arguments.sentence_model), None
    try:
        installed_splitter(arguments.language)
    except LookupError:
        path = Path(f"{arguments.output_prefix}_sentence_model.json")
        return functools.partial(splitter_of_file, path), path
    return functools.partial(installed_splitter, arguments.language), None


def learn_sentences(job: PreprocessingJob, path: Path) -> None:
    """Learns from the job's input where sentences end, and keeps it."""
    job.check()
    files.refuse_writing_over([path], [*job.inputs, *(source.path for source in job.sources)])
    _ = job.tokenizer_factory().control_tokens  # An error now, not after the learning.
    write_sentence_model(path, learn_model(job.sources, job.json_keys))
    print(f"{path}: learned where sentences end, since nltk's own model is not installed")


def make_corpora(arguments: argparse.Namespace) -> None:
    """Tokenizes, reports and, if asked, verifies."""
    sources, skipped = find_sources(arguments.input, with_standard_input=True)
    if arguments.verify and STANDARD_INPUT in {source.path for source in sources}:
        raise ValueError("--verify reads the input again, but standard input can be read only once")
    if skipped:
        print(f"left out {len(skipped)} files with other endings, such as {skipped[0]}")
    splitter_factory, unlearned = find_splitter(arguments)
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
        splitter_factory=splitter_factory,
        overwrite=arguments.overwrite,
        inputs=[
            *arguments.input,
            arguments.tokenizer_file,
            arguments.vocab_file,
            arguments.merge_file,
            arguments.sentence_model,
        ],
    )
    if unlearned is not None:
        learn_sentences(job, unlearned)
    start = time.monotonic()
    counts = preprocess(job)
    seconds = time.monotonic() - start
    for key, count in counts.items():
        print(f"{job.corpus_prefix(key)}: {counts_line(count)}")
    num_tokens = sum(count.num_tokens for count in counts.values())
    print(f"{seconds:.1f} s, {num_tokens / seconds:,.0f} tokens/s with {job.num_workers} workers")
    if arguments.verify:
        verify_corpora(job)


def verify_corpora(job: PreprocessingJob) -> None:
    """Reads everything again and compares it with the input."""
    tokenizer = job.tokenizer_factory()
    splitter = None if job.splitter_factory is None else job.splitter_factory()
    for key in job.json_keys:
        num_equal = verify_corpus(job.corpus_prefix(key), job.sources, tokenizer, splitter)
        print(f"{job.corpus_prefix(key)}: verified, {num_equal} documents tokenized again")


def counts_line(count: CorpusCounts) -> str:
    """One line about a corpus."""
    line = f"{count.num_documents:,} documents"
    if count.num_sequences != count.num_documents:
        line += f", {count.num_sequences:,} sentences"
    line += f", {count.num_tokens:,} tokens"
    if count.num_empty_documents:
        line += f", {count.num_empty_documents:,} empty documents left out"
    if count.num_tokenless_documents:
        line += f", {count.num_tokenless_documents:,} without any token left out"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command."""
    return run_command(
        lambda words: make_corpora(parse_arguments(words)), argv, when_stopped=STOPPED
    )


if __name__ == "__main__":
    raise SystemExit(main())
