"""The step of both engines: one global batch, exact loss and counts on any number of processes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from data_efficiency.accounting import LearningRate, StepShape
from data_efficiency.config import Config
from data_efficiency.engine.forwards import Forwards
from data_efficiency.engine.loss_terms import LossTerms
from data_efficiency.engine.overflows import Overflows
from data_efficiency.engine.protocol import Named
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.row_values import Values, checked_values, tell_sampler
from data_efficiency.engine.step import NonFiniteError, StepResult, StepTotals, named, reduce_step
from data_efficiency.json_section import Section
from data_efficiency.sampling.sequence_length import map_tensors

LossSums = Callable[[Any], torch.Tensor | Named]
NumTerms = Callable[[Any], int | Named]
RowsAndPositions = Callable[[Any], tuple[int, int]]


class Stepping(Forwards):
    """The step of an engine that has forward, backward, an optimizer and `micro_steps`."""

    optimizer: Any
    lr_scheduler: Any
    backward: Callable[..., torch.Tensor]
    step: Callable[..., None]
    get_global_grad_norm: Callable[[], float | None]
    skipped_steps: int
    """Steps whose float16 gradients overflowed: their samples are consumed, weights unchanged."""
    _update: Callable[[], bool]
    """Takes the optimizer's step of a whole global batch; whether float16 overflowed instead. Raises
    NonFiniteError for a gradient that is no finite number in other precisions."""

    def _begin(self, config: Config, ranks: Ranks) -> None:
        super()._begin(config, ranks)
        self._overflows = Overflows(Section(config.engine_sections, "").section("fp16"))
        self._group_rates: list[float] = []
        self.skipped_steps = 0

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
        loss_sums: LossSums,
        num_terms: NumTerms,
        *,
        shape: RowsAndPositions | None = None,
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
                where the engine's arguments do not tell, as with images, or where only the first rows count, and the others
                fill a micro-batch up.
            agree: integers from 0 of which every process gets the largest, such as the wish to stop.

        Raises:
            NonFiniteError: for a loss or gradient that is no finite number, but for float16 overflows
                below a loss scale that still falls; weights and counters are those before the step.
            ConfigError: if the JSON switches something on that this training does not carry out.
            ValueError: for another number of micro-batches, or losses and terms that do not match.
        """
        terms = self._terms(micro_batches, num_terms)
        rate = self._begin_step()
        try:
            sums = self._micro_batches(micro_batches, terms, loss_sums, shape)
            totals = self._reduce(sums.tolist(), terms.loss_tokens, agree)
            losses = terms.means(totals.loss_sums)
            self._refuse_non_finite(losses, None)
            follows_losses = self.json_config.data_efficiency.feedback is not None
            values = checked_values(totals.row_values, self._num_samples, are_needed=follows_losses)
        except Exception:
            self._give_up_step()
            raise
        skipped = self._finish_step(totals)
        tell_sampler(self.training_dataloader, values)
        return self._result(totals, terms, losses, values, rate=rate, skipped=skipped)

    def rehearse(
        self,
        micro_batches: Sequence[Any],
        loss_sums: LossSums,
        num_terms: NumTerms,
        step: int,
    ) -> None:
        """Go forward and backward as in `train_step`, as if `step` >= 1 were next, and leave nothing of it.

        What is compiled at its first use is so before the clock starts. All processes must call it.
        """
        counters = self.counters
        try:
            self.counters = replace(counters, steps=step - 1)
            self._go_to_step_begin()
            terms = self._terms(micro_batches, num_terms)
            self.module.train()
            self._micro_batches(micro_batches, terms, loss_sums, None)
        finally:
            self.counters = counters
            self._give_up_step()

    def _begin_step(self) -> float:
        """Go to training at the step's rate, which is returned (of the first parameter group)."""
        self._require_optimizer()
        self.module.train()
        self._set_rates()
        return float(self.optimizer.param_groups[0]["lr"])

    def _require_optimizer(self) -> None:
        """Raise ValueError unless there is one."""
        if self.optimizer is None:
            raise ValueError("a step needs an optimizer: give one to initialize, or in the JSON")

    def _terms(self, micro_batches: Sequence[Any], num_terms: NumTerms) -> LossTerms:
        """Over how many terms the losses are sums; one collective."""
        if len(micro_batches) != self._accumulation:
            raise ValueError(
                f"train_step got {len(micro_batches)} micro-batches: a step of this process has "
                f"{self._accumulation} (gradient_accumulation_steps)"
            )
        return LossTerms.count(self.ranks, micro_batches, num_terms)

    def _micro_batches(
        self,
        micro_batches: Sequence[Any],
        terms: LossTerms,
        loss_sums: LossSums,
        shape: RowsAndPositions | None,
    ) -> torch.Tensor:
        """This process's summed losses, float32 [losses]; their gradients are those of the step then."""
        sums = torch.zeros(len(terms.total), device=self.ranks.device)
        for number, (batch, own) in enumerate(zip(micro_batches, terms.micro_batches, strict=True)):
            self._seed_dropout(number)
            num_before = len(self._shapes)
            losses = terms.ordered(named(loss_sums(map_tensors(batch, self._to_device))))
            told = None if shape is None else shape(batch)
            self._complete_shape(num_before, told, num_labels=next(iter(own.values())))
            share = terms.share(losses, self.ranks.data_parallel_size)
            self.backward(share, scale_wrt_gas=False)
            if number < self._accumulation - 1:
                self.step()
            sums += torch.stack([loss.detach() for loss in losses])
        return sums

    def _complete_shape(
        self, num_before: int, told: tuple[int, int] | None, num_labels: int
    ) -> None:
        """Note of the forward just done what its arguments did not tell.

        Args:
            num_before: forwards of the step that were noted before it.
            told: rows and positions, where the caller knows them.
            num_labels: positions that are in the loss.

        Raises:
            ValueError: if no forward was noted, or nothing tells how long its rows are.
        """
        if len(self._shapes) == num_before:
            raise ValueError(
                "loss_sums did not call the engine: call engine(...), not the module, so that gradients "
                "travel between processes and token dropping knows its rows"
            )
        seen = self._shapes[-1]
        if told is not None:
            seen = self._as_told(seen, *told)
        if not seen.sequence_length:
            raise ValueError(
                "the engine's arguments do not tell how many positions a row has: give train_step "
                "shape=, a function of the micro-batch that returns (rows, positions)"
            )
        self._shapes[-1] = replace(seen, num_labels=num_labels)

    def _as_told(self, seen: StepShape, num_rows: int, length: int) -> StepShape:
        """The shape of a forward of which the first rows count; others filled a micro-batch up."""
        num_filling = seen.num_rows - num_rows
        if num_filling > 0 and seen.num_rows == self._micro_batch_size:
            self._num_filling += num_filling
        if num_filling > 0 and seen.skipped and self.random_ltd_scheduler is not None:
            seen = replace(seen, skipped=self.random_ltd_scheduler.skipping_rows(num_rows))
        return replace(seen, num_rows=num_rows, sequence_length=length)

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
            num_filling=self._num_filling * self._tokens_per_position,
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
        self._forget_forwards()
        self._overflows.note_update(self.counters.steps, skipped=skipped)
        return skipped

    def _refuse_non_finite(self, losses: Named, grad_norm: float | None) -> None:
        """Raise NonFiniteError for what is no finite number, unless a loss scale may cure it."""
        self._overflows.refuse(self.counters.steps + 1, losses, grad_norm)

    def _give_up_step(self) -> None:
        """Go back to where the present step began."""
        self.optimizer.zero_grad()
        self._forget_forwards()
        self._go_to_step_begin()

    def _result(
        self,
        totals: StepTotals,
        terms: LossTerms,
        losses: Named,
        row_values: Values | None,
        *,
        rate: float,
        skipped: bool,
    ) -> StepResult:
        """What a finished step tells."""
        return StepResult(
            losses=losses,
            num_terms=terms.total,
            counters=self.counters,
            num_rows=totals.num_rows,
            sequence_length=totals.sequence_length,
            kept_length=totals.kept_length(self._num_dropping),
            actual_seq_length=totals.actual_seq_length(self.num_layers),
            learning_rate=rate,
            grad_norm=self.get_global_grad_norm(),
            skipped=skipped,
            row_values=row_values,
            attended_share=totals.attended_share,
            agreed=totals.agreed,
        )

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
        if batch is None:
            return 1.0
        return batch.rate_factor(self._accumulation, self._plain_accumulation)
