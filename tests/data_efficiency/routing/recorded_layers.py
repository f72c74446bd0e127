"""Layers as users write them, their calls recorded, in a model that does nothing else."""

import torch
from torch import nn

from tests.data_efficiency.small_models import dropping


class Layer(nn.Module):
    """A layer as users write them, its call recorded."""

    def __init__(self, result=lambda hidden: hidden * 2):
        super().__init__()
        self.result = result
        self.calls: list[dict] = []

    def forward(self, hidden, mask=None, scale=1.0, **others):
        self.calls.append({"hidden": hidden, "mask": mask, "scale": scale, **others})
        return self.result(hidden)


class Stack(nn.Module):
    def __init__(self, layers, **arguments):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.arguments = arguments
        self.positional: tuple = ()

    def forward(self, hidden):
        for layer in self.layers:
            output = layer(self.enter(hidden), *self.positional, **self.arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    def enter(self, hidden):
        return hidden


def one_layer(**changes):
    only = {"total_layer_num": 1, "random_ltd_layer_num": 1, "random_ltd_layer_id": (0,)}
    return dropping(**(only | changes))


def run(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    model.random_ltd_scheduler.set_position(0, 0)
    return model(hidden)
