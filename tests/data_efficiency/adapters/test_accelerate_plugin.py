import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader

from data_efficiency.adapters.accelerate_plugin import attach
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.adapters.small_run import Rows, configuration, make_model

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def accelerator():
    """A function that makes an accelerator of this process alone; no trace of it stays."""

    def make(**settings):
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, **{"gradient_accumulation_steps": 2} | settings)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    GradientState._reset_state()


def plain_loader(**settings):
    return DataLoader(Rows(), **{"batch_size": 2, "shuffle": True} | settings)


class Loop:
    """A script's loop with everything that `attach` takes and gives."""

    def __init__(self, accelerator, **settings):
        self.accelerator, self.model = accelerator, make_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.loader = attach(
            accelerator,
            self.model,
            plain_loader(),
            settings.pop("config", configuration()),
            **settings,
        )
        prepared = accelerator.prepare(self.model, self.optimizer, self.loader)
        self.model, self.optimizer, loader = prepared
        assert loader is self.loader

    def train(self, num_batches, *, accumulate=True):
        """The samples of so many micro-batches."""
        seen = []
        for batch in self.loader:
            if accumulate:
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(self.model(**batch).loss)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            else:
                self.accelerator.backward(self.model(**batch).loss)
            seen.append(batch["input_ids"][:, 0].tolist())
            if len(seen) == num_batches:
                break
        return seen


def test_an_iteration_is_a_pass_and_epochs_follow(accelerator):
    loop = Loop(accelerator())
    assert len(loop.loader) == 12
    assert loop.loader.epoch == 0
    assert len(loop.train(99)) == 12
    assert loop.loader.epoch == 1
    assert len(loop.train(99)) == 12
    assert loop.loader.figures()["consumed_samples"] == 48


def test_save_state_and_load_state_keep_the_place(accelerator, tmp_path):
    whole = Loop(accelerator()).train(12)
    loop = Loop(accelerator())
    first = loop.train(6)
    loop.accelerator.save_state(str(tmp_path / "saved"))
    resumed = Loop(accelerator())
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    assert resumed.loader.figures() == {}
    assert first + resumed.train(99) == whole
    assert resumed.loader.figures()["consumed_samples"] == 24


def test_figures_are_those_of_the_step_just_done(accelerator):
    loop = Loop(accelerator())
    loop.train(2)
    assert loop.loader.figures()["corpus_tokens"] == 4 * 8
    assert loop.loader.figures()["kept_length"] == 4


def test_skipping_batches_is_refused(accelerator):
    loop = Loop(accelerator())
    with pytest.raises(ConfigError, match="do not skip_first_batches"):
        loop.accelerator.skip_first_batches(loop.loader, 3)


def test_a_batch_that_the_loop_passes_over_is_noticed(accelerator):
    loop = Loop(accelerator(gradient_accumulation_steps=1))
    assert len(loop.train(2)) == 2
    with pytest.raises(ConfigError, match="did not call the model for a micro-batch of step 3"):
        list(loop.loader)


def test_steps_that_end_at_different_places_are_refused(accelerator):
    loop = Loop(accelerator())
    with pytest.raises(ConfigError, match="accumulate"):
        loop.train(2, accumulate=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sampler": torch.utils.data.WeightedRandomSampler([1.0] * 22, 4), "shuffle": False},
            "draws",
        ),
        ({"batch_sampler": [[1]], "batch_size": 1, "shuffle": False}, "batch_sampler"),
        ({"worker_init_fn": print}, "worker_init_fn"),
    ],
)
def test_a_loader_with_what_would_be_ignored_is_refused(accelerator, settings, message):
    with pytest.raises(ConfigError, match=message):
        attach(accelerator(), make_model(), plain_loader(**settings), configuration())


def test_a_prepared_loader_is_refused(accelerator):
    own = accelerator()
    with pytest.raises(TypeError, match="before Accelerate has prepared it"):
        attach(own, make_model(), own.prepare(plain_loader()), configuration())


def test_a_file_that_disagrees_is_refused(accelerator):
    with pytest.raises(ConfigError, match=r"is 3 in the file and 2 for Accelerate \(batch_size\)"):
        attach(
            accelerator(),
            make_model(),
            plain_loader(),
            configuration(train_micro_batch_size_per_gpu=3),
        )


def test_settings_of_the_accelerator_that_would_be_ignored(accelerator):
    own = accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
    with pytest.raises(ConfigError, match="split_batches is set"):
        attach(own, make_model(), plain_loader(), configuration())


def test_a_post_process_of_ones_own(accelerator):
    def halve(batch, state):
        return {name: tensor[:, :4] for name, tensor in batch.items()}

    loop = Loop(accelerator(), post_process=halve, custom_schedules={})
    loop.train(2)
    assert loop.loader.figures()["sequence_length"] == 4
