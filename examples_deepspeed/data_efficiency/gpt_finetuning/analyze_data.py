r"""How difficult is each block of a text? The index that the rarity curriculum draws by.

python -m examples_deepspeed.data_efficiency.gpt_finetuning.analyze_data --model gpt2 \
    --text ptb_text_only --text-config penn_treebank --output difficulty

The flags about the text must be those of finetune.py; an index of other blocks is refused there.
"""

import argparse
from collections.abc import Sequence

from megatron.command import run_command

from data_efficiency import analyze
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import (
    add_text_flags,
    split_blocks,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Computes the metric, unless it is there, and says where."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_text_flags(parser)
    parser.add_argument("--metric", default="vocab_rarity", help="of the library, or package.mod:f")
    parser.add_argument("--output", required=True, help="folder; the index is in OUTPUT/METRIC")
    parser.add_argument("--num-processes", type=int, default=1)
    arguments = parser.parse_args(argv)
    blocks = split_blocks(arguments)["train"]
    analyze(blocks, arguments.metric, arguments.output, num_processes=arguments.num_processes)
    print(f"{len(blocks)} blocks: {arguments.output}/{arguments.metric}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
