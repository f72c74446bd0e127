"""A user's own model, data and loop on one or several processes, by each engine.

Started as a command by test_two_ranks.py: `two_ranks.py FOLDER MICRO WHAT ENGINE...`; MICRO is the micro-batch
size, WHAT is "images" or "others", an engine is "torch", "fsdp2", "fsdp3", or "zero0" to "zero3". Writes FOLDER/ENGINE.MODE.MICRO.RANK.json, one list of steps each.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.vit.modeling_vit import ViTLayer

import data_efficiency
from data_efficiency import (
    NonFiniteError,
    accept_bags,
    bag_loss_sum,
    convert_to_random_ltd,
    leave_ranks,
    num_loss_positions,
)

ROWS, LENGTH, VOCABULARY, STEPS = 16, 12, 32, 6
WHOLE_GROUPS = ("causal", "routes", "images")
"""A row alone is no group of rows."""
MODES = ("truncate", "reshape", "trim_padding", "none", "bags", "feedback", *WHOLE_GROUPS)
IMAGES = "images"
"""The mode that is run by itself."""
PATCHES = 17
"""Of an image of 8 x 8, with the class token."""


class Layer(nn.Module):
    """Attention with padding masked out, and a map."""

    def __init__(self, size):
        super().__init__()
        self.mix = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, hidden, mask=None):
        query, key, value = self.mix(functional.layer_norm(hidden, hidden.shape[-1:])).chunk(3, -1)
        scores = query @ key.transpose(1, 2) / hidden.shape[-1] ** 0.5
        weights = scores.masked_fill(mask[:, 0] == 0, -1e9).softmax(-1)
        return hidden + self.out((weights @ value).tanh())


class Model(nn.Module):
    """Embeddings, four layers, scores of all tokens."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 16)
        self.positions = nn.Embedding(LENGTH, 16)
        self.layers = nn.ModuleList(Layer(16) for _ in range(4))
        self.scores = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids, attention_mask):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.tokens(input_ids)
        hidden = (words.mean(2) if input_ids.dim() == 3 else words) + self.positions(places)
        for layer in self.layers:
            hidden = layer(hidden, mask=attention_mask[:, None, None])
        return self.scores(hidden)


def causal_model():
    """A model of Hugging Face, whose embeddings are its scores, too."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(
            **sizes, **heads, vocab_size=VOCABULARY, initializer_range=0.3, tie_word_embeddings=True
        )
    )


def image_model():
    """A vision transformer of Hugging Face."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    images = {"image_size": 8, "patch_size": 2, "num_labels": 5, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(**sizes, **images, initializer_range=0.3))


class Rows(torch.utils.data.Dataset):
    """Rows of different lengths with different numbers of labels, padded at the end."""

    def __len__(self):
        return ROWS * STEPS

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(1, VOCABULARY, (LENGTH,), generator=generator)
        used = 1 + number * 5 % LENGTH
        labels = torch.where(torch.arange(LENGTH) % (1 + number % 3) == 0, ids, -100)
        labels[used:] = -100
        mask = (torch.arange(LENGTH) < used).long()
        # The labels come first: lengths are found by names, not by places.
        return {"labels": labels, "input_ids": ids * mask, "attention_mask": mask}


class PlainRows(Rows):
    """Whole rows, as many as two steps of bags of two and the others need."""

    def __len__(self):
        return ROWS * (STEPS + 2)

    def __getitem__(self, number):
        ids = torch.randint(
            1, VOCABULARY, (LENGTH + 1,), generator=torch.Generator().manual_seed(number)
        )
        return {"input_ids": ids[:-1], "labels": ids[1:]}


class Images(Rows):
    """Images of noise with a class each."""

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(number)
        return {
            "pixel_values": torch.randn(3, 8, 8, generator=generator),
            "labels": torch.tensor([number % 5]),
        }


DATA = {"bags": PlainRows, "causal": PlainRows, "images": Images}
"""Rows of the modes that do not take `Rows`."""
HOSTS = {"causal": (causal_model, LlamaDecoderLayer), "images": (image_model, ViTLayer)}
"""Model and class of its layers, where they are not the user's own."""


