"""trl's trainers that draw each prompt several times, such as GRPOTrainer: one line before `train()`.

    attach(trainer, "ds_config.json")

The prompts of each round of generation are drawn by the curriculum, whose steps are these rounds; how often a
prompt is repeated and who gets it stays the trainer's. On a resume the Trainer passes over the prompts drawn
before, by their numbers alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import RepeatSampler

from data_efficiency.adapters.stateful_sampler import refuse_more_than_samples
from data_efficiency.config import load_config
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.sampler_state import SamplerState


def attach(
    trainer: Any,
    config: Any,
    *,
    custom_schedules: Mapping[str, Callable[[int], int]] | None = None,
) -> "PromptGroups":
    """Let a trainer draw its prompts by the curriculum.

    Takes the place of the trainer's training sampler and of its `log`, and adds a callback.

    Args:
        trainer: one whose prompts are drawn by trl's RepeatSampler, made and not yet training.
        config: the JSON file's path or content, or what is parsed already.
        custom_schedules: as of `CurriculumSampler.set_custom_schedules`.

    Raises:
        TypeError: if it is no Trainer.
        ConfigError: if it draws otherwise, has a setting that this would ignore, or was attached to; or if
            the file switches on more than a choice of samples.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"a {type(trainer).__name__} is no transformers.Trainer")
    host: Any = trainer
    own = host._get_train_sampler()
    if not isinstance(own, RepeatSampler):
        raise ConfigError(
            f"the trainer draws its prompts by {type(own).__name__}, not by RepeatSampler: attach it by "
            "adapters.huggingface_trainer, and once"
        )
    if host.args.ignore_data_skip:
        raise ConfigError(
            "ignore_data_skip is set: on a resume the Trainer would draw the first prompts again"
        )
    groups = PromptGroups(host, load_config(config), own, custom_schedules or {})
    host._get_train_sampler = lambda dataset=None: groups
    log = host.log

    def log_with_figures(logs: dict[str, float], start_time: float | None = None) -> None:
        log(logs | groups.figures(host.state) if "loss" in logs else logs, start_time)

    host.log = log_with_figures
    host.add_callback(_BeginPass(groups))
    return groups


class PromptGroups(Sampler[int]):
    """Yields the numbers of one pass as RepeatSampler does, the prompts of a round drawn by the curriculum."""

    def __init__(
        self,
        trainer: Any,
        config: Any,
        own: RepeatSampler,
        custom_schedules: Mapping[str, Callable[[int], int]],
    ) -> None:
        settings = config.data_efficiency
        refuse_more_than_samples(settings)
        self._args, self._num_epochs = trainer.args, settings.num_epochs
        self.sampler = CurriculumSampler(
            trainer.train_dataset, settings, micro_batch_size=own.batch_size, drop_last=True
        )
        """Of the rounds: its steps are theirs, its samples their different prompts."""
        if custom_schedules:
            self.sampler.set_custom_schedules(custom_schedules)
        if not self.sampler.steps_per_pass:
            raise ConfigError(
                f"{len(trainer.train_dataset)} prompts are fewer than those of a round ({own.batch_size})"
            )
        self._num_rounds, self._repeats, self._copies = (
            self.sampler.steps_per_pass,
            own.repeat_count,
            own.mini_repeat_count,
        )
        self._pass_number = 0

    def begin_pass(self, number: int) -> None:
        """Say which pass, from 0, the next iteration is.

        Raises:
            ConfigError: if the file does not allow so many.
        """
        if number >= self._num_epochs:
            raise ConfigError(
                f"pass {number + 1} through the prompts begins, and num_epochs of data_efficiency.data_sampling "
                f"is {self._num_epochs}: raise it, or train shorter"
            )
        self._pass_number = number

    def __len__(self) -> int:
        """Numbers of a pass, repetitions among them."""
        return self._num_rounds * self.sampler.micro_batch_size * self._repeats * self._copies

    def __iter__(self) -> Iterator[int]:
        """The numbers of the pass."""
        self.sampler.state = SamplerState()
        for _ in range(self._pass_number * self._num_rounds):
            self.sampler.next_global_batch()
        for _ in range(self._num_rounds):
            prompts = self.sampler.next_global_batch().samples.tolist()
            for _ in range(self._repeats):
                for prompt in prompts:
                    yield from [prompt] * self._copies

    def figures(self, state: TrainerState) -> dict[str, float]:
        """What the log tells after a step: prompts drawn so far, pool and difficulties of the last round."""
        batches_in_pass = self._num_rounds * self._repeats
        accumulation = self._args.gradient_accumulation_steps
        steps_in_pass = -(-batches_in_pass // accumulation)
        num_passes, steps = divmod(state.global_step - 1, steps_in_pass)
        batches = min((steps + 1) * accumulation, batches_in_pass)
        number = num_passes * self._num_rounds + -(-batches // self._repeats)
        difficulties = self.sampler.difficulties(number)
        return {
            "consumed_samples": number * self.sampler.micro_batch_size,
            "pool_size": self.sampler.pool_size(number),
            **{f"difficulty/{name}": value for name, value in difficulties.items()},
        }


class _BeginPass(TrainerCallback):
    """Tells the groups which pass begins, resumed or not."""

    def __init__(self, groups: PromptGroups) -> None:
        self._groups = groups

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._groups.begin_pass(int(state.epoch or 0))
