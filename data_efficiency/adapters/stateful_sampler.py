"""Samplers and streams with `state_dict`, for loaders that keep those in their own checkpoints.

torchdata's StatefulDataLoader does; verl, SkyRL and torchtitan read their data with it. Which samples
a step has is decided here; how many of them a forward takes is the host's.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset, Sampler, get_worker_info

from data_efficiency.config import DataEfficiencyConfig, load_config
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sampler import CurriculumSampler


class StatefulCurriculumSampler(Sampler[int]):
    """Yields this process's sample numbers one by one; an iteration is the rest of a pass.

    Its state is that of the number yielded last, the same on every process that has yielded as many.

    Args:
        dataset: anything with a length.
        config: the JSON file's path or content, or what is parsed already.
        rows_per_step: samples of a step on one process, over all of its forwards.
        rank, num_ranks: which part of each step this process has, of how many.
        drop_last: leave out the last step of a pass if the dataset does not fill it.
        custom_schedules: as of `CurriculumSampler.set_custom_schedules`.

    Raises:
        ConfigError: if the file switches on more than a choice of samples.
        ValueError: as `CurriculumSampler`.
    """

    def __init__(
        self,
        dataset: Any,
        config: Any,
        *,
        rows_per_step: int,
        rank: int = 0,
        num_ranks: int = 1,
        drop_last: bool = False,
        custom_schedules: Mapping[str, Callable[[int], int]] | None = None,
    ) -> None:
        settings = load_config(config).data_efficiency
        refuse_more_than_samples(settings)
        self.sampler = CurriculumSampler(
            dataset,
            settings,
            micro_batch_size=rows_per_step,
            data_parallel_rank=rank,
            data_parallel_size=num_ranks,
            drop_last=drop_last,
        )
        if custom_schedules:
            self.sampler.set_custom_schedules(custom_schedules)
        self._before = self.sampler.state
        """The sampler's state before the present step."""
        self._num_taken = 0
        """Numbers of the present step that this process has yielded."""

    def __len__(self) -> int:
        """Numbers of a pass on this process."""
        return self.sampler.steps_per_pass * self.sampler.rows_per_rank

    def __iter__(self) -> Iterator[int]:
        """This process's numbers from the present state to the end of the pass."""
        per_pass = self.sampler.steps_per_pass
        end = (self._before.step // per_pass + 1) * per_pass
        allowed = self.sampler.config.num_epochs
        if end > allowed * per_pass:
            raise ConfigError(
                f"pass {end // per_pass} through the data begins, and num_epochs of "
                f"data_efficiency.data_sampling is {allowed}: raise it, or train shorter"
            )
        while self._before.step < end:
            self.sampler.state = self._before
            batch = self.sampler.next_global_batch()
            after = self.sampler.state
            own = batch.samples[self.sampler.micro_batch_rows(0, batch.step)].tolist()
            for number in own[self._num_taken :]:
                self._num_taken += 1
                if self._num_taken == len(own):
                    self._before, self._num_taken = after, 0
                yield number

    def state_dict(self) -> dict[str, Any]:
        """Where the number yielded last stands, as plain JSON data."""
        return {
            "sampler": self.sampler.state_dict(self._before),
            "num_taken": self._num_taken,
            "rows_per_step": self.sampler.global_batch_size,
            "num_ranks": self.sampler.data_parallel_size,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved state; the next iteration starts there.

        Raises:
            ValueError: if the state is of another run, or within a step that is now divided otherwise.
        """
        now = {**self.state_dict(), **{name: saved[name] for name in ("sampler", "num_taken")}}
        if saved["num_taken"] and now != dict(saved):
            raise ValueError(
                f"the saved state is {saved['num_taken']} samples into a step of {saved['rows_per_step']} on "
                f"{saved['num_ranks']} processes, and a step is now {now['rows_per_step']} on {now['num_ranks']}: "
                "save between steps to change that"
            )
        self.sampler.load_state_dict(saved["sampler"])
        self._before, self._num_taken = self.sampler.state, int(saved["num_taken"])


def refuse_more_than_samples(settings: DataEfficiencyConfig) -> None:
    """Raise ConfigError if a section switches on more than a choice of samples."""
    for name in ("batch_size", "length_buckets"):
        if getattr(settings, name) is not None:
            raise ConfigError(
                f"data_sampling.{name} changes the samples of a step, and who takes numbers from a sampler does not see "
                "where steps end: train by engine.train_step, or remove it"
            )
    if settings.feedback is not None:
        raise ConfigError(
            "data_sampling.feedback follows the losses of rows, which a sampler is not told: train by engine.train_step, or "
            "remove it"
        )
    plans: list[Any] = [*settings.length_plans, *settings.open_length_plans]
    other = [plan.name for plan in plans]
    other += settings.routes
    if other:
        raise ConfigError(
            f"{', '.join(other)} change what a forward sees, and a sampler only chooses samples: switch "
            "them off, or train by one of the adapters of whole trainers"
        )


class CurriculumStream(IterableDataset[Any]):
    """The items of a dataset in the order of a sampler, for loaders that take streams alone.

    To be read by the loader's own process (`num_workers=0`): each worker would read all of it.

    Args:
        dataset: map-style.
        sampler: says which items; its state is the stream's.
    """

    def __init__(self, dataset: Any, sampler: StatefulCurriculumSampler) -> None:
        self._dataset, self._sampler = dataset, sampler

    def __len__(self) -> int:
        """Items of a pass on this process."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        """Items from the present state to the end of the pass."""
        if get_worker_info() is not None:
            raise ConfigError(
                "a CurriculumStream is read by the main process: num_workers must be 0"
            )
        for number in self._sampler:
            yield self._dataset[number]

    def state_dict(self) -> dict[str, Any]:
        """Where the item yielded last stands."""
        return self._sampler.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved state; the next iteration starts there."""
        self._sampler.load_state_dict(saved)
