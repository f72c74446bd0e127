"""A training whose steps a host takes: what it reads, where its forwards stand, what it has counted.

A host asks for micro-batches, calls the model once for each, in their order, and says when it is done with
one. It may read ahead: positions, counts and state follow the micro-batches that are done, not those read.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from data_efficiency.accounting import Counters, StepShape
from data_efficiency.adapters.host_settings import (
    HostSettings,
    refuse_disagreement,
    refuse_what_needs_our_step,
)
from data_efficiency.config import DataEfficiencyConfig, OpenRandomLTD, RoutingConfig, load_config
from data_efficiency.engine.carried_out import refuse_ignored_windows
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.step import (
    StepTotals,
    reduce_step,
    shape_of_forward,
)
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.layer_presets import known_layer_class
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.sampling.loader import CurriculumDataLoader, MicroBatchPlan, PostProcess
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.sampler_state import GlobalBatch
from data_efficiency.sampling.sequence_length import windows_of

_FOLLOWING: WeakKeyDictionary[torch.nn.Module, "HostedTraining"] = WeakKeyDictionary()
"""Model -> the training that follows its forwards, one at a time: a script may train it twice, one after the other."""


class HostedTraining:
    """The data, the positions and the counters of a host's training; one for each process.

    Iterating gives the micro-batches of the present pass: a host's epoch.

    Args:
        config: whatever `load_config` takes.
        dataset: says what the samples are, and how many.
        settings: how the host splits its steps.
        ranks: this process among those of the host.
        collate_fn: items -> batch; PyTorch's default if None.
        items: where items are read, if the host has changed the dataset's; as long as that.

    Raises:
        ConfigError: if the host and the configuration disagree, or the dataset cannot be drawn from.
        ValueError: as `CurriculumSampler`.
    """

    def __init__(
        self,
        config: Any,
        dataset: Any,
        settings: HostSettings,
        *,
        ranks: Ranks,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        items: Any = None,
    ) -> None:
        self.config, self.settings, self.ranks = load_config(config), settings, ranks
        _refuse_processes_apart(settings, ranks)
        refuse_disagreement(self.config, settings, ranks.data_parallel_size)
        refuse_what_needs_our_step(self.config.data_efficiency, settings.host)
        self.sampler = CurriculumSampler(
            dataset,
            self.config.data_efficiency,
            micro_batch_size=settings.train_micro_batch_size_per_gpu,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            data_parallel_rank=ranks.data_parallel_rank,
            data_parallel_size=ranks.data_parallel_size,
            drop_last=settings.dataloader_drop_last,
        )
        if not self.sampler.steps_per_pass:
            raise ValueError(
                f"{len(dataset)} samples are fewer than a global batch ({self.sampler.global_batch_size}), "
                "and an incomplete one is dropped: there is no step in a pass"
            )
        self.config = replace(self.config, data_efficiency=self.sampler.config)
        self.loader = CurriculumDataLoader(
            dataset if items is None else items,
            self.sampler,
            collate_fn=collate_fn,
            num_workers=settings.num_workers,
            pin_memory=settings.pin_memory,
        )
        self.dataset = dataset
        self.router: Any = None
        self.counters = Counters()
        """Of all finished steps, the same on every process."""
        self._finished = self.sampler.state
        self._pending: deque[MicroBatchPlan] = deque()
        """Of the micro-batches that the host has and is not done with."""
        self._shapes: list[StepShape] = []
        self._shape: StepShape | None = None
        self._last: tuple[GlobalBatch, StepTotals] | None = None
        self._totals: StepTotals | None = None
        self.counts_in_forward = False
        """Whether a step is summed over the processes in its last forward instead of when it is finished."""
        self._num_layers: int | None = None
        self._hooks: list[Any] = []

    def __len__(self) -> int:
        """Micro-batches of a pass on this process."""
        return self.sampler.steps_per_pass * self.settings.gradient_accumulation_steps

    def __iter__(self) -> Iterator[Any]:
        """Micro-batches from the step after the last finished one to the end of its pass."""
        self._pending.clear()
        self._shapes, self._shape, self._totals = [], None, None
        per_pass = self.sampler.steps_per_pass
        pass_number = self.num_passes + 1
        self.refuse_passes(pass_number)
        self.loader.load_state_dict(self.sampler.state_dict(self._finished))
        for batch in self.loader.until(pass_number * per_pass):
            assert self.loader.plan is not None
            self._pending.append(self.loader.plan)
            yield batch

    @property
    def num_passes(self) -> int:
        """Passes that are finished."""
        return self.counters.steps // self.sampler.steps_per_pass

    def refuse_passes(self, number: float) -> None:
        """Raise ConfigError if the host would pass through the data more often than the file allows."""
        allowed = self.config.data_efficiency.num_epochs
        if number > allowed:
            raise ConfigError(
                f"{self.settings.host} passes {number:g} times through the data, and num_epochs of "
                f"data_efficiency.data_sampling is {allowed}: raise it, or train shorter"
            )

    def set_post_process(self, function: PostProcess) -> None:
        """As `CurriculumDataLoader.set_post_process`."""
        self.loader.set_post_process(function)

    def convert(
        self,
        model: torch.nn.Module,
        layer_class: type[torch.nn.Module] | None = None,
        interface: LayerInterface | None = None,
    ) -> None:
        """Let the model's layers drop tokens, if the configuration says so, and follow its forwards.

        Args:
            model: what the host calls, without its wrappers; converted already or not.
            layer_class: of its layers; None: as `known_layer_class` finds it.
            interface: as of `convert_to_random_ltd`.

        Raises:
            ValueError: as `convert_to_random_ltd`, or if the model was converted with other settings.
        """
        section = self.config.data_efficiency
        if section.token_superposition is not None:
            raise ConfigError(
                f"token_superposition is enabled, and {self.settings.host} computes its own loss, which knows no bags: "
                "switch it off, or train by data_efficiency.initialize"
            )
        self.router = getattr(model, "random_ltd_scheduler", None)
        if not section.routes and self.router is not None:
            raise ConfigError(
                "the model drops tokens or rows, and the configuration has no random_ltd or other route"
            )
        if section.routes:
            if self.router is None:
                layers = layer_class or known_layer_class(model)
                convert_to_random_ltd(model, layers, section, interface=interface)
                self.router = model.random_ltd_scheduler
            elif self.router.settings != _of_converted(section, self.router.settings):
                raise ConfigError(
                    f"the model was converted with other {' and '.join(section.routes)} settings"
                )
        settings = None if self.router is None else self.router.settings
        self._num_layers = _num_layers(model, layer_class, settings)
        for training in (self, _FOLLOWING.get(model)):
            if training is not None:
                training.leave_model()
        _FOLLOWING[model] = self
        begin = torch.compiler.disable(self._begin_forward)
        end = torch.compiler.disable(self._end_forward)
        self._hooks = [
            model.register_forward_pre_hook(begin, prepend=True),
            model.register_forward_hook(end, with_kwargs=True),
        ]

    def leave_model(self) -> None:
        """Follow the model's forwards no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def finish_micro_batch(self) -> bool:
        """Take note that the host is done with a micro-batch; whether that was the last of its step.

        The last one of a step is one collective: all processes get the same counters.

        Raises:
            ConfigError: if the host did not read it here, or did not call the model for it.
        """
        plan = self._present()
        self.refuse_passed_over()
        assert self._shape is not None
        self._pending.popleft()
        if not plan.is_last:
            self._shapes.append(self._shape)
            self._shape = None
            return False
        totals = self._totals or self._reduce(self._shape)
        self.counters = self.counters.plus(totals.added)
        self._finished = plan.state_after
        self._last = plan.batch, totals
        self._shapes, self._shape, self._totals = [], None, None
        return True

    def refuse_passed_over(self) -> None:
        """Raise ConfigError if the host works on a micro-batch, and has not called the model for it."""
        if self._pending and not self.called_model:
            raise ConfigError(
                f"{self.settings.host} did not call the model for a micro-batch of step {self._pending[0].batch.step}: "
                "train on each, and give the adapter the module whose forward is called"
            )

    @property
    def called_model(self) -> bool:
        """Whether the model was called for the micro-batch that the host works on."""
        return self._shape is not None

    @property
    def is_last_of_step(self) -> bool:
        """Whether the micro-batch that the host works on ends its step."""
        return self._present().is_last

    @property
    def num_layers(self) -> int:
        """Layers of the model, for counting; 1 where nothing tells."""
        return self._num_layers or 1

    def figures(self) -> dict[str, float]:
        """What a host may log after a step: counts of the run, lengths, pool and difficulties of the step.

        Nothing of tokens where neither a name nor a layer tells how many there are, as with images.
        """
        if self._last is None:
            return {}
        batch, totals = self._last
        routing = None if self.router is None else self.router.settings
        found: dict[str, float] = {
            "consumed_samples": self.counters.consumed_samples,
            "pool_size": batch.pool_size,
        }
        if totals.num_positions:
            found["corpus_tokens"] = self.counters.corpus_tokens
            found["effective_tokens"] = self.counters.at("effective", self.num_layers)
            found["sequence_length"] = totals.sequence_length
        if totals.num_positions and self._num_layers is not None:
            found["layer_tokens"] = self.counters.layer_tokens
        if routing is not None and routing.random_ltd is not None:
            num_dropping = routing.random_ltd.random_ltd_layer_num
            found["kept_length"] = totals.kept_length(num_dropping) or 0
        if routing is not None:
            found["actual_seq_length"] = totals.actual_seq_length(self.num_layers)
        epochs = enumerate(batch.part_epochs or ())
        found |= {f"part_epochs/{number}": passes for number, passes in epochs}
        return found | {f"difficulty/{name}": value for name, value in batch.difficulties.items()}

    def state_dict(self) -> dict[str, Any]:
        """Counters and position after the last finished step, plain JSON data, the same on every process."""
        return {
            "counters": asdict(self.counters),
            "sampler": self.sampler.state_dict(self._finished),
        }

    def load_state_dict(self, saved: Mapping[str, Any], host_step: int | None = None) -> None:
        """Go to a saved state; processes and batch sizes may have changed.

        Args:
            host_step: where the host's own checkpoint stands.

        Raises:
            ValueError: if the host stands at another step, or the state is of another run.
        """
        counters = Counters(**saved["counters"])
        if host_step not in (None, counters.steps):
            raise ValueError(
                f"the data of this checkpoint stand after step {counters.steps}, and {self.settings.host} "
                f"after step {host_step}: go on from a checkpoint that was saved whole"
            )
        self.loader.load_state_dict(saved["sampler"])
        self.counters, self._finished = counters, self.sampler.state
        self._last = None

    def _present(self) -> MicroBatchPlan:
        """The micro-batch that the host works on.

        Raises:
            ConfigError: if there is none.
        """
        if not self._pending:
            raise ConfigError(
                f"{self.settings.host} trains on a batch that it did not read from the adapter's loader: "
                "train on that loader alone, and evaluate after model.eval()"
            )
        return self._pending[0]

    def _begin_forward(self, module: torch.nn.Module, _: Any) -> None:
        if not module.training:
            return
        plan = self._present()
        if self.router is not None:
            rows = self.sampler.micro_batch_size
            self.router.set_position(plan.batch.step - 1, plan.first_row, num_samples=rows)

    def _end_forward(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any
    ) -> None:
        if not module.training:
            return
        self._shape = shape_of_forward(self.router, args, kwargs)
        windows = windows_of(
            self.config.data_efficiency.length_plans, self._present().batch.difficulties
        )
        refuse_ignored_windows(windows, module, kwargs)
        if self.counts_in_forward and self.is_last_of_step:
            self._totals = self._reduce(self._shape)

    def _reduce(self, last_shape: StepShape) -> StepTotals:
        """The present step's totals over all processes; one collective."""
        return reduce_step(
            self.ranks,
            [*self._shapes, last_shape],
            num_layers=self.num_layers,
            model_shape=None,
            num_samples=self.sampler.global_batch_size,
        )


