import csv

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from data_efficiency.adapters.lightning_plugin import DataEfficiencyCallback
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.adapters.small_run import Rows, configuration, make_model

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(LightningModule):
    """A module whose net is all that has weights; writes down what it trains on."""

    def __init__(self):
        super().__init__()
        self.net = make_model()
        self.seen = []

    def training_step(self, batch, number):
        self.seen.append(batch["input_ids"][:, 0].tolist())
        return self.net(**batch).loss

    def validation_step(self, batch, number):
        return self.net(**batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def plain_loader():
    return DataLoader(Rows(), batch_size=2, shuffle=True)


def make_trainer(folder, *callbacks, **settings):
    """A trainer of 2 micro-batches a step."""
    defaults = {
        "max_epochs": 2,
        "accumulate_grad_batches": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(callbacks=list(callbacks), **defaults | settings)


def test_an_epoch_is_one_pass_and_validation_passes_by(tmp_path):
    efficiency, module = DataEfficiencyCallback(configuration()), Module()
    trainer = make_trainer(tmp_path, efficiency)
    trainer.fit(module, efficiency.loader(plain_loader()), DataLoader(Rows(), batch_size=2))
    assert trainer.global_step == 12
    assert len(module.seen) == 24
    assert efficiency.training.counters.consumed_samples == 48


@pytest.mark.parametrize("step", [4, 6, 8])
def test_a_resume_in_the_middle_or_at_the_end_of_an_epoch(tmp_path, step):
    efficiency, module = DataEfficiencyCallback(configuration()), Module()
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = make_trainer(tmp_path, efficiency, saved)
    trainer.fit(module, efficiency.loader(plain_loader()))
    resumed, again = DataEfficiencyCallback(configuration()), Module()
    trainer = make_trainer(tmp_path, resumed)
    place = tmp_path / f"step={step}.ckpt"
    trainer.fit(again, resumed.loader(plain_loader()), ckpt_path=place)
    assert again.seen == module.seen[2 * step :]
    assert resumed.training.counters == efficiency.training.counters
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_the_loggers_get_the_figures(tmp_path):
    efficiency = DataEfficiencyCallback(configuration())
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(tmp_path, efficiency, logger=logger, log_every_n_steps=2, max_epochs=1)
    trainer.fit(Module(), efficiency.loader(plain_loader()))
    with open(f"{logger.log_dir}/metrics.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["consumed_samples"]]
    assert [int(line["consumed_samples"]) for line in lines] == [8, 16, 24]
    assert [int(line["sequence_length"]) for line in lines] == [8, 16, 16]


def test_another_loader_and_a_missing_callback_are_refused(tmp_path):
    efficiency = DataEfficiencyCallback(configuration())
    with pytest.raises(ConfigError, match="there is no loader"):
        make_trainer(tmp_path, efficiency).fit(Module(), plain_loader())
    loader = efficiency.loader(plain_loader())
    with pytest.raises(ConfigError, match="trains on another loader"):
        make_trainer(tmp_path, efficiency).fit(Module(), plain_loader())
    with pytest.raises(ConfigError, match="callback is not the trainer's"):
        make_trainer(tmp_path).fit(Module(), DataEfficiencyCallback({}).loader(plain_loader()))
    assert len(loader) == 12


def test_a_checkpoint_without_a_place_is_refused(tmp_path):
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    make_trainer(tmp_path, saved, max_steps=4).fit(Module(), plain_loader())
    efficiency = DataEfficiencyCallback(configuration())
    with pytest.raises(ConfigError, match="has done 4 steps, and its data are those of 0"):
        make_trainer(tmp_path, efficiency).fit(
            Module(), efficiency.loader(plain_loader()), ckpt_path=tmp_path / "step=4.ckpt"
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit_train_batches": 4}, "limit_train_batches is 4"),
        ({"overfit_batches": 2}, "overfit_batches"),
        ({"gradient_clip_val": 0.5}, "gradient_clipping is 1.0 in the file and 0.5 for Lightning"),
        ({}, "gradient_clipping is 1.0 in the file and 0.0 for Lightning"),
        (
            {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
            "gradient_clipping is 1.0 in the file and 0.0 for Lightning",
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path, settings, message):
    efficiency = DataEfficiencyCallback(configuration(gradient_clipping=1.0))
    with pytest.raises(ConfigError, match=message):
        make_trainer(tmp_path, efficiency, **settings).fit(
            Module(), efficiency.loader(plain_loader())
        )


def test_clipping_that_the_module_does_by_itself_is_not_compared(tmp_path):
    class Clipping(Module):
        def configure_gradient_clipping(self, *settings, **more):
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    efficiency = DataEfficiencyCallback(configuration(gradient_clipping=1.0))
    trainer = make_trainer(tmp_path, efficiency, max_steps=1)
    trainer.fit(Clipping(), efficiency.loader(plain_loader()))
    assert efficiency.training.counters.steps == 1


def test_manual_optimization_is_refused(tmp_path):
    module = Module()
    module.automatic_optimization = False
    efficiency = DataEfficiencyCallback(configuration())
    with pytest.raises(ConfigError, match="automatic_optimization"):
        make_trainer(tmp_path, efficiency, accumulate_grad_batches=1).fit(
            module, efficiency.loader(plain_loader())
        )


def test_which_part_is_the_model_is_asked_for_where_it_is_not_clear(tmp_path):
    module = Module()
    module.other = torch.nn.Linear(2, 2)
    efficiency = DataEfficiencyCallback(configuration())
    with pytest.raises(ConfigError, match=r"\['net', 'other'\] parts with weights"):
        make_trainer(tmp_path, efficiency).fit(module, efficiency.loader(plain_loader()))
    efficiency = DataEfficiencyCallback(configuration(), model=lambda module: module.net)
    trainer = make_trainer(tmp_path, efficiency, max_steps=1)
    trainer.fit(module, efficiency.loader(plain_loader()))
    assert trainer.global_step == 1


def test_a_schedule_and_a_post_process_of_ones_own(tmp_path):
    def halve(batch, state):
        return {name: tensor[:, :4] for name, tensor in batch.items()}

    efficiency = DataEfficiencyCallback(configuration(), post_process=halve, custom_schedules={})
    make_trainer(tmp_path, efficiency, max_steps=1).fit(Module(), efficiency.loader(plain_loader()))
    assert efficiency.training.figures()["sequence_length"] == 4
