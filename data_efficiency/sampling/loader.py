"""The training data loader: reads ahead with any number of workers, and loses no step.

A queue in the main process keeps the plan of each micro-batch (step, difficulties, sampler state
after its step) in the order in which the DataLoader returns them. So a batch always carries its own
difficulties, and the saved state is that of the last global batch consumed, whatever was read ahead.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from data_efficiency.compat import PublishedLoaderNames
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.loader_workers import batches_of, ignore_signals
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.sampler_state import GlobalBatch, SamplerState
from data_efficiency.sampling.sequence_length import apply_actions
from data_efficiency.sampling.superposition import superposed

PostProcess = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class MicroBatchPlan:
    """Which global batch a micro-batch belongs to, and what is true once it is consumed."""

    batch: GlobalBatch
    first_row: int
    """Where it begins in the global batch."""
    is_last: bool
    """Whether it is the last of its step on this rank."""
    state_after: SamplerState
    """The sampler's state once the whole step is consumed."""


class CurriculumDataLoader(PublishedLoaderNames):
    """Yields this rank's micro-batches, cut to the length their own step asks for.

    Args:
        dataset: map-style. With a method `get_batch(samples, visits)` (two int64 arrays) whole
            batches are read at once; otherwise its items are collated.
        sampler: says which samples; its state is owned by the loader from here on.
        collate_fn: items -> batch; PyTorch's default if None.
        pin_memory: page-locked batches, where there is an accelerator.

    Raises:
        ConfigError: if the dataset's samples cannot be read by their numbers.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: CurriculumSampler,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        can_be_numbered = hasattr(dataset, "get_batch") or hasattr(dataset, "__getitem__")
        if isinstance(dataset, IterableDataset) or not can_be_numbered:
            raise ConfigError(
                f"the training dataset ({type(dataset).__name__}) cannot be read by sample numbers: give "
                "one with __len__ and __getitem__; read a stream into a list or a file first"
            )
        self.sampler = sampler
        self.plan: MicroBatchPlan | None = None
        """Plan of the micro-batch returned last."""
        self._consumed = sampler.state
        self._post_process: PostProcess | None = None
        self._reader = _BatchReader(dataset, collate_fn or default_collate)
        self._num_workers = num_workers
        self._pin_memory = pin_memory and torch.accelerator.is_available()
        self._refuse_short_delay()

    def __len__(self) -> int:
        """Micro-batches of this rank from the beginning to the end."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """Micro-batches from the first step that was not consumed whole."""
        return self.until(self.sampler.num_steps)

    def until(self, last_step: int) -> Iterator[Any]:
        """Micro-batches from the first step that was not consumed whole to the end of `last_step`."""
        self.sampler.state = self._consumed
        queue: deque[MicroBatchPlan] = deque()
        loader = DataLoader(
            self._reader,
            batch_size=None,
            sampler=_PlannedIndices(self.sampler, queue, last_step),
            num_workers=self._num_workers,
            pin_memory=self._pin_memory,
            generator=torch.Generator().manual_seed(self.sampler.seed),
            worker_init_fn=ignore_signals,
        )
        for batch in batches_of(loader) if self._num_workers else loader:
            self.plan = queue.popleft()
            if self.plan.is_last:
                self._consumed = self.plan.state_after
            yield self._processed(batch, self.plan)

    def steps(self) -> Iterator[list[Any]]:
        """The micro-batches of each step, from the first step that was not consumed whole."""
        batches: list[Any] = []
        for batch in self:
            batches.append(batch)
            assert self.plan is not None
            if self.plan.is_last:
                yield batches
                batches = []

    def set_post_process(self, function: PostProcess) -> None:
        """From now on `function(batch, state)` shapes each batch, instead of the declared actions.

        `state` has the keys `current_difficulties`, `curriculum_step` and `consumed_samples` (before
        this step), as the published post-process functions read them.
        """
        self._post_process = function

    def state_dict(self) -> dict[str, Any]:
        """State after the last global batch that was consumed whole, as plain JSON data."""
        return self.sampler.state_dict(self._consumed)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes to a saved state; the next iteration starts there."""
        self.sampler.load_state_dict(saved)
        self._consumed = self.sampler.state

    def _refuse_short_delay(self) -> None:
        """Raise ConfigError if samples followed values of steps that are still to be done when they are drawn."""
        feedback = self.sampler.config.feedback
        # PyTorch's loader has two micro-batches a worker on their way.
        ahead = -(-2 * self._num_workers // self.sampler.fewest_micro_batches)
        if feedback is not None and feedback.delay_steps <= ahead:
            raise ConfigError(
                f"data_sampling.feedback.delay_steps is {feedback.delay_steps}, but {self._num_workers} workers read "
                f"{ahead} steps ahead: must be at least {ahead + 1}; raise it, or use fewer workers"
            )

    def _processed(self, batch: Any, plan: MicroBatchPlan) -> Any:
        config, superposition = self.sampler.config, self.sampler.config.token_superposition
        if superposition is not None:
            if self._post_process is not None:
                raise ConfigError(
                    "token_superposition is enabled, and a post-process function of your own is set: remove one"
                )
            return superposed(batch, superposition, plan.batch.step - 1)
        if self._post_process is None:
            users = [one.name for one in config.length_plans if one.action == "user"]
            if users:
                raise ConfigError(
                    f"metric {users[0]!r} is for a post-process function of your own, and none is set: call "
                    "set_data_post_process_func before the first batch, or say by sequence_length what it does"
                )
            difficulties = plan.batch.difficulties
            return apply_actions(batch, config.length_plans, difficulties, config.sequence_axes)
        state = {
            "current_difficulties": dict(plan.batch.difficulties),
            "curriculum_step": plan.batch.step,
            "consumed_samples": self.sampler.samples_before(plan.batch.step),
        }
        return self._post_process(batch, state)


class _PlannedIndices:
    """What the DataLoader draws from: (samples, visits) of each micro-batch; plans go to the queue."""

    def __init__(
        self, sampler: CurriculumSampler, queue: deque[MicroBatchPlan], last_step: int
    ) -> None:
        self._sampler, self._queue, self._last_step = sampler, queue, last_step

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        sampler = self._sampler
        while sampler.state.step < self._last_step:
            batch = sampler.next_global_batch()
            state_after = sampler.state
            num_micro_batches = sampler.num_micro_batches(batch.step)
            for number in range(num_micro_batches):
                rows = sampler.micro_batch_rows(number, batch.step)
                plan = MicroBatchPlan(
                    batch=batch,
                    first_row=rows.start,
                    is_last=number == num_micro_batches - 1,
                    state_after=state_after,
                )
                self._queue.append(plan)
                samples = sampler.micro_batch_samples(number, batch.step)
                yield batch.samples[samples], batch.visits[samples]


class _BatchReader(Dataset[Any]):
    """Turns (samples, visits) into a batch, inside the worker."""

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any]) -> None:
        self._dataset, self._collate_fn = dataset, collate_fn

    def __getitem__(self, wanted: tuple[Any, Any]) -> Any:
        samples, visits = wanted
        if hasattr(self._dataset, "get_batch"):
            return self._dataset.get_batch(samples, visits)
        numbers = samples.tolist()
        # As PyTorch's DataLoader: several items in one access, where the dataset has that.
        if callable(getattr(self._dataset, "__getitems__", None)):
            return self._collate_fn(self._dataset.__getitems__(numbers))
        return self._collate_fn([self._dataset[number] for number in numbers])
