"""Finetuning of models that are not ours: run, engine, optimizer, rate, and what is measured and exported."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from data_efficiency import (
    ConfigError,
    LearningRate,
    convert_to_random_ltd,
    initialize,
    start_ranks,
)
from data_efficiency.engine.step import mean_losses_over
from data_efficiency.engine.whole_tensor import gather_all
from megatron.config import FinetuningConfig
from megatron.finetuning.run import FinetuningRun, FinetuningTask
from megatron.finetuning.section import AnyFinetuning, RunSize, budget_of, finetuning_json
from megatron.reporting import weights_checksum


def task_of(
    config: AnyFinetuning,
    size: RunSize,
    identity: Mapping[str, Any],
    measure: str,
    *,
    higher_is_better: bool,
    quality: str,
    losses: Sequence[str] = (),
) -> FinetuningTask:
    """The task of a run that is measured on a validation and, at its end, on a test part.

    Args:
        measure: its name, as "perplexity".
        quality: what the published lines call it.
        losses: names of further measures, in nats.
    """
    kinds = {measure: {"unit": "", "higher_is_better": higher_is_better}}
    kinds |= {name: {"unit": "nats", "higher_is_better": False} for name in losses}
    return FinetuningTask(
        size=size,
        identity=identity,
        budget=budget_of(config.training, size),
        measures=[
            part
            for name, kind in kinds.items()
            for part in (
                {"name": f"test {name}", "curve": f"validation {name}", **kind},
                {"name": f"validation {name}", **kind},
            )
        ],
        quality=quality,
        eval_interval=config.training.eval_interval,
    )


def set_up_run(
    config: AnyFinetuning,
    task: FinetuningTask,
    model: torch.nn.Module,
    dataset: Any,
    layer_class: type[torch.nn.Module],
) -> FinetuningRun:
    """The run at its beginning, with its engine and token dropping."""
    training = config.training
    if not training.dropout:
        switch_dropout_off(model)
    first_weights = weights_checksum(model)
    engine = initialize(
        model=model,
        optimizer=lambda parameters: make_optimizer(training, parameters),
        training_data=dataset,
        config=finetuning_json(config, task.size, start_ranks().data_parallel_size),
        engine="deepspeed" if training.deepspeed else "torch",
        model_shape=task.size.shape,
    )[0]
    if engine.data_efficiency_config.token_superposition is not None:
        raise ConfigError("token_superposition is enabled: finetuning has none, switch it off")
    if engine.data_efficiency_config.layer_routes:
        convert_to_random_ltd(engine, layer_class)
    rate = learning_rate_of(training, task.size, task.budget)
    return FinetuningRun(config, task, engine, rate, first_weights)


def learning_rate_of(
    training: FinetuningConfig, size: RunSize, budget: tuple[str, int]
) -> LearningRate:
    """Warm-up, then the decay to the end of the budget."""
    unit, amount = budget
    tokens = training.batch_size * size.length
    clock, share = {
        "steps": ("steps", 1),
        "consumed_token": ("effective", tokens),
        "layer_tokens": ("layer", tokens * size.num_layers),
    }["steps" if training.lr_decay_style == "constant" else unit]
    return LearningRate(
        peak=training.lr,
        minimum=0.0,
        style=training.lr_decay_style,
        clock=clock,  # type: ignore[arg-type]
        warmup=training.lr_warmup_iters * share,
        decay=amount,
        share=share,
    )


def make_optimizer(training: FinetuningConfig, parameters: Any) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum."""
    rates: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **rates, eps=training.adam_eps, fused=True)
    return torch.optim.SGD(parameters, **rates, momentum=0.9)


def switch_dropout_off(model: torch.nn.Module) -> None:
    """Let the model drop no activations and no attention in training."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


@torch.no_grad()
def means_over(
    engine: Any,
    dataset: Any,
    batch_size: int,
    sums: Callable[[Any], Sequence[torch.Tensor]],
    num_terms: Callable[[Any], torch.Tensor] | None = None,
) -> list[float]:
    """The means of scores over a whole data set; every process calls it, and computes its share.

    All processes compute as many batches: what fills up the last ones does not count.

    Args:
        engine: in training.
        dataset: has a length and `get_batch(samples, visits)`.
        batch_size: rows of a forward.
        sums: batch -> each row's sums of what the means are taken of.
        num_terms: batch -> over how many terms each row's sums are; None: one.
    """
    engine.eval()
    ranks = engine.ranks
    size = ranks.data_parallel_size
    share = np.arange(ranks.data_parallel_rank, -(-len(dataset) // size) * size, size)
    totals, terms = np.zeros(1), 0
    for start in range(0, len(share), batch_size):
        numbers = share[start : start + batch_size]
        batch = dataset.get_batch(numbers % len(dataset), np.zeros_like(numbers))
        counts = torch.from_numpy(numbers < len(dataset))
        batch = {name: part.to(ranks.device) for name, part in batch.items()}
        scores = torch.stack([score.double().cpu() for score in sums(batch)])
        totals = totals + (scores * counts).sum(1).numpy()
        terms += int(((1 if num_terms is None else num_terms(batch).cpu()) * counts).sum())
    return mean_losses_over(ranks, totals.tolist(), [terms] * len(totals))


def whole_copies(engine: Any) -> dict[str, torch.Tensor]:
    """The weights to export, on process 0; tied ones apart, as safetensors wants them."""
    weights = gather_all(engine.whole_weights(), keep=engine.ranks.is_first)
    return {name: tensor.clone() for name, tensor in weights.items()}
