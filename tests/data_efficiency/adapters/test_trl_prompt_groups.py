import pytest
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from data_efficiency.adapters.trl_prompt_groups import attach
from data_efficiency.config import Curriculum, DataEfficiencyConfig
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sampler import CurriculumSampler
from tests.data_efficiency.adapters.small_run import (
    NUM_SAMPLES,
    Rows,
    configuration,
    make_model,
)

pytestmark = pytest.mark.filterwarnings("ignore")

PLAIN = configuration(length=False, dropping=False)


class Prompts(GRPOTrainer):
    """A trainer with its own reward, which writes down the prompts of each generation."""

    def __init__(self, folder, **settings):
        self.seen = []
        words = {f"w{number}": number for number in range(NUM_SAMPLES - 1)}
        words["<end>"] = NUM_SAMPLES - 1
        tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
        defaults = {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "num_generations": 2,
            "max_completion_length": 2,
            "num_train_epochs": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "bf16": False,
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
        }
        super().__init__(
            GPT2LMHeadModel(make_model().config),
            self.reward,
            args=GRPOConfig(str(folder), **defaults | settings),
            train_dataset=Dataset.from_dict({"prompt": [f"w{n % 21}" for n in range(NUM_SAMPLES)]}),
            processing_class=PreTrainedTokenizerFast(
                tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
            ),
        )

    def reward(self, prompts, completions, **others):
        self.seen.append([int(prompt[1:]) for prompt in prompts])
        return [float(len(completion)) for completion in completions]


def rounds(num_passes):
    """The prompts of each round that our sampler draws, each as often as it is generated from."""
    sampler = CurriculumSampler(Rows(), micro_batch_size=2)
    drawn = [sampler.next_global_batch().samples.tolist() for _ in range(num_passes * 11)]
    return [[prompt % 21 for prompt in prompts for _ in range(2)] for prompts in drawn]


def test_a_round_is_a_step_of_the_curriculum_and_an_epoch_a_pass(tmp_path):
    trainer = Prompts(tmp_path)
    groups = attach(trainer, PLAIN)
    trainer.train()
    assert trainer.state.global_step == 22
    assert trainer.seen == rounds(2)
    assert len(groups) == 11 * 2 * 2 * 2
    steps = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["consumed_samples"] for line in steps] == list(range(2, 46, 2))
    assert {line["pool_size"] for line in steps} == {NUM_SAMPLES}


def test_generations_that_are_used_longer_are_drawn_less_often(tmp_path):
    trainer = Prompts(tmp_path, num_train_epochs=1, num_iterations=2)
    attach(trainer, PLAIN)
    trainer.train()
    assert trainer.seen == rounds(1)
    steps = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["consumed_samples"] for line in steps][:6] == [2, 2, 4, 4, 6, 6]


@pytest.mark.parametrize("step", [5, 11, 14])
def test_a_resume_goes_on_with_the_prompts(tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 17}
    trainer = Prompts(tmp_path, **settings)
    attach(trainer, PLAIN)
    trainer.train()
    resumed = Prompts(tmp_path, **settings)
    attach(resumed, PLAIN)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert trainer.seen == rounds(2)[:17]
    assert resumed.seen == rounds(2)[step:17]


def test_more_passes_than_the_file_allows_are_refused(tmp_path):
    trainer = Prompts(tmp_path, max_steps=40)
    attach(trainer, PLAIN)
    with pytest.raises(ConfigError, match="pass 4 through the prompts .* is 3"):
        trainer.train()


def test_what_cannot_be_attached_to_is_refused(tmp_path):
    plain = Trainer(make_model(), TrainingArguments(str(tmp_path)), train_dataset=Rows())
    with pytest.raises(ConfigError, match="not by RepeatSampler"):
        attach(plain, PLAIN)
    with pytest.raises(TypeError, match="is no transformers.Trainer"):
        attach(make_model(), PLAIN)
    trainer = Prompts(tmp_path)
    with pytest.raises(ConfigError, match="random_ltd change what a forward sees"):
        attach(trainer, configuration(length=False))
    with pytest.raises(ConfigError, match="ignore_data_skip"):
        attach(Prompts(tmp_path, ignore_data_skip=True), PLAIN)
    attach(trainer, PLAIN)
    with pytest.raises(ConfigError, match="by PromptGroups, not by RepeatSampler: .* once"):
        attach(trainer, PLAIN)


def test_a_configuration_in_python_and_a_custom_schedule(tmp_path):
    trainer = Prompts(tmp_path)
    with pytest.raises(ConfigError, match="seqlen_truncate change"):
        attach(trainer, DataEfficiencyConfig.of(Curriculum("seqlen", start=8, steps=4)))
    with pytest.raises(ValueError, match="no metric with schedule_type custom"):
        attach(trainer, DataEfficiencyConfig.of(), custom_schedules={"other": lambda step: step})
