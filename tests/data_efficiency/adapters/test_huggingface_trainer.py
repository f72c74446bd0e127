import json

import pytest
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from data_efficiency.adapters.huggingface_trainer import attach
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.adapters.small_run import NUM_SAMPLES, Rows, configuration, make_model

pytestmark = pytest.mark.filterwarnings("ignore")


def make_trainer(folder, *, model=None, **settings):
    """A trainer of 2 micro-batches of 2 rows a step."""
    defaults = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = TrainingArguments(str(folder), **defaults | settings)
    made = {"model_init": model} if callable(model) and not hasattr(model, "forward") else {}
    made = made or {"model": model or make_model()}
    return Trainer(**made, args=arguments, train_dataset=Rows(), eval_dataset=Rows())


def test_an_epoch_is_one_pass(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = attach(trainer, configuration())
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.epoch == 1
    assert callback.training.counters.consumed_samples == 24


def test_the_log_tells_counts_lengths_and_difficulties(tmp_path):
    trainer = make_trainer(tmp_path, eval_strategy="epoch")
    attach(trainer, configuration())
    told = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs, **others):
            told.append(logs)

    trainer.add_callback(Reporter())
    trainer.train()
    steps = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["consumed_samples"] for line in steps] == [4, 8, 12, 16, 20, 24]
    assert [line["sequence_length"] for line in steps] == [8, 8, 8, 16, 16, 16]
    assert [line["difficulty/seqlen_truncate"] for line in steps] == [8, 8, 8, 16, 16, 16]
    assert [line["kept_length"] for line in steps][:3] == [4, 4, 8]
    assert steps[-1]["layer_tokens"] == 4 * steps[-1]["effective_tokens"]
    evaluated = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert len(evaluated) == 1
    assert "pool_size" not in evaluated[0]
    assert any("pool_size" in line for line in told)


def test_a_model_is_free_once_its_training_is_over(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    callback = attach(trainer, configuration(dropping=False))
    for _ in range(2):
        trainer.train()
        assert callback.training.counters.steps == 1
        tokens = Rows()[3]["input_ids"][None]
        assert trainer.model.train()(input_ids=tokens).logits.isfinite().all()


@pytest.mark.parametrize("by_path", [False, True])
def test_resume_goes_on_with_the_data_in_a_second_epoch(tmp_path, by_path):
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
    whole = make_trainer(tmp_path, **settings)
    attach(whole, configuration())
    whole.train()
    resumed = make_trainer(tmp_path, **settings)
    attach(resumed, configuration())
    if not by_path:
        for later in ("checkpoint-8", "checkpoint-12"):
            (tmp_path / later).rename(tmp_path / f"later-{later}")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4") if by_path else True)
    ours = ("loss", "corpus_tokens", "layer_tokens", "consumed_samples", "epoch", "step")
    logs = [
        [{name: line[name] for name in ours} for line in one.state.log_history if "loss" in line]
        for one in (whole, resumed)
    ]
    assert len(logs[0]) == 12
    assert logs[0] == logs[1]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert one.equal(other)


def test_a_checkpoint_without_a_position_is_refused(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    make_trainer(tmp_path, **settings).train()
    trainer = make_trainer(tmp_path, **settings)
    attach(trainer, configuration())
    with pytest.raises(ConfigError, match="does not say where the data stand"):
        trainer.train(resume_from_checkpoint=True)


def test_a_checkpoint_whose_data_stand_elsewhere_is_refused(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = make_trainer(tmp_path, **settings)
    attach(trainer, configuration())
    trainer.train()
    file = tmp_path / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["global_step"] = 3
    file.write_text(json.dumps(state))
    trainer = make_trainer(tmp_path, **settings)
    attach(trainer, configuration())
    with pytest.raises(ValueError, match="stand after step 4, and the Trainer after step 3"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_model_made_at_the_start_of_training_is_converted(tmp_path):
    trainer = make_trainer(tmp_path, model=lambda: make_model(), max_steps=2)
    callback = attach(trainer, configuration())
    trainer.train()
    counted = callback.training.counters
    trainer.train()
    assert callback.training.counters == counted
    assert trainer.model.random_ltd_scheduler is callback.training.router


def test_a_custom_schedule_and_a_post_process_of_ones_own(tmp_path):
    config = configuration(dropping=False)
    metric = config["data_efficiency"]["data_sampling"]["curriculum_learning"]
    metric["curriculum_metrics"]["seqlen_truncate"] |= {
        "schedule_type": "custom",
        "schedule_config": {},
    }
    trainer = make_trainer(tmp_path, max_steps=2)
    seen = []

    def post_process(batch, state):
        seen.append(state["current_difficulties"]["seqlen_truncate"])
        return batch

    attach(
        trainer,
        config,
        custom_schedules={"seqlen_truncate": lambda step: 8 * step},
        post_process=post_process,
    )
    trainer.train()
    assert seen == [8, 8, 16, 16]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"restore_callback_states_from_checkpoint": True}, "restore_callback_states"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy is 'group_by_length'",
        ),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        attach(make_trainer(tmp_path, **settings), configuration())


def test_a_trainer_with_an_order_of_its_own_is_refused(tmp_path):
    class Ordered(Trainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(self.train_dataset)

    made = make_trainer(tmp_path)
    trainer = Ordered(made.model, made.args, train_dataset=Rows())
    attach(trainer, configuration())
    with pytest.raises(ConfigError, match="draws its samples by SequentialSampler"):
        trainer.train()


def test_a_trainer_with_batches_of_its_own_is_refused(tmp_path):
    class Doubling(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(DataLoader(Rows(), batch_size=4, shuffle=True))

    made = make_trainer(tmp_path)
    trainer = Doubling(made.model, made.args, train_dataset=Rows())
    attach(trainer, configuration())
    with pytest.raises(ConfigError, match="reads 4 samples at once"):
        trainer.train()


def test_a_file_that_disagrees_is_refused_by_name(tmp_path):
    trainer = make_trainer(tmp_path)
    attach(trainer, configuration(train_batch_size=16, gradient_clipping=0.5))
    with pytest.raises(ConfigError, match=r"train_batch_size is 16 .* 4 for .*max_grad_norm"):
        trainer.train()


def test_more_epochs_than_the_file_allows_are_refused_at_the_start(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=4)
    attach(trainer, configuration())
    with pytest.raises(ConfigError, match="passes 4 times"):
        trainer.train()


def test_attaching_twice_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    attach(trainer, configuration())
    with pytest.raises(ConfigError, match="attach once"):
        attach(trainer, configuration())


def test_a_loader_set_afterwards_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    attach(trainer, configuration())
    own = make_trainer(tmp_path)
    trainer.get_train_dataloader = own.get_train_dataloader
    with pytest.raises(ConfigError, match="attach last"):
        trainer.train()


def test_the_baseline_is_sampled_as_well(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = attach(trainer, {})
    trainer.train()
    assert callback.training.counters.corpus_tokens == 24 * 16
    assert callback.training.sampler.pool_size(1) == NUM_SAMPLES
