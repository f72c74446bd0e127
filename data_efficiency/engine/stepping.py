"""The step of both engines: one global batch, exact loss and counts on any number of processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from data_efficiency.accounting import Counters, LearningRate, ModelShape, StepShape
from data_efficiency.config import Config, DataEfficiencyConfig, RandomLTDConfig
from data_efficiency.engine.carried_out import (
    refuse_idle,
    refuse_ignored_windows,
    refuse_unscaled_rate,
)
from data_efficiency.engine.protocol import Named, TokenRouter
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.row_values import RowValues, checked_values, tell_sampler
from data_efficiency.engine.step import (
    MAX_SKIPPED_UPDATES,
    NonFiniteError,
    StepResult,
    StepTotals,
    mean_losses,
    named,
    reduce_step,
    refuse_non_finite,
    shape_of_forward,
)
from data_efficiency.json_section import Section
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sequence_length import map_tensors, windows_of


class Stepping:
    """The step of an engine that has forward, backward, an optimizer and `micro_steps`.

    The step number has one owner: `counters.steps`. `global_steps` is its published name; loader,
    sampler and router are told it.
    """

    json_config: Config
    """The whole JSON file, parsed."""
    ranks: Ranks
    counters: Counters
    """Of all finished steps, the same on every process."""
    model_shape: ModelShape | None
    """What FLOPs are counted by; None counts none."""
    learning_rate: LearningRate | None
    training_dataloader: CurriculumDataLoader | None
    random_ltd_scheduler: TokenRouter | None
    module: torch.nn.Module
    optimizer: Any
    lr_scheduler: Any
    micro_steps: int
    backward: Callable[..., torch.Tensor]
    step: Callable[..., None]
    get_global_grad_norm: Callable[[], float | None]
    skipped_steps: int
    """Steps whose float16 gradients overflowed: their samples are consumed, weights unchanged."""
    _micro_batch_size: int
    _plain_accumulation: int
    """Micro-batches of a step on this process, where `batch_size` does not say it."""
    _update: Callable[[], bool]
    """Takes the optimizer's step of a whole global batch; whether float16 overflowed instead. Raises
    NonFiniteError for a gradient that is no finite number in other precisions."""

    def _begin(self, config: Config, ranks: Ranks) -> None:
        """Stand before the first step."""
        self.json_config, self.ranks = config, ranks
        self.model_shape = None
        sizes = config.batch_sizes(ranks.data_parallel_size)
        self._micro_batch_size, self._plain_accumulation = sizes
        float16 = Section(config.engine_sections, "").section("fp16")
        self._is_float16 = bool(float16.take("enabled", False))
        self._constant_loss_scale = self._is_float16 and bool(float16.take("loss_scale", 0))
        self.counters = Counters()
        self.learning_rate = None
        self.training_dataloader = None
        self.random_ltd_scheduler = None
        self._group_rates: list[float] = []
        self._shapes: list[StepShape] = []
        """Of this process's forwards in the present step."""
        self._row_values = RowValues()
        self._skipped_in_a_row = 0
        self.skipped_steps = 0

    @property
    def global_steps(self) -> int:
        """Optimizer steps finished; the published name of `counters.steps`."""
        return self.counters.steps

    @global_steps.setter
    def global_steps(self, value: int) -> None:
        self.counters = replace(self.counters, steps=value)

    @property
    def _accumulation(self) -> int:
        """Micro-batches of the present step on this process."""
        loader = self.training_dataloader
        if loader is None or self.json_config.data_efficiency.batch_size is None:
            return self._plain_accumulation
        return loader.sampler.num_micro_batches(self.counters.steps + 1)

    def _go_to_step_begin(self) -> None:
        """Stand before the first micro-batch of the step that `counters` say."""
        self.micro_steps = self.counters.steps * self._accumulation

    @property
    def data_efficiency_config(self) -> DataEfficiencyConfig:
        """Our section of the JSON file, parsed; closed by the model once it is converted."""
        section, router = self.json_config.data_efficiency, self.random_ltd_scheduler
        return section if router is None else section.with_routing(router.settings)

    @property
    def num_layers(self) -> int:
        """Layers of the model, for counting; 1 where neither its shape nor its routes tell."""
        if self.model_shape is not None:
            return self.model_shape.num_layers
        if self.random_ltd_scheduler is not None:
            return self.random_ltd_scheduler.settings.num_layers
        dropping = self.data_efficiency_config.random_ltd
        return dropping.total_layer_num if isinstance(dropping, RandomLTDConfig) else 1

    def random_ltd_enabled(self) -> bool:
        """Whether the JSON switches token dropping on."""
        return self.data_efficiency_config.random_ltd is not None

    def curriculum_learning_enabled(self) -> bool:
        """Whether the JSON switches curriculum sampling on."""
        return self.data_efficiency_config.has_curriculum

    def follow_learning_rate(self, rate: LearningRate) -> None:
        """Set each step's rate by a function of the counters of finished steps from now on.

        Raises:
            ValueError: if there is no optimizer, or a learning-rate scheduler already.
        """
        if self.optimizer is None:
            raise ValueError("a learning rate needs an optimizer: give one to initialize")
        if self.lr_scheduler is not None or self.learning_rate is not None:
            raise ValueError(
                "the engine has a learning-rate schedule already: remove one of the two (in the JSON: "
                "scheduler, layer_token_lr_schedule)"
            )
        self.learning_rate = rate
        self._group_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._set_rates()

    def train_step(
        self,
        micro_batches: Sequence[Any],
        loss_sums: Callable[[Any], torch.Tensor | Named],
        num_terms: Callable[[Any], int | Named],
        *,
        shape: Callable[[Any], tuple[int, int]] | None = None,
        agree: Sequence[int] = (),
    ) -> StepResult:
        """Train on one global batch: forwards, backwards, optimizer, counters and clock.

        What is minimized is the sum of the losses, each its sum over the global batch divided by its
        number of terms there, however the batch is split into ranks and micro-batches. Torch's
        generators are seeded from (seed, step, micro-batch) before each forward, for exact resumes.

        Args:
            micro_batches: this process's of the step, `gradient_accumulation_steps()` of them;
                tensors in dicts, lists and tuples are moved to the device.
            loss_sums: calls the engine, once; micro-batch -> the sum (not the mean) of its loss, or of
                several by name, fp32 scalars.
            num_terms: micro-batch -> the number of terms of each sum; those of the first loss are
                the loss tokens.
            shape: micro-batch -> its rows, and positions of a row in a layer that drops nothing; needed
                where the engine's arguments do not tell, as with images.
            agree: integers from 0 of which every process gets the largest, such as the wish to stop.

        Raises:
            NonFiniteError: for a loss or gradient that is no finite number, but for float16 overflows
                below a loss scale that still falls; weights and counters are those before the step.
            ConfigError: if the JSON switches something on that this training does not carry out.
            ValueError: for another number of micro-batches, or losses and terms that do not match.
        """
        own_terms, terms = self._terms(micro_batches, num_terms)
        rate = self._begin_step()
        try:
            # float32 [losses], of this process.
            sums = torch.zeros(len(terms), device=self.ranks.device)
            for number, (batch, own) in enumerate(zip(micro_batches, own_terms, strict=True)):
                sums += self._micro_batch(number, batch, own, terms, loss_sums, shape)
            totals = self._reduce(sums.tolist(), next(iter(terms.values())), agree)
            means = mean_losses(totals.loss_sums, list(terms.values()))
            losses = dict(zip(terms, means, strict=True))
            self._refuse_non_finite(losses, None)
            values = checked_values(
                totals.row_values, self._num_samples, are_needed=self._follows_losses
            )
        except Exception:
            self._give_up_step()
            raise
        skipped = self._finish_step(totals)
        tell_sampler(self.training_dataloader, values)
        return StepResult(
            losses=losses,
            num_terms=terms,
            counters=self.counters,
            num_rows=totals.num_rows,
            sequence_length=totals.sequence_length,
            kept_length=totals.kept_length(self._num_dropping),
            actual_seq_length=totals.actual_seq_length(self.num_layers),
            learning_rate=rate,
            grad_norm=self.get_global_grad_norm(),
            skipped=skipped,
            row_values=values,
            attended_share=totals.attended_share,
            agreed=totals.agreed,
        )

    def note_rows(self, values: torch.Tensor) -> None:
        """Note a value of each row of the present micro-batch, such as its mean loss, where its loss is formed.

        `train_step` gives the whole global batch's in its result, and data_sampling.feedback follows them.

        Args:
            values: [rows], floating; no gradient flows through them.
        """
        self._row_values.note(values)

    def rehearse(
        self,
        micro_batches: Sequence[Any],
        loss_sums: Callable[[Any], torch.Tensor | Named],
        num_terms: Callable[[Any], int | Named],
        step: int,
    ) -> None:
        """Go forward and backward as in `train_step`, as if `step` >= 1 were next, and leave nothing of it.

        What is compiled at its first use is so before the clock starts. All processes must call it.
        """
        counters = self.counters
        try:
            self.counters = replace(counters, steps=step - 1)
            self._go_to_step_begin()
            own_terms, terms = self._terms(micro_batches, num_terms)
            self.module.train()
            for number, (batch, own) in enumerate(zip(micro_batches, own_terms, strict=True)):
                self._micro_batch(number, batch, own, terms, loss_sums, None)
        finally:
            self.counters = counters
            self._give_up_step()

    @property
    def _num_dropping(self) -> int:
        dropping = self.data_efficiency_config.random_ltd
        return dropping.random_ltd_layer_num if isinstance(dropping, RandomLTDConfig) else 0

    def _begin_step(self) -> float:
        """Go to training at the step's rate, which is returned (of the first parameter group)."""
        self.module.train()
        self._set_rates()
        return float(self.optimizer.param_groups[0]["lr"])

    def _terms(
        self, micro_batches: Sequence[Any], num_terms: Callable[[Any], int | Named]
    ) -> tuple[list[dict[str, int]], dict[str, int]]:
        """Each micro-batch's number of terms by loss, and the global batch's; one collective."""
        if len(micro_batches) != self._accumulation:
            raise ValueError(
                f"train_step got {len(micro_batches)} micro-batches: a step of this process has "
                f"{self._accumulation} (gradient_accumulation_steps)"
            )
        counts = [named(num_terms(batch)) for batch in micro_batches]
        own_terms = [{name: int(count) for name, count in own.items()} for own in counts]
        names = tuple(own_terms[0])
        sums = self.ranks.sums([sum(own[name] for own in own_terms) for name in names])
        return own_terms, dict(zip(names, sums, strict=True))

    def _micro_batch(
        self,
        number: int,
        batch: Any,
        own_terms: Mapping[str, int],
        terms: Mapping[str, int],
        loss_sums: Callable[[Any], torch.Tensor | Named],
        shape: Callable[[Any], tuple[int, int]] | None,
    ) -> torch.Tensor:
        """A micro-batch's summed losses, [losses], its gradients added to those of the step."""
        self._seed_dropout(number)
        losses = self._forward(batch, loss_sums, shape, own_terms)
        self.backward(self._share(losses, list(terms.values())), scale_wrt_gas=False)
        if number < self._accumulation - 1:
            self.step()
        return torch.stack([loss.detach() for loss in losses])

    def _forward(
        self,
        batch: Any,
        loss_sums: Callable[[Any], torch.Tensor | Named],
        shape: Callable[[Any], tuple[int, int]] | None,
        own_terms: Mapping[str, int],
    ) -> list[torch.Tensor]:
        """The summed losses of a micro-batch, in the order of its terms."""
        num_before = len(self._shapes)
        losses = named(loss_sums(map_tensors(batch, self._to_device)))
        if set(losses) != set(own_terms):
            raise ValueError(
                f"loss_sums gives {sorted(losses)}, num_terms {sorted(own_terms)}: the names must be equal"
            )
        if len(self._shapes) == num_before:
            raise ValueError(
                "loss_sums did not call the engine: call engine(...), not the module, so that gradients "
                "travel between processes and token dropping knows its rows"
            )
        seen = self._shapes[-1]
        if shape is not None:
            num_rows, length = shape(batch)
            seen = replace(seen, num_rows=num_rows, sequence_length=length)
        if not seen.sequence_length:
            raise ValueError(
                "the engine's arguments do not tell how many positions a row has: give train_step "
                "shape=, a function of the micro-batch that returns (rows, positions)"
            )
        self._shapes[-1] = replace(seen, num_labels=next(iter(own_terms.values())))
        return [losses[name] for name in own_terms]

    def _share(self, losses: Sequence[torch.Tensor], terms: Sequence[int]) -> torch.Tensor:
        """What a micro-batch adds to the global batch's loss, times the processes to be averaged over."""
        size = self.ranks.data_parallel_size
        first, *others = (
            size * loss / max(1, count) for loss, count in zip(losses, terms, strict=True)
        )
        return sum(others, first)

    @property
    def _num_samples(self) -> int:
        """Samples of the present step, over all processes."""
        rows = self._micro_batch_size * self._accumulation * self.ranks.data_parallel_size
        loader = self.training_dataloader
        if loader is not None and self._has_constant_tokens:
            return rows * loader.sampler.samples_per_row(self.counters.steps + 1)
        return rows * self._tokens_per_position

    @property
    def _has_constant_tokens(self) -> bool:
        return self.json_config.data_efficiency.has_constant_tokens

    @property
    def _follows_losses(self) -> bool:
        return self.json_config.data_efficiency.feedback is not None

    def _reduce(
        self, loss_sums: Sequence[float] = (), loss_tokens: int = 0, agree: Sequence[int] = ()
    ) -> StepTotals:
        """The present step's totals over all processes; one collective."""
        return reduce_step(
            self.ranks,
            self._shapes,
            num_layers=self.num_layers,
            model_shape=self.model_shape,
            num_samples=self._num_samples,
            loss_tokens=loss_tokens,
            loss_sums=loss_sums,
            agree=agree,
            row_values=self._row_values.numbers(),
        )

    def _finish_step(self, totals: StepTotals) -> bool:
        """Update the weights and count the step; whether float16 overflowed instead.

        Raises:
            NonFiniteError: as `_update`, or for too many overflows that no loss scale can cure.
        """
        before = self.counters
        try:
            skipped = self._update()
        except NonFiniteError:
            self._give_up_step()
            raise
        self.counters = replace(before.plus(totals.added), steps=before.steps + 1)
        self._go_to_step_begin()
        self._shapes = []
        self._row_values.clear()
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._constant_loss_scale and self._skipped_in_a_row >= MAX_SKIPPED_UPDATES:
            raise NonFiniteError(
                f"step {self.counters.steps}: the float16 gradients of {MAX_SKIPPED_UPDATES} steps in a "
                "row overflowed at a constant loss scale: lower fp16.loss_scale or the learning rate, or "
                "train in bf16; if the weights are no finite numbers, go back to an earlier checkpoint"
            )
        return skipped

    def _refuse_non_finite(self, losses: Mapping[str, float], grad_norm: float | None) -> None:
        """Raise NonFiniteError for what is no finite number, unless a loss scale may cure it."""
        if self._is_float16:
            return
        refuse_non_finite(self.counters.steps + 1, losses, grad_norm)

    def _give_up_step(self) -> None:
        """Go back to where the present step began."""
        self.optimizer.zero_grad()
        self._shapes = []
        self._row_values.clear()
        self._go_to_step_begin()

    def _set_rates(self) -> None:
        """Give the optimizer the rate of the coming step, where a learning rate is followed."""
        if self.learning_rate is None:
            return
        rate = self.learning_rate.at(self.counters.at(self.learning_rate.clock, self.num_layers))
        rate *= self._rate_of_batch
        for group, own in zip(self.optimizer.param_groups, self._group_rates, strict=True):
            group["lr"] = own * rate if self.learning_rate.relative else rate

    @property
    def _rate_of_batch(self) -> float:
        """What the present step's number of samples multiplies the learning rate by."""
        batch = self.json_config.data_efficiency.batch_size
        return (
            1.0
            if batch is None
            else batch.rate_factor(self._accumulation, self._plain_accumulation)
        )

    def _seed_dropout(self, micro_batch: int) -> None:
        """Make what dropout draws a function of seed, step and micro-batch alone."""
        number = self.ranks.data_parallel_rank * self._accumulation + micro_batch
        source = [self.data_efficiency_config.seed, self.counters.steps, number]
        if self.ranks.tensor_parallel_size > 1:
            # What is dropped is each process's own: tokens between layers, heads within.
            source.append(self.ranks.tensor_parallel_rank)
        torch.manual_seed(int(np.random.SeedSequence(source).generate_state(1, np.uint64)[0]))

    def _moved(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A forward's arguments on the engine's device, as DistributedDataParallel moves them."""
        if self.ranks.device.type == "cpu":
            return args, kwargs
        moved: tuple[tuple[Any, ...], dict[str, Any]] = map_tensors((args, kwargs), self._to_device)
        return moved

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.ranks.device, non_blocking=True)

    def _place_forward(self) -> None:
        """Tell token dropping which rows of the global batch the coming micro-batch has.

        Raises:
            ConfigError: if the JSON switches something on that this training does not carry out.
        """
        refuse_idle(
            self.data_efficiency_config,
            self.random_ltd_scheduler,
            self.training_dataloader,
            self.counters.steps,
        )
        if self.learning_rate is None:
            refuse_unscaled_rate(self.data_efficiency_config)
        if self.random_ltd_scheduler is None:
            return
        place_in_step = self.micro_steps % self._accumulation
        number = self.ranks.data_parallel_rank * self._accumulation + place_in_step
        rows = self._micro_batch_size
        self.random_ltd_scheduler.set_position(self.counters.steps, number * rows, num_samples=rows)

    def _note_forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Remember rows and length of a training forward."""
        self._shapes.append(
            shape_of_forward(self.random_ltd_scheduler, args, kwargs, self._tokens_per_position)
        )
        loader = self.training_dataloader
        if loader is not None and loader.plan is not None:
            plans, accepted = loader.sampler.config.length_plans, loader.plan.batch.difficulties
            refuse_ignored_windows(windows_of(plans, accepted), self.module, kwargs)

    @property
    def _tokens_per_position(self) -> int:
        """Tokens that a position stands for in the present step."""
        superposition = self.json_config.data_efficiency.token_superposition
        steps = self.counters.steps
        return 1 if superposition is None else superposition.tokens_per_position(steps)
