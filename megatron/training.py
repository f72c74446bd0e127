"""Pretraining from settings to checkpoint: set-up, the loop, and when to evaluate, save and stop.

The loop reads top to bottom in `train`; the step is the engine's, the evaluation in `validation.py`.
Budgets and stops use only the counters of finished steps; checkpoints are written between steps.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from data_efficiency import (
    Counters,
    NonFiniteError,
    StepResult,
    convert_to_random_ltd,
    fill_from_flags,
    initialize,
    load_config,
    naming_lost_processes,
    read_json,
    start_ranks,
)
from megatron.checkpoint.files import has_checkpoints
from megatron.checkpoint.run import check_folders, resume, save
from megatron.config import CheckpointConfig, RunConfig, TrainingConfig, require
from megatron.model.compilation import compile_model
from megatron.model.optional_kernels import choose_attention, make_adamw, weight_decay_groups
from megatron.optimizer_param_scheduler import make_learning_rate
from megatron.reporting import RunLogger, progress_line
from megatron.run_state import Run, StopRequest, Task, counter_record
from megatron.stopping import StopSignals, fraction_done, stop_reason
from megatron.validation import losses_record, validate


@naming_lost_processes()
def pretrain(config: RunConfig, task: Task) -> None:
    """Train until a budget, a time limit, a signal or the end of the data.

    Raises:
        ConnectionError: if another process of the run has ended or does not answer.
        NonFiniteError: for a loss or gradient that is no finite number; nothing of it is saved.
        ValueError: for settings, data or checkpoints that do not fit together.
        FileNotFoundError: for a missing corpus, index, JSON file or checkpoint.
    """
    ranks = start_ranks(timeout_minutes=config.training.distributed_timeout_minutes)
    config = with_batch_size(config, ranks.data_parallel_size)
    check_folders(config.checkpoint)
    train_dataset, valid_dataset = task.make_datasets(config)
    run = setup_model_and_optimizer(config, task, train_dataset, valid_dataset)
    run.say(
        f"{num_parameters(run):,} parameters | {len(train_dataset):,} training and "
        f"{len(valid_dataset or ()):,} validation samples of {config.data.seq_length} tokens | "
        f"{run.engine.train_batch_size()} samples a step | "
        f"{ranks.world} x {ranks.device.type}"
    )
    resumed = resume(run)
    with contextlib.ExitStack() as stack:
        logger = None
        if config.checkpoint.save is not None and run.is_first_process:
            logger = stack.enter_context(
                RunLogger(
                    config.checkpoint.save,
                    tensorboard=config.logging.tensorboard,
                    resume_step=run.counters.steps if resumed else None,
                )
            )
            if not resumed:
                logger.write(_start_record(run, len(train_dataset)))
        stop = stack.enter_context(StopSignals())
        try:
            train(run, logger, stop)
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}; {_way_back(config.checkpoint)}") from error
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def with_batch_size(config: RunConfig, num_processes: int) -> RunConfig:
    """The settings with the global batch size written out.

    Raises:
        ValueError: if the processes cannot share it evenly.
    """
    training = config.training
    smallest = training.micro_batch_size * num_processes
    batch_size = training.global_batch_size or smallest
    require(
        batch_size % smallest == 0,
        "global_batch_size",
        batch_size,
        f"must be a multiple of --micro-batch-size ({training.micro_batch_size}) x processes "
        f"({num_processes})",
    )
    return replace(config, training=replace(training, global_batch_size=batch_size))


def setup_model_and_optimizer(
    config: RunConfig, task: Task, train_dataset: Any, valid_dataset: Any
) -> Run:
    """A run at its beginning: model, optimizer, engine, curriculum loader, token dropping."""
    training = config.training
    torch.manual_seed(training.seed)
    model = task.make_model(config)
    choose_attention(model, training.attention_implementation)
    compile_model(model, training.compile, training.compile_lengths)
    json_config = _json_config(config, start_ranks().data_parallel_size)
    engine, _, _, _ = initialize(
        model=model,
        optimizer=lambda _: make_optimizer(model, training),
        training_data=train_dataset,
        config=json_config,
        engine="deepspeed" if training.deepspeed else "torch",
        model_shape=task.make_shape(config.model),
    )
    engine.follow_learning_rate(make_learning_rate(training, config.data.seq_length))
    require(
        engine.curriculum_learning_enabled() == training.data_efficiency_curriculum_learning,
        "data_efficiency_curriculum_learning",
        training.data_efficiency_curriculum_learning,
        f"the JSON file ({training.deepspeed_config}) says {engine.curriculum_learning_enabled()}",
    )
    require(
        engine.random_ltd_enabled() == training.random_ltd,
        "random_ltd",
        training.random_ltd,
        f"the JSON file ({training.deepspeed_config}) says {engine.random_ltd_enabled()}",
    )
    dropping = engine.data_efficiency_config.random_ltd
    if dropping is not None:
        if dropping.layer_token_lr is not None:
            raise ValueError(
                f"layer_token_lr_schedule is enabled in {training.deepspeed_config}: here the learning "
                "rate follows layer tokens by --train-tokens with --token-counter effective"
            )
        convert_to_random_ltd(engine, task.layer_class)
    return Run(
        config=config,
        task=task,
        engine=engine,
        valid_dataset=valid_dataset,
    )


def train(run: Run, logger: RunLogger | None, stop: StopSignals) -> None:
    """Run steps until `stop_reason` says why not to."""
    config = run.config
    steps = run.loader.steps()
    started = last_time = time.monotonic()
    limit = config.training.exit_duration_in_mins
    last, last_saved = run.counters, run.counters.steps
    while True:
        reason = stop_reason(run)
        step_started = time.monotonic()
        batches = next(steps, None) if reason is None else None
        if batches is None:
            reason = reason or "the end of the data (num_epochs)"
            break
        late = limit is not None and time.monotonic() - started >= 60 * limit
        result = run.engine.train_step(
            batches, run.loss_sums, run.loss_terms, agree=(stop.received, int(late))
        )
        run.stop_request = StopRequest(signal=result.agreed[0], out_of_time=bool(result.agreed[1]))
        run.seconds += time.monotonic() - step_started

        step = run.counters.steps
        if step % config.logging.log_interval == 0:
            record = step_record(run, result) | _progress(
                run, last, seconds=time.monotonic() - last_time
            )
            last, last_time = run.counters, time.monotonic()
            _log(logger, record)
            run.say(
                progress_line(
                    record,
                    fraction_done=fraction_done(run),
                    total_steps=config.training.train_iters,
                )
            )
        if step % config.training.eval_interval == 0:
            paused = time.monotonic()
            _validate(run, logger)
            last_time += time.monotonic() - paused
        interval = config.checkpoint.save_interval
        if interval is not None and step % interval == 0:
            paused = time.monotonic()
            save(run)
            last_saved = step
            last_time += time.monotonic() - paused

    run.say(f"stopped after step {run.counters.steps}: {reason}")
    finished = not run.stop_request.signal
    if finished and run.counters.steps % config.training.eval_interval:
        _validate(run, logger)
    if last_saved != run.counters.steps:
        save(run)
    _log(logger, {"kind": "end", "reason": reason, **counter_record(run)})


def make_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with the settings' rates."""
    return make_adamw(
        weight_decay_groups(model, config.weight_decay),
        config.optimizer_implementation,
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
    )


