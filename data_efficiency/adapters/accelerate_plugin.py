"""Loops with Hugging Face's Accelerate: one line before `accelerator.prepare`.

    loader = attach(accelerator, model, loader, "ds_config.json")

What comes back takes the place of the script's DataLoader. `prepare` lets it pass, since it yields this
process's rows already; `save_state` and `load_state` keep its place.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import send_to_device

from data_efficiency.adapters.host_settings import settings_of_loader
from data_efficiency.adapters.hosted_training import HostedTraining
from data_efficiency.engine.ranks import Ranks
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.sampling.loader import PostProcess

_DATA_PARALLEL = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)


def attach(  # noqa: PLR0913 - a loop's own parts, and what is passed on
    accelerator: Accelerator,
    model: torch.nn.Module,
    loader: Any,
    config: Any,
    *,
    layer_class: type[torch.nn.Module] | None = None,
    interface: LayerInterface | None = None,
    custom_schedules: Mapping[str, Callable[[int], int]] | None = None,
    post_process: PostProcess | None = None,
) -> "CurriculumLoader":
    """A loader that draws by the curriculum in place of a DataLoader, the model's layers dropping tokens.

    Args:
        accelerator: knows processes, device and accumulation; keeps the loader's place in its checkpoints.
        model: what the loop calls, prepared or not.
        loader: the script's DataLoader, not prepared: dataset, batch size, collate function, workers.
        config: the JSON file's path or content, or what is parsed already.
        layer_class, interface: as of `convert_to_random_ltd`, for models that it does not know.
        custom_schedules: as of `CurriculumSampler.set_custom_schedules`.
        post_process: as of `CurriculumDataLoader.set_post_process`.

    Raises:
        TypeError, ConfigError: if accelerator or loader have a setting that this would ignore, or the file
            says otherwise.
    """
    _refuse_settings(accelerator)
    steps = accelerator.gradient_accumulation_steps
    settings = settings_of_loader(loader, "Accelerate", steps)
    training = HostedTraining(
        config,
        loader.dataset,
        settings,
        ranks=Ranks(
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            local_rank=accelerator.local_process_index,
            data_parallel_rank=accelerator.process_index,
            data_parallel_size=accelerator.num_processes,
            device=accelerator.device,
        ),
        collate_fn=loader.collate_fn,
    )
    # Scripts may save or log on the first process alone, where no collective may be.
    training.counts_in_forward = True
    if custom_schedules:
        training.sampler.set_custom_schedules(custom_schedules)
    if post_process is not None:
        training.set_post_process(post_process)
    training.convert(accelerator.unwrap_model(model), layer_class, interface)
    made = CurriculumLoader(accelerator, training)
    accelerator.register_for_checkpointing(made)
    return made


class CurriculumLoader:
    """Yields this process's micro-batches on its device, an iteration a pass; made by `attach`."""

    def __init__(self, accelerator: Accelerator, training: HostedTraining) -> None:
        self._accelerator, self.training = accelerator, training
        self.dataset = training.dataset

    def __len__(self) -> int:
        """Micro-batches of a pass on this process."""
        return len(self.training)

    def __iter__(self) -> Iterator[Any]:
        """Micro-batches from the step after the last finished one to the end of its pass."""
        self._settle()
        for batch in self.training:
            yield send_to_device(batch, self._accelerator.device)
            self._settle()
            self.training.refuse_passed_over()

    def figures(self) -> dict[str, float]:
        """For `accelerator.log` after a step: counts of the run, lengths, pool and difficulties."""
        self._settle()
        return self.training.figures()

    def state_dict(self) -> dict[str, Any]:
        """Counters and position after the last whole step."""
        self._settle()
        return self.training.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved state; the next iteration starts there."""
        self.training.load_state_dict(saved)

    @property
    def epoch(self) -> int:
        """Passes that are finished."""
        return self.training.num_passes

    @property
    def sampler(self) -> NoReturn:
        """Refused: it is asked for by `skip_first_batches`.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "the loader goes on where accelerator.load_state() left it: do not skip_first_batches, iterate "
            "over the loader itself"
        )

    def _settle(self) -> None:
        """Take note of the micro-batch that the loop has just trained on.

        Raises:
            ConfigError: if accelerator and data disagree about where a step ends.
        """
        if not self.training.called_model:
            return
        is_last = self.training.is_last_of_step
        if is_last != self._accelerator.sync_gradients:
            raise ConfigError(
                f"a step of the data has ended: {is_last}, one of the accelerator: "
                f"{self._accelerator.sync_gradients}; train each batch in `with accelerator.accumulate(model)`, and "
                "save between steps"
            )
        self.training.finish_micro_batch()


def _refuse_settings(accelerator: Accelerator) -> None:
    """Raise ConfigError if the accelerator has a setting that the loader would ignore."""
    if accelerator.distributed_type not in _DATA_PARALLEL:
        raise ConfigError(
            f"the accelerator runs on {accelerator.distributed_type.value}: only whole copies of the model are "
            "supported here; for ZeRO and FSDP use data_efficiency.initialize"
        )
    parallelism: Any = getattr(accelerator, "parallelism_config", None)
    shared = {name: getattr(parallelism, f"{name}_size", 1) for name in ("tp", "cp", "sp")}
    if any(size > 1 for size in shared.values()):
        raise ConfigError(
            f"the accelerator's processes share rows ({shared}): only data parallelism is supported"
        )
    for name in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, name):
            raise ConfigError(f"{name} is set, which the curriculum's loader would ignore")
