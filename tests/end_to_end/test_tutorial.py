"""The published tutorial's calls, with `deepspeed.initialize` replaced by `data_efficiency.initialize`."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import data_efficiency
from data_efficiency import (
    DataAnalyzer,
    convert_to_random_ltd,
    remove_random_ltd_state_dict,
    save_without_random_ltd,
)
from tests.end_to_end.tiny_runs import random_ltd_section

LENGTH, VOCABULARY, NUM_LAYERS = 32, 50, 4


class Block(nn.Module):
    """A user's own layer: hidden states positionally, everything else by keyword."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.dense = nn.Linear(16, 16)
        self.seen_lengths = []

    def forward(self, hidden_states, attention_mask=None):
        self.seen_lengths.append(hidden_states.shape[1])
        blocked = ~attention_mask[0, 0]
        mixed = self.attention(hidden_states, hidden_states, hidden_states, attn_mask=blocked)[0]
        return (hidden_states + self.dense(mixed),)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(NUM_LAYERS))

    def forward(self, tokens, labels):
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        mask = mask.expand(len(tokens), 1, -1, -1)
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden, attention_mask=mask)[0]
        logits = hidden @ self.embedding.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Rows:
    """Rows of LENGTH + 1 tokens, as GPT datasets give them under the key `text`."""

    identity = {"name": "tutorial rows"}

    def __init__(self):
        self.rows = torch.randint(
            0, VOCABULARY, (256, LENGTH + 1), generator=torch.Generator().manual_seed(0)
        )

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, sample):
        return {"text": self.rows[sample]}


def loss_of(model, rows):
    return model(rows[:, :-1], rows[:, 1:])


@pytest.fixture
def config(tmp_path):
    dataset = Rows()
    DataAnalyzer(
        dataset,
        batch_size=64,
        metric_names=["largest"],
        metric_functions=[lambda batch: batch["text"].amax(dim=1)],
        metric_types=["single_value_per_sample"],
        metric_dtypes=[np.int64],
        save_path=str(tmp_path / "analysis"),
    ).run_map_reduce()
    common = {"schedule_type": "fixed_linear"}
    metrics = {
        "largest": common
        | {
            "index_to_sample_path": str(tmp_path / "analysis" / "largest"),
            "index_to_metric_path": str(tmp_path / "analysis" / "largest"),
            "difficulty_type": "percentile",
            "clustering_type": "schedule_based",
            "min_difficulty": 10,
            "max_difficulty": 100,
            "schedule_config": {"total_curriculum_step": 8, "difficulty_step": 10},
        },
        "seqlen_truncate": {
            "difficulty_type": "value",
            "clustering_type": "single_cluster",
            "min_difficulty": 8,
            "max_difficulty": LENGTH,
            "schedule_type": "custom",
        },
    }
    section = {
        "enabled": True,
        "data_routing": {
            "enabled": True,
            "random_ltd": random_ltd_section(
                total_steps=10, mask_name="attention_mask", num_layers=NUM_LAYERS
            ),
        },
        "data_sampling": {
            "enabled": True,
            "curriculum_learning": {
                "enabled": True,
                "data_cluster_path": str(tmp_path / "clusters"),
                "curriculum_metrics": metrics,
            },
        },
    }
    content = {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 8,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
        "data_efficiency": section,
    }
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(content))
    return path


def data_post_process(data, data_sampler_state_dict):
    """The published GPT example's: the first d + 1 tokens of each row."""
    difficulties = data_sampler_state_dict["current_difficulties"]
    data["text"] = data["text"][:, : difficulties["seqlen_truncate"] + 1].contiguous()
    return data


