"""A run of a model of four weights, for tests of finetuning's loop."""

import torch

from data_efficiency import initialize
from megatron.config import (
    FinetuningCheckpointConfig,
    FinetuningConfig,
    LoggingConfig,
    PretrainedConfig,
    TextDataConfig,
    TextRunConfig,
)
from megatron.finetuning.foreign_model import (
    learning_rate_of,
    make_optimizer,
    means_over,
    task_of,
)
from megatron.finetuning.run import FinetuningRun
from megatron.finetuning.section import RunSize

SIZE = RunSize(num_layers=2, length=4, num_samples=12)


class Points:
    """A row of four numbers that depend on the sample."""

    identity = {"type": "Points", "num_samples": SIZE.num_samples}

    def __init__(self, num_rows=SIZE.num_samples):
        self.num_rows, self.seen = num_rows, []

    def __len__(self):
        return self.num_rows

    def get_batch(self, samples, _visits):
        self.seen.append(len(samples))
        rows = torch.tensor(samples).float()[:, None] / SIZE.num_samples
        return {"rows": rows + torch.arange(4.0)}


def config_of(folder, **training):
    settings = {"epochs": 2, "lr": 0.05, "lr_decay_style": "linear", "eval_interval": 4}
    return TextRunConfig(
        model=PretrainedConfig(pretrained="model"),
        data=TextDataConfig(text="text"),
        training=FinetuningConfig(**settings | training),
        checkpoint=FinetuningCheckpointConfig(save=str(folder), save_interval=2),
        logging=LoggingConfig(log_interval=1),
    )


def run_of(config, num_epochs=1000):
    torch.manual_seed(0)
    sampling = {"num_epochs": num_epochs}
    engine = initialize(
        model=torch.nn.Linear(4, 1),
        optimizer=lambda parameters: make_optimizer(config.training, parameters),
        training_data=Points(),
        config={"train_batch_size": 4, "data_efficiency": {"data_sampling": sampling}},
        model_shape=SIZE.shape,
    )[0]
    task = task_of(
        config, SIZE, Points.identity, "square", higher_is_better=False, quality="square"
    )
    rate = learning_rate_of(config.training, SIZE, task.budget)
    return FinetuningRun(config, task, engine, rate, "weights")


def train(run, **more):
    def squares(batch):
        return run.engine(batch["rows"]).square().sum(1)

    def quality(part):
        ones = lambda batch: torch.ones(len(batch["rows"]))  # noqa: E731
        (mean,) = means_over(run.engine, Points(), 5, lambda batch: [squares(batch)], ones)
        return {f"{part} square": mean}

    return run.train(
        lambda batch: squares(batch).sum(),
        lambda batch: len(batch["rows"]),
        lambda: quality("validation"),
        at_end=lambda: quality("test"),
        shape=lambda batch: tuple(batch["rows"].shape),
        **more,
    )
