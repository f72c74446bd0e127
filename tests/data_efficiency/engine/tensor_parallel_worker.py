"""One of two processes that share each layer of a user's own model; run by test_tensor_parallel.py.

Trains it whole, by a loop written here, and cut, by an engine and an optimizer that was made before. Prints what differs.
"""

import copy
import json

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional

from data_efficiency import LayerInterface, RandomLTD, convert_to_random_ltd, initialize
from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.engine.ranks import leave_ranks
from data_efficiency.engine.tensor_parallel import RowGroup, TensorParallel
from data_efficiency.engine.whole_tensor import gather_all

SIZE, WIDTH, WORDS, ROWS, LENGTH, STEPS, RATE = 8, 12, 20, 4, 8, 3, 0.3
KNOWN = LayerInterface(proved=True)


class Layer(nn.Module):
    """A gated feed-forward part, its two input maps in one."""

    def __init__(self):
        super().__init__()
        self.norm, self.both = nn.LayerNorm(SIZE), nn.Linear(SIZE, 2 * WIDTH)
        self.down = nn.Linear(WIDTH, SIZE)

    def forward(self, hidden):
        gate, up = self.both(self.norm(hidden)).chunk(2, dim=-1)
        return hidden + self.down(functional.silu(gate) * up)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, SIZE)
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.output = nn.Linear(SIZE, WORDS)
        self.double()

    def forward(self, tokens, labels):
        hidden = self.words(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        logits = self.output(hidden)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def cut(part, mesh):
    """As PyTorch's tutorials do, the output layer gathering what it reads."""
    plan = {
        "norm": SequenceParallel(use_local_output=True),
        "both": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
    }
    if isinstance(part, Model):
        group = RowGroup(mesh)
        plan = {
            "words": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
            "output": ColwiseParallel(output_layouts=Replicate()),
        }
        part.output.register_forward_pre_hook(lambda _, args: (group.whole(args[0], 1),))
    parallelize_module(part, mesh, plan, src_data_rank=None)


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, WORDS, (2, ROWS, LENGTH), generator=generator)


def main():
    dist.init_process_group("gloo")
    section = DataEfficiencyConfig.of(RandomLTD(start=3, end=3, steps=1, step_size=1), seed=5)
    even = DataEfficiencyConfig.of(RandomLTD(start=4, end=4, steps=1, step_size=1), seed=5)
    whole = Model()
    model = copy.deepcopy(whole)
    convert_to_random_ltd(whole, Layer, even, interface=KNOWN)
    optimizer, expected = torch.optim.SGD(whole.parameters(), RATE), []
    for step in range(STEPS):
        whole.random_ltd_scheduler.set_position(step, 0, ROWS)
        loss = whole(*batch_of(step)) / (ROWS * LENGTH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    sizes = {
        f"layers.{number}.both.{kind}": (WIDTH, WIDTH)
        for number in range(4)
        for kind in ("weight", "bias")
    }
    config = {
        "train_batch_size": ROWS,
        "tensor_parallel": {"autotp_size": 2},
        "data_efficiency": section,
    }
    engine, *_ = initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), RATE),
        config=config,
        tensor_parallel=TensorParallel(cut=cut, fused=sizes),
    )
    convert_to_random_ltd(engine, Layer, interface=KNOWN)
    results = [
        engine.train_step(
            [batch_of(step)], lambda batch: engine(*batch), lambda batch: batch[1].numel()
        )
        for step in range(STEPS)
    ]
    found = gather_all(engine.whole_weights())
    gaps = [float((found[name] - one).abs().max()) for name, one in whole.state_dict().items()]
    said = {
        "weights": max(gaps),
        "losses": max(abs(one.loss - other) for one, other in zip(results, expected, strict=True)),
        "kept_length": results[0].kept_length,
        "parts": sum(weight.to_local().numel() for weight in model.parameters()),
        "numbers": sum(one.numel() for one in found.values()),
        "fell": expected[0] - expected[-1],
    }
    print(json.dumps(said))
    leave_ranks()


if __name__ == "__main__":
    main()
