"""Converts a model between our checkpoints and Hugging Face folders, and compares the logits.

python tools/convert_checkpoint.py --input runs/gpt --output converted --to huggingface
python tools/convert_checkpoint.py --input gpt2 --output runs/gpt2 --to megatron

A Hugging Face folder gets a card, README.md, with what the run's files say of its training; --push-to-hub uploads it.

The input is a run or a checkpoint of ours, a Hugging Face folder (GPT-2, Llama or BERT architecture), or a
Megatron-DeepSpeed checkpoint without pipeline parallelism; what it is shows from its files.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency.command.parser import command_parser
from megatron.arguments import flag_name
from megatron.conversion.hub import push_to_hub
from megatron.conversion.model import read_any, save_as_hugging_face, save_as_ours
from megatron.conversion.model_card import CardFields, model_card
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of
from megatron.tokenizer import add_tokenizer_flags, named_tokenizer


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
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
    add("--average", action="store_true", help="the average that a run with --ema-decay kept")
    add_tokenizer_flags(parser, otherwise="else the input's own, where it has one")
    card = parser.add_argument_group("model card (README.md of --to huggingface)")
    card.add_argument("--license", metavar="NAME", help="of the weights, such as apache-2.0")
    card.add_argument("--language", nargs="+", default=[], metavar="CODE", help="such as en")
    card.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="names on the hub")
    hub = parser.add_argument_group("Hugging Face hub")
    hub.add_argument(
        "--push-to-hub", metavar="USER/NAME", help="upload the result to this repository"
    )
    hub.add_argument("--private", action="store_true", help="make that repository a private one")
    arguments = parser.parse_args(argv)
    named = ("license", "language", "dataset", "push_to_hub", "private")
    if arguments.to != "huggingface" and any(getattr(arguments, name) for name in named):
        parser.error(f"{', '.join(map(flag_name, named))} go with --to huggingface")
    if arguments.private and arguments.push_to_hub is None:
        parser.error("--private is the repository's: name it with --push-to-hub")
    return arguments


def convert(arguments: argparse.Namespace) -> None:
    """Converts and says what was done."""
    source, output = arguments.input, arguments.output
    tokenizer = named_tokenizer(arguments) or tokenizer_of(source)
    print(f"Reading {source} ...", flush=True)
    vocab_size = None if tokenizer is None else tokenizer.vocab_size
    model = read_any(source, vocab_size=vocab_size, average=arguments.average)
    print("Writing and comparing logits ...", flush=True)
    if arguments.to == "huggingface":
        known = CardFields(
            license=arguments.license,
            languages=tuple(arguments.language),
            datasets=tuple(arguments.dataset),
        )
        name = (arguments.push_to_hub or output.name).rpartition("/")[2]
        card = model_card(name, model.config, source, known, pipeline=model.pipeline)
        done = save_as_hugging_face(model, output, tokenizer, card)
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
    if arguments.push_to_hub:
        print(f"Pushing to {arguments.push_to_hub} ...", flush=True)
        print(push_to_hub(output, arguments.push_to_hub, private=arguments.private))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a conversion, 1 after an error."""
    return run_command(lambda words: convert(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
