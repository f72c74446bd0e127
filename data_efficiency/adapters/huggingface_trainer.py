"""Hugging Face's Trainer, and those made of it such as trl's SFTTrainer: one line before `train()`.

    attach(trainer, "ds_config.json")

The data are read by us, everything else stays the Trainer's: an epoch is one pass, the position travels in
`trainer_state.json`, and what was counted stands in each line of the Trainer's log.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch.utils.data import RandomSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from data_efficiency.adapters.host_settings import HostSettings
from data_efficiency.adapters.hosted_training import HostedTraining
from data_efficiency.config import load_config
from data_efficiency.engine.ranks import Ranks
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.sampling.loader import PostProcess

_NAMES = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "num_workers": "dataloader_num_workers",
    "pin_memory": "dataloader_pin_memory",
    "gradient_clipping": "max_grad_norm",
}


def attach(
    trainer: Any,
    config: Any,
    *,
    layer_class: type[torch.nn.Module] | None = None,
    interface: LayerInterface | None = None,
    custom_schedules: Mapping[str, Callable[[int], int]] | None = None,
    post_process: PostProcess | None = None,
) -> "DataEfficiencyCallback":
    """Let a Trainer read its training data by the curriculum, and its model drop tokens.

    Takes the place of the trainer's `get_train_dataloader` and `log`, adds a callback, and sets
    `ignore_data_skip`: nothing is read only to be thrown away. The callback is returned.

    Args:
        trainer: a `transformers.Trainer`, made and not yet training.
        config: the JSON file's path or content, or what is parsed already.
        layer_class, interface: as of `convert_to_random_ltd`, for models that it does not know.
        custom_schedules: as of `CurriculumSampler.set_custom_schedules`.
        post_process: as of `CurriculumDataLoader.set_post_process`.

    Raises:
        TypeError: if it is no Trainer.
        ConfigError: if the trainer has a setting that this would ignore, or has been attached to.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"a {type(trainer).__name__} is no transformers.Trainer")
    host: Any = trainer
    if any(isinstance(one, DataEfficiencyCallback) for one in host.callback_handler.callbacks):
        raise ConfigError("the Trainer has been attached to already: attach once")
    _refuse_settings(host)
    callback = DataEfficiencyCallback(
        host, config, layer_class, interface, dict(custom_schedules or {}), post_process
    )
    host.args.ignore_data_skip = True
    host.get_train_dataloader = callback.make_loader
    host.log = callback.log
    host.add_callback(callback)
    return callback


