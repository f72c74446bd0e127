import pytest
import torch

from data_efficiency import initialize
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, LearningRate
from examples_deepspeed.data_efficiency.finetuning.run import is_finished, train
from examples_deepspeed.data_efficiency.finetuning.task import RunSettings, Task

NUM_SAMPLES = 12


class Points:
    """A row of four numbers that depend on the sample."""

    identity = {"type": "Points", "num_samples": NUM_SAMPLES}

    def __len__(self):
        return NUM_SAMPLES

    def get_batch(self, samples, _visits):
        return {"rows": torch.tensor(samples).float()[:, None] / NUM_SAMPLES + torch.arange(4.0)}


def make_engine(num_epochs=1000):
    torch.manual_seed(0)
    sampling = {"num_epochs": num_epochs}
    return initialize(
        model=torch.nn.Linear(4, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        training_data=Points(),
        config={"train_batch_size": 4, "data_efficiency": {"data_sampling": sampling}},
    )[0]


def make_task():
    def loss(engine, batch):
        return engine(batch["rows"]).square().mean()

    def scores(engine, batch):
        return engine(batch["rows"]).square().double()

    return Task(
        num_layers=2,
        num_samples=NUM_SAMPLES,
        length=4,
        loss=loss,
        shape=lambda batch: tuple(batch["rows"].shape),
        scores=scores,
        quality=lambda sums: sums[0] / NUM_SAMPLES,
        quality_name="square",
        higher_is_better=False,
        validation=Points(),
        test=Points(),
        eval_batch_size=5,
    )


def settings(folder, *, steps=6, seed=0, **changes):
    values = {
        "folder": folder,
        "budget": Budget(unit="steps", amount=steps),
        "learning_rate": LearningRate(peak=0.05, decay="linear", warmup_steps=2),
        "seed": seed,
        "eval_interval_steps": 4,
        "save_interval_steps": 2,
        "description": {"seed": seed, "pair": (1, 2)},
    }
    return RunSettings(**values | changes)


def test_trains_to_the_end_of_the_budget(tmp_path):
    results = train(make_engine(), make_task(), settings(tmp_path))
    assert [record["steps"] for record in results["history"]] == [0, 4, 6]
    assert (results["steps"], results["samples"], results["corpus_tokens"]) == (6, 24, 96)
    assert results["layer_tokens"] == 2 * 96
    assert results["validation"] == results["test"] < results["history"][0]["validation"]
    # Warm-up in two steps, then 1 - 5/6 of the peak for the last.
    assert results["history"][-1]["learning_rate"] == pytest.approx(0.05 / 6)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_finished_run_is_known_by_its_description(tmp_path):
    assert not is_finished(settings(tmp_path))
    train(make_engine(), make_task(), settings(tmp_path))
    assert is_finished(settings(tmp_path))
    with pytest.raises(
        ValueError, match="holds another run: its seed is 0, here 1; choose another"
    ):
        is_finished(settings(tmp_path, seed=1))


def test_another_run_that_was_stopped_is_refused_before_its_weights_are_read(tmp_path):
    task = make_task()
    with pytest.raises(ValueError, match="the data ends"):
        train(make_engine(num_epochs=1), task, settings(tmp_path))
    assert (tmp_path / "last" / "manifest.json").is_file()
    engine = make_engine()
    before = engine.full_weights()["weight"].clone()
    with pytest.raises(ValueError, match="holds another run: its seed is 0, here 1"):
        train(engine, task, settings(tmp_path, seed=1))
    assert torch.equal(engine.full_weights()["weight"], before)


def test_data_that_ends_early_is_named(tmp_path):
    message = "the data ends at step 3 before the budget does: raise num_epochs"
    with pytest.raises(ValueError, match=message):
        train(make_engine(num_epochs=1), make_task(), settings(tmp_path))
