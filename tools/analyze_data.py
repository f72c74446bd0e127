"""Makes, shows, checks, imports and exports the difficulty index of a token corpus."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.dataset_reader import TokenSpanReader
from data_efficiency.analysis.executors import sigterm_as_interrupt
from data_efficiency.analysis.map_reduce import AnalysisError, MapReduce, executor_for
from data_efficiency.analysis.metrics import Metric, total_vocab_freq, vocab_rarity
from data_efficiency.analysis.outside_scores import mean_over_samples, read_scores
from data_efficiency.analysis.summary import (
    sample_at_percentile,
    summarize,
    summary_text,
    write_histogram,
)
from data_efficiency.analysis.vocabulary import analyze_vocab_frequency, analyze_vocab_rarity
from data_efficiency.deepspeed_format import export_index, read_difficulties, unshuffled
from data_efficiency.difficulty_index import DifficultyIndex, describe_dataset
from data_efficiency.result_folder import sha256_of_file
from megatron.data.gpt_dataset import GPTDataset
from megatron.tokenizer import Tokenizer, build_tokenizer

METRICS = {"vocab_rarity": analyze_vocab_rarity, "total_vocab_freq": analyze_vocab_frequency}
EXAMPLE_PERCENTILES = (1, 10, 50, 90, 99)
EXAMPLE_CHARACTERS = 300


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line as parsed by argparse."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="compute a metric of every sample, on this machine")
    mapper = commands.add_parser("map", help="compute one worker's part of a metric")
    reduce = commands.add_parser("reduce", help="put the parts of all workers together")
    for command in (run, mapper, reduce):
        _add_corpus_flags(command, required=True)
        command.add_argument("--metric", choices=sorted(METRICS), default="vocab_rarity")
        command.add_argument("--save", required=True, metavar="DIR", help="folder of the results")
        command.add_argument(
            "--vocab-size",
            type=int,
            metavar="N",
            help="entries of the vocabulary (what the corpus says)",
        )
    for command in (run, mapper):
        command.add_argument("--num-processes", type=int, default=1, metavar="N")
        command.add_argument(
            "--overwrite", action="store_true", help="compute anew and replace what is there"
        )
    mapper.add_argument("--num-workers", type=int, default=1, metavar="N", help="machines or jobs")
    mapper.add_argument("--worker-id", type=int, default=0, metavar="I", help="0..N-1: which one")

    show = commands.add_parser("show", help="print percentiles; with the corpus, example texts")
    show.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument("--histogram", metavar="FILE.png", help="write a picture")
    show.add_argument(
        "--tokenizer-file",
        metavar="FILE",
        help="a tokenizer.json (the corpus's own, beside it or in the folder above)",
    )
    show.add_argument("--vocab-file", metavar="FILE", help="GPT-2's vocab.json")
    show.add_argument("--merge-file", metavar="FILE", help="GPT-2's merges.txt")
    _add_corpus_flags(show, required=False)

    verify = commands.add_parser("verify", help="check checksums, order and permutation")
    verify.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    _add_import_flags(commands.add_parser("import", help="make an index from what others computed"))

    export = commands.add_parser("export", help="write an index in DeepSpeed's format")
    export.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    export.add_argument("--format", choices=["deepspeed"], default="deepspeed")
    export.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    export.add_argument(
        "--legacy-codes", action="store_true", help="for DeepSpeed before 0.13.3: its type codes"
    )
    return parser.parse_args(argv)


def _add_corpus_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the flags that name a dataset."""
    parser.add_argument(
        "--data-path", required=required, metavar="PREFIX", help="corpus, without .bin and .idx"
    )
    parser.add_argument("--split", default="969,30,1", metavar="A,B,C", help="train, valid, test")
    parser.add_argument("--seq-length", type=int, required=required, metavar="N")


