"""What is compiled for a run's shapes, compiled before its first step.

Where each length has code of its own, a run would otherwise stop to compile whenever its curriculum comes to a
new one, in the middle of what is timed.
"""

from collections.abc import Iterator

import numpy as np
import torch

from data_efficiency import Engine, RunPlan, plan_run
from megatron.config import RunConfig, TrainingConfig
from megatron.model.compilation import MOST_LENGTHS
from megatron.recipes import planned_cost
from megatron.run_state import Run
from megatron.setting_rules import require


def compiles_each_length(training: TrainingConfig) -> bool:
    """Whether each length has code of its own."""
    return training.compile != "none" and training.compile_lengths == "static"


def refuse_many_lengths(engine: Engine, config: RunConfig) -> None:
    """Raise ValueError if each length has code of its own, and there are more of them than are worth it."""
    if not compiles_each_length(config.training):
        return
    longest = config.data.seq_length
    require(
        len(config.data.piece_lengths) <= MOST_LENGTHS,
        "compile_lengths",
        "static",
        f"pieces have {len(config.data.piece_lengths)} lengths and each is compiled, at most {MOST_LENGTHS}: take dynamic, or a "
        "longer --shortest-piece",
    )
    for plan in engine.data_efficiency_config.length_plans:
        step: int | None = 1
        lengths: set[int] = set()
        while step is not None and plan.follows_schedule and max(lengths, default=0) < longest:
            length = plan.length_at(plan.schedule.difficulty(step))
            lengths.add(min(longest, length or longest))
            step = plan.schedule.next_change(step)
        require(
            len(lengths) <= MOST_LENGTHS,
            "compile_lengths",
            "static",
            f"{plan.name} has {len(lengths)} lengths and each is compiled, at most {MOST_LENGTHS}: give the metric "
            f'"length_multiple": {-(-longest // MOST_LENGTHS)}, or take dynamic',
        )


def is_rehearsed(config: RunConfig) -> bool:
    """Whether a run's shapes are gone through before its first step: code of their own, or stages that are compiled."""
    return compiles_each_length(config.training) or (
        bool(config.stages) and config.training.compile != "none"
    )


def steps_to_rehearse(plan: RunPlan, next_step: int) -> Iterator[int]:
    """A step of each shape that needs code of its own, of those still to come.

    Rows of a micro-batch, length and window make one, and whether tokens are dropped or rows skip layers; how many does not.
    """
    known = set()
    for stretch in plan.stretches:
        last, shape = stretch.first_step + stretch.num_steps - 1, stretch.shape
        if last < next_step:
            continue
        drops = (
            shape.num_dropping_layers > 0 and shape.dropped_sequence_length < shape.sequence_length
        )
        window = shape.attention_window, shape.window_slides
        kinds = drops, bool(shape.skipped), shape.tokens_per_position
        rows = shape.num_rows / stretch.num_micro_batches
        key = rows, shape.sequence_length, *kinds, *window
        if key not in known:
            known.add(key)
            yield max(stretch.first_step, next_step)


def rehearse_shapes(run: Run) -> None:
    """Train on a batch of each shape, and evaluate one, leaving nothing but compiled code; all processes must call it."""
    engine, loader, config = run.engine, run.loader, run.config
    size = engine.ranks.data_parallel_size
    plan = plan_run(
        engine.json_config,
        model=run.task.make_shape(config.model),
        sequence_length=config.data.seq_length,
        num_steps=max(planned_cost(config, size).steps, run.counters.steps + 1),
        num_samples=loader.sampler.num_samples,
        data_parallel_size=size,
    )
    place = loader.state_dict()
    for step in steps_to_rehearse(plan, run.counters.steps + 1):
        loader.load_state_dict(loader.sampler.state_at(step - 1))
        engine.rehearse(next(loader.steps()), run.loss_sums, run.loss_terms, step)
    loader.load_state_dict(place)
    if config.training.evaluate and run.valid_dataset is not None:
        engine.eval()
        rows = np.arange(min(config.training.micro_batch_size, len(run.valid_dataset)))
        arrays = run.valid_dataset.get_batch(rows)
        with torch.no_grad():
            run.loss_sums(
                {
                    name: torch.from_numpy(one).to(engine.ranks.device)
                    for name, one in arrays.items()
                }
            )
    run.say(f"compiled {run.num_compilations} pieces of code for the lengths to come")
