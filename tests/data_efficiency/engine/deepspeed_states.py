"""Whole state out of one DeepSpeed engine and into a fresh one; prints one JSON line a case.

Each argument is a case: ZeRO stage, precision and optimizer, joined by commas.
"""

import json
import sys

import torch
from torch import nn

import data_efficiency
from data_efficiency.engine.whole_tensor import gather_all


def make_engine(stage, precision, optimizer):
    """An engine on a fresh model with two parameter groups and a frozen layer."""
    torch.manual_seed(0)
    # Sizes that no number of processes divides.
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3), nn.Linear(3, 3))
    model[3].requires_grad_(False)
    content = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": int(stage)},
        "gradient_clipping": 1.0,
    }
    if precision != "fp32":
        content[precision] = {"enabled": True}
    client = None
    if optimizer == "client":

        def client(_):
            matrices = [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]
            vectors = [p for p in model.parameters() if p.ndim == 1 and p.requires_grad]
            groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors}]
            return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)

    else:
        content["optimizer"] = {"type": optimizer, "params": {"lr": 0.01}}
    return data_efficiency.initialize(
        model=model, optimizer=client, config=content, engine="deepspeed"
    )[0]


def take_step(engine, seed):
    """One update on made-up rows."""
    rows = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
    loss = engine(rows.to(next(engine.module.parameters()).dtype)).float().square().mean()
    engine.backward(loss)
    engine.step()


def main(cases):
    """One line for each case."""
    for case in cases:
        settings = case.split(",")
        engine = make_engine(*settings)
        begun, given = gather_all(engine.whole_weights()), engine.module.state_dict()
        decayed = [
            name
            for name, value in begun.items()
            # ZeRO 3 leaves an empty tensor in the module.
            if given[name].numel() and not torch.equal(value, given[name].to(value.dtype))
        ]
        for seed in range(3):
            take_step(engine, seed)
        weights, state = (
            gather_all(engine.whole_weights()),
            gather_all(engine.whole_optimizer_state()),
        )
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        state = {name: tensor.clone() for name, tensor in state.items()}
        fresh = make_engine(*settings)
        fresh.load_whole_weights(weights)
        fresh.load_whole_optimizer_state(state)
        fresh.load_progress_state(engine.progress_state())
        for seed in range(3, 6):
            take_step(engine, seed)
            take_step(fresh, seed)
        after, again = (
            {**gather_all(each.whole_weights()), **gather_all(each.whole_optimizer_state())}
            for each in (engine, fresh)
        )
        result = {
            "decayed_at_start": decayed,
            "names": sorted(state),
            "dtypes": sorted({str(tensor.dtype) for tensor in weights.values()}),
            "steps": sorted({float(v) for name, v in state.items() if name.endswith(".step")}),
            "moved": not torch.equal(after["0.weight"], weights["0.weight"]),
            "equal": sorted(after) == sorted(again)
            and all(torch.equal(after[name], again[name]) for name in after),
        }
        print("RESULT " + json.dumps([case, result]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