def _add_import_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `import`."""
    parser.add_argument("--format", choices=["deepspeed", "scores"], required=True)
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="deepspeed: the metric's folder; scores: .npy, .parquet, .jsonl, .jsonl.gz, folders",
    )
    parser.add_argument("--metric", required=True, metavar="NAME", help="name of the metric")
    parser.add_argument("--save", required=True, metavar="DIR", help="the index becomes DIR/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace an index that is there")
    parser.add_argument(
        "--field", metavar="KEY.KEY", help="scores: column or JSON keys, such as metadata.score"
    )
    parser.add_argument(
        "--scores-of",
        choices=["samples", "documents"],
        default="samples",
        help="scores: of each sample, or of each document of the corpus (then a sample gets the mean "
        "over its tokens)",
    )
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        "--shuffle-index",
        metavar="FILE.npy",
        help="deepspeed: which sample each item of the analyzed dataset was",
    )
    order.add_argument(
        "--trust-order",
        action="store_true",
        help="deepspeed: the analyzed dataset was not shuffled",
    )
    _add_corpus_flags(parser, required=False)
    parser.add_argument(
        "--dataset-class",
        metavar="NAME",
        help="instead of a corpus: class of the dataset that will be trained on",
    )


def run(arguments: argparse.Namespace) -> None:
    """Computes a metric and prints its summary."""
    dataset = _dataset(arguments)
    result = METRICS[arguments.metric](
        dataset,
        arguments.save,
        _vocab_size(arguments, dataset),
        num_processes=arguments.num_processes,
        overwrite=arguments.overwrite,
    )
    _print_result(result)


def run_map(arguments: argparse.Namespace) -> None:
    """Computes one worker's part of a metric."""
    worker, num_workers = arguments.worker_id, arguments.num_workers
    if not 0 <= worker < num_workers:
        raise ValueError(f"--worker-id is {worker}: must be 0..{num_workers - 1} (--num-workers)")
    job = _job(arguments, overwrite=arguments.overwrite)
    job.run_map(executor_for(arguments.num_processes), worker, num_workers)
    print(f"worker {worker} of {num_workers}: {arguments.metric} is mapped")


def run_reduce(arguments: argparse.Namespace) -> None:
    """Puts the parts of all workers together and prints the summary."""
    _print_result(_job(arguments).run_reduce()[arguments.metric])


def show(arguments: argparse.Namespace) -> None:
    """Prints the summary of an index, with pictures and examples where asked for."""
    index = DifficultyIndex.open(arguments.index)
    print(json.dumps(summarize(index)) if arguments.json else summary_text(index))
    if arguments.histogram:
        print(write_histogram(index, arguments.histogram))
    if arguments.data_path is None or arguments.seq_length is None:
        if arguments.data_path or arguments.tokenizer_file or arguments.vocab_file:
            raise ValueError("examples need --data-path, --split and --seq-length as in `run`")
        return
    dataset = _dataset(arguments)
    index.check_dataset(dataset)
    tokenizer = _tokenizer(arguments, dataset)
    for percentile in EXAMPLE_PERCENTILES:
        sample = sample_at_percentile(index, percentile)
        text = tokenizer.decode(dataset[sample]["tokens"].tolist())[:EXAMPLE_CHARACTERS]
        print(f"\npercentile {percentile}: sample {sample}, difficulty {index.values[sample]}")
        print(json.dumps(text, ensure_ascii=False))


def verify(arguments: argparse.Namespace) -> None:
    """Checks an index."""
    DifficultyIndex.open(arguments.index).verify()
    print(f"{arguments.index}: checksums and order are right")


def import_(arguments: argparse.Namespace) -> None:
    """Makes an index from what another program computed, and prints its summary."""
    dataset = _dataset(arguments) if arguments.data_path and arguments.seq_length else None
    if (dataset is None) == (arguments.dataset_class is None):
        raise ValueError("name the dataset: --data-path and --seq-length, or --dataset-class")
    if arguments.format == "deepspeed":
        values, source = _read_deepspeed(arguments)
    else:
        values, source = _read_scores(arguments, dataset)
    if dataset is not None and len(values) != len(dataset):
        raise ValueError(
            f"{len(values)} difficulties for the {len(dataset)} samples of {arguments.data_path}: "
            "check --split, --seq-length and --scores-of"
        )
    identity: dict[str, Any] = {"type": arguments.dataset_class, "num_samples": len(values)}
    index = DifficultyIndex.write(
        Path(arguments.save) / arguments.metric,
        values,
        metric=arguments.metric,
        dataset_identity=identity if dataset is None else describe_dataset(dataset),
        source=source,
        overwrite=arguments.overwrite,
    )
    _print_result(index)


def _read_deepspeed(arguments: argparse.Namespace) -> tuple[np.ndarray, dict[str, Any]]:
    """Difficulties from DeepSpeed's files in sample order, and what is known of them."""
    if not (arguments.shuffle_index or arguments.trust_order):
        raise ValueError(
            "DeepSpeed's index numbers the samples as its analysis read them, which is the shuffled "
            "order in Megatron-DeepSpeed: give --shuffle-index, or --trust-order if nothing was "
            "shuffled"
        )
    if len(arguments.input) != 1:
        raise ValueError(f"--input names {len(arguments.input)} paths: one folder is needed")
    values = read_difficulties(arguments.input[0], arguments.metric)
    source = {"format": "deepspeed", "order": "trusted"}
    if arguments.shuffle_index:
        values = unshuffled(values, np.load(arguments.shuffle_index, allow_pickle=False))
        source["order"] = f"shuffle index {sha256_of_file(Path(arguments.shuffle_index))}"
    return values, source


