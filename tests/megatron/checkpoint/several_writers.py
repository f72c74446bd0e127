"""Checkpoints of two processes, what is written by whom and what is told when something goes wrong.

Started as a command by test_saving.py: `several_writers.py FOLDER`. Writes FOLDER/found.RANK.json.
"""

import json
import resource
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed
from torch import nn

from data_efficiency import initialize, leave_ranks
from data_efficiency.engine.whole_tensor import gather_all
from megatron.checkpoint import shares
from megatron.checkpoint.engine_state import agreed_checkpoint, begin_save, load_engine, save_engine
from megatron.checkpoint.files import read_state


def make_engine(stage):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)))
    config = {"train_batch_size": 4}
    if stage:
        config["zero_optimization"] = {"stage": stage}
    optimizer = partial(torch.optim.AdamW, lr=0.01, fused=True)
    return initialize(model=model, optimizer=optimizer, config=config)[0]


def take_step(engine):
    rows = torch.ones(2, 24) * (1 + engine.counters.steps)
    engine.train_step(
        [rows], lambda rows: engine(rows).square().sum(), len, shape=lambda rows: (len(rows), 1)
    )


def values(engine):
    """A number of each weight."""
    return {name: float(one.sum()) for name, one in gather_all(engine.whole_weights()).items()}


def told(action):
    """The error that an action ends with, or None."""
    try:
        action()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def saved_and_read(folder, stage):
    engine = make_engine(stage)
    take_step(engine)
    save_engine(engine, folder, {}, keep_last=0)
    found = {"values": values(engine)}
    take_step(engine)
    other = make_engine(stage)
    checkpoint = agreed_checkpoint(other, folder, moves_damaged=False, say=print)
    load_engine(other, checkpoint, read_state(checkpoint)["engine"])
    found["read"] = values(other)
    take_step(other)
    return found | {"goes_on": values(engine) == values(other)}


def in_background(folder, stage):
    """What a thread saves while steps go on is the state that it was begun with."""
    engine = make_engine(stage)
    take_step(engine)
    found = {"values": values(engine)}
    saving = begin_save(engine, folder, {}, in_background=True)
    found["latest_at_once"] = (folder / "latest").exists()
    for _ in range(3):
        take_step(engine)
    saving.finish(keep_last=0)
    return found


def going_wrong(folder):
    """A number that is not finite, a full disk and a folder that cannot be, on one process each."""
    engine = make_engine(0)
    rank, found = engine.ranks.rank, {}
    take_step(engine)
    save_engine(engine, folder, {}, keep_last=0)
    take_step(engine)
    tensor = next(reversed(list(engine.module.parameters())))
    good = tensor.detach().clone()
    if rank == 1:
        with torch.no_grad():
            tensor.fill_(float("nan"))
    divided = shares.divide("model", engine.whole_weights(), 2)
    found["owner"] = divided.owners["3.bias"]
    for name, save in (
        ("nan", lambda: save_engine(engine, folder, {}, keep_last=0)),
        ("nan_in_background", lambda: save_later(engine, folder)),
    ):
        found[name] = told(save)
    with torch.no_grad():
        tensor.copy_(good)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    found["full"] = told(lambda: save_engine(engine, folder, {}, keep_last=0))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    torch.distributed.barrier()
    found["names"] = sorted(path.name for path in folder.iterdir())
    torch.distributed.barrier()
    (folder / "file").touch()
    torch.distributed.barrier()
    found["no_folder"] = told(lambda: save_engine(engine, folder / "file", {}, keep_last=0))
    save_engine(engine, folder, {}, keep_last=0)
    return found


def save_later(engine, folder):
    begin_save(engine, folder, {}, in_background=True).finish(keep_last=0)


def main():
    folder = Path(sys.argv[1])
    found = {}
    found["one_file"] = saved_and_read(folder / "one_file", 3)
    shares.LEAST_BYTES = 1
    for stage in (0, 3):
        found[f"stage{stage}"] = saved_and_read(folder / f"stage{stage}", stage)
        found[f"later{stage}"] = in_background(folder / f"later{stage}", stage)
    found["wrong"] = going_wrong(folder / "wrong")
    rank = torch.distributed.get_rank()
    (folder / f"found.{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    leave_ranks()


if __name__ == "__main__":
    main()
