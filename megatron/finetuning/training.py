"""One finetuning run: a task, a seed and a learning rate; scores on the development sets by epoch.

The step is the engine's, so a run is the same on one process and on several, on PyTorch and DeepSpeed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from data_efficiency import (
    ConfigError,
    Engine,
    LearningRate,
    convert_to_random_ltd,
    fill_from_flags,
    initialize,
    start_ranks,
)
from megatron.checkpoint.saved_run import SavedRun
from megatron.finetuning.batches import epoch_batches, own_micro_batches
from megatron.finetuning.classifier import BertClassifier
from megatron.finetuning.data import Examples
from megatron.finetuning.inputs import InputRows, make_batch
from megatron.finetuning.metrics import METRICS
from megatron.finetuning.tasks import TRAIN, GlueTask
from megatron.model.optional_kernels import make_adamw, weight_decay_groups
from megatron.model.transformer import TransformerLayer
from megatron.run_state import model_shape
from megatron.setting_rules import require

_EVALUATION_ROWS = 64

Batch = Mapping[str, torch.Tensor]
Scores = dict[str, dict[str, float]]
"""Development set -> metric -> value x 100."""


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """Hyperparameters; the defaults are the published ones.

    Source: the data efficiency paper (Li et al., 2022), appendix on BERT finetuning, and its scripts.
    """

    epochs: int = 3
    batch_size: int = 32
    micro_batch_size: int = 32
    """Rows of one forward pass at most; the result is the same but for rounding and dropout."""
    warmup_fraction: float = 0.1
    weight_decay: float = 0.1
    clip_grad: float = 1.0
    dropout: float = 0.1
    """In the encoder and before the output layer."""
    max_length: int = 512
    bf16: bool = False
    """Forward and backward pass in bfloat16."""
    group_by_length: bool = False
    """Batches of examples of similar length: less padding, another order than the published one."""

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("epochs", "batch_size", "micro_batch_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(self.max_length > 8, "max_length", self.max_length, "must be above 8")
        for name in ("warmup_fraction", "dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "must be at least 0 and below 1")


def make_engine(
    model: BertClassifier,
    config: FinetuningConfig,
    *,
    num_examples: int,
    seed: int,
    learning_rate: float,
    json_config: Mapping[str, Any] | None = None,
    deepspeed: bool = False,
) -> Engine:
    """The engine of a run at its beginning, on this process's device.

    Args:
        model: trained in place.
        config: hyperparameters.
        num_examples: of the training set.
        seed: of dropout and dropped tokens.
        learning_rate: the peak.
        json_config: a file in DeepSpeed's form: token dropping, the ZeRO stage, and what else flags do
            not say.
        deepspeed: train on DeepSpeed instead of plain PyTorch.

    Raises:
        ConfigError: for JSON that is not understood, contradicts the flags or would be ignored.
    """
    size = start_ranks().data_parallel_size
    require(
        config.batch_size % size == 0,
        "batch_size",
        config.batch_size,
        f"must be a multiple of the {size} processes",
    )
    flags = {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": min(config.micro_batch_size, config.batch_size // size),
        "gradient_clipping": config.clip_grad,
        "bf16.enabled": config.bf16,
        "data_efficiency.seed": seed,
    }
    groups = weight_decay_groups(model, config.weight_decay)
    engine: Engine = initialize(
        model=model,
        optimizer=lambda _: make_adamw(groups, "auto", lr=learning_rate),
        config=fill_from_flags(json_config or {}, flags),
        engine="deepspeed" if deepspeed else "torch",
        model_shape=model_shape(model.bert.config),
    )[0]
    dropping = engine.data_efficiency_config.random_ltd
    if dropping is not None:
        if dropping.layer_token_lr is not None:
            raise ConfigError(
                "layer_token_lr_schedule is enabled, but finetuning's learning rate follows steps: "
                "disable it"
            )
        convert_to_random_ltd(engine, TransformerLayer)
    num_steps = config.epochs * -(-num_examples // config.batch_size)
    engine.follow_learning_rate(_schedule(config, learning_rate, num_steps))
    return engine


def finetune(
    engine: Engine,
    task: GlueTask,
    sets: Mapping[str, tuple[InputRows, Examples]],
    config: FinetuningConfig,
    *,
    seed: int,
    saved: SavedRun | None = None,
    report: Callable[[int, int, float], None] = lambda *_: None,
) -> list[Scores]:
    """The scores after each epoch. Every process calls it.

    Args:
        engine: of `make_engine`.
        task: what is asked.
        sets: "train" and the development sets.
        config: hyperparameters.
        seed: of the order of the examples.
        saved: where the run's checkpoints lie; None: it begins, and saves nothing.
        report: called after each step with steps done, all steps, and the step's loss.
    """
    texts, examples = sets[TRAIN]
    steps_of_epoch = -(-len(texts.ids) // config.batch_size)
    num_steps = config.epochs * steps_of_epoch
    resumed = None if saved is None else saved.resume(engine)
    scores: list[Scores] = resumed or []
    for epoch in range(len(scores), config.epochs):
        batches = epoch_batches(
            [len(ids) for ids in texts.ids],
            config.batch_size,
            seed,
            epoch,
            group_by_length=config.group_by_length,
        )
        for chosen in batches[engine.counters.steps - epoch * steps_of_epoch :]:
            micro_batches = own_micro_batches(
                texts,
                examples.labels,
                chosen,
                batch_size=config.batch_size,
                num_micro_batches=engine.gradient_accumulation_steps(),
                ranks=engine.ranks,
            )
            result = engine.train_step(
                micro_batches,
                lambda batch: _loss_sum(engine, task, batch),
                lambda batch: int(batch["is_counted"].sum()),
                shape=lambda batch: (int(batch["is_counted"].sum()), batch["tokens"].shape[1]),
            )
            step = result.counters.steps
            report(step, num_steps, result.loss)
            if step % steps_of_epoch == 0:
                scores.append(
                    {name: dev_scores(engine, task, *sets[name]) for name in task.dev_sets}
                )
            if saved is not None and step < num_steps:
                saved.save_when_due(engine, scores)
    return scores


@torch.no_grad()
def dev_scores(
    engine: Engine, task: GlueTask, texts: InputRows, examples: Examples
) -> dict[str, float]:
    """Metric -> value x 100 over all rows; every process calls it, and computes its share.

    Rows are read in the order of their lengths; the batches are the same on any number of processes.
    """
    engine.eval()
    order = np.argsort([len(ids) for ids in texts.ids], kind="stable")
    ranks = engine.ranks
    starts = np.arange(0, len(order), _EVALUATION_ROWS)
    # A process without a batch of its own repeats the last one, unread: sharded weights need every forward.
    num_rounds = -(-len(starts) // ranks.data_parallel_size)
    predicted = np.zeros((num_rounds, _EVALUATION_ROWS))
    for number in range(num_rounds):
        place = number * ranks.data_parallel_size + ranks.data_parallel_rank
        start = starts[min(place, len(starts) - 1)]
        rows = order[start : start + _EVALUATION_ROWS].tolist()
        batch = {name: part.to(ranks.device) for name, part in make_batch(texts, rows).items()}
        scores = engine(**batch)
        found = scores[:, 0].double() if task.is_regression else scores.argmax(1)
        predicted[number, : len(rows)] = found.cpu().numpy()
    # Floats travel as the integers of their bits: [processes, rounds, rows] -> [rows in order].
    table = ranks.table(predicted.reshape(-1).view(np.int64).tolist()).view(np.float64)
    by_batch = table.reshape(-1, num_rounds, _EVALUATION_ROWS).swapaxes(0, 1).reshape(-1)
    values, expected = by_batch[: len(order)], examples.labels[order]
    return {name: 100 * METRICS[name](values, expected) for name in task.metrics}


def _loss_sum(engine: Engine, task: GlueTask, batch: Batch) -> torch.Tensor:
    """The sum of the losses of a micro-batch's counted rows."""
    scores = engine(
        batch["tokens"], token_types=batch["token_types"], padding_mask=batch["padding_mask"]
    )
    if task.is_regression:
        losses = functional.mse_loss(scores[:, 0], batch["labels"].float(), reduction="none")
    else:
        losses = functional.cross_entropy(scores, batch["labels"], reduction="none")
    return (losses * batch["is_counted"]).sum()


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