class DataEfficiencyCallback(TrainerCallback, ExportableState):
    """Follows a Trainer's steps; made by `attach`."""

    def __init__(
        self,
        trainer: Any,
        config: Any,
        layer_class: type[torch.nn.Module] | None,
        interface: LayerInterface | None,
        custom_schedules: Mapping[str, Callable[[int], int]],
        post_process: PostProcess | None,
    ) -> None:
        self._trainer, self._config = trainer, load_config(config)
        self._layer_class, self._interface = layer_class, interface
        self._custom_schedules, self._post_process = custom_schedules, post_process
        self._get_own_loader, self._log = trainer.get_train_dataloader, trainer.log
        self.training: HostedTraining | None = None
        """Data, positions and counters; made when training begins."""

    def make_loader(self) -> HostedTraining:
        """What the Trainer iterates over: an epoch is one pass."""
        trainer, args = self._trainer, self._trainer.args
        _refuse_settings(trainer)
        # The Trainer's own loader knows which columns the model takes and how they are collated.
        own = self._get_own_loader()
        _refuse_loader(own, args)
        if self.training is not None:
            self.training.leave_model()
        self.training = HostedTraining(
            self._config,
            trainer.train_dataset,
            HostSettings(
                host="the Trainer",
                train_micro_batch_size_per_gpu=args.per_device_train_batch_size,
                gradient_accumulation_steps=args.gradient_accumulation_steps,
                dataloader_drop_last=args.dataloader_drop_last,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
                gradient_clipping=args.max_grad_norm,
                names=_NAMES,
            ),
            ranks=Ranks(
                rank=args.process_index,
                world=args.world_size,
                local_rank=args.local_process_index,
                data_parallel_rank=args.process_index,
                data_parallel_size=args.world_size,
                device=args.device,
            ),
            collate_fn=own.collate_fn,
            items=own.dataset,
        )
        if self._custom_schedules:
            self.training.sampler.set_custom_schedules(self._custom_schedules)
        if self._post_process is not None:
            self.training.set_post_process(self._post_process)
        self.training.refuse_passes(
            math.ceil(args.max_steps / self.training.sampler.steps_per_pass)
            if args.max_steps > 0
            else math.ceil(args.num_train_epochs)
        )
        self.training.convert(trainer.model, self._layer_class, self._interface)
        return self.training

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's own `log`, with our figures beside a training loss."""
        if self.training is not None and "loss" in logs:
            logs = logs | self.training.figures()
        self._log(logs, start_time)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go to where the checkpoint stands, if the Trainer has loaded one."""
        training = self._running()
        if not state.global_step:
            return
        kept: Any = state.stateful_callbacks or {}
        saved = kept.get(type(self).__name__)
        if saved is None:
            raise ConfigError(
                f"the checkpoint after step {state.global_step} does not say where the data stand: it was "
                "saved without this adapter; start afresh, or train on without it"
            )
        training.load_state_dict(saved["attributes"], state.global_step)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take note that a micro-batch, but not its step, is done."""
        self._running().finish_micro_batch()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take note that a step is done.

        Raises:
            ConfigError: if the Trainer has counted another number of steps.
        """
        training = self._running()
        training.finish_micro_batch()
        if training.counters.steps != state.global_step:
            raise ConfigError(
                f"the Trainer has done {state.global_step} steps, and its data are those of "
                f"{training.counters.steps}: something else steps or resumes beside this adapter"
            )
        # The Trainer counts its epoch's micro-batches from where this process began.
        state.epoch = state.global_step / training.sampler.steps_per_pass

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Follow the model no longer, which others may train from here on."""
        self._running().leave_model()

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps of us in its checkpoints, plain JSON data."""
        return {
            "args": {},
            "attributes": {} if self.training is None else self.training.state_dict(),
        }

    def _running(self) -> HostedTraining:
        """The present training.

        Raises:
            ConfigError: if the Trainer reads its data elsewhere.
        """
        if self.training is None:
            raise ConfigError(
                "the Trainer's get_train_dataloader was replaced after attach(): attach last"
            )
        return self.training


def _refuse_settings(trainer: Any) -> None:
    """Raise ConfigError if the Trainer has a setting that this adapter would ignore."""
    args = trainer.args
    shared = {name: getattr(trainer, f"get_{name}_size")() for name in ("tp", "cp", "sp")}
    order = getattr(args, "train_sampling_strategy", "random")
    reasons = {
        f"train_sampling_strategy is {order!r}, and the curriculum orders the samples": (
            order != "random"
        ),
        "auto_find_batch_size is set, and another batch size is another run": (
            args.auto_find_batch_size
        ),
        "restore_callback_states_from_checkpoint is set, which makes callbacks anew that have no trainer": (
            args.restore_callback_states_from_checkpoint
        ),
        f"n_gpu is {args.n_gpu}: one process has several GPUs (nn.DataParallel); start one a GPU": (
            args.n_gpu > 1
        ),
        f"the processes share rows ({shared}): only data parallelism is supported": any(
            size > 1 for size in shared.values()
        ),
        "DeepSpeed or FSDP splits its model: only whole copies are supported here; use "
        "data_efficiency.initialize": trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled,
        "split_batches is set: per_device_train_batch_size would be that of all": (
            args.accelerator_config.split_batches
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(f"the Trainer cannot be attached to: {reason}")


def _refuse_loader(own: Any, args: TrainingArguments) -> None:
    """Raise ConfigError if the Trainer reads its data in an order or in batches that it needs."""
    if type(own) is DataLoaderDispatcher:
        raise ConfigError(
            "the Trainer reads on one process for all (dispatch_batches, or a dataset without length): give "
            "a dataset with __len__ and __getitem__, and leave dispatch_batches off"
        )
    sampler: Any = own.get_sampler()
    if not isinstance(sampler, RandomSampler):
        raise ConfigError(
            f"the Trainer draws its samples by {type(sampler).__name__}, which the curriculum would replace: "
            "trainers that need an order of their own, such as trl's GRPOTrainer, cannot be attached to"
        )
    size, expected = own.total_batch_size, args.per_device_train_batch_size * args.world_size
    if size != expected:
        raise ConfigError(
            f"the Trainer reads {size} samples at once, not per_device_train_batch_size x processes "
            f"({expected}): it needs batches of its own and cannot be attached to"
        )
