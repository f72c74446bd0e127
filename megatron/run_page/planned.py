"""The plan beside a run: what its configuration says of each step, to be seen beside what its log says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency import ModelShape, RunPlan, load_config, plan_run
from data_efficiency.plan import planned_totals
from megatron.config import ModelConfig
from megatron.reporting.run_log import Record
from megatron.run_page.columns import Columns, is_number
from megatron.run_page.log_tail import setting
from megatron.run_state import model_shape

MOST_STEPS = 400
"""Of a plan that are drawn."""
COMPARED = {
    "consumed_samples": "samples",
    "corpus_tokens": "corpus tokens",
    "loss_tokens": "tokens in the loss",
    "layer_tokens": "layer tokens",
    "flops": "model FLOPs",
}
"""Counters that both a plan and a log have -> their names on the page."""


class NoPlanError(ValueError):
    """Why the plan of a run is not known, for the reader of the page."""


@dataclass(frozen=True)
class Planned:
    """A run's plan."""

    plan: RunPlan
    last_step: int
    """At which the run's budget is used up."""

    def columns(self) -> Columns:
        """Step, lengths, pool and counters, at steps spread over the run and around each change."""
        last = self.last_step
        spread = np.linspace(1, last, min(last, MOST_STEPS)).round().astype(int).tolist()
        changes = [one.first_step for one in self.plan.stretches if 1 < one.first_step <= last]
        changes = changes[:: -(-len(changes) // MOST_STEPS) or 1]
        steps = sorted({*spread, *changes, *(step - 1 for step in changes)})
        shapes = [self.plan.stretch_at(step).shape for step in steps]
        totals = [self.plan.counters(step) for step in steps]
        found: Columns = {
            "step": [*steps],
            "sequence_length": [shape.sequence_length for shape in shapes],
            "pool_size": [self.plan.pool_size(step) for step in steps],
            "corpus_tokens": [total.corpus_tokens for total in totals],
            "effective_tokens": [
                total.at("effective", self.plan.model.num_layers) for total in totals
            ],
        }
        if self.plan.config.data_efficiency.random_ltd is not None:
            found["kept_length"] = [shape.dropped_sequence_length for shape in shapes]
        return found

    def beside(self, record: Record) -> list[dict[str, Any]]:
        """Planned and logged totals up to the step of a line of the log, one row a counter that it has."""
        total = self.plan.counters(record["step"])
        return [
            {"name": title, "planned": getattr(total, counter), "logged": record[counter]}
            for counter, title in COMPARED.items()
            if is_number(record.get(counter))
        ]


def plan_of(start: Record, may_read: Callable[[Path], bool]) -> Planned:
    """The plan of a pretraining run, by its record of kind "start".

    Args:
        may_read: whether a folder may be opened. Where the pool follows from difficulty indexes of which
            one may not, nothing is planned.

    Raises:
        NoPlanError: where it is not known.
    """
    training, model = setting(start, "training"), setting(start, "model")
    if "num_layers" not in model or "micro_batch_size" not in training:
        raise NoPlanError("only pretraining is planned step by step")
    try:
        return _plan(start, training, _shape(start, model), may_read)
    except NoPlanError:
        raise
    except KeyError as error:
        raise NoPlanError(f"no plan can be made of its log, which does not tell {error}") from error
    except Exception as error:
        raise NoPlanError(f"no plan can be made of its log ({error})") from error


def _shape(start: Record, model: Mapping[str, Any]) -> ModelShape:
    """What the model's positions are counted with, as `counted_shape` of its settings."""
    known = {one.name for one in fields(ModelConfig)}
    shape = model_shape(ModelConfig(**{name: model[name] for name in model if name in known}))
    return replace(shape, vocab_size=0) if start["settings"]["architecture"] == "bert" else shape


def _plan(
    start: Record, training: Mapping[str, Any], shape: ModelShape, may_read: Callable[[Path], bool]
) -> Planned:
    section = dict(start.get("data_efficiency") or {})
    legacy = section.pop("curriculum_learning", None)
    config = load_config(
        {
            "train_batch_size": start["global_batch_size"],
            "train_micro_batch_size_per_gpu": training["micro_batch_size"],
            "data_efficiency": section,
            "tensor_parallel": {"autotp_size": training.get("tensor_model_parallel_size", 1)},
            **({} if legacy is None else {"curriculum_learning": legacy}),
        }
    )
    selections = config.data_efficiency.selections
    unread = [one.index_path for one in selections if not may_read(Path(one.index_path))]
    by_index = config.data_efficiency.order is None and (
        len(selections) > 1
        or any(one.difficulty_type == "value" or one.window_size for one in selections)
    )
    if unread and by_index:
        raise NoPlanError(
            f"the pool follows from {unread[0]}, which this page may not read: give its folder by --data"
        )
    batch = config.data_efficiency.batch_size
    least = start["global_batch_size"] if batch is None else batch.least
    ends = [*_ends_by_steps(training, least)]
    tokens, samples = training.get("train_tokens"), training.get("train_samples")
    counter = training.get("token_counter", "effective")
    if tokens is not None:
        filling = planned_totals(
            config,
            model=shape,
            sequence_length=start["sequence_length"],
            **{f"{counter}_tokens": tokens},
        )
        ends.append(filling.steps)
    plan = plan_run(
        config,
        model=shape,
        sequence_length=start["sequence_length"],
        num_steps=min(ends),
        num_samples=start["train_samples_in_dataset"] if unread or not selections else None,
    )
    last = plan.num_steps
    if samples is not None:
        last = min(last, plan.step_that_fills("consumed_samples", samples))
    if tokens is None:
        return Planned(plan, last)
    if counter == "effective":
        filled = plan.step_that_fills("layer_tokens", tokens * shape.num_layers)
    else:
        filled = plan.step_that_fills(f"{counter}_tokens", tokens)
    return Planned(plan, min(last, filled))


def _ends_by_steps(training: Mapping[str, Any], batch_size: int) -> Iterator[int]:
    """The steps at which budgets of steps and of samples are used up, by batches of at least so many samples."""
    if training.get("train_iters") is not None:
        yield training["train_iters"]
    if training.get("train_samples") is not None:
        yield -(-training["train_samples"] // batch_size)
