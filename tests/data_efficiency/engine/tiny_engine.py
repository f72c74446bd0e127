"""A small model in an engine of one process, and its step."""

import torch
from torch import nn
from torch.nn import functional

from data_efficiency import initialize

LENGTH = 6


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, hidden):
        return hidden + self.dense(hidden).tanh()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.scores = nn.Linear(8, 16)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids):
        hidden = self.dropout(self.tokens(input_ids))
        for layer in self.layers:
            hidden = layer(hidden)
        return self.scores(hidden)


def make_engine(*, accumulation=2, optimizer=torch.optim.AdamW, **sections):
    torch.manual_seed(0)
    sizes = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": accumulation}
    dataset = sections.pop("training_data", None)
    shape = sections.pop("model_shape", None)
    return initialize(
        model=Model(),
        optimizer=lambda parameters: optimizer(parameters, lr=0.01),
        config=sizes | sections,
        training_data=dataset,
        model_shape=shape,
    )[0]


def batches(seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 16, (4, LENGTH), generator=generator) for _ in range(count)]


def loss_sums(engine):
    return lambda tokens: functional.cross_entropy(
        engine(tokens).float().flatten(0, 1), tokens.flatten(), reduction="sum"
    )


def take_step(engine, seed=0, **settings):
    return engine.train_step(batches(seed), loss_sums(engine), torch.numel, **settings)
