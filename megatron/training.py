"""Pretraining from settings to checkpoint: set-up, the loop, and when to evaluate, save and stop.

The loop reads top to bottom in `train`; the step is the engine's, the evaluation in `validation.py`.
Budgets and stops use only the counters of finished steps; checkpoints are written between steps.
"""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.command import STARTED

import torch
import torch.distributed

from data_efficiency import (
    Counters,
    NonFiniteError,
    Ranks,
    StepResult,
    convert_to_random_ltd,
    initialize,
    leave_ranks,
    start_ranks,
)
from data_efficiency.engine.ranks import naming_lost_processes
from data_efficiency.engine.watch import watching_processes
from megatron import garbage
from megatron.checkpoint.files import has_checkpoints
from megatron.checkpoint.run import (
    finish_save,
    held_folder,
    made_by,
    resume,
    save,
    save_when_due,
)
from megatron.config import CheckpointConfig, RunConfig
from megatron.engine_json import engine_json, with_buckets_of
from megatron.evaluation.samples import Samples
from megatron.model.compilation import compile_model
from megatron.model.optional_kernels import choose_attention
from megatron.optimizer import make_optimizer
from megatron.optimizer_param_scheduler import make_learning_rate
from megatron.reporting import RunLogger, progress_line, weights_checksum
from megatron.run_records import (
    counter_record,
    num_parameters,
    progress_record,
    spent_record,
    start_record,
    step_record,
)
from megatron.run_settings import keep_run_file, with_batch_size, with_folder
from megatron.run_state import Run, StopRequest, Task
from megatron.stages import stage_starts
from megatron.stopping import StopSignals, exit_status, fraction_done, stop_reason
from megatron.validation import validation_record
from megatron.warming import is_rehearsed, refuse_many_lengths, rehearse_shapes
from megatron.weight_average import WeightAverage


@naming_lost_processes()
def pretrain(config: RunConfig, task: Task) -> int:
    """Train until a budget, a time limit, a signal or the end of the data, and give the exit status.

    Raises:
        ConnectionError: if another process of the run has ended or does not answer.
        NonFiniteError: for a loss or gradient that is no finite number; nothing of it is saved.
        ValueError: for settings, data or checkpoints that do not fit together.
        FileNotFoundError: for a missing corpus, index, JSON file or checkpoint.
    """
    ranks = start_ranks(
        timeout_minutes=config.training.distributed_timeout_minutes,
        tensor_parallel_size=config.training.tensor_model_parallel_size,
    )
    config = with_folder(with_batch_size(config, ranks.data_parallel_size), ranks)
    status = _pretrain(config, task, ranks)
    leave_ranks()
    return status


