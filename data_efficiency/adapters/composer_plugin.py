"""MosaicML's Composer: a callback, and the data that it makes of the script's DataLoader.

    efficiency = DataEfficiencyCallback("ds_config.json")
    trainer = Trainer(..., train_dataloader=efficiency.data(loader), callbacks=[efficiency])

Composer splits a batch into micro-batches by a function of the data's own; here a batch is read as the
micro-batches of its step, each cut to its length. The place is in Composer's checkpoints with the callback.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from composer import Callback, DataSpec, Logger, State
from composer.utils import dist

from data_efficiency.adapters.host_settings import settings_of_loader
from data_efficiency.adapters.hosted_training import HostedTraining
from data_efficiency.config import load_config
from data_efficiency.engine.ranks import Ranks
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.sampling.loader import PostProcess
from data_efficiency.token_names import rows_and_length


class DataEfficiencyCallback(Callback):
    """Lets a ComposerModel train by the curriculum, its layers dropping tokens.

    Args:
        config: the JSON file's path or content, or what is parsed already.
        layer_class, interface: as of `convert_to_random_ltd`, for models that it does not know.
        custom_schedules: as of `CurriculumSampler.set_custom_schedules`.
        post_process: as of `CurriculumDataLoader.set_post_process`.
    """

    def __init__(
        self,
        config: Any,
        *,
        layer_class: type[torch.nn.Module] | None = None,
        interface: LayerInterface | None = None,
        custom_schedules: Mapping[str, Callable[[int], int]] | None = None,
        post_process: PostProcess | None = None,
    ) -> None:
        self._config = load_config(config)
        self._layer_class, self._interface = layer_class, interface
        self._custom_schedules, self._post_process = custom_schedules, post_process
        self._loader: CurriculumLoader | None = None

    @property
    def training(self) -> HostedTraining:
        """Data, positions and counters; made with the trainer.

        Raises:
            ConfigError: if the trainer was given other data.
        """
        return self._own_loader().training

    def data(self, loader: Any) -> DataSpec:
        """What the trainer is given as `train_dataloader`: the DataLoader's dataset and settings, our order.

        Args:
            loader: a plain DataLoader of the batches of one process, without a distributed sampler.

        Raises:
            TypeError, ConfigError: if the DataLoader has something that would be ignored.
        """
        self._loader = CurriculumLoader(loader)
        return DataSpec(
            self._loader,
            num_samples=len(loader.dataset),
            split_batch=lambda step, _: step.micro_batches,
            get_num_samples_in_batch=self._num_samples,
            get_num_tokens_in_batch=_num_tokens,
        )

    def init(self, state: State, logger: Logger) -> None:
        """Make the data, and convert the model, before the trainer wraps it.

        Raises:
            ConfigError: if the trainer has a setting that this would ignore, or the file says otherwise.
        """
        own = self._own_loader()
        _refuse_settings(state)
        source = own.source
        micro_batch_size = state.device_train_microbatch_size or source.batch_size
        if source.batch_size % micro_batch_size:
            raise ConfigError(
                f"the DataLoader's batch_size is {source.batch_size}, no multiple of "
                f"device_train_microbatch_size ({micro_batch_size})"
            )
        settings = replace(
            settings_of_loader(source, "Composer", source.batch_size // micro_batch_size),
            train_micro_batch_size_per_gpu=micro_batch_size,
            names={"train_micro_batch_size_per_gpu": "device_train_microbatch_size"},
        )
        training = HostedTraining(
            self._config,
            source.dataset,
            settings,
            ranks=Ranks(
                rank=dist.get_global_rank(),
                world=dist.get_world_size(),
                local_rank=dist.get_local_rank(),
                data_parallel_rank=dist.get_global_rank(),
                data_parallel_size=dist.get_world_size(),
                device=next(state.model.parameters()).device,
            ),
            collate_fn=source.collate_fn,
        )
        if self._custom_schedules:
            training.sampler.set_custom_schedules(self._custom_schedules)
        if self._post_process is not None:
            training.set_post_process(self._post_process)
        training.convert(state.model, self._layer_class, self._interface)
        own.begin(training)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Raise ConfigError unless Composer and the data stand at the same step of the same data."""
        own = self._own_loader()
        if state.train_dataloader is not own:
            raise ConfigError(
                "Composer trains on other data: give the trainer what this callback's data() returned"
            )
        if state.dataloader_len is None or int(state.dataloader_len) != len(own):
            raise ConfigError(
                f"train_subset_num_batches is {state.dataloader_len}: an epoch is one pass of {len(own)} "
                "batches; use max_duration"
            )
        self._compare_steps(state)
        # Nothing is to be read only to be thrown away: the loader begins at the first new batch.
        state.dataset_resumption["train"] = True
        own.pass_is_over = int(state.timestamp.batch_in_epoch) == len(own)

    def after_backward(self, state: State, logger: Logger) -> None:
        """Take note that a micro-batch is done."""
        self.training.finish_micro_batch()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the figures of the step."""
        self._compare_steps(state)
        logger.log_metrics(self.training.figures())

    def state_dict(self) -> dict[str, Any]:
        """Counters and position after the last finished step."""
        return self.training.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved state; the next iteration starts there."""
        self.training.load_state_dict(state)

    def _compare_steps(self, state: State) -> None:
        done = int(state.timestamp.batch)
        if self.training.counters.steps != done:
            raise ConfigError(
                f"Composer has done {done} batches, and its data are those of {self.training.counters.steps}: go "
                "on from a checkpoint of a run with this callback"
            )

    def _num_samples(self, batch: Any) -> int:
        size = self.training.settings.train_micro_batch_size_per_gpu
        return size * len(batch.micro_batches) if isinstance(batch, Step) else size

    def _own_loader(self) -> "CurriculumLoader":
        if self._loader is None:
            raise ConfigError(
                "there are no data: give the trainer what this callback's data(...) makes of your DataLoader"
            )
        return self._loader


