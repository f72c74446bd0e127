"""The finetuning of tools/finetune_bert.py by a plain Hugging Face Trainer.

All that is left to chance is ours: the first output layer and the order of the examples. The rest is as a
user of the Trainer writes it: their model, tokenizer, batches, schedule, optimizer and loop.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch.utils.data import Sampler

from megatron.config import GlueTrainingConfig
from megatron.finetuning.batches import epoch_order
from megatron.finetuning.classifier import BertClassifier, read_bert
from megatron.finetuning.data import Examples
from megatron.finetuning.metrics import METRICS
from megatron.finetuning.tasks import TRAIN, GlueTask


class OrderOfOurs(Sampler[int]):
    """The orders in which our finetuning reads the examples, one an epoch."""

    def __init__(self, num_examples: int, seed: int) -> None:
        self.num_examples, self.seed, self.epoch = num_examples, seed, 0

    def __len__(self) -> int:
        """Examples of an epoch."""
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        """The next epoch's."""
        order = epoch_order(self.num_examples, self.seed, self.epoch)
        self.epoch += 1
        return iter(order.tolist())


class OrderedTrainer(transformers.Trainer):
    """A Trainer that is told the order of the examples."""

    def __init__(self, order: OrderOfOurs, **settings: Any) -> None:
        super().__init__(**settings)
        self.order = order

    def _get_train_sampler(self, *_: Any) -> OrderOfOurs:
        return self.order


def finetune_with_trainer(
    model_folder: Path,
    task: GlueTask,
    sets: dict[str, Examples],
    config: GlueTrainingConfig,
    max_length: int,
) -> list[dict[str, float]]:
    """Metric -> score x 100 of the development set after each epoch."""
    assert task.labels is not None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)

    def scores(predictions: Any) -> dict[str, float]:
        predicted = np.asarray(predictions.predictions).argmax(1)
        expected = np.asarray(predictions.label_ids)
        return {name: 100 * METRICS[name](predicted, expected) for name in task.metrics}

    (dev_set,) = task.dev_sets
    with tempfile.TemporaryDirectory() as folder:
        trainer = OrderedTrainer(
            OrderOfOurs(len(sets[TRAIN].first), config.seed),
            model=model_with_our_layer(
                model_folder, len(task.labels), dropout=config.dropout, seed=config.seed
            ),
            args=transformers.TrainingArguments(
                output_dir=folder,
                num_train_epochs=config.epochs,
                per_device_train_batch_size=config.batch_size,
                per_device_eval_batch_size=64,
                learning_rate=config.lr,
                lr_scheduler_type="linear",
                warmup_steps=config.warmup_fraction,
                weight_decay=config.weight_decay,
                max_grad_norm=config.clip_grad,
                seed=config.seed,
                bf16=config.bf16,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                disable_tqdm=not sys.stderr.isatty(),
            ),
            train_dataset=_rows(tokenizer, sets[TRAIN], max_length),
            eval_dataset=_rows(tokenizer, sets[dev_set], max_length),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=scores,
        )
        trainer.train()
    return [
        {name: line[f"eval_{name}"] for name in task.metrics}
        for line in trainer.state.log_history
        if f"eval_{task.metrics[0]}" in line
    ]


def model_with_our_layer(
    model_folder: Path, num_outputs: int, *, dropout: float, seed: int
) -> transformers.PreTrainedModel:
    """Their model, whose output layer begins as ours with this seed."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_folder,
        num_labels=num_outputs,
        attention_probs_dropout_prob=dropout,
        hidden_dropout_prob=dropout,
    )
    ours = BertClassifier(read_bert(model_folder)[0], num_outputs, dropout=dropout, seed=seed)
    model.classifier.load_state_dict(ours.output_layer.state_dict())
    return model


def _rows(tokenizer: Any, examples: Examples, max_length: int) -> list[dict[str, Any]]:
    texts = (examples.first,) if examples.second is None else (examples.first, examples.second)
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    names = list(encoded)
    return [
        dict(zip(names, row, strict=True)) | {"labels": int(label)}
        for row, label in zip(
            zip(*encoded.values(), strict=True), examples.labels.tolist(), strict=True
        )
    ]
