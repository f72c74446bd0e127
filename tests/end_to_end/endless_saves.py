"""Two processes that do nothing but save, until they are killed.

Started as a command by test_killed_saves.py: `endless_saves.py RUN`. Every number of the checkpoint of step n is n, so a
mixture of two shows; every other one is written in the background, while steps go on.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from data_efficiency import initialize
from megatron.checkpoint import shares
from megatron.checkpoint.engine_state import agreed_checkpoint, begin_save, load_engine
from megatron.checkpoint.files import read_state

WIDTH, NUM_LAYERS = 320, 6


class Model(nn.Module):
    """Layers beside each other, so that gradients do not grow with the weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(NUM_LAYERS))

    def forward(self, rows):
        return sum(layer(rows) for layer in self.layers)


def make_engine():
    """An engine whose state is some megabytes in parts on both processes."""
    return initialize(
        model=Model(),
        optimizer=partial(torch.optim.SGD, lr=0.0, momentum=0.9),
        config={"train_batch_size": 2, "zero_optimization": {"stage": 2}},
    )[0]


def take_step(engine):
    """A step after which all weights are its number."""
    engine.train_step(
        [torch.ones(1, WIDTH)], lambda rows: engine(rows).sum(), len, shape=lambda rows: (1, 1)
    )
    with torch.no_grad():
        for weight in engine.module.parameters():
            weight.fill_(engine.counters.steps)


def main():
    """Goes on from what is there, and saves for ever."""
    run = Path(sys.argv[1])
    shares.LEAST_BYTES = 1
    engine = make_engine()
    found = agreed_checkpoint(engine, run, moves_damaged=True, say=print)
    if found is not None:
        load_engine(engine, found, read_state(found)["engine"])
    take_step(engine)
    while True:
        in_background = engine.counters.steps % 2 == 0
        saving = begin_save(engine, run, {}, in_background=in_background)
        take_step(engine)
        saving.finish(keep_last=2)


if __name__ == "__main__":
    main()
