"""Makes, shows and checks the difficulty index of a token corpus."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from data_efficiency.analysis.executors import sigterm_as_interrupt
from data_efficiency.analysis.map_reduce import AnalysisError
from data_efficiency.analysis.summary import (
    sample_at_percentile,
    summarize,
    summary_text,
    write_histogram,
)
from data_efficiency.analysis.vocabulary import analyze_vocab_frequency, analyze_vocab_rarity
from data_efficiency.difficulty_index import DifficultyIndex
from megatron.data.gpt_dataset import GPTDataset
from megatron.tokenizer import build_tokenizer

METRICS = {"vocab_rarity": analyze_vocab_rarity, "total_vocab_freq": analyze_vocab_frequency}
EXAMPLE_PERCENTILES = (1, 10, 50, 90, 99)
EXAMPLE_CHARACTERS = 300


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="compute a metric of every sample")
    _add_corpus_flags(run, required=True)
    run.add_argument("--metric", choices=sorted(METRICS), default="vocab_rarity")
    run.add_argument("--save", required=True, metavar="DIR", help="folder of the results")
    run.add_argument("--num-processes", type=int, default=1, metavar="N")
    run.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="entries of the vocabulary (what the corpus says)",
    )
    run.add_argument(
        "--overwrite", action="store_true", help="compute anew and replace what is there"
    )

    show = commands.add_parser("show", help="print percentiles; with a tokenizer, example texts")
    show.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument("--histogram", metavar="FILE.png", help="write a picture")
    show.add_argument("--tokenizer-file", metavar="FILE", help="a tokenizer.json")
    show.add_argument("--vocab-file", metavar="FILE", help="GPT-2's vocab.json")
    show.add_argument("--merge-file", metavar="FILE", help="GPT-2's merges.txt")
    _add_corpus_flags(show, required=False)

    verify = commands.add_parser("verify", help="check checksums, order and permutation")
    verify.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    return parser.parse_args(argv)


def _add_corpus_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the flags that name a dataset."""
    parser.add_argument(
        "--data-path", required=required, metavar="PREFIX", help="corpus, without .bin and .idx"
    )
    parser.add_argument("--split", default="969,30,1", metavar="A,B,C", help="train, valid, test")
    parser.add_argument("--seq-length", type=int, required=required, metavar="N")


def run(arguments: argparse.Namespace) -> None:
    """Computes a metric and prints its summary."""
    dataset = _dataset(arguments)
    vocab_size = dataset.vocab_size if arguments.vocab_size is None else arguments.vocab_size
    if vocab_size is None or vocab_size < 1:
        raise ValueError(
            f"the vocabulary of {arguments.data_path} has {vocab_size or 'an unknown number of'} "
            "entries: give --vocab-size, at least 1"
        )
    result = METRICS[arguments.metric](
        dataset,
        arguments.save,
        vocab_size,
        num_processes=arguments.num_processes,
        overwrite=arguments.overwrite,
    )
    if isinstance(result, DifficultyIndex):
        print(summary_text(result))
    else:
        print(f"{int(result.value.sum()):,} tokens counted")
    print(result.path)


def show(arguments: argparse.Namespace) -> None:
    """Prints the summary of an index, with pictures and examples where asked for."""
    index = DifficultyIndex.open(arguments.index)
    print(json.dumps(summarize(index)) if arguments.json else summary_text(index))
    if arguments.histogram:
        print(write_histogram(index, arguments.histogram))
    if not (arguments.tokenizer_file or arguments.vocab_file):
        return
    if arguments.data_path is None or arguments.seq_length is None:
        raise ValueError("examples need --data-path, --split and --seq-length as in `run`")
    dataset = _dataset(arguments)
    index.check_dataset(dataset)
    tokenizer = build_tokenizer(
        tokenizer_file=arguments.tokenizer_file,
        vocab_file=arguments.vocab_file,
        merge_file=arguments.merge_file,
    )
    for percentile in EXAMPLE_PERCENTILES:
        sample = sample_at_percentile(index, percentile)
        text = tokenizer.decode(dataset[sample]["tokens"].tolist())[:EXAMPLE_CHARACTERS]
        print(f"\npercentile {percentile}: sample {sample}, difficulty {index.values[sample]}")
        print(json.dumps(text, ensure_ascii=False))


def verify(arguments: argparse.Namespace) -> None:
    """Checks an index."""
    DifficultyIndex.open(arguments.index).verify()
    print(f"{arguments.index}: checksums and order are right")


def _dataset(arguments: argparse.Namespace) -> GPTDataset:
    """The training split that the flags name."""
    return GPTDataset(
        arguments.data_path, split=arguments.split, sequence_length=arguments.seq_length
    )


COMMANDS = {"run": run, "show": show, "verify": verify}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after an error, 130 after Ctrl-C or SIGTERM."""
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with sigterm_as_interrupt():
            COMMANDS[arguments.command](arguments)
    except (ValueError, OSError, AnalysisError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