def settings(mode, micro, stage):
    """The JSON file of a run."""
    schedule = {"schedule_type": "fixed_discrete"}
    plan = {
        "difficulty_type": "value",
        "clustering_type": "single_cluster",
        "sequence_length": mode,
        "min_difficulty": 4,
        "max_difficulty": LENGTH,
        **schedule,
        "schedule_config": {"difficulty": [4, 6, LENGTH], "max_step": [2, 4]},
    }
    content = {
        "train_batch_size": ROWS,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_clipping": 0.5,
        "data_efficiency": {
            "seed": 7,
            "data_routing": {
                "random_ltd": {
                    "enabled": True,
                    "total_layer_num": 4,
                    "random_ltd_layer_num": 2,
                    "random_ltd_layer_id": [1, 2],
                    "model_mask_name": "mask",
                    "model_type": "encoder",
                    "hidden_state_order": "batch_seq_dim",
                    "random_ltd_schedule": {
                        "min_value": 2,
                        "max_value": LENGTH,
                        "schedule_type": "fixed_linear",
                        "schedule_config": {"require_steps": 8, "seq_per_step": 1},
                    },
                    "layer_token_lr_schedule": {
                        "enabled": True,
                        "warmup_layer_tokens": 1000,
                        "total_layer_tokens": 6000,
                    },
                }
            },
        },
    }
    sampling = content["data_efficiency"]["data_sampling"] = {"num_epochs": 1}
    if mode in WHOLE_GROUPS:
        routing = content["data_efficiency"]["data_routing"]
        routing["random_ltd"] |= {
            "random_ltd_layer_num": 3,
            "random_ltd_layer_id": [[0, 1], [2]],
            "residual_scale": "inverse_keep",
            "always_keep": [0],
        }
        routing["layer_dropout"] = {
            "enabled": True,
            "rows_per_group": 2,
            "depth": "uniform",
            "keep_schedule": {"min_value": 50, "schedule_type": "constant"},
        }
        routing["full_from_step"] = STEPS - 1
    if mode == "feedback":
        policy = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}
        sampling["feedback"] = policy
    elif mode in ("bags", "causal"):
        bags = {"enabled": True, "bag_size": 2, "num_steps": 2, "label_weights": "power_law"}
        routing = content["data_efficiency"]["data_routing"]
        routing["token_superposition"] = bags
        if mode == "causal":
            routing["random_ltd"]["model_mask_name"] = "attention_mask"
    elif mode == "images":
        routing["random_ltd"]["model_mask_name"] = None
    elif mode not in ("none", "routes"):
        sampling["curriculum_learning"] = {"enabled": True, "curriculum_metrics": {"shape": plan}}
    if stage is not None:
        content |= {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
        content["steps_per_print"] = 10**9
    return content


def make_engine(mode, micro, name, **sections):
    """An engine on a fresh model that drops tokens."""
    torch.manual_seed(0)
    stage = None if name == "torch" else int(name[-1])
    make_model, layer = HOSTS.get(mode, (Model, Layer))
    engine, _, loader, _ = data_efficiency.initialize(
        model=make_model(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        training_data=DATA.get(mode, Rows)(),
        config=settings(mode, micro, stage) | sections,
        engine="deepspeed" if name.startswith("zero") else "torch",
    )
    return convert_to_random_ltd(accept_bags(engine) if mode == "causal" else engine, layer), loader


def scores_of(engine, batch):
    if isinstance(engine.module, ViTForImageClassification):
        return engine(pixel_values=batch["pixel_values"]).logits[:, None]
    if isinstance(engine.module, LlamaForCausalLM):
        return engine(input_ids=batch["input_ids"]).logits
    mask = batch.get("attention_mask", torch.ones(batch["input_ids"].shape[:2]).long())
    return engine(batch["input_ids"], attention_mask=mask)


def train(engine, loader, rehearse=False):
    """The user's loop: what each step came to; each may be rehearsed, twice."""

    def losses(batch):
        scores = scores_of(engine, batch)
        summed = bag_loss_sum(scores, batch["labels"], batch.get("label_weights"))
        sizes = scores.square().flatten(1).mean(1)
        engine.note_rows(sizes)
        return {"token": summed, "size": 0.1 * sizes.sum()}

    def terms(batch):
        return {"token": num_loss_positions(batch["labels"]), "size": len(batch["labels"])}

    def shape(batch):
        return len(batch["labels"]), PATCHES

    is_of_images = isinstance(engine.module, ViTForImageClassification)
    steps = []
    for batches in loader.steps():
        if rehearse:
            engine.rehearse(batches, losses, terms, engine.counters.steps + 1)
            engine.rehearse(batches, losses, terms, engine.counters.steps + 1)
        step = engine.train_step(batches, losses, terms, shape=shape if is_of_images else None)
        steps.append(
            {
                "losses": step.losses,
                "num_terms": step.num_terms,
                "counters": vars(step.counters),
                "lengths": [step.sequence_length, step.kept_length, step.actual_seq_length],
                "rate": step.learning_rate,
                "norm": step.grad_norm,
                "samples": loader.plan.batch.samples.tolist(),
                "rows": step.row_values.tolist(),
            }
        )
    return steps


def published_rates(engine, loader):
    """The rates and counters of a loop by DeepSpeed's calls."""
    found = []
    for number, batch in enumerate(loader):
        scores = engine(batch["input_ids"], attention_mask=batch["attention_mask"])
        engine.backward(scores.square().mean())
        engine.step()
        if (number + 1) % engine.gradient_accumulation_steps() == 0:
            rate = float(engine.optimizer.param_groups[0]["lr"])
            found.append({"rate": rate, "counters": vars(engine.counters)})
    return found


def broken_step(engine, loader):
    """Whether a step with one infinite number, on one rank, was refused and changed nothing."""

    def state():
        whole = [*engine.whole_weights(), *engine.whole_optimizer_state()]
        progress = {**engine.progress_state(), "loader": None}
        return {tensor.name: tensor.gather().clone() for tensor in whole}, progress

    def losses(batch):
        scores = engine(batch["input_ids"], attention_mask=batch["attention_mask"])
        if engine.counters.steps == 2 and engine.ranks.rank == engine.ranks.world - 1:
            scores.register_hook(lambda gradient: gradient.index_fill(2, torch.tensor(3), math.inf))
        return scores.float().square().sum()

    steps = loader.steps()
    for _ in range(2):
        engine.train_step(next(steps), losses, lambda batch: batch["input_ids"].numel())
    weights, progress = state()
    try:
        engine.train_step(next(steps), losses, lambda batch: batch["input_ids"].numel())
    except NonFiniteError as error:
        after, progress_after = state()
        same = all(torch.equal(after[name], tensor) for name, tensor in weights.items())
        return {"error": str(error), "same": same and progress == progress_after}
    return {"error": None}


class Aside(torch.nn.Module):
    """A model of which no loss reaches a part."""

    def __init__(self):
        super().__init__()
        self.used, self.pooler = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, rows):
        return self.used(rows)


def step_past_a_weight():
    """What a step of such a model says on several processes."""
    engine = data_efficiency.initialize(
        model=Aside(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        config={"train_micro_batch_size_per_gpu": 2},
    )[0]
    before = engine.module.used.weight.detach().clone()
    try:
        engine.train_step(
            [torch.full((2, 4), 1.0 + engine.ranks.rank)],
            lambda rows: engine(rows).sum(),
            len,
            shape=lambda rows: (len(rows), 1),
        )
    except ValueError as error:
        return {"error": str(error), "same": torch.equal(before, engine.module.used.weight)}
    return {"error": None}


def write(folder, engine, name, mode, micro, content):
    path = folder / f"{name}.{mode}.{micro}.{engine.ranks.rank}.json"
    path.write_text(json.dumps(content))


def main():
    """Every engine in every mode."""
    folder, micro, is_of_images = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == IMAGES
    for name in sys.argv[4:]:
        for mode in MODES:
            if (mode == IMAGES) != is_of_images or (micro == 1 and mode in WHOLE_GROUPS):
                continue
            engine, loader = make_engine(mode, micro, name)
            steps = train(engine, loader)
            weights = [tensor.gather().flatten() for tensor in engine.whole_weights()]
            steps.append({"weights": torch.cat(weights).tolist()})
            write(folder, engine, name, mode, micro, steps)
        if micro == 2 and not is_of_images:
            steps = train(*make_engine("truncate", micro, name), rehearse=True)
            write(folder, engine, name, "rehearsed", micro, steps)
            engine, loader = make_engine("trim_padding", micro, name)
            write(folder, engine, name, "published", micro, published_rates(engine, loader))
            found = {}
            for precision in ("fp32", "bf16"):
                sections = {} if precision == "fp32" else {"bf16": {"enabled": True}}
                found[precision] = broken_step(*make_engine("truncate", micro, name, **sections))
            if name == "torch":
                found["aside"] = step_past_a_weight()
            write(folder, engine, name, "broken", micro, found)
    if torch.distributed.is_initialized():
        # Who leaves first must not break a connection that the other still uses.
        torch.distributed.barrier()
        leave_ranks()


if __name__ == "__main__":
    main()
