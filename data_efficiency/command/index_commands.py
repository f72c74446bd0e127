"""The commands of a difficulty index: analyze (at once, or map and reduce), show, judge, difference, rank, verify,
import, export.
"""

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_efficiency.analysis import (
    index_difference,
    index_import,
    judgement,
    named_metrics,
    source_ranks,
    summary,
)
from data_efficiency.analysis.executors import sigterm_as_interrupt
from data_efficiency.analysis.map_reduce import MapReduce, Result, executor_for
from data_efficiency.analysis.named_metrics import MetricSettings
from data_efficiency.command.data_flags import Examples, NamedData
from data_efficiency.command.index_flags import (
    add_difference_flags,
    add_export_flags,
    add_import_flags,
    add_index_flag,
    add_judge_flags,
    add_metric_flags,
    add_rank_flags,
    add_show_flags,
    add_work_flags,
    add_worker_flags,
)
from data_efficiency.deepspeed_format import export_index
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files import refuse_writing_over
from data_efficiency.files.remote import Location, RemotePath, location
from data_efficiency.launcher import worker_of_launcher

EXAMPLE_PERCENTILES = (1, 10, 50, 90, 99)
EXAMPLE_CHARACTERS = 300
READ_DATA = ("show", "judge", "rank", "import")
"""Commands of an index that read its dataset, too, where it is named."""
_LENGTHS_AT_ONCE = 65536

Action = Callable[[Namespace, NamedData], None]


def add_to(commands: Any, data: NamedData, *, analyze: str = "analyze") -> None:
    """Add the commands to the subparsers of a parser; each leaves what it does as `action`.

    Args:
        data: how datasets are named.
        analyze: what the first command is called.
    """

    def add(name: str, action: Action, text: str) -> ArgumentParser:
        parser: ArgumentParser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(action=partial(_carry_out, action, data))
        return parser

    for name, action, text in (
        (analyze, run_here, "compute a metric of every sample, on this machine"),
        ("map", run_map, "compute one worker's part of a metric"),
        ("reduce", run_reduce, "put the parts of all workers together"),
    ):
        parser = add(name, action, text)
        data.add_flags(parser, is_required=True)
        add_metric_flags(parser)
        add_work_flags(parser, maps=action is not run_reduce, reduces=action is not run_map)
        if action is run_map:
            add_worker_flags(parser)
    for name, add_flags, action, text in (
        (
            "show",
            add_show_flags,
            show,
            "print percentiles, and example texts where the data are known",
        ),
        (
            "judge",
            add_judge_flags,
            judge,
            "say whether a metric separates the samples, and by what",
        ),
        (
            "difference",
            add_difference_flags,
            subtract,
            "make an index of how much harder samples are by one than by another",
        ),
        (
            "rank",
            add_rank_flags,
            rank,
            "make an index of each sample's rank inside its source, for mixes",
        ),
        ("verify", add_index_flag, verify_index, "check checksums, order and permutation"),
        ("import", add_import_flags, import_, "make an index of others' difficulties"),
        ("export", add_export_flags, export_index_files, "write an index in DeepSpeed's format"),
    ):
        parser = add(name, action, text)
        add_flags(parser)
        if name in READ_DATA:
            data.add_flags(parser, is_required=False)
        if action is rank:
            data.add_source_flags(parser)


def _carry_out(action: Action, data: NamedData, arguments: Namespace) -> None:
    with sigterm_as_interrupt():
        action(arguments, data)


def run_here(arguments: Namespace, data: NamedData) -> None:
    """Compute a metric and print its summary."""
    result = named_metrics.analyze(
        data.open(arguments, location(arguments.save)),
        arguments.metric,
        arguments.save,
        _settings(arguments, data),
        num_processes=arguments.num_processes,
        executor=arguments.executor,
        max_distinct_values=arguments.max_distinct_values,
        overwrite=arguments.overwrite,
    )
    _print_result(result, arguments.save)


