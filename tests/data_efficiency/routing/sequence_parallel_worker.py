"""One of two processes that share each row of a model; run by test_sequence_parallel.py.

Arguments: whether the model is given whole rows, kept tokens, and tokens. Writes what the first forward said.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from data_efficiency.routing.random_ltd import convert_to_random_ltd
from tests.data_efficiency.small_models import LENGTH, NUM_LAYERS, ROWS, dropping

SIZE = 8


class SharedLayer(nn.Module):
    """Attention of this process's queries over the keys of all processes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(SIZE, SIZE)

    def forward(self, hidden):
        query = self.inner(hidden)
        key = torch.cat(all_gather(query.contiguous()), 1)
        return hidden + functional.scaled_dot_product_attention(query, key, key)


class Model(nn.Module):
    def __init__(self, splits):
        super().__init__()
        self.words, self.places = nn.Embedding(9, SIZE), nn.Embedding(2 * LENGTH, SIZE)
        self.layers = nn.ModuleList(SharedLayer() for _ in range(NUM_LAYERS))
        self.splits = splits

    def forward(self, input_ids):
        rank = dist.get_rank()
        own = input_ids.chunk(2, 1)[rank] if self.splits else input_ids
        first = rank * own.shape[1]
        hidden = self.words(own) + self.places.weight[first : first + own.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def main(splits, kept, length):
    dist.init_process_group("gloo")
    model = convert_to_random_ltd(Model(splits), SharedLayer, dropping(kept))
    model.random_ltd_scheduler.set_position(0, 0)
    try:
        model(torch.zeros(ROWS, length, dtype=torch.int64))
        print("accepted")
    except ValueError as error:
        print(error)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] == "whole", *map(int, sys.argv[2:]))
