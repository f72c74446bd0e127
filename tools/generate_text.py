"""Text that a GPT writes, shown as it comes.

python tools/generate_text.py --model runs/quickstart/baseline/seed1234 --prompt "The city was"
echo "The city was" | python tools/generate_text.py --model runs/gpt --greedy --max-new-tokens 200

The model is a run or a checkpoint of ours, or a Hugging Face folder (GPT-2 or Llama architecture).
Without --prompt the text of standard input is continued; with an empty one the model begins a document.
The same seed gives the same text.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch

from data_efficiency.command.parser import command_parser
from megatron.evaluation.generation import Choose, greedy, sampling, text_pieces
from megatron.evaluation.model import any_gpt, load_for_evaluation
from megatron.tokenizer import add_tokenizer_flags, named_tokenizer


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    parser.may_be_empty = ("--prompt",)
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="FOLDER", help="what writes")
    add("--prompt", metavar="TEXT", help="its beginning; else standard input")
    add("--max-new-tokens", type=int, default=100, metavar="N", help="default: 100")
    add("--greedy", action="store_true", help="always the likeliest token, nothing drawn")
    add(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="below 1: likely tokens become likelier; default: 0.8",
    )
    add("--top-k", type=int, default=0, metavar="K", help="draw among the K likeliest; 0: all")
    add(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw among the likeliest that together have probability P; default: 1",
    )
    add("--seed", type=int, default=1234, metavar="N", help="default: 1234")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights; default: float32",
    )
    add("--device", metavar="NAME", help="cpu, cuda:0, ...; else the GPU where there is one")
    add_tokenizer_flags(parser, otherwise="else the one found with the model")
    return parser.parse_args(argv)


def choice(arguments: argparse.Namespace, device: torch.device) -> Choose:
    """The rule that picks each token."""
    if arguments.greedy:
        return greedy
    return sampling(
        torch.Generator(device).manual_seed(arguments.seed),
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
    )


def room(num_prompt_tokens: int, wanted: int, num_positions: int) -> int:
    """How many tokens can be written.

    Raises:
        ValueError: if none is wanted, or none fits.
    """
    if wanted < 1:
        raise ValueError(f"--max-new-tokens is {wanted}: must be at least 1")
    left = num_positions - num_prompt_tokens
    if left < 1:
        raise ValueError(
            f"the prompt has {num_prompt_tokens} tokens: the model has {num_positions} positions,"
            " and one at least is for the new text; shorten the prompt"
        )
    return min(wanted, left)


def write_text(arguments: argparse.Namespace) -> None:
    """Writes the prompt and what follows to standard output, and the speed to standard error."""
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    choose = choice(arguments, device)
    model, tokenizer = load_for_evaluation(
        arguments.model,
        dtype=arguments.dtype,
        device=device,
        tokenizer=named_tokenizer(arguments),
        read=any_gpt,
    )
    prompt = sys.stdin.read().rstrip("\n") if arguments.prompt is None else arguments.prompt
    ids = tokenizer.encode_prompt(prompt)
    num_new = room(len(ids), arguments.max_new_tokens, model.config.max_position_embeddings)
    num_written = 0

    def counted(logits: torch.Tensor) -> torch.Tensor:
        nonlocal num_written
        num_written += 1
        return choose(logits)

    print(prompt, end="", flush=True)
    started = time.monotonic()
    for piece in text_pieces(model, tokenizer, ids, num_new, choose=counted):
        print(piece, end="", flush=True)
    seconds = time.monotonic() - started
    print(flush=True)
    ended = "; the model's positions are full" if num_written < arguments.max_new_tokens else ""
    if num_written < num_new:
        ended = "; the document ended"
    print(
        f"[{num_written} tokens in {seconds:.1f} s, {num_written / seconds:.0f} a second{ended}]",
        file=sys.stderr,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a text, 1 after an error, 130 when interrupted."""
    return run_command(lambda words: write_text(parse_arguments(words)), argv, when_stopped="")


if __name__ == "__main__":
    raise SystemExit(main())
