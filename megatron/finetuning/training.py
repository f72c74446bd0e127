"""One finetuning run: a task, a seed and a learning rate; scores on the development sets by epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from data_efficiency import LearningRate, convert_to_random_ltd
from megatron.config import require
from megatron.finetuning.classifier import BertClassifier
from megatron.finetuning.data import Examples
from megatron.finetuning.inputs import InputRows, make_batch
from megatron.finetuning.metrics import METRICS, Values
from megatron.finetuning.tasks import TRAIN, GlueTask
from megatron.model.transformer import TransformerLayer

_EVALUATION_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """Hyperparameters; the defaults are the published ones.

    Source: the data efficiency paper (Li et al., 2022), appendix on BERT finetuning, and its scripts.
    """

    epochs: int = 3
    batch_size: int = 32
    micro_batch_size: int = 32
    """Rows of one forward pass; the result is the same but for rounding and dropout."""
    warmup_fraction: float = 0.1
    weight_decay: float = 0.1
    clip_grad: float = 1.0
    dropout: float = 0.1
    """In the encoder and before the output layer."""
    max_length: int = 512
    bf16: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("epochs", "batch_size", "micro_batch_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(self.max_length > 8, "max_length", self.max_length, "must be above 8")
        for name in ("warmup_fraction", "dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "must be at least 0 and below 1")


def finetune(
    model: BertClassifier,
    task: GlueTask,
    sets: Mapping[str, tuple[InputRows, Examples]],
    config: FinetuningConfig,
    *,
    seed: int,
    learning_rate: float,
    random_ltd: Mapping[str, Any] | None = None,
    report: Callable[[int, int, float], None] = lambda *_: None,
) -> list[dict[str, dict[str, float]]]:
    """The scores after each epoch: development set -> metric -> value.

    Args:
        model: trained in place, on the device that it is on.
        task: what is asked.
        sets: "train" and the development sets.
        config: hyperparameters.
        seed: of the order of the examples and of dropout.
        learning_rate: the peak.
        random_ltd: JSON data with a `data_efficiency` section; tokens are dropped as it says.
        report: called after each step with steps done, all steps, and the step's loss.
    """
    rows, examples = sets[TRAIN]
    num_examples = len(rows.ids)
    steps_of_epoch = -(-num_examples // config.batch_size)
    num_steps = config.epochs * steps_of_epoch
    schedule = _schedule(config, learning_rate, num_steps)
    router: Any = None
    if random_ltd is not None:
        router = convert_to_random_ltd(model, TransformerLayer, dict(random_ltd))
        router = router.random_ltd_scheduler
    optimizer = _optimizer(model, config)
    torch.manual_seed(seed)
    scores = []
    step = 0
    for epoch in range(config.epochs):
        model.train()
        order = epoch_order(num_examples, seed, epoch)
        for start in range(0, num_examples, config.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = schedule.at(step)
            chosen = order[start : start + config.batch_size]
            loss = 0.0
            for first in range(0, len(chosen), config.micro_batch_size):
                if router is not None:
                    router.set_position(step, first)
                part = chosen[first : first + config.micro_batch_size]
                loss += _backward(model, task, rows, examples.labels, part, len(chosen), config)
            if config.clip_grad:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            report(step, num_steps, loss)
        scores.append(
            {name: dev_scores(model, task, *sets[name], bf16=config.bf16) for name in task.dev_sets}
        )
    return scores


def epoch_order(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the examples in an epoch, counted from 0: a permutation."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


@torch.inference_mode()
def dev_scores(
    model: BertClassifier,
    task: GlueTask,
    rows: InputRows,
    examples: Examples,
    *,
    bf16: bool = False,
) -> dict[str, float]:
    """Metric -> value x 100 over all rows, which are read in the order of their lengths."""
    model.eval()
    order = np.argsort([len(ids) for ids in rows.ids], kind="stable")
    outputs = []
    device = model.output_layer.weight.device
    for start in range(0, len(order), _EVALUATION_ROWS):
        batch = make_batch(rows, order[start : start + _EVALUATION_ROWS].tolist(), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs.append(model(**batch).cpu())
    scores = torch.cat(outputs).numpy()
    predicted = scores[:, 0].astype(np.float64) if task.is_regression else scores.argmax(1)
    expected = examples.labels[order]
    return {name: 100 * METRICS[name](predicted, expected) for name in task.metrics}


def _backward(
    model: BertClassifier,
    task: GlueTask,
    rows: InputRows,
    labels: Values,
    chosen: npt.NDArray[np.int64],
    batch_size: int,
    config: FinetuningConfig,
) -> float:
    """A micro-batch's share of its batch's mean loss, after its gradient was added to the weights'."""
    device = model.output_layer.weight.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        scores = model(**make_batch(rows, chosen.tolist(), device))
    expected = torch.from_numpy(labels[chosen]).to(device)
    if task.is_regression:
        loss = functional.mse_loss(scores[:, 0], expected.float(), reduction="sum")
    else:
        loss = functional.cross_entropy(scores, expected, reduction="sum")
    loss = loss / batch_size
    torch.autograd.backward(loss)
    return loss.item()


def _schedule(config: FinetuningConfig, learning_rate: float, num_steps: int) -> LearningRate:
    """Up to the peak over the warm-up's share of the steps, then straight down to 0.

    The first step's is 0, as in Megatron-LM's and Hugging Face's finetuning, so that results compare.
    """
    return LearningRate(
        peak=learning_rate,
        minimum=0.0,
        style="linear",
        clock="steps",
        warmup=-(-round(1000 * config.warmup_fraction) * num_steps // 1000),
        decay=num_steps,
        share=0,
    )


def _optimizer(model: BertClassifier, config: FinetuningConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only, not biases and normalizations."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)
