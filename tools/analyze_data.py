"""Makes, shows, checks, imports and exports the difficulty index of a token corpus."""

import json
import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megatron.command import run_command

from data_efficiency.analysis import huggingface_model, index_import, named_metrics, summary
from data_efficiency.analysis.executors import sigterm_as_interrupt
from data_efficiency.analysis.map_reduce import MapReduce, Result, executor_for
from data_efficiency.analysis.named_metrics import MetricSettings
from data_efficiency.deepspeed_format import export_index
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files import refuse_writing_over
from data_efficiency.launcher import worker_of_launcher
from megatron.arguments import command_parser
from megatron.checkpoint import model as checkpoint_model
from megatron.corpus_flags import add_corpus_flags, open_corpus, tokenizer_of_corpus
from megatron.migration import ANALYSIS, own_words

EXAMPLE_PERCENTILES = (1, 10, 50, 90, 99)
EXAMPLE_CHARACTERS = 300
KINDS = ("single_value_per_sample", "accumulate_value_over_samples")


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """The command line as parsed by argparse."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="compute a metric of every sample, on this machine")
    mapper = commands.add_parser("map", help="compute one worker's part of a metric")
    reduce = commands.add_parser("reduce", help="put the parts of all workers together")
    for command in (run, mapper, reduce):
        add_corpus_flags(command, is_required=True)
        _add_metric_flags(command)
    for command in (run, reduce):
        command.add_argument(
            "--max-distinct-values",
            type=int,
            metavar="N",
            help="store at most so many difficulties, each for about equally many samples",
        )
    for command in (run, mapper):
        command.add_argument("--num-processes", type=int, default=1, metavar="N")
        command.add_argument(
            "--overwrite", action="store_true", help="compute anew and replace what is there"
        )
    mapper.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="machines or jobs that share the work (what torchrun, SLURM or MPI says)",
    )
    mapper.add_argument("--worker-id", type=int, metavar="I", help="which one this is, from 0")

    show = commands.add_parser("show", help="print percentiles; with the corpus, example texts")
    show.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument("--histogram", metavar="FILE.png", help="write a picture")
    add_corpus_flags(show, is_required=False)

    verify = commands.add_parser("verify", help="check checksums, order and permutation")
    verify.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    _add_import_flags(commands.add_parser("import", help="make an index of others' difficulties"))

    export = commands.add_parser("export", help="write an index in DeepSpeed's format")
    export.add_argument("index", metavar="INDEX", help="folder of a difficulty index")
    export.add_argument("--format", choices=["deepspeed"], default="deepspeed")
    export.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    export.add_argument(
        "--legacy-codes", action="store_true", help="for DeepSpeed before 0.13.3: its type codes"
    )
    return parser.parse_args(None if argv is None else own_words(argv, ANALYSIS))


def _add_metric_flags(parser: ArgumentParser) -> None:
    """Adds the flags that name a metric and what it needs."""
    parser.add_argument("--save", required=True, metavar="DIR", help="folder of the results")
    add = parser.add_argument_group("metric").add_argument
    add(
        "--metric",
        default="vocab_rarity",
        metavar="NAME",
        help=f"{', '.join(named_metrics.METRICS)}, or your own package.module:function (vocab_rarity)",
    )
    add(
        "--vocab-size",
        type=int,
        metavar="N",
        help="rarity: entries of the vocabulary (what the corpus says)",
    )
    add(
        "--model",
        metavar="DIR",
        help="reference_loss: a run or checkpoint of ours, or a Hugging Face model's folder",
    )
    add("--device", default="cpu", help="reference_loss: where the model runs")
    add("--model-dtype", choices=["float32", "bfloat16"], default="float32")
    add("--kind", choices=KINDS, default=KINDS[0], help="own function: what it gives")
    add("--dtype", default="float64", help="own function: type of its numbers")
    add(
        "--reads",
        choices=["token_spans", "items"],
        default="token_spans",
        help="own function: a TokenBatch, or a batch of the dataset's items",
    )
    add("--batch-size", type=int, default=256, metavar="N", help="own function: items a batch")


def _add_import_flags(parser: ArgumentParser) -> None:
    """Adds the flags of `import`."""
    add = parser.add_argument
    add("--format", choices=["deepspeed", "scores"], required=True)
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="deepspeed: the metric's folder; scores: .npy, .parquet, .jsonl, .jsonl.gz, folders",
    )
    add("--metric", required=True, metavar="NAME", help="name of the metric")
    add("--save", required=True, metavar="DIR", help="the index becomes DIR/NAME")
    add("--overwrite", action="store_true", help="replace an index that is there")
    add("--field", metavar="KEY.KEY", help="scores: column or JSON keys, such as metadata.score")
    add(
        "--scores-of",
        choices=["samples", "documents"],
        default="samples",
        help="scores: one for each sample, or for each document of the corpus, of which a sample "
        "gets the mean over its tokens",
    )
    order = parser.add_mutually_exclusive_group().add_argument
    order(
        "--shuffle-index",
        metavar="FILE.npy",
        help="deepspeed: which sample each item of the analyzed dataset was",
    )
    order(
        "--trust-order",
        action="store_true",
        help="deepspeed: the analyzed dataset was not shuffled",
    )
    add_corpus_flags(parser, is_required=False)
    add(
        "--dataset-class",
        metavar="NAME",
        help="instead of a corpus: class of the dataset that will be trained on",
    )


def run_here(arguments: Namespace) -> None:
    """Computes a metric and prints its summary."""
    result = named_metrics.analyze(
        open_corpus(arguments),
        arguments.metric,
        arguments.save,
        _settings(arguments),
        num_processes=arguments.num_processes,
        max_distinct_values=arguments.max_distinct_values,
        overwrite=arguments.overwrite,
    )
    _print_result(result)


def run_map(arguments: Namespace) -> None:
    """Computes one worker's part of a metric."""
    worker, num_workers = _worker(arguments, os.environ)
    job = _job(arguments, overwrite=arguments.overwrite)
    job.run_map(executor_for(arguments.num_processes), worker, num_workers)
    print(f"worker {worker} of {num_workers}: {arguments.metric} is mapped")