def test_the_tutorials_calls_run_as_written(config):
    torch.manual_seed(0)
    model = Model()
    plain_keys = list(model.state_dict())
    engine, _optimizer, dataloader, _scheduler = data_efficiency.initialize(
        args=SimpleNamespace(deepspeed_config=str(config)),
        model=model,
        model_parameters=model.parameters(),
        training_data=Rows(),
    )
    engine.set_data_post_process_func(data_post_process)
    engine.set_custom_curriculum_learning_schedule(
        {"seqlen_truncate": lambda step: min(LENGTH, 8 * step)}
    )
    engine = convert_to_random_ltd(engine, Block)

    losses, lengths = [], []
    for data in dataloader:
        loss = loss_of(engine, data["text"])
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
        lengths.append(data["text"].shape[1] - 1)
        if engine.global_steps == 14:
            break
    assert lengths[:10] == [8, 8, 16, 16, 24, 24, 32, 32, 32, 32]
    assert sum(losses[-4:]) < sum(losses[:4])

    # Step t keeps floor((t / 10) * 28 + 4) tokens, down to a multiple of 4, from step 0.
    kept = [min(lengths[2 * t], min(32, (28 * t // 10 + 4) // 4 * 4)) for t in range(14)]
    assert model.blocks[1].seen_lengths == [length for length in kept for _ in range(2)]
    assert model.blocks[0].seen_lengths == lengths

    saved = save_without_random_ltd(engine)
    assert list(saved) == plain_keys
    old_style = {
        key.replace("blocks.1.", "blocks.1.random_ltd_layer."): value
        for key, value in saved.items()
    }
    fresh = Model()
    fresh.load_state_dict(remove_random_ltd_state_dict(old_style))
    engine.eval()
    rows = Rows().rows[:8]
    assert torch.equal(loss_of(fresh.eval(), rows), loss_of(engine, rows))


def test_everything_resumes(config):
    def start():
        torch.manual_seed(0)
        engine, optimizer, loader, _ = data_efficiency.initialize(
            model=Model(), training_data=Rows(), config=str(config)
        )
        engine.set_data_post_process_func(data_post_process)
        engine.set_custom_curriculum_learning_schedule({"seqlen_truncate": lambda step: 16})
        return convert_to_random_ltd(engine, Block), optimizer, loader

    def take_steps(engine, loader, count):
        for number, data in enumerate(loader, start=1):
            engine.backward(loss_of(engine, data["text"]))
            engine.step()
            if number == 2 * count:
                return

    whole, _, loader = start()
    take_steps(whole, loader, 6)
    half, optimizer, loader = start()
    take_steps(half, loader, 3)
    weights, place = copy.deepcopy(half.module.state_dict()), half.progress_state()
    resumed, new_optimizer, loader = start()
    resumed.module.load_state_dict(weights)
    new_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_progress_state(json.loads(json.dumps(place)))
    take_steps(resumed, loader, 3)
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


def unit_test_config(schedule):
    """A file as DeepSpeed's own tests of its data efficiency write them, its numbers ours."""
    metric = {
        "index_to_sample_path": "dummy",
        "index_to_metric_path": "dummy",
        "difficulty_type": "value",
        "clustering_type": "single_cluster",
        "min_difficulty": 4,
        "max_difficulty": 12,
        **schedule,
    }
    return {
        "train_batch_size": 2,
        "steps_per_print": 1,
        "optimizer": {"type": "Adam", "params": {"lr": 0.001, "weight_decay": 0.01}},
        "gradient_clipping": 1.0,
        "fp16": {"enabled": False, "loss_scale": 0, "initial_scale_power": 16},
        "data_efficiency": {
            "enabled": True,
            "seed": 1234,
            "data_sampling": {
                "enabled": True,
                "num_workers": 0,
                "curriculum_learning": {
                    "enabled": True,
                    "data_cluster_path": "/tmp",
                    "curriculum_metrics": {"dummy_metric": metric},
                },
            },
        },
    }


SCHEDULES = {
    "fixed_root": {"total_curriculum_step": 4, "difficulty_step": 4, "root_degree": 1},
    "fixed_linear": {"total_curriculum_step": 4, "difficulty_step": 4},
    "fixed_discrete": {"difficulty": [4, 8, 12], "max_step": [2, 4]},
    "custom": None,
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_metric_that_a_post_process_function_reads_loads_unchanged(kind):
    schedule = {"schedule_type": kind}
    if SCHEDULES[kind] is not None:
        schedule["schedule_config"] = SCHEDULES[kind]
    pairs = [(torch.randn(10), torch.tensor(number % 10)) for number in range(20)]
    model = nn.Linear(10, 10)
    engine, _, loader, _ = data_efficiency.initialize(
        config=unit_test_config(schedule), model=model, training_data=pairs
    )
    seen = []

    def note(data, state):
        seen.append(state["current_difficulties"]["dummy_metric"])
        return data

    engine.set_data_post_process_func(note)
    if kind == "custom":
        engine.set_custom_curriculum_learning_schedule({"dummy_metric": lambda step: 3 + step})
    for number, (inputs, labels) in enumerate(loader, start=1):
        engine.backward(functional.cross_entropy(engine(inputs), labels))
        engine.step()
        if number == 5:
            break
    expected = {"fixed_discrete": [4, 4, 8, 8, 12], "custom": [4, 5, 6, 7, 8]}
    assert seen == expected.get(kind, [4, 8, 8, 12, 12])