def run_map(arguments: Namespace, data: NamedData) -> None:
    """Compute one worker's part of a metric."""
    worker, num_workers = _worker(arguments, os.environ)
    job = _job(arguments, data, overwrite=arguments.overwrite)
    job.run_map(executor_for(arguments.num_processes, arguments.executor), worker, num_workers)
    print(f"worker {worker} of {num_workers}: {arguments.metric} is mapped")


def run_reduce(arguments: Namespace, data: NamedData) -> None:
    """Put the parts of all workers together and print the summary."""
    job = _job(arguments, data, max_distinct_values=arguments.max_distinct_values)
    (result,) = job.run_reduce().values()
    _print_result(result, arguments.save)


def show(arguments: Namespace, data: NamedData) -> None:
    """Print the summary of an index, with pictures and examples where asked for."""
    index = DifficultyIndex.open(arguments.index)
    if arguments.histogram:
        refuse_writing_over([arguments.histogram], [index.path])
    print(json.dumps(summary.summarize(index)) if arguments.json else summary.summary_text(index))
    if arguments.histogram:
        print(summary.write_histogram(index, arguments.histogram))
    examples = data.examples(arguments, location(arguments.index))
    if examples is None or arguments.json:
        return
    index.check_dataset(examples.dataset)
    for percentile in EXAMPLE_PERCENTILES:
        sample = summary.sample_at_percentile(index, percentile)
        print(f"\npercentile {percentile}: sample {sample}, difficulty {index.values[sample]}")
        print(_example(examples, sample))


def judge(arguments: Namespace, data: NamedData) -> None:
    """Print what can be said of a metric without a training run, and texts beside those of other metrics."""
    paths = [location(arguments.index), *map(location, arguments.beside)]
    if len({path.name for path in paths}) < len(paths):
        raise ValueError("--beside names an index twice: each needs a folder name of its own")
    indexes = {path.name: DifficultyIndex.open(path) for path in paths}
    own = indexes[paths[0].name]
    examples = data.examples(arguments, paths[0])
    for path, index in zip(paths, indexes.values(), strict=True):
        if index.dataset_identity != own.dataset_identity:
            raise ValueError(f"{path} is an index of another dataset than {paths[0]}")
        if examples is not None:
            index.check_dataset(examples.dataset)
    others = {name: index.values for name, index in indexes.items() if index is not own}
    if examples is not None:
        others[judgement.LENGTH] = np.concatenate(list(_lengths(examples.dataset)))
    print(judgement.judgement_text(judgement.judge(own, others), own.num_samples))
    if examples is None:
        return
    for percentile in EXAMPLE_PERCENTILES[::2]:
        print(f"\npercentile {percentile}")
        for name, index in indexes.items():
            sample = summary.sample_at_percentile(index, percentile)
            print(f"  {name} {index.values[sample]}: {_example(examples, sample)}")


def subtract(arguments: Namespace, data: NamedData) -> None:
    """Make an index of the difference of two, and print its summary."""
    first, second = (DifficultyIndex.open(path) for path in (arguments.first, arguments.second))
    path = location(arguments.save) / arguments.metric
    _refuse_same_place(path, [arguments.first, arguments.second])
    _print_result(
        index_difference.write_difference(
            path, first, second, metric=arguments.metric, overwrite=arguments.overwrite
        ),
        arguments.save,
    )


def rank(arguments: Namespace, data: NamedData) -> None:
    """Make an index of ranks inside sources, and print its summary."""
    index = DifficultyIndex.open(arguments.index)
    path = location(arguments.save) / arguments.metric
    _refuse_same_place(path, [arguments.index])
    sources, names = data.sources(arguments, location(arguments.index))
    _print_result(
        source_ranks.write_ranks(
            path, index, sources, names, metric=arguments.metric, overwrite=arguments.overwrite
        ),
        arguments.save,
    )


