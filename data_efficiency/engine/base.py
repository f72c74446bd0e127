"""What both engines add to a training engine beside the step: our loader, published setters, progress."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from data_efficiency.accounting import Counters
from data_efficiency.config import Config
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.stepping import Stepping
from data_efficiency.sampling.loader import CurriculumDataLoader, PostProcess
from data_efficiency.sampling.sampler import CurriculumSampler

Collate = Callable[[list[Any]], Any]


class EngineBase(Stepping):
    """The data side of an engine."""

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
        """Counters, the loader's position and the learning-rate scheduler, as plain JSON data.

        Raises:
            ValueError: between the micro-batches of a step, where no state is whole.
        """
        if self.micro_steps % self._accumulation:
            raise ValueError("the state is whole only between steps, not between micro-batches")
        loader = self.training_dataloader
        return {
            "counters": asdict(self.counters),
            "loader": None if loader is None else loader.state_dict(),
            "lr_scheduler": self._scheduler_state(),
            "skipped_steps": self.skipped_steps,
        }

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved progress; the accumulation and the number of processes may have changed."""
        scheduler = saved["lr_scheduler"]
        counters = saved.get("counters")
        if counters is None:
            # Written before the engine counted: the step, and the clock of a layer-token rate.
            counters = {"steps": int(saved["global_steps"])}
            if scheduler is not None and "layer_tokens" in scheduler["state"]:
                counters["layer_tokens"] = int(scheduler["state"]["layer_tokens"])
        self.counters = Counters(**counters)
        self._go_to_step_begin()
        self.skipped_steps = int(saved["skipped_steps"])
        if self.training_dataloader is not None and saved["loader"] is not None:
            self.training_dataloader.load_state_dict(saved["loader"])
        if self.lr_scheduler is not None and scheduler is not None:
            self.lr_scheduler.load_state_dict(scheduler["state"])
            for group, rate in zip(self.optimizer.param_groups, scheduler["rates"], strict=True):
                group["lr"] = rate
            for group, cycled in zip(
                self.optimizer.param_groups, scheduler.get("cycled", ()), strict=False
            ):
                # JSON has no tuples.
                group.update(
                    {
                        name: tuple(one) if isinstance(one, list) else one
                        for name, one in cycled.items()
                    }
                )
        self._set_rates()

    def _scheduler_state(self) -> dict[str, Any] | None:
        """The scheduler's own state, and what of the optimizer's groups its next step starts from."""
        if not hasattr(self.lr_scheduler, "state_dict"):
            return None
        groups = self.optimizer.param_groups
        found: dict[str, Any] = {
            "state": self.lr_scheduler.state_dict(),
            "rates": [float(group["lr"]) for group in groups],
        }
        if getattr(self.lr_scheduler, "cycle_momentum", False):
            found["cycled"] = [
                {name: group[name] for name in ("momentum", "betas") if name in group}
                for group in groups
            ]
        return found

    def _check_fit(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise ValueError unless names and shapes of weights are those of the module."""
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

    def _updated_parameters(self) -> dict[str, torch.Tensor]:
        """What the optimizer updates, by the module's names."""
        return dict(self.module.named_parameters())

    def _check_optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise ValueError unless each weight that the optimizer updated has all of its state.

        A weight that no gradient reached has none. An optimizer whose weights differ in what they have says
        so by `state_names` in its groups.
        """
        kinds: dict[str, set[str]] = {}
        for full_name in tensors:
            name, _, kind = full_name.rpartition(".")
            kinds.setdefault(name, set()).add(kind)
        parameters = self._updated_parameters()
        unknown = sorted(set(kinds) - set(parameters))
        if unknown:
            raise ValueError(f"the optimizer's state is of another model: it has {unknown[0]}")
        every_kind = set().union(*kinds.values())
        declared = {
            id(parameter): set(group["state_names"])
            for group in self.optimizer.param_groups
            for parameter in (group["params"] if "state_names" in group else ())
        }
        for name, found in kinds.items():
            wanted = declared.get(id(parameters[name]), every_kind)
            if found != wanted:
                raise ValueError(
                    f"the optimizer's state of {name} is {sorted(found)}, not {sorted(wanted)}: another optimizer "
                    "saved it, or it was changed since; go on from another checkpoint"
                )

    def _loader(self) -> CurriculumDataLoader:
        if self.training_dataloader is None:
            raise ValueError("no training loader: give training_data to initialize")
        return self.training_dataloader


def make_loader(
    dataset: Any, config: Config, ranks: Ranks, collate_fn: Collate | None
) -> CurriculumDataLoader:
    """The loader of this process's share of each global batch."""
    settings = config.data_efficiency
    micro_batch_size, accumulation = config.batch_sizes(ranks.data_parallel_size)
    sampler = CurriculumSampler(
        dataset,
        settings,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        data_parallel_rank=ranks.data_parallel_rank,
        data_parallel_size=ranks.data_parallel_size,
        drop_last=config.dataloader_drop_last,
    )
    return CurriculumDataLoader(
        dataset,
        sampler,
        collate_fn=collate_fn,
        num_workers=settings.num_workers,
        pin_memory=settings.pin_memory,
    )