def run_reduce(arguments: Namespace) -> None:
    """Puts the parts of all workers together and prints the summary."""
    job = _job(arguments, max_distinct_values=arguments.max_distinct_values)
    (result,) = job.run_reduce().values()
    _print_result(result)


def show(arguments: Namespace) -> None:
    """Prints the summary of an index, with pictures and examples where asked for."""
    index = DifficultyIndex.open(arguments.index)
    if arguments.histogram:
        refuse_writing_over([arguments.histogram], [arguments.index])
    print(json.dumps(summary.summarize(index)) if arguments.json else summary.summary_text(index))
    if arguments.histogram:
        print(summary.write_histogram(index, arguments.histogram))
    if arguments.data_path is None or arguments.seq_length is None:
        if arguments.data_path or arguments.tokenizer_file or arguments.vocab_file:
            raise ValueError("examples need --data-path, --split and --seq-length as in `run`")
        return
    dataset = open_corpus(arguments)
    index.check_dataset(dataset)
    tokenizer = tokenizer_of_corpus(arguments, dataset)
    for percentile in EXAMPLE_PERCENTILES:
        sample = summary.sample_at_percentile(index, percentile)
        tokens, starts, lengths = dataset.token_spans(sample, sample + 1)
        text = tokenizer.decode(tokens[starts[0] : starts[0] + lengths[0]].tolist())
        print(f"\npercentile {percentile}: sample {sample}, difficulty {index.values[sample]}")
        print(json.dumps(text[:EXAMPLE_CHARACTERS], ensure_ascii=False))


def verify_index(arguments: Namespace) -> None:
    """Checks an index."""
    DifficultyIndex.open(arguments.index).verify()
    print(f"{arguments.index}: checksums and order are right")


