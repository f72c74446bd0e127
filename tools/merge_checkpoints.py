"""Averages the last checkpoints of a run, or one of each of several runs, to a run of one checkpoint.

python tools/merge_checkpoints.py --input runs/gpt --last 6 --output runs/gpt_merged
python tools/merge_checkpoints.py --input runs/gpt --last 6 --shares ema --alpha 0.2 --output runs/gpt_ema
python tools/merge_checkpoints.py --input runs/seed1 runs/seed2 runs/seed3 --output runs/soup

The result holds weights alone, in the place of the newest: evaluate it, write texts by it, finetune or convert it as any run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from megatron.command import run_command

from data_efficiency.command.parser import command_parser
from megatron.conversion.merging import (
    Shape,
    checkpoints_to_merge,
    merge_checkpoints,
    merging_record,
    merging_shares,
)
from megatron.conversion.model import save_as_ours
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="one run, whose checkpoints are merged, or several runs and checkpoints, the newest last",
    )
    add(
        "--output",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="a folder that is not there yet",
    )
    add("--last", type=int, metavar="N", help="only the newest N of them")
    add(
        "--shares",
        choices=get_args(Shape),
        default="mean",
        help="mean: equal (what a linear decay of the rate comes to); ema: falling by (1 - alpha) from each to the one "
        "before; the others imitate their decay of the rate; default: mean",
    )
    add("--alpha", type=float, default=0.2, help="of --shares ema; default: 0.2")
    return parser.parse_args(argv)


def merge(arguments: argparse.Namespace) -> None:
    """Merges and says of what."""
    checkpoints = checkpoints_to_merge(arguments.input, arguments.last)
    shares = merging_shares(len(checkpoints), arguments.shares, alpha=arguments.alpha)
    for checkpoint, share in zip(checkpoints, shares, strict=True):
        print(f"{share:8.2%}  {checkpoint}")
    model = merge_checkpoints(checkpoints, shares)
    tokenizer = tokenizer_of(checkpoints[-1])
    record = merging_record(checkpoints, shares)
    done = save_as_ours(model, arguments.output, tokenizer, merged=record)
    print(
        f"{arguments.output}: {done.num_parameters / 1e6:.1f}M parameters of {len(shares)} checkpoints"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a merge, 1 after an error."""
    return run_command(lambda words: merge(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
