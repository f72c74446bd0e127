"""One finetuning of a BERT: a task, a seed and a learning rate; scores on the development sets by epoch.

The step is the engine's, so a run is the same on one process and on several, on PyTorch and DeepSpeed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from data_efficiency import (
    ConfigError,
    Engine,
    LearningRate,
    convert_to_random_ltd,
    initialize,
    start_ranks,
)
from megatron.config import GlueRunConfig
from megatron.conversion.model import Model
from megatron.engine_json import engine_json
from megatron.finetuning.batches import epoch_batches, own_micro_batches
from megatron.finetuning.classifier import BertClassifier, read_bert
from megatron.finetuning.data import Examples, read_task
from megatron.finetuning.inputs import InputRows, make_batch, make_rows
from megatron.finetuning.metrics import METRICS
from megatron.finetuning.run import FinetuningRun, FinetuningTask
from megatron.finetuning.run_folder import is_finished
from megatron.finetuning.section import RunSize
from megatron.finetuning.tasks import TRAIN, GlueTask
from megatron.model.optional_kernels import make_adamw, weight_decay_groups
from megatron.model.transformer import TransformerLayer
from megatron.reporting import weights_checksum
from megatron.run_state import model_shape
from megatron.setting_rules import require

_EVALUATION_ROWS = 64

Batch = Mapping[str, torch.Tensor]
Sets = Mapping[str, tuple[InputRows, Examples]]
"""Training and development sets."""


def finetune_bert(config: GlueRunConfig) -> int:
    """Train to the end, from the beginning or from where it was stopped; the exit status. Every process calls it.

    Raises:
        FileNotFoundError: if there is no model, no tokenizer, or a file of the task is missing.
        ValueError: for a model or data that is not what the task needs, or a folder with another run.
    """
    file = config.model.tokenizer_file
    model, tokenizer = read_bert(
        Path(config.model.pretrained), None if file is None else Path(file)
    )
    data = config.data
    require(
        data.max_length <= model.config.max_position_embeddings,
        "max_length",
        data.max_length,
        f"the model has {model.config.max_position_embeddings} positions",
    )
    task, examples = read_task(data.data, data.task)
    sets = {}
    for part, found in examples.items():
        kept = found.first_rows(data.max_train_examples if part == TRAIN else None)
        sets[part] = (make_rows(kept, tokenizer, data.max_length), kept)
    identity = {"model": _sha256_of_weights(model), **{k: _sha256_of(*v) for k, v in sets.items()}}
    if is_finished(config, identity):
        return 0
    run = make_run(config, make_classifier(config, model, task), task, sets, identity)
    return train(config, run, task, sets)


def make_classifier(config: GlueRunConfig, model: Model, task: GlueTask) -> BertClassifier:
    """The model with an output layer for the task, and dropout."""
    dropout = config.training.dropout
    settings = replace(model.config, attention_dropout=dropout, hidden_dropout=dropout)
    num_outputs = 1 if task.labels is None else len(task.labels)
    return BertClassifier(
        Model(settings, model.weights), num_outputs, dropout=dropout, seed=config.training.seed
    )


def make_run(
    config: GlueRunConfig,
    classifier: BertClassifier,
    task: GlueTask,
    sets: Sets,
    identity: Mapping[str, str],
) -> FinetuningRun:
    """The run at its beginning."""
    first_weights, num_samples = weights_checksum(classifier), len(sets[TRAIN][0].ids)
    steps_of_epoch = -(-num_samples // config.training.batch_size)
    num_steps = config.training.epochs * steps_of_epoch
    size = RunSize(
        num_layers=classifier.bert.config.num_layers,
        length=config.data.max_length,
        num_samples=num_samples,
    )
    described = FinetuningTask(
        size=size,
        identity=identity,
        budget=("steps", num_steps),
        measures=[
            {"name": f"{part} {metric}", "unit": "", "higher_is_better": True}
            for part in task.dev_sets
            for metric in task.metrics
        ],
        quality=task.metrics[0],
        eval_interval=steps_of_epoch,
        looks_first=False,
    )
    engine, rate = make_engine(classifier, config), _schedule(config, num_steps)
    return FinetuningRun(config, described, engine, rate, first_weights)


def train(config: GlueRunConfig, run: FinetuningRun, task: GlueTask, sets: Sets) -> int:
    """Train to the end of the epochs and give the exit status."""
    engine = run.engine
    return run.train(
        lambda batch: _loss_sum(engine, task, batch),
        lambda batch: int(batch["is_counted"].sum()),
        lambda: {
            f"{part} {metric}": value
            for part in task.dev_sets
            for metric, value in dev_scores(engine, task, *sets[part]).items()
        },
        shape=lambda batch: (int(batch["is_counted"].sum()), batch["tokens"].shape[1]),
        steps=lambda done: _steps(config, engine, *sets[TRAIN], done),
    )


def make_engine(model: BertClassifier, config: GlueRunConfig) -> Engine:
    """The model in training, on DeepSpeed or plain PyTorch.

    Raises:
        ConfigError: for a section that is not understood or would be ignored.
    """
    training, shape = config.training, model_shape(model.bert.config)
    groups = weight_decay_groups(model, training.weight_decay)
    engine: Engine = initialize(
        model=model,
        optimizer=lambda _: make_adamw(groups, "auto", lr=training.lr, eps=training.adam_eps),
        config=engine_json(
            config,
            start_ranks().data_parallel_size,
            num_layers=shape.num_layers,
            length=config.data.max_length,
        ),
        engine="deepspeed" if training.deepspeed else "torch",
        model_shape=shape,
    )[0]
    dropping = engine.data_efficiency_config.closed_random_ltd
    if dropping is not None and dropping.layer_token_lr is not None:
        raise ConfigError(
            "layer_token_lr_schedule is enabled, but finetuning's learning rate follows steps: "
            "disable it"
        )
    if engine.data_efficiency_config.token_superposition is not None:
        raise ConfigError("token_superposition is enabled: finetuning has none, switch it off")
    if engine.data_efficiency_config.layer_routes:
        convert_to_random_ltd(engine, TransformerLayer)
    return engine


def _steps(
    config: GlueRunConfig, engine: Engine, texts: InputRows, examples: Examples, done: int
) -> Iterator[list[dict[str, torch.Tensor]]]:
    """This process's micro-batches of each step behind those that are done."""
    training = config.training
    for epoch in range(training.epochs):
        batches = epoch_batches(
            [len(ids) for ids in texts.ids],
            training.batch_size,
            training.seed,
            epoch,
            group_by_length=config.data.group_by_length,
        )
        for chosen in batches[max(0, done - epoch * len(batches)) :]:
            yield own_micro_batches(
                texts,
                examples.labels,
                chosen,
                batch_size=training.batch_size,
                num_micro_batches=engine.gradient_accumulation_steps(),
                ranks=engine.ranks,
            )


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


def _schedule(config: GlueRunConfig, num_steps: int) -> LearningRate:
    """Up to the peak over the warm-up's share of the steps, then straight down to 0.

    The first step's is 0, as in Megatron-LM's and Hugging Face's finetuning, so that results compare.
    """
    return LearningRate(
        peak=config.training.lr,
        minimum=0.0,
        style="linear",
        clock="steps",
        warmup=-(-round(1000 * config.training.warmup_fraction) * num_steps // 1000),
        decay=num_steps,
        share=0,
    )


def _sha256_of_weights(model: Model) -> str:
    """Of their names and numbers, wherever they were read."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.weights.items()):
        digest.update(name.encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sha256_of(texts: InputRows, examples: Examples) -> str:
    """Of a set's tokens and labels."""
    rows: Any = [np.array(ids, np.int64).tobytes() for ids in texts.ids]
    return hashlib.sha256(b"|".join([*rows, examples.labels.tobytes()])).hexdigest()
