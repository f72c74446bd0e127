"""Converts a model between our checkpoints and Hugging Face folders, and compares the logits.

python tools/convert_checkpoint.py --input runs/gpt --output converted --to huggingface
python tools/convert_checkpoint.py --input gpt2 --output runs/gpt2 --to megatron

The input is a run or a checkpoint of ours, a Hugging Face folder (GPT-2, Llama or BERT architecture), or a
Megatron-DeepSpeed checkpoint without pipeline parallelism; what it is shows from its files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency.command.parser import command_parser
from megatron.conversion.model import read_any, save_as_hugging_face, save_as_ours
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of
from megatron.tokenizer import add_tokenizer_flags, named_tokenizer


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add = parser.add_argument
    add("--input", required=True, type=Path, metavar="FOLDER", help="the model")
    add(
        "--output",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="a folder that is not there yet",
    )
    add(
        "--to",
        required=True,
        choices=("huggingface", "megatron"),
        help="a folder for from_pretrained, or a run of ours with one checkpoint",
    )
    add_tokenizer_flags(parser, otherwise="else the input's own, where it has one")
    return parser.parse_args(argv)


def convert(arguments: argparse.Namespace) -> None:
    """Converts and says what was done."""
    source, output = arguments.input, arguments.output
    tokenizer = named_tokenizer(arguments) or tokenizer_of(source)
    print(f"Reading {source} ...", flush=True)
    model = read_any(source, vocab_size=None if tokenizer is None else tokenizer.vocab_size)
    print("Writing and comparing logits ...", flush=True)
    if arguments.to == "huggingface":
        done = save_as_hugging_face(model, output, tokenizer)
    else:
        is_theirs = (source / "config.json").is_file()
        done = save_as_ours(model, output, tokenizer, source if is_theirs else None)
    if tokenizer is None:
        print("No tokenizer was found: --tokenizer-file adds one.")
    print(
        f"{output}: {done.num_parameters / 1e6:.1f}M parameters; "
        + (
            "there is no other program here to compare the logits with"
            if done.largest_difference is None
            else f"logits equal within {done.largest_difference:.1e}"
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a conversion, 1 after an error."""
    return run_command(lambda words: convert(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
