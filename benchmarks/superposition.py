"""What a step of bags of tokens costs beside a plain step of as many positions.

    OMP_NUM_THREADS=2 python -m benchmarks.superposition [--check] [--small]

One GPT, 12 layers of hidden size 512 at 1,024 positions, trains (forward, backward, AdamW step) on single tokens, and on bags of 6
tokens with 6 labels a position. The two take turns in each round, each in a process of its own, and the ratio is taken within a
round, of CPU time. The last line printed is one JSON object. `--small` takes seconds and only shows that everything works.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.dropping_gpt import Size
from benchmarks.interleaved import contestants, paired_ratio, take_turns
from benchmarks.random_ltd import SMALL
from megatron.model.gpt_model import GPTModel
from megatron.study.stages import child_environment

BAG_SIZE = 6
# Layers and output see positions; only looking up and adding embeddings grows with the bag.
MOST_OF_A_STEP = 1.05


class Trainer:
    """A model with its optimizer and one batch of bags of a size."""

    def __init__(self, size: Size, bag_size: int) -> None:
        torch.manual_seed(0)
        self.model = GPTModel(size.config())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        shape = (2, size.num_rows, size.sequence_length, bag_size)
        tokens, labels = torch.randint(0, size.vocab_size, shape)
        is_plain = bag_size == 1
        self.tokens = tokens.squeeze(2) if is_plain else tokens
        self.labels = labels.squeeze(2) if is_plain else labels
        self.num_positions = size.num_rows * size.sequence_length
        self.num_steps = 0

    def step(self) -> None:
        """Train the model by one step."""
        loss = self.model(self.tokens, labels=self.labels) / self.num_positions
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_steps += 1

    def describe(self) -> int:
        """Steps so far."""
        return self.num_steps


def measure(size: Size) -> dict[str, Any]:
    """The ratio of CPU times, median over the rounds."""
    with contestants((Trainer, (size, 1)), (Trainer, (size, BAG_SIZE))) as (plain, bags):
        take_turns([plain, bags], num_rounds=size.num_rounds)
        ratio = paired_ratio(bags, plain, "cpu_seconds")
    return {
        "bag_size": BAG_SIZE,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "step_ratio": round(ratio, 3),
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """A line if the target is not reached."""
    if figures["step_ratio"] <= MOST_OF_A_STEP:
        return []
    return [
        f"a step of bags takes {figures['step_ratio']:.3f} of a plain one, above {MOST_OF_A_STEP}"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if `--check` finds the target missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.superposition",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if the target is missed")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ.update(child_environment())
    figures = measure(SMALL if options.small else Size())
    print(f"bags of {BAG_SIZE}: {figures['step_ratio']:.3f} of the CPU time of a plain step")
    lines = missed(figures) if options.check else []
    print("\n".join(lines), file=sys.stderr)
    print(json.dumps(figures))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
