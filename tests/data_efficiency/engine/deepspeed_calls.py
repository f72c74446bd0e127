"""Calls of the DeepSpeed engine in one process, for test_deepspeed_engine.py: prints one JSON line."""

import json
import sys
import tempfile
from types import SimpleNamespace

import torch
from torch import nn

import data_efficiency
from data_efficiency import convert_to_random_ltd
from data_efficiency.json_section import ConfigError

RANDOM_LTD = {
    "enabled": True,
    "total_layer_num": 4,
    "random_ltd_layer_num": 2,
    "random_ltd_layer_id": [1, 2],
    "model_mask_name": None,
    "model_type": "decoder",
    "hidden_state_order": "batch_seq_dim",
    "random_ltd_schedule": {
        "min_value": 2,
        "max_value": 8,
        "schedule_type": "fixed_linear",
        "schedule_config": {"require_steps": 4, "seq_per_step": 2},
    },
}
CURRICULUM = {
    "sequence_axes": {"0": 1},
    "enabled": True,
    "curriculum_metrics": {
        "seqlen_truncate": {
            "difficulty_type": "value",
            "clustering_type": "single_cluster",
            "min_difficulty": 4,
            "max_difficulty": 12,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 2},
        }
    },
}


ADAMW = {"type": "AdamW", "params": {"lr": 0.01, "weight_decay": 0.1}}


class Layer(nn.Module):
    """A layer that looks at single tokens."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, hidden):
        return hidden + self.dense(hidden).tanh()


class Model(nn.Module):
    """Four layers and the mean of squares as loss."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden.square().mean()


def initialize(engine="deepspeed", dataset=None, **sections):
    """An engine on a fresh model."""
    torch.manual_seed(0)
    content = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    return data_efficiency.initialize(
        model=Model(), training_data=dataset, config=content | sections, engine=engine
    )


def step(engine, batches):
    """The losses of one step."""
    losses = []
    for _ in range(2):
        loss = engine(next(batches))
        engine.backward(loss)
        engine.step()
        losses.append(float(loss))
    return losses


def refusal(**sections):
    """What the engine says to sections that it does not take."""
    try:
        initialize(**sections)
    except ConfigError as error:
        return str(error)
    return "accepted"


def main():
    """All calls; what they gave, as one JSON line."""
    torch.manual_seed(1)
    dataset = [torch.randn(12, 8) for _ in range(64)]
    section = {
        "data_sampling": {"curriculum_learning": CURRICULUM},
        "data_routing": {"random_ltd": RANDOM_LTD},
    }
    full = {"optimizer": ADAMW, "data_efficiency": section, "gradient_clipping": 1.0}
    warmup = {"type": "WarmupLR", "params": {"warmup_num_steps": 10, "warmup_type": "linear"}}

    plain, _, loader, _ = initialize("torch", dataset, **full)
    convert_to_random_ltd(plain, Layer)
    batches = iter(loader)
    expected = [step(plain, batches) for _ in range(4)]

    engine, optimizer, loader, scheduler = initialize(
        dataset=dataset, zero_optimization={"stage": 1}, scheduler=warmup, **full
    )
    convert_to_random_ltd(engine, Layer)
    batches = iter(loader)
    rates, lengths, kept, losses = [], [], [], []
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for number in range(4):
        losses.append(step(engine, batches))
        rates.append(scheduler.get_last_lr()[0])
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        lengths.append(loader.plan.batch.difficulties["seqlen_truncate"])
        kept.append(engine.random_ltd_scheduler.get_current_seq())
        if number == 1:
            folder = tempfile.mkdtemp()
            engine.save_checkpoint(folder, tag="half")
            saved = SimpleNamespace(counters=engine.counters)
    again, optimizer, loader, _ = initialize(
        dataset=dataset, zero_optimization={"stage": 1}, scheduler=warmup, **full
    )
    convert_to_random_ltd(again, Layer)
    assert "data_efficiency_counters" not in again.load_checkpoint(folder, tag="half")[1]
    counters = [vars(each.counters) for each in (again, saved)]
    batches = iter(loader)
    resumed = []
    for _ in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        resumed.append(step(again, batches))
    evaluation = [batch.shape[1] for batch in engine.deepspeed_io(dataset, route="eval")]
    result = {
        "expected": expected,
        "losses": losses,
        "resumed": resumed,
        "rates": rates,
        "lengths": lengths,
        "kept": kept,
        "counters": counters,
        "evaluation_lengths": sorted(set(evaluation)),
        "flags": [engine.random_ltd_enabled(), engine.curriculum_learning_enabled()],
        "is_deepspeed": isinstance(engine, sys.modules["deepspeed"].DeepSpeedEngine),
        "training_dataloader": type(engine.training_dataloader).__name__,
        "refusals": {
            "zero": refusal(zero_optimization={"stage": 1, "stge": 2}),
            "checkpointing": refusal(activation_checkpointing={"partition_activation": True}),
            "optimizer": refusal(optimizer={"type": "AdamW", "parms": {}}),
            "scheduler": refusal(scheduler=warmup | {"parameters": {}}),
            "pipeline": refusal(pipeline={"stages": 2}),
            "amp": refusal(amp={"enabled": True}),
            "operator": refusal(optimizer={"type": "Lion", "params": {"lr": 0.1}}),
            "batch": refusal(train_batch_size=9),
        },
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