def import_(arguments: Namespace) -> None:
    """Makes an index of difficulties that another program computed, and prints its summary."""
    has_corpus = arguments.data_path is not None and arguments.seq_length is not None
    if has_corpus == (arguments.dataset_class is not None):
        raise ValueError("name the dataset: --data-path and --seq-length, or --dataset-class")
    dataset = open_corpus(arguments) if has_corpus else arguments.dataset_class
    if arguments.format == "deepspeed":
        if len(arguments.input) != 1:
            raise ValueError(f"--input names {len(arguments.input)} paths: one folder is needed")
        imported = index_import.deepspeed_difficulties(
            arguments.input[0],
            arguments.metric,
            shuffle_index=arguments.shuffle_index,
            trust_order=arguments.trust_order,
        )
    else:
        imported = index_import.outside_difficulties(
            arguments.input, arguments.field, arguments.scores_of, dataset
        )
    index = index_import.write_imported(
        Path(arguments.save) / arguments.metric,
        imported,
        metric=arguments.metric,
        dataset=dataset,
        overwrite=arguments.overwrite,
    )
    _print_result(index)


def export_index_files(arguments: Namespace) -> None:
    """Writes an index in DeepSpeed's format and prints the lines of its JSON."""
    index = DifficultyIndex.open(arguments.index)
    generation = "legacy" if arguments.legacy_codes else "current"
    folder = export_index(index, arguments.output, generation=generation)
    for kind in ("index_to_sample", "index_to_metric"):
        print(f'"{kind}_path": "{folder / f"{index.metric}_{kind}"}"')


def _job(arguments: Namespace, **options: Any) -> MapReduce:
    """The work on one metric, the same for `map` and `reduce`."""
    dataset, settings = open_corpus(arguments), _settings(arguments)
    metric = named_metrics.metric_named(arguments.metric, dataset, arguments.save, settings)
    reader = named_metrics.reader_for(metric, dataset, settings)
    return MapReduce(reader, [metric], arguments.save, **options)


def _settings(arguments: Namespace) -> MetricSettings:
    """What the metric needs besides the dataset."""
    load_model, identity = None, {}
    if arguments.model is not None:
        folder = Path(arguments.model)
        checkpoint = checkpoint_model.checkpoint_in(folder)
        if checkpoint is None:
            load_model = partial(huggingface_model.load_huggingface_model, folder=folder)
            identity = huggingface_model.identity_of_huggingface_model(folder)
        else:
            load_model = partial(checkpoint_model.load_reference_model, checkpoint=checkpoint)
            identity = checkpoint_model.identity_of_checkpoint(checkpoint)
    return MetricSettings(
        vocab_size=arguments.vocab_size,
        load_model=load_model,
        model_identity=identity,
        device=arguments.device,
        model_dtype=arguments.model_dtype,
        reads=arguments.reads,
        kind=arguments.kind,
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
    )


def _worker(arguments: Namespace, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which worker of how many: as the flags say, or else whatever started this process."""
    if arguments.num_workers is None and arguments.worker_id is None:
        return worker_of_launcher(environment)
    worker, num_workers = arguments.worker_id, arguments.num_workers
    if worker is None or num_workers is None or not 0 <= worker < num_workers:
        raise ValueError(
            f"--worker-id is {worker}, --num-workers {num_workers}: give both, the first from 0 to "
            "one less than the second"
        )
    return worker, num_workers


def _print_result(result: Result) -> None:
    """Prints what a metric gave, and where it is."""
    if isinstance(result, DifficultyIndex):
        print(summary.summary_text(result))
    else:
        print(f"{result.metric}: {result.value.size:,} numbers, {result.value.sum():,} in all")
    print(result.path)


COMMANDS = {
    "run": run_here,
    "map": run_map,
    "reduce": run_reduce,
    "show": show,
    "verify": verify_index,
    "import": import_,
    "export": export_index_files,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after an error, 130 after Ctrl-C or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def action(words: list[str]) -> None:
        arguments = parse_arguments(words)
        with sigterm_as_interrupt():
            COMMANDS[arguments.command](arguments)

    return run_command(action, argv, when_stopped="stopped")


if __name__ == "__main__":
    raise SystemExit(main())
