"""Flags of the commands of a difficulty index."""

from argparse import ArgumentParser

from data_efficiency.analysis import named_metrics
from data_efficiency.analysis.map_reduce import ENGINES

KINDS = ("single_value_per_sample", "accumulate_value_over_samples")


def add_metric_flags(parser: ArgumentParser) -> None:
    """Add the flags that name a metric and what it needs."""
    parser.add_argument(
        "--save", required=True, metavar="DIR", help="folder of the results, or a URL of one"
    )
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
        help="rarity: entries of the vocabulary (what the data say)",
    )
    add(
        "--model",
        metavar="DIR",
        help="reference_loss: a Hugging Face model's folder, or a run or checkpoint of this project's trainer",
    )
    add("--device", default="cpu", help="reference_loss: where the model runs")
    add(
        "--model-dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="reference_loss: precision that the model computes in (float32)",
    )
    add("--kind", choices=KINDS, default=KINDS[0], help="own function: what it gives")
    add("--dtype", default="float64", help="own function: type of its numbers")
    add(
        "--reads",
        choices=["token_spans", "items"],
        default="token_spans",
        help="own function: a TokenBatch, or a batch of the dataset's items",
    )
    add("--batch-size", type=int, default=256, metavar="N", help="own function: items a batch")


def add_work_flags(parser: ArgumentParser, *, maps: bool, reduces: bool) -> None:
    """Add the flags that say how a metric is computed."""
    if reduces:
        parser.add_argument(
            "--max-distinct-values",
            type=int,
            metavar="N",
            help="store at most so many difficulties, each for about equally many samples",
        )
    if maps:
        parser.add_argument(
            "--num-processes",
            type=int,
            metavar="N",
            help="parts that are computed at once (1; ray: the cluster's CPUs)",
        )
        parser.add_argument(
            "--executor",
            choices=ENGINES,
            default=ENGINES[0],
            help="processes of this machine, or a Ray cluster: that of RAY_ADDRESS, or of this machine",
        )
        parser.add_argument(
            "--overwrite", action="store_true", help="compute anew and replace what is there"
        )


def add_worker_flags(parser: ArgumentParser) -> None:
    """Add the flags that say which part of the work is meant."""
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="machines or jobs that share the work (what torchrun, SLURM or MPI says)",
    )
    parser.add_argument("--worker-id", type=int, metavar="I", help="which one this is, from 0")


def add_index_flag(parser: ArgumentParser) -> None:
    """Add the argument that names an index."""
    parser.add_argument("index", metavar="INDEX", help="folder or URL of a difficulty index")


def add_show_flags(parser: ArgumentParser) -> None:
    """Add the flags of `show`."""
    add_index_flag(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--histogram", metavar="FILE.png", help="write a picture")


def add_judge_flags(parser: ArgumentParser) -> None:
    """Add the flags of `judge`."""
    add_index_flag(parser)
    parser.add_argument(
        "--beside", nargs="+", default=[], metavar="INDEX", help="indexes to compare it with"
    )


def add_difference_flags(parser: ArgumentParser) -> None:
    """Add the flags of `difference`."""
    parser.add_argument(
        "first", metavar="INDEX", help="as of the losses of a weak or an early model"
    )
    parser.add_argument("second", metavar="INDEX", help="as of those of a strong or a late one")
    _add_new_index_flags(parser)


def add_rank_flags(parser: ArgumentParser) -> None:
    """Add the flags of `rank`."""
    add_index_flag(parser)
    _add_new_index_flags(parser)


def add_export_flags(parser: ArgumentParser) -> None:
    """Add the flags of `export`."""
    add_index_flag(parser)
    parser.add_argument(
        "--format", choices=["deepspeed"], default="deepspeed", help="whose files are written"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--legacy-codes", action="store_true", help="for DeepSpeed before 0.13.3: its type codes"
    )


def _add_new_index_flags(parser: ArgumentParser) -> None:
    """Add the flags that say what an index that is made is called, and where it goes."""
    parser.add_argument("--metric", required=True, metavar="NAME", help="name of the metric")
    parser.add_argument("--save", required=True, metavar="DIR", help="the index becomes DIR/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace an index that is there")


def add_import_flags(parser: ArgumentParser) -> None:
    """Add the flags of `import`."""
    add = parser.add_argument
    add(
        "--format",
        choices=["deepspeed", "scores"],
        required=True,
        help="files of DeepSpeed's analyzer, or scores in .npy, Parquet or JSON lines",
    )
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="deepspeed: the metric's folder; scores: .npy, .parquet, .jsonl, .jsonl.gz, folders",
    )
    _add_new_index_flags(parser)
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
    add(
        "--dataset-class",
        metavar="NAME",
        help="instead of a corpus: class of the dataset that will be trained on",
    )