def _of_converted(section: DataEfficiencyConfig, settings: RoutingConfig) -> RoutingConfig | None:
    """The routes that a converted model should have, which says what they leave open."""
    if isinstance(section.random_ltd, OpenRandomLTD):
        own = settings.random_ltd
        mask = None if own is None else own.model_mask_name
        closed = section.random_ltd.closed(num_layers=settings.num_layers, mask_name=mask)
        section = replace(section, random_ltd=closed)
    return section.routing(settings.num_layers)


def _refuse_processes_apart(settings: HostSettings, ranks: Ranks) -> None:
    """Raise ConfigError if the launcher has started processes that the host does not know of."""
    launched = int(os.environ.get("WORLD_SIZE") or ranks.world)
    if launched != ranks.world:
        raise ConfigError(
            f"the launcher has started {launched} processes (WORLD_SIZE), and {settings.host} knows of "
            f"{ranks.world}: each would train alone, on the same samples; tell {settings.host} of them (without GPUs "
            "Accelerate wants Accelerator(cpu=True) or ACCELERATE_USE_CPU=1), or start one"
        )


def _num_layers(
    model: torch.nn.Module, layer_class: Any, routing: RoutingConfig | None
) -> int | None:
    """How many layers the model has; None where nothing tells."""
    if routing is not None:
        return routing.num_layers
    try:
        layers = layer_class or known_layer_class(model)
    except ValueError:
        return None
    return sum(isinstance(module, layers) for module in model.modules())