def _pretrain(config: RunConfig, task: Task, ranks: Ranks) -> int:
    """The exit status of a run, of which nothing is left in memory then."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(watching_processes(ranks))
        still_held = stack.enter_context(held_folder(config.checkpoint, ranks))
        train_dataset, valid_dataset = task.make_datasets(config)
        known = with_buckets_of(config, train_dataset)
        run = setup_model_and_optimizer(known, task, train_dataset, valid_dataset)
        run.before_save = still_held
        pieces = getattr(train_dataset, "pieces_record", None)
        run.say(
            f"{num_parameters(run.engine.module):,} parameters | {len(train_dataset):,} training and "
            f"{len(valid_dataset or ()):,} validation samples of {'up to ' if pieces else ''}{config.data.seq_length} tokens | "
            f"{run.engine.train_batch_size()} samples a step | "
            f"{ranks.world} x {ranks.device.type}"
            + (f", {share} to a layer" if (share := ranks.tensor_parallel_size) > 1 else "")
        )
        if pieces:
            run.say(
                f"pieces of {min(map(int, pieces['sizes']))} to {config.data.seq_length} tokens; "
                f"{pieces['left_out_share']:.2%} of the documents' tokens are in no piece (--shortest-piece)"
            )
        resumed = resume(run)
        if run.is_first_process:
            keep_run_file(config)
        logger = None
        if run.is_first_process:
            logger = stack.enter_context(
                RunLogger(
                    str(config.checkpoint.save),
                    start_record(run, len(train_dataset), pieces),
                    trackers=config.logging.trackers,
                    project=config.logging.tracker_project,
                    resumed=counter_record(run) if resumed else None,
                    loaded_from=config.checkpoint.load,
                    say=run.say,
                )
            )
            if resumed:
                step = run.counters.steps
                logger.write({"kind": "resume", "step": step, "environment": made_by(run)})
        stop = stack.enter_context(StopSignals())
        stack.enter_context(garbage.collecting_by_hand())
        if is_rehearsed(config):
            rehearse_shapes(run)
        try:
            train(run, logger, stop)
        except NonFiniteError as error:
            finish_save(run)
            raise NonFiniteError(f"{error}; {_way_back(config.checkpoint)}") from error
    return exit_status(run)


def setup_model_and_optimizer(
    config: RunConfig, task: Task, train_dataset: Any, valid_dataset: Any
) -> Run:
    """A run at its beginning: model, optimizer, engine, curriculum loader, token dropping."""
    training = config.training
    torch.manual_seed(training.seed)
    model = task.make_model(config)
    first_weights = weights_checksum(model)
    choose_attention(model, training.attention_implementation)
    compile_model(model, training.compile, training.compile_lengths)
    share = training.tensor_model_parallel_size
    num_processes = start_ranks(tensor_parallel_size=share).data_parallel_size
    shape = task.make_shape(config.model)
    engine, _, _, _ = initialize(
        model=model,
        optimizer=lambda _: make_optimizer(model, training),
        training_data=train_dataset,
        config=engine_json(config, num_processes),
        engine="deepspeed" if training.deepspeed else "torch",
        model_shape=shape,
        bf16_weights=training.bf16_weights,
        tensor_parallel=_cut_for(model, share),
    )
    refuse_many_lengths(engine, config)
    engine.follow_learning_rate(make_learning_rate(config, shape, num_processes))
    dropping = engine.data_efficiency_config.closed_random_ltd
    if dropping is not None and dropping.layer_token_lr is not None:
        raise ValueError(
            "layer_token_lr_schedule is enabled: here the learning rate follows layer tokens by "
            "--train-tokens with --token-counter effective"
        )
    bags = engine.data_efficiency_config.token_superposition
    if bags is not None and not bags.labels_are_next:
        raise ValueError(
            "token_superposition.labels_are_next is false, but labels of this trainer's samples are the next tokens: "
            "remove it"
        )
    if engine.data_efficiency_config.layer_routes:
        convert_to_random_ltd(engine, task.layer_class)
    return Run(
        config=config,
        task=task,
        engine=engine,
        valid_dataset=valid_dataset,
        bytes_of_tokens=None if valid_dataset is None else task.bytes_of_tokens(config),
        stage_starts=stage_starts(config, engine_json),
        average=None
        if training.ema_decay is None
        else WeightAverage(training.ema_decay, training.ema_interval),
        first_weights=first_weights,
    )


def _cut_for(model: Any, num_processes: int) -> Any:
    """How processes share each layer of a model; None where each has all of it."""
    if num_processes == 1:
        return None
    # Imported here: it takes longer than all the rest, and only who cuts a model needs it.
    from megatron.model.tensor_parallel import tensor_parallel  # noqa: PLC0415

    return tensor_parallel(model)


def train(run: Run, logger: RunLogger | None, stop: StopSignals) -> None:
    """Run steps until `stop_reason` says why not to."""
    config = run.config
    steps = run.loader.steps()
    last_time = time.monotonic()
    limit = config.training.exit_duration_in_mins
    last, last_saved, last_evaluated = run.counters, run.counters.steps, None
    samples = Samples(config) if config.logging.sample_prompts else None
    while True:
        reason = stop_reason(run)
        step_started = time.monotonic()
        batches = next(steps, None) if reason is None else None
        if batches is None:
            reason = reason or "the end of the data (num_epochs)"
            break
        late = limit is not None and time.monotonic() - run.began >= 60 * limit
        result = run.engine.train_step(
            batches,
            run.loss_sums,
            run.loss_terms,
            agree=(stop.received, int(late), int(run.is_writing)),
        )
        run.stop_request = StopRequest(signal=result.agreed[0], out_of_time=bool(result.agreed[1]))
        run.follow_weights(result)
        run.seconds += time.monotonic() - step_started
        run.spent.setdefault("start_up", time.monotonic() - STARTED)

        step = run.counters.steps
        garbage.collect_after(step)
        if step % config.logging.log_interval == 0:
            _say_step(run, logger, result, last, seconds=time.monotonic() - last_time)
            last, last_time = run.counters, time.monotonic()
        paused = time.monotonic()
        if config.training.evaluate and step % config.training.eval_interval == 0:
            with run.timed("evaluation"):
                _log(logger, validation_record(run))
            last_evaluated = step
        if samples is not None and step % config.logging.sample_interval == 0:
            with run.timed("evaluation"):
                _log(logger, samples.record(run))
        with run.timed("checkpoints"):
            if save_when_due(run, all_have_written=not result.agreed[2]):
                last_saved = step
        last_time += time.monotonic() - paused

    run.say(f"stopped after step {run.counters.steps}: {reason}")
    finished = not run.stop_request.signal
    if finished and config.training.evaluate and last_evaluated != run.counters.steps:
        with run.timed("evaluation"):
            _log(logger, validation_record(run))
    if finished and samples is not None and run.counters.steps % config.logging.sample_interval:
        _log(logger, samples.record(run))
    with run.timed("checkpoints"):
        finish_save(run)
        if last_saved != run.counters.steps:
            save(run)
    _log(logger, {"kind": "end", "reason": reason, **counter_record(run), **spent_record(run)})


def _say_step(
    run: Run, logger: RunLogger | None, result: StepResult, last: Counters, *, seconds: float
) -> None:
    """Log and print a step, and how fast those since `last` were."""
    record = step_record(run, result) | progress_record(run, last, seconds)
    _log(logger, record)
    total_steps = run.config.training.train_iters
    run.say(progress_line(record, fraction_done=fraction_done(run), total_steps=total_steps))


def _way_back(config: CheckpointConfig) -> str:
    """What to do after a step that could not be taken."""
    if config.save is None or not has_checkpoints(Path(config.save)):
        return "no checkpoint was written yet: start again with a lower --lr"
    return f"continue from the last checkpoint: --load {config.save} with a lower --lr"


def _log(logger: RunLogger | None, record: Mapping[str, Any] | None) -> None:
    if logger is not None and record is not None:
        logger.write(record)