class Step:
    """A batch of Composer: the micro-batches of this process's step."""

    def __init__(self, micro_batches: list[Any]) -> None:
        self.micro_batches = micro_batches


class CurriculumLoader:
    """Yields this process's steps, an iteration a pass; made by `DataEfficiencyCallback.data`."""

    def __init__(self, source: Any) -> None:
        settings_of_loader(source, "Composer", 1)
        self.source = source
        """The script's DataLoader."""
        self.batch_size = source.batch_size
        self.pass_is_over = False
        """Whether Composer stands behind the last batch of an epoch that it has not ended yet."""
        self._training: HostedTraining | None = None

    @property
    def training(self) -> HostedTraining:
        """What is read from.

        Raises:
            ConfigError: if the callback is not among the trainer's.
        """
        if self._training is None:
            raise ConfigError(
                "the data's callback is not the trainer's: give it to Trainer(callbacks=[...])"
            )
        return self._training

    def begin(self, training: HostedTraining) -> None:
        """Read from a new training's data."""
        self._training = training

    def __len__(self) -> int:
        """Steps of a pass."""
        return self.training.sampler.steps_per_pass

    def __iter__(self) -> Iterator[Step]:
        """Steps from the one after the last finished one to the end of its pass."""
        if self.pass_is_over:
            self.pass_is_over = False
            return
        step: list[Any] = []
        for micro_batch in self.training:
            step.append(micro_batch)
            if len(step) == self.training.settings.gradient_accumulation_steps:
                yield Step(step)
                step = []


def _num_tokens(batch: Any) -> int:
    """Positions of a step or of a micro-batch, as far as names tell."""
    parts = batch.micro_batches if isinstance(batch, Step) else [batch]
    return sum(rows * length for rows, length in (rows_and_length((one,), {}) for one in parts))


def _refuse_settings(state: State) -> None:
    """Raise ConfigError if the trainer has a setting that this callback would ignore."""
    reasons = {
        "device_train_microbatch_size is 'auto', and another size is another run": (
            state.auto_microbatching
        ),
        "FSDP or tensor parallelism splits the model: only whole copies are supported here; use "
        "data_efficiency.initialize": bool(state.fsdp_config or state.tp_config),
        "several optimizers step": len(state.optimizers) > 1,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(f"Composer's Trainer cannot be attached to: {reason}")
