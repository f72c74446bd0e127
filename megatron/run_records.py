"""What the log says of a run: what begins, each step, what is counted, and where the time went."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from megatron.command import STARTED

import torch

from data_efficiency import Counters, Engine, StepResult
from megatron.checkpoint.run import guarded_facts, made_by
from megatron.config import AnyRunConfig
from megatron.run_state import Run


class Counted(Protocol):
    """A run that counts, whatever its loop."""

    @property
    def counters(self) -> Counters:
        """Of all finished steps."""

    @property
    def num_layers(self) -> int:
        """Layers of the model."""

    @property
    def seconds(self) -> float:
        """Training time so far, without evaluation and checkpoints."""


def begin_record(
    engine: Engine,
    config: AnyRunConfig,
    *,
    num_layers: int,
    sequence_length: int,
    num_samples: int,
    environment: Mapping[str, Any],
    first_weights: str,
    data: Any,
) -> dict[str, Any]:
    """What the log's first line says of a run of every kind.

    Args:
        sequence_length: of a whole row.
        num_samples: of the training dataset.
        environment: what it is computed by.
        first_weights: checksum of the weights that training begins with.
        data: plain JSON data that says what it is trained on.
    """
    return {
        "kind": "start",
        "settings": asdict(config),
        "num_parameters": num_parameters(engine.module),
        "num_layers": num_layers,
        "sequence_length": sequence_length,
        "global_batch_size": engine.train_batch_size(),
        "num_processes": engine.ranks.world,
        "train_samples_in_dataset": num_samples,
        "data_efficiency": engine.json_config.data_efficiency_json,
        "environment": environment,
        "weights": first_weights,
        "data": data,
    }


def start_record(
    run: Run, num_samples: int, pieces: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The first line of a pretraining's log.

    Args:
        num_samples: of the training dataset.
        pieces: what these are, where documents were cut into some.
    """
    dropping = run.engine.data_efficiency_config.closed_random_ltd
    begin = begin_record(
        run.engine,
        run.config,
        num_layers=run.num_layers,
        sequence_length=run.config.data.seq_length,
        num_samples=num_samples,
        environment=made_by(run),
        first_weights=run.first_weights,
        data=guarded_facts(run)["data"],
    )
    return {
        **begin,
        "num_random_ltd_layers": 0 if dropping is None else dropping.random_ltd_layer_num,
        "losses": run.task.losses,
        "is_averaged": run.average is not None,
        **({"stage_starts": list(run.stage_starts)} if run.stage_starts else {}),
        **({"pieces": pieces} if pieces else {}),
    }


def num_parameters(module: torch.nn.Module) -> int:
    """Numbers in all weights of a model."""
    # Where ZeRO keeps parts, `ds_numel` is the whole.
    return sum(getattr(each, "ds_numel", each.numel()) for each in module.parameters())


def step_record(run: Run, result: StepResult) -> dict[str, Any]:
    """The log's line on one step."""
    plan = run.loader.plan
    assert plan is not None
    return {
        "kind": "train",
        "step": result.counters.steps,
        **({"stage": run.stage} if run.stage_starts else {}),
        **losses_record(result.losses),
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm,
        "skipped_steps": run.engine.skipped_steps,
        "sequence_length": result.sequence_length,
        "kept_length": result.kept_length,
        "actual_seq_length": result.actual_seq_length,
        "difficulties": dict(plan.batch.difficulties),
        "pool_size": plan.batch.pool_size,
        **_batch_record(run, plan.batch.samples),
        **({} if result.attended_share is None else {"attended_share": result.attended_share}),
        **({} if plan.batch.part_epochs is None else {"part_epochs": plan.batch.part_epochs}),
    }


def _batch_record(run: Run, samples: Any) -> dict[str, int]:
    """How many samples a step has, where that changes."""
    settings = run.engine.data_efficiency_config
    changes = settings.batch_size is not None or settings.length_buckets is not None
    return {"step_samples": len(samples)} if changes else {}


def progress_record(run: Run, last: Counters, seconds: float) -> dict[str, Any]:
    """Counters, and rates since the last logged step.

    Args:
        last: after that step.
        seconds: since then.
    """
    counters = run.counters
    return {
        **counter_record(run),
        "step_seconds": seconds / (counters.steps - last.steps),
        "tokens_per_second": (counters.corpus_tokens - last.corpus_tokens) / seconds,
        "flops_per_second": (counters.flops - last.flops) / seconds,
        "num_compilations": run.num_compilations,
    }


def losses_record(losses: Mapping[str, float]) -> dict[str, float]:
    """What is minimized, and each loss by its name."""
    return {"loss": sum(losses.values())} | {f"{name}_loss": loss for name, loss in losses.items()}


def counter_record(run: Counted) -> dict[str, Any]:
    """The cumulative counters as the log writes them."""
    counters = run.counters
    return {
        "step": counters.steps,
        "consumed_samples": counters.consumed_samples,
        "corpus_tokens": counters.corpus_tokens,
        "loss_tokens": counters.loss_tokens,
        "layer_tokens": counters.layer_tokens,
        "effective_tokens": counters.at("effective", run.num_layers),
        "flops": counters.flops,
        "seconds": run.seconds,
    }


def spent_record(run: Run) -> dict[str, Any]:
    """What this process's time went into beside steps, which is printed too.

    Start-up is all from the command to the end of the first step, the first compilation among it.
    """
    seconds = time.monotonic() - STARTED
    parts = {name: run.spent.get(name, 0.0) for name in ("start_up", "evaluation", "checkpoints")}
    shares = ", ".join(f"{name} {part / seconds:.1%}" for name, part in parts.items())
    run.say(f"{seconds:.0f} s in all: {shares}; {run.num_compilations} pieces of code compiled")
    return {
        "process_seconds": seconds,
        **{f"{name}_seconds": part for name, part in parts.items()},
        "num_compilations": run.num_compilations,
    }