def step_record(run: Run, result: StepResult) -> dict[str, Any]:
    """What the log says of one step."""
    plan = run.loader.plan
    assert plan is not None
    return {
        "kind": "train",
        "step": result.counters.steps,
        **losses_record(result.losses),
        "learning_rate": result.learning_rate,
        "grad_norm": result.grad_norm,
        "skipped_steps": run.engine.skipped_steps,
        "sequence_length": result.sequence_length,
        "kept_length": result.kept_length,
        "actual_seq_length": result.actual_seq_length,
        "difficulties": dict(plan.batch.difficulties),
        "pool_size": plan.batch.pool_size,
    }


def _way_back(config: CheckpointConfig) -> str:
    """What to do after a step that could not be taken."""
    if config.save is None or not has_checkpoints(Path(config.save)):
        return "no checkpoint was written yet: start again with a lower --lr"
    return f"continue from the last checkpoint: --load {config.save} with a lower --lr"


def _progress(run: Run, last: Counters, seconds: float) -> dict[str, Any]:
    """Counters, and rates since the last logged step."""
    counters = run.counters
    return {
        **counter_record(run),
        "step_seconds": seconds / (counters.steps - last.steps),
        "tokens_per_second": (counters.corpus_tokens - last.corpus_tokens) / seconds,
        "flops_per_second": (counters.flops - last.flops) / seconds,
    }


def _json_config(config: RunConfig, num_processes: int) -> dict[str, Any]:
    """The JSON file's content with the values that are flags filled in."""
    training = config.training
    raw = {} if training.deepspeed_config is None else read_json(training.deepspeed_config)
    for section in ("optimizer", "scheduler"):
        if raw.get(section):
            raise ValueError(
                f"{training.deepspeed_config} has the section {section!r}: optimizer and learning "
                "rate are set by flags here (--lr and the like); remove it"
            )
    flags: dict[str, Any] = {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.batch_size
        // (training.micro_batch_size * num_processes),
        "gradient_clipping": training.clip_grad,
        "bf16.enabled": training.bf16,
        "fp16.enabled": training.fp16,
        "data_efficiency.seed": training.seed,
    }
    if config.data.num_workers is not None:
        flags["data_efficiency.data_sampling.num_workers"] = config.data.num_workers
    return fill_from_flags(raw, flags)


def num_parameters(run: Run) -> int:
    """Numbers in all weights of the model."""
    # Where ZeRO keeps parts, `ds_numel` is the whole.
    parameters = run.engine.module.parameters()
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


def _start_record(run: Run, num_samples: int) -> dict[str, Any]:
    dropping = run.engine.data_efficiency_config.random_ltd
    flags = {key: value for group in asdict(run.config).values() for key, value in group.items()}
    return {
        "kind": "start",
        "num_parameters": num_parameters(run),
        "num_layers": run.num_layers,
        "num_random_ltd_layers": 0 if dropping is None else dropping.random_ltd_layer_num,
        "sequence_length": run.config.data.seq_length,
        "global_batch_size": run.engine.train_batch_size(),
        "num_processes": run.engine.ranks.world,
        "losses": run.task.losses,
        "train_samples_in_dataset": num_samples,
        "flags": flags,
        "data_efficiency": load_config(
            _json_config(run.config, run.engine.ranks.data_parallel_size)
        ).data_efficiency_json,
    }


def _validate(run: Run, logger: RunLogger | None) -> None:
    if run.valid_dataset is not None:
        _log(logger, validate(run))


def _log(logger: RunLogger | None, record: Mapping[str, Any]) -> None:
    if logger is not None:
        logger.write(record)
