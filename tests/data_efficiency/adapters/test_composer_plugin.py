import pytest
import torch
from torch.utils.data import DataLoader

from data_efficiency.json_section import ConfigError
from tests.data_efficiency.adapters.small_run import Rows, configuration, make_model

composer = pytest.importorskip("composer", reason="Composer has an environment of its own")
models = pytest.importorskip("composer.models")
loggers = pytest.importorskip("composer.loggers")
plugin = pytest.importorskip("data_efficiency.adapters.composer_plugin")

pytestmark = [pytest.mark.composer, pytest.mark.filterwarnings("ignore")]


class Model(models.ComposerModel):
    """A model that writes down what it trains on."""

    def __init__(self):
        super().__init__()
        self.net = make_model()
        self.seen = []

    def forward(self, batch):
        if self.training:
            self.seen.append(batch["input_ids"][:, 0].tolist())
        return self.net(**batch)

    def loss(self, outputs, batch):
        return outputs.loss


class Figures(loggers.LoggerDestination):
    """Keeps what is logged."""

    def __init__(self):
        self.lines = []

    def log_metrics(self, metrics, step=None):
        if "consumed_samples" in metrics:
            self.lines.append(metrics)


def plain_loader(**settings):
    return DataLoader(Rows(), **{"batch_size": 4, "shuffle": True} | settings)


def make_trainer(efficiency, model=None, data=None, **settings):
    """A trainer of 2 micro-batches of 2 rows a step."""
    model = model or Model()
    defaults = {
        "callbacks": [efficiency],
        "device_train_microbatch_size": 2,
        "optimizers": torch.optim.SGD(model.parameters(), lr=0.1),
        "max_duration": "2ep",
        "device": "cpu",
        "progress_bar": False,
    }
    data = efficiency.data(plain_loader()) if data is None else data
    return composer.Trainer(model=model, train_dataloader=data, **defaults | settings)


def test_an_epoch_is_one_pass_and_the_loggers_get_the_figures():
    efficiency, model, logger = plugin.DataEfficiencyCallback(configuration()), Model(), Figures()
    trainer = make_trainer(
        efficiency, model, loggers=[logger], eval_dataloader=DataLoader(Rows(), batch_size=2)
    )
    trainer.fit()
    assert int(trainer.state.timestamp.batch) == 12
    assert int(trainer.state.timestamp.sample) == 48
    assert len(model.seen) == 24
    assert [line["consumed_samples"] for line in logger.lines] == list(range(4, 52, 4))
    assert [line["sequence_length"] for line in logger.lines][:5] == [8, 8, 8, 16, 16]


@pytest.mark.parametrize("step", [4, 6, 8])
def test_a_resume_in_the_middle_or_at_the_end_of_an_epoch(tmp_path, step):
    def make(**settings):
        efficiency, model = plugin.DataEfficiencyCallback(configuration()), Model()
        return efficiency, model, make_trainer(efficiency, model, **settings)

    saving = {"save_folder": str(tmp_path), "save_filename": "{batch}.pt", "save_interval": "2ba"}
    efficiency, model, trainer = make(**saving)
    trainer.fit()
    trainer.close()
    resumed, again, trainer = make(load_path=str(tmp_path / f"{step}.pt"))
    trainer.fit()
    assert again.seen == model.seen[2 * step :]
    assert resumed.training.counters == efficiency.training.counters
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_a_checkpoint_without_a_place_is_refused(tmp_path):
    model = Model()
    composer.Trainer(
        model=model,
        train_dataloader=plain_loader(),
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        max_duration="3ba",
        device="cpu",
        save_folder=str(tmp_path),
        save_filename="last.pt",
        progress_bar=False,
    ).fit()
    trainer = make_trainer(
        plugin.DataEfficiencyCallback(configuration()), load_path=str(tmp_path / "last.pt")
    )
    with pytest.raises(ConfigError, match="has done 3 batches, and its data are those of 0"):
        trainer.fit()


def test_other_data_and_a_missing_callback_are_refused():
    efficiency = plugin.DataEfficiencyCallback(configuration())
    with pytest.raises(ConfigError, match="there are no data"):
        make_trainer(efficiency, data=plain_loader())
    with pytest.raises(ConfigError, match="callback is not the trainer's"):
        make_trainer(efficiency, callbacks=[])
    efficiency.data(plain_loader())
    trainer = make_trainer(efficiency, data=plain_loader())
    with pytest.raises(ConfigError, match="trains on other data"):
        trainer.fit()


def test_settings_that_would_be_ignored_are_refused():
    efficiency = plugin.DataEfficiencyCallback(configuration())
    with pytest.raises(ConfigError, match="no multiple of device_train_microbatch_size"):
        make_trainer(efficiency, device_train_microbatch_size=3)
    trainer = make_trainer(efficiency, train_subset_num_batches=2)
    with pytest.raises(ConfigError, match="train_subset_num_batches is 2"):
        trainer.fit()
    wrong = plugin.DataEfficiencyCallback(configuration(train_micro_batch_size_per_gpu=4))
    with pytest.raises(ConfigError, match="4 in the file and 2 for Composer"):
        make_trainer(wrong)


def test_a_schedule_and_a_post_process_of_ones_own():
    def halve(batch, state):
        return {name: tensor[:, :4] for name, tensor in batch.items()}

    efficiency = plugin.DataEfficiencyCallback(
        configuration(), post_process=halve, custom_schedules={}
    )
    trainer = make_trainer(efficiency, max_duration="1ba")
    trainer.fit()
    assert efficiency.training.figures()["sequence_length"] == 4
    assert int(trainer.state.timestamp.token) == 4 * 4
