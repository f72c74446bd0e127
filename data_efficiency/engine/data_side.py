"""What both engines add to a training engine: our loader, our setters, where a forward stands."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from data_efficiency.config import Config, DataEfficiencyConfig
from data_efficiency.engine.processes import Processes
from data_efficiency.sampling.loader import CurriculumDataLoader, PostProcess
from data_efficiency.sampling.sampler import CurriculumSampler

Collate = Callable[[list[Any]], Any]


class TokenRouter(Protocol):
    """What an engine asks of a token router."""

    def set_position(self, step: int, first_row: int, num_samples: int | None = None) -> None:
        """Says which step, and which sample of the global batch, the next forward starts at."""


class DataSide:
    """Methods of an engine that has `global_steps`, `micro_steps` and a `module`."""

    json_config: Config
    """The whole JSON file, parsed."""
    training_dataloader: CurriculumDataLoader | None
    random_ltd_scheduler: TokenRouter | None
    module: torch.nn.Module
    optimizer: Any
    lr_scheduler: Any
    global_steps: int
    micro_steps: int
    _rank: int
    _micro_batch_size: int
    _accumulation: int

    @property
    def data_efficiency_config(self) -> DataEfficiencyConfig:
        """Our section of the JSON file, parsed."""
        return self.json_config.data_efficiency

    def random_ltd_enabled(self) -> bool:
        """Whether the JSON switches token dropping on."""
        return self.data_efficiency_config.random_ltd is not None

    def curriculum_learning_enabled(self) -> bool:
        """Whether the JSON switches curriculum sampling on."""
        return bool(self.data_efficiency_config.schedules)

    def set_data_post_process_func(self, function: PostProcess) -> None:
        """As `CurriculumDataLoader.set_post_process`.

        Raises:
            ValueError: if `initialize` was given no training data.
        """
        self._loader().set_post_process(function)

    def set_custom_curriculum_learning_schedule(
        self, functions: Mapping[str, Callable[[int], int]]
    ) -> None:
        """As `CurriculumSampler.set_custom_schedules`.

        Raises:
            ValueError: if `initialize` was given no training data.
        """
        self._loader().sampler.set_custom_schedules(functions)

    def progress_state(self) -> dict[str, Any]:
        """Steps done, the loader's place and the learning-rate scheduler, as plain JSON data.

        Raises:
            ValueError: between the micro-batches of a step, where no state is whole.
        """
        if self.micro_steps % self._accumulation:
            raise ValueError("the state is whole only between steps, not between micro-batches")
        loader = self.training_dataloader
        return {
            "global_steps": self.global_steps,
            "loader": None if loader is None else loader.state_dict(),
            "lr_scheduler": self._scheduler_state(),
        }

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """Goes to a saved place; the accumulation and the number of processes may have changed."""
        self.global_steps = int(saved["global_steps"])
        self.micro_steps = self.global_steps * self._accumulation
        if self.training_dataloader is not None and saved["loader"] is not None:
            self.training_dataloader.load_state_dict(saved["loader"])
        scheduler = saved["lr_scheduler"]
        if self.lr_scheduler is not None and scheduler is not None:
            self.lr_scheduler.load_state_dict(scheduler["state"])
            for group, rate in zip(self.optimizer.param_groups, scheduler["rates"], strict=True):
                group["lr"] = rate

    def _scheduler_state(self) -> dict[str, Any] | None:
        """The scheduler's own state, and the rates that its next step starts from."""
        if not hasattr(self.lr_scheduler, "state_dict"):
            return None
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return {"state": self.lr_scheduler.state_dict(), "rates": rates}

    def _check_fit(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing, if names and shapes of weights are those of the module.

        Raises:
            ValueError: naming the first that is not.
        """
        own = {
            # Where ZeRO keeps parts, `ds_shape` is the whole's shape.
            name: tuple(getattr(tensor, "ds_shape", tensor.shape))
            for name, tensor in self.module.state_dict(keep_vars=True).items()
        }
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        wrong = [name for name in sorted({*own, *given}) if own.get(name) != given.get(name)]
        if wrong:
            raise ValueError(
                f"the weights are of another model: {wrong[0]} has shape {given.get(wrong[0])}, "
                f"here {own.get(wrong[0])}"
            )

    def _place_forward(self) -> None:
        """Tells token dropping where the coming micro-batch stands in the global batch."""
        if self.random_ltd_scheduler is None:
            return
        number = self._rank * self._accumulation + self.micro_steps % self._accumulation
        rows = self._micro_batch_size
        self.random_ltd_scheduler.set_position(self.global_steps, number * rows, num_samples=rows)

    def _loader(self) -> CurriculumDataLoader:
        if self.training_dataloader is None:
            raise ValueError("no training loader: give training_data to initialize")
        return self.training_dataloader


def make_loader(
    dataset: Any, config: Config, processes: Processes, collate_fn: Collate | None
) -> CurriculumDataLoader:
    """The loader of this process's share of each global batch."""
    settings = config.data_efficiency
    micro_batch_size, accumulation = config.batch_sizes(processes.size)
    sampler = CurriculumSampler(
        dataset,
        settings,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        data_parallel_rank=processes.rank,
        data_parallel_size=processes.size,
        drop_last=config.dataloader_drop_last,
    )
    return CurriculumDataLoader(
        dataset,
        sampler,
        collate_fn=collate_fn,
        num_workers=settings.num_workers,
        pin_memory=settings.pin_memory,
    )