def _read_scores(
    arguments: argparse.Namespace, dataset: GPTDataset | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Outside scores in sample order, and what is known of them."""
    scores = read_scores(arguments.input, arguments.field)
    source = {
        "format": "scores",
        "field": arguments.field,
        "scores_of": arguments.scores_of,
        "order": "trusted",
    }
    if arguments.scores_of == "samples":
        return scores, source
    if dataset is None:
        raise ValueError("scores of documents need a corpus: --data-path and --seq-length")
    if len(scores) != dataset.num_corpus_documents:
        raise ValueError(
            f"{len(scores)} scores for the {dataset.num_corpus_documents} documents of "
            f"{arguments.data_path}: empty documents, which preprocessing left out, must have none"
        )
    _, starts, lengths = dataset.token_spans(0, len(dataset))
    scores = scores[dataset.documents.start : dataset.documents.stop]
    return mean_over_samples(scores, dataset.document_offsets(), starts, lengths), source


def export(arguments: argparse.Namespace) -> None:
    """Writes an index in DeepSpeed's format and prints the lines of its JSON."""
    index = DifficultyIndex.open(arguments.index)
    generation = "legacy" if arguments.legacy_codes else "current"
    folder = export_index(index, arguments.output, generation=generation)
    for kind in ("index_to_sample", "index_to_metric"):
        print(f'"{kind}_path": "{folder / f"{index.metric}_{kind}"}"')


def _dataset(arguments: argparse.Namespace) -> GPTDataset:
    """The training split that the flags name."""
    return GPTDataset(
        arguments.data_path, split=arguments.split, sequence_length=arguments.seq_length
    )


def _vocab_size(arguments: argparse.Namespace, dataset: GPTDataset) -> int:
    """Entries of the vocabulary: what is given, or else what the corpus says."""
    vocab_size = dataset.vocab_size if arguments.vocab_size is None else arguments.vocab_size
    if vocab_size is None or vocab_size < 1:
        raise ValueError(
            f"the vocabulary of {arguments.data_path} has {vocab_size or 'an unknown number of'} "
            "entries: give --vocab-size, at least 1"
        )
    return vocab_size


def _job(arguments: argparse.Namespace, *, overwrite: bool = False) -> MapReduce:
    """The work on one metric, the same for `map` and `reduce`."""
    dataset = _dataset(arguments)
    metric = _metric(arguments, dataset)
    return MapReduce(TokenSpanReader(dataset), [metric], arguments.save, overwrite=overwrite)


def _metric(arguments: argparse.Namespace, dataset: GPTDataset) -> Metric:
    """The metric that the flags name; rarity needs the frequencies in the same folder."""
    if arguments.metric == "total_vocab_freq":
        return total_vocab_freq(_vocab_size(arguments, dataset))
    folder = Path(arguments.save) / "total_vocab_freq"
    if not folder.exists():
        raise ValueError(
            f"vocab_rarity needs {folder}: map and reduce --metric total_vocab_freq first"
        )
    frequency = AccumulatedValue.open(folder)
    frequency.check_dataset(dataset)
    return vocab_rarity(frequency.value, {"frequency_sha256": frequency.checksum})


def _print_result(result: DifficultyIndex | AccumulatedValue) -> None:
    """Prints what a metric gave, and where it is."""
    if isinstance(result, DifficultyIndex):
        print(summary_text(result))
    else:
        print(f"{int(result.value.sum()):,} tokens counted")
    print(result.path)


def _tokenizer(arguments: argparse.Namespace, dataset: GPTDataset) -> Tokenizer:
    """The tokenizer that the flags name, or else the one the corpus was made with, if it is near."""
    if arguments.tokenizer_file or arguments.vocab_file or arguments.merge_file:
        return build_tokenizer(
            tokenizer_file=arguments.tokenizer_file,
            vocab_file=arguments.vocab_file,
            merge_file=arguments.merge_file,
        )
    folder = Path(arguments.data_path).parent
    for file in (folder / "tokenizer.json", folder.parent / "tokenizer.json"):
        if file.is_file():
            tokenizer = build_tokenizer(tokenizer_file=file)
            if tokenizer.fingerprint == dataset.identity["tokenizer"]:
                return tokenizer
    raise ValueError(
        f"the tokenizer of {arguments.data_path} is not beside it: give --tokenizer-file, or "
        "--vocab-file and --merge-file"
    )


COMMANDS = {
    "run": run,
    "map": run_map,
    "reduce": run_reduce,
    "show": show,
    "verify": verify,
    "import": import_,
    "export": export,
}


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
