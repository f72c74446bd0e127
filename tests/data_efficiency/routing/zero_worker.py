"""One process of a distributed training with random-LTD; run by test_random_ltd_distributed.py.

Arguments: output folder. Each case writes the parameters after some steps, and the subsets drawn.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import deepspeed  # noqa: TID251
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from data_efficiency.routing.random_ltd import convert_to_random_ltd, save_without_random_ltd
from tests.data_efficiency.small_models import Block, SmallModel, dropping

ROWS, LENGTH, STEPS, ACCUMULATION = 8, 16, 3, 2
SETTINGS = dropping(6)


class Model(nn.Module):
    """The mean loss of a batch [rows, length + 1], layers recomputed from outside if asked."""

    def __init__(self, recompute=None):
        super().__init__()
        self.inner = SmallModel(32, LENGTH, 64)
        self.recompute = recompute

    def forward(self, batch):
        if self.recompute is None:
            return self.inner(batch[:, :-1], labels=batch[:, 1:]) / batch[:, 1:].numel()
        hidden = self.inner.embed(batch[:, :-1])
        for layer in self.inner.layers:
            hidden = self.recompute(layer, hidden)
        return hidden.square().mean()


def train(call, backward_and_step, router, rank, world):
    """Runs the steps on this process's rows; returns the first step's subsets."""
    generator = torch.Generator().manual_seed(5)
    micro = ROWS // (world * ACCUMULATION)
    drawn = []
    for step in range(STEPS):
        batch = torch.randint(0, 64, (ROWS, LENGTH + 1), generator=generator)
        for part in range(ACCUMULATION):
            first_row = (part * world + rank) * micro
            router.set_position(step, first_row)
            loss = call(batch[first_row : first_row + micro])
            drawn += [[step, first_row, router.positions.tolist()]]
            backward_and_step(loss, part)
    return drawn


def with_deepspeed(stage, rank, world, **changes):
    config = {
        "train_micro_batch_size_per_gpu": ROWS // (world * ACCUMULATION),
        "gradient_accumulation_steps": ACCUMULATION,
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "SGD", "params": {"lr": 0.5}},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "gradient_clipping": 0.0,
    }
    bf16 = changes.pop("bf16", False)
    if bf16:
        config["bf16"] = {"enabled": True}
    model = Model(**changes)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=config
    )
    convert_to_random_ltd(engine, Block, SETTINGS)
    plain = Model()

    def backward_and_step(loss, part):
        engine.backward(loss)
        engine.step()

    drawn = train(engine, backward_and_step, engine.random_ltd_scheduler, rank, world)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=stage == 3):
        plain.load_state_dict(save_without_random_ltd(engine))
    engine.destroy()
    return plain, drawn


def with_torch(rank, world, **changes):
    model = convert_to_random_ltd(Model(**changes), Block, SETTINGS)
    call = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def backward_and_step(loss, part):
        (loss / ACCUMULATION).backward()
        if part == ACCUMULATION - 1:
            optimizer.step()
            optimizer.zero_grad()

    drawn = train(call, backward_and_step, model.random_ltd_scheduler, rank, world)
    return model, drawn


def main(folder):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    deepspeed.checkpointing.configure(None, partition_activations=False)
    reentrant = partial(checkpoint, use_reentrant=True)
    by_deepspeed = deepspeed.checkpointing.checkpoint
    cases = {f"zero{stage}": partial(with_deepspeed, stage) for stage in (0, 1, 2, 3)}
    cases["zero1_bf16"] = partial(with_deepspeed, 1, bf16=True)
    cases["ddp"] = with_torch
    cases["alone"] = with_torch
    for stage in (1, 3):
        cases[f"recomputed_zero{stage}"] = partial(with_deepspeed, stage, recompute=by_deepspeed)
    cases["recomputed_zero1_torch"] = partial(with_deepspeed, 1, recompute=reentrant)
    cases["recomputed_alone"] = partial(with_torch, recompute=lambda layer, hidden: layer(hidden))
    for name, case in cases.items():
        place = (0, 1) if name.endswith("alone") else (rank, world)
        model, drawn = case(*place)
        parameters = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        torch.save(parameters, folder / f"{name}.{rank}.pt")
        (folder / f"{name}.{rank}.json").write_text(json.dumps(drawn))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
