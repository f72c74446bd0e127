"""Lightning's Trainer: a callback, and the loader that it makes of the script's DataLoader.

    efficiency = DataEfficiencyCallback("ds_config.json")
    trainer = Trainer(..., callbacks=[efficiency])
    trainer.fit(module, efficiency.loader(loader), ckpt_path=...)

An epoch is one pass; the place travels in Lightning's checkpoints with the loader, and the figures of each
logged step go to the trainer's loggers.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.model_helpers import is_overridden

from data_efficiency.adapters.host_settings import settings_of_loader
from data_efficiency.adapters.hosted_training import HostedTraining
from data_efficiency.config import load_config
from data_efficiency.engine.ranks import Ranks
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.sampling.loader import PostProcess


class DataEfficiencyCallback(Callback):
    """Lets a module train by the curriculum, its layers dropping tokens.

    Args:
        config: the JSON file's path or content, or what is parsed already.
        model: module -> what its `training_step` calls; None: its only child with weights.
        layer_class, interface: as of `convert_to_random_ltd`, for models that it does not know.
        custom_schedules: as of `CurriculumSampler.set_custom_schedules`.
        post_process: as of `CurriculumDataLoader.set_post_process`.
    """

    def __init__(
        self,
        config: Any,
        *,
        model: Callable[[LightningModule], torch.nn.Module] | None = None,
        layer_class: type[torch.nn.Module] | None = None,
        interface: LayerInterface | None = None,
        custom_schedules: Mapping[str, Callable[[int], int]] | None = None,
        post_process: PostProcess | None = None,
    ) -> None:
        self._config = load_config(config)
        self._model = model or _only_child
        self._layer_class, self._interface = layer_class, interface
        self._custom_schedules, self._post_process = custom_schedules, post_process
        self._loader: CurriculumLoader | None = None

    @property
    def training(self) -> HostedTraining:
        """Data, positions and counters; made when fitting begins.

        Raises:
            ConfigError: if the trainer was given another loader.
        """
        return self._own_loader().training

    def loader(self, loader: Any) -> "CurriculumLoader":
        """What `fit` is given in place of a DataLoader: its dataset and settings, our order.

        Raises:
            TypeError, ConfigError: if the DataLoader has something that would be ignored.
        """
        self._loader = CurriculumLoader(loader)
        return self._loader

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the data of a fit, and convert the model.

        Raises:
            ConfigError: if the trainer has a setting that this would ignore, or the file says otherwise.
        """
        if stage != "fit":
            return
        _refuse_settings(trainer, pl_module)
        own = self._own_loader()
        loader, accumulation = own.source, trainer.accumulate_grad_batches
        training = HostedTraining(
            self._config,
            loader.dataset,
            settings_of_loader(
                loader, "Lightning", accumulation, gradient_clipping=_clipping(trainer, pl_module)
            ),
            ranks=Ranks(
                rank=trainer.global_rank,
                world=trainer.world_size,
                local_rank=trainer.local_rank,
                data_parallel_rank=trainer.global_rank,
                data_parallel_size=trainer.world_size,
                device=trainer.strategy.root_device,
            ),
            collate_fn=loader.collate_fn,
        )
        if self._custom_schedules:
            training.sampler.set_custom_schedules(self._custom_schedules)
        if self._post_process is not None:
            training.set_post_process(self._post_process)
        training.convert(self._model(pl_module), self._layer_class, self._interface)
        own.begin(training)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise ConfigError unless Lightning and the data stand at the same step of one run."""
        if trainer.train_dataloader is not self._loader:
            raise ConfigError(
                "Lightning trains on another loader: give fit() what this callback's loader() returned"
            )
        self._compare_steps(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take note that a micro-batch is done, and log the figures of a step that is due."""
        if not self.training.finish_micro_batch():
            return
        self._compare_steps(trainer)
        host: Any = trainer
        every = host.log_every_n_steps
        if every and trainer.global_step % every == 0:
            for logger in trainer.loggers:
                logger.log_metrics(self.training.figures(), step=trainer.global_step - 1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Follow the model no longer."""
        if stage == "fit" and self._loader is not None and self._loader.has_begun:
            self.training.leave_model()

    def _compare_steps(self, trainer: Trainer) -> None:
        if self.training.counters.steps != trainer.global_step:
            raise ConfigError(
                f"Lightning has done {trainer.global_step} steps, and its data are those of "
                f"{self.training.counters.steps}: go on from a checkpoint of a run with this callback, and keep "
                "accumulate_grad_batches"
            )

    def _own_loader(self) -> "CurriculumLoader":
        if self._loader is None:
            raise ConfigError(
                "there is no loader: give fit() what this callback's loader(...) makes of your DataLoader"
            )
        return self._loader


class CurriculumLoader:
    """Yields this process's micro-batches, an iteration a pass; made by `DataEfficiencyCallback.loader`."""

    def __init__(self, source: Any) -> None:
        settings_of_loader(source, "Lightning", 1)
        self.source = source
        """The script's DataLoader."""
        self._training: HostedTraining | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a fit has begun."""
        return self._training is not None

    @property
    def training(self) -> HostedTraining:
        """What is read from.

        Raises:
            ConfigError: if the callback is not among the trainer's.
        """
        if self._training is None:
            raise ConfigError(
                "the loader's callback is not the trainer's: give it to Trainer(callbacks=[...])"
            )
        return self._training

    def begin(self, training: HostedTraining) -> None:
        """Read from a new fit's data."""
        self._training = training

    def __len__(self) -> int:
        """Micro-batches of a pass on this process."""
        return len(self.training)

    def __iter__(self) -> Iterator[Any]:
        """Micro-batches from the step after the last finished one to the end of its pass."""
        return iter(self.training)

    def state_dict(self) -> dict[str, Any]:
        """Counters and position after the last finished step."""
        return self.training.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved state; the next iteration starts there."""
        self.training.load_state_dict(saved)


def _only_child(module: LightningModule) -> torch.nn.Module:
    """The one child of a module that has weights and can be called.

    Raises:
        ConfigError: if there are several, or none.
    """
    lists = torch.nn.ModuleList | torch.nn.ModuleDict
    children = {
        name: child
        for name, child in module.named_children()
        if not isinstance(child, lists) and next(child.parameters(), None) is not None
    }
    if len(children) != 1:
        raise ConfigError(
            f"{type(module).__name__} has {sorted(children) or 'no'} parts with weights: say which one its "
            "training_step calls, as in DataEfficiencyCallback(config, model=lambda module: module.net)"
        )
    return next(iter(children.values()))


def _clipping(trainer: Any, module: LightningModule) -> float | None:
    """The largest norm of the whole gradient, 0 where nobody clips by it; None where the module clips by itself."""
    if is_overridden("configure_gradient_clipping", module):
        return None
    by_value = trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
    return 0.0 if by_value else float(trainer.gradient_clip_val or 0.0)


def _refuse_settings(trainer: Any, module: LightningModule) -> None:
    """Raise ConfigError if the trainer has a setting that this callback would ignore."""
    limited = trainer.limit_train_batches not in (1.0, None) and not trainer.fast_dev_run
    reasons = {
        f"overfit_batches is {trainer.overfit_batches}: it reads other data": (
            bool(trainer.overfit_batches)
        ),
        f"its strategy is {type(trainer.strategy).__name__}: only whole copies of the model are supported "
        "here; for ZeRO and FSDP use data_efficiency.initialize": (
            type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy)
        ),
        "the module has automatic_optimization switched off: where a step ends is not known": (
            not module.automatic_optimization
        ),
        f"limit_train_batches is {trainer.limit_train_batches}: an epoch is one pass; use max_steps": (
            limited
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(f"Lightning's Trainer cannot be attached to: {reason}")