def verify_index(arguments: Namespace, data: NamedData) -> None:
    """Check an index."""
    DifficultyIndex.open(arguments.index).verify()
    print(f"{arguments.index}: checksums and order are right")


def import_(arguments: Namespace, data: NamedData) -> None:
    """Make an index of difficulties that another program computed, and print its summary."""
    dataset = data.open(arguments, location(arguments.save))
    if (dataset is not None) == (arguments.dataset_class is not None):
        raise ValueError(f"name the dataset: {data.naming}, or --dataset-class")
    dataset = arguments.dataset_class if dataset is None else dataset
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
        location(arguments.save) / arguments.metric,
        imported,
        metric=arguments.metric,
        dataset=dataset,
        overwrite=arguments.overwrite,
    )
    _print_result(index, arguments.save)


def export_index_files(arguments: Namespace, data: NamedData) -> None:
    """Write an index in DeepSpeed's format and print the lines of its JSON."""
    index = DifficultyIndex.open(arguments.index)
    generation: Literal["legacy", "current"] = "legacy" if arguments.legacy_codes else "current"
    folder = export_index(index, arguments.output, generation=generation)
    for kind in ("index_to_sample", "index_to_metric"):
        print(f'"{kind}_path": "{folder / f"{index.metric}_{kind}"}"')


def _job(arguments: Namespace, data: NamedData, **options: Any) -> MapReduce:
    """The work on one metric, the same for `map` and `reduce`."""
    dataset, settings = data.open(arguments, location(arguments.save)), _settings(arguments, data)
    metric = named_metrics.metric_named(arguments.metric, dataset, arguments.save, settings)
    reader = named_metrics.reader_for(metric, dataset, settings)
    return MapReduce(reader, [metric], arguments.save, **options)


def _settings(arguments: Namespace, data: NamedData) -> MetricSettings:
    """What the metric needs besides the dataset."""
    model: dict[str, Any] = {}
    if arguments.model is not None:
        load, identity = data.reference_model(Path(arguments.model))
        model = {"load_model": load, "model_identity": identity}
    examples = None
    if arguments.metric == "readability":
        examples = data.examples(arguments, location(arguments.save) / arguments.metric)
    return MetricSettings(
        decode=None if examples is None else examples.decode,
        vocab_size=arguments.vocab_size,
        device=arguments.device,
        model_dtype=arguments.model_dtype,
        reads=arguments.reads,
        kind=arguments.kind,
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
        **model,
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


def _example(examples: Examples, sample: int) -> str:
    """The beginning of a sample's text, on one line."""
    tokens, starts, lengths = examples.dataset.token_spans(sample, sample + 1)
    text = examples.decode(tokens[starts[0] : starts[0] + lengths[0]])
    return json.dumps(text[:EXAMPLE_CHARACTERS], ensure_ascii=False)


def _lengths(dataset: Any) -> Iterator[np.ndarray]:
    """Tokens of each sample, some samples at a time."""
    for first in range(0, len(dataset), _LENGTHS_AT_ONCE):
        yield dataset.token_spans(first, min(first + _LENGTHS_AT_ONCE, len(dataset)))[2]


def _refuse_same_place(output: Location, inputs: Sequence[str]) -> None:
    """Raise ValueError if a result would be written over one that it is made of."""
    places = [location(place) for place in inputs]
    if isinstance(output, RemotePath):
        if output in places:
            raise ValueError(f"{output} would be written over an input: give another output")
        return
    refuse_writing_over([output], [place for place in places if isinstance(place, Path)])


def _print_result(result: Result, save: str) -> None:
    """Print what a metric gave, and where it is."""
    if isinstance(result, DifficultyIndex):
        print(summary.summary_text(result))
    else:
        print(f"{result.metric}: {result.value.size:,} numbers, {result.value.sum():,} in all")
    print(location(save) / result.path.name)
