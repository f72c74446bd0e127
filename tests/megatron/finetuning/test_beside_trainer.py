"""Our finetuning beside Hugging Face's Trainer: one output layer, one order, no dropout, so one result."""

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from benchmarks.glue_trainer import OrderedTrainer, OrderOfOurs, model_with_our_layer
from megatron.conversion.model import save_as_hugging_face
from megatron.finetuning.classifier import read_bert
from megatron.finetuning.data import Examples, read_task
from megatron.finetuning.inputs import make_batch, make_rows
from megatron.finetuning.tasks import GLUE
from megatron.finetuning.training import make_classifier, make_run, train
from megatron.reporting import read_log
from tests.megatron.finetuning.bert_task_data import glue_config, save_bert_run, write_sentiment

SETTINGS = {"epochs": 4, "lr": 1e-2, "weight_decay": 0.3, "seed": 5}
CONFIG = glue_config("run", **SETTINGS).training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    model, tokenizer = read_bert(save_bert_run(folder / "run"))
    save_as_hugging_face(model, folder / "theirs", tokenizer)
    write_sentiment(folder / "data", num_train=56)
    return folder


def with_trainer(folder, rows, labels, num_outputs):
    """Losses of the steps and the model."""
    model = model_with_our_layer(
        folder / "theirs", num_outputs, dropout=0.0, seed=CONFIG.seed
    ).double()

    def collate(places):
        batch = make_batch(rows, places)
        # The Trainer must see what a user's would: BERT's own names.
        return {
            "input_ids": batch["tokens"],
            "token_type_ids": batch["token_types"],
            "attention_mask": batch["padding_mask"].long(),
            "labels": torch.tensor(labels[places]),
        }

    trainer = OrderedTrainer(
        OrderOfOurs(len(labels), CONFIG.seed),
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=CONFIG.epochs,
            per_device_train_batch_size=CONFIG.batch_size,
            learning_rate=CONFIG.lr,
            lr_scheduler_type="linear",
            warmup_steps=CONFIG.warmup_fraction,
            weight_decay=CONFIG.weight_decay,
            max_grad_norm=CONFIG.clip_grad,
            logging_steps=1,
            use_cpu=True,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=range(len(labels)),
        data_collator=collate,
    )
    trainer.train()
    return [float(line["loss"]) for line in trainer.state.log_history if "loss" in line], model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_the_same_training(folder, task):
    model, tokenizer = read_bert(folder / "run")
    sets = read_task(folder / "data", "SST-2")[1]
    if GLUE[task].is_regression:
        scores = {name: part.labels * 1.7 + 0.4 for name, part in sets.items()}
        sets = {name: Examples(part.first, None, scores[name]) for name, part in sets.items()}
    num_outputs = 1 if GLUE[task].is_regression else 2
    prepared = {name: (make_rows(part, tokenizer, 32), part) for name, part in sets.items()}
    config = glue_config(folder / task, **SETTINGS)
    # In float32 Adam makes steps of the rounding of gradients that should be zero.
    classifier = make_classifier(config, model, GLUE[task]).double()
    first = classifier.output_layer.weight.detach().clone()
    run = make_run(config, classifier, GLUE[task], prepared, {})
    assert train(config, run, GLUE[task], prepared) == 0
    losses = [record["loss"] for record in read_log(folder / task).train]
    rows, examples = prepared["train"]
    labels = examples.labels
    if GLUE[task].is_regression:
        labels = labels.astype(np.float64)
    expected, theirs = with_trainer(folder, rows, labels, num_outputs)
    assert len(losses) == len(expected) == 28
    assert losses == pytest.approx(expected, abs=1e-5)
    pairs = {
        "output_layer.weight": theirs.classifier.weight,
        "output_layer.bias": theirs.classifier.bias,
        "bert.language_model.word_embeddings.weight": theirs.bert.embeddings.word_embeddings.weight,
        "bert.pooler.weight": theirs.bert.pooler.dense.weight,
    }
    ours = classifier.state_dict()
    for name, value in pairs.items():
        # Their embeddings have no rows beyond the vocabulary.
        torch.testing.assert_close(ours[name][: len(value)], value.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours["output_layer.weight"], first.double(), atol=1e-2)
