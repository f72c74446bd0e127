"""A run's way to disk and back: what a checkpoint says of it, and what a resume insists on."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_efficiency import LearningRate, Ranks
from megatron.checkpoint.engine_state import agreed_checkpoint, begin_save, load_engine
from megatron.checkpoint.files import has_checkpoints, held, read_average, read_state
from megatron.checkpoint.guard import (
    differences,
    guarded_record,
    model_differences,
    refuse_differences,
)
from megatron.checkpoint.provenance import provenance
from megatron.config import CheckpointConfig
from megatron.run_state import Run


def save(run: Run, *, in_background: bool = False) -> None:
    """Write a checkpoint where the settings ask for one; all processes must call it.

    Args:
        in_background: only begin it, and go on; `finish_save` completes it.
    """
    finish_save(run)
    checkpoint = run.config.checkpoint
    if checkpoint.save is None:
        return
    if run.is_first_process:
        run.before_save()
    run.saving = begin_save(
        run.engine,
        Path(checkpoint.save),
        _state(run),
        average=() if run.average is None else run.average.whole(),
        in_background=in_background,
    )
    if not in_background:
        finish_save(run)


def save_when_due(run: Run, *, all_have_written: bool) -> bool:
    """Whether a checkpoint was due after the present step, and is written or begun; all processes must call it.

    Args:
        all_have_written: whether no process is at work on the one that was begun, which is then completed.
    """
    if all_have_written:
        finish_save(run)
    interval = run.config.save_interval
    if interval is None or run.counters.steps % interval:
        return False
    save(run, in_background=run.config.checkpoint.async_save)
    return True


def finish_save(run: Run) -> None:
    """Complete the checkpoint that was begun, if one was; all processes must call it."""
    saving, run.saving = run.saving, None
    if saving is not None:
        saving.finish(keep_last=run.config.checkpoint.keep_last)


@contextlib.contextmanager
def held_folder(config: CheckpointConfig, ranks: Ranks) -> Iterator[Callable[[], None]]:
    """Hold the folder that a run saves to, for all its processes; each must enter.

    Within the block, the function given back raises BlockingIOError if another run has taken the folder
    all the same, as `file_lock` says.

    Raises:
        BlockingIOError: if another run saves there.
        ValueError: if it holds another run's checkpoints.
        OSError: if it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        check, may_save = _nothing_held, 0
        try:
            if config.save is not None and ranks.is_first:
                check = stack.enter_context(held(Path(config.save)))
                _check_folder(config)
            may_save = 1
        finally:
            # The others wait for a word also where the folder was refused.
            may_save = ranks.first_of(may_save)
        if not may_save:
            raise ValueError(f"process 0 may not save to {config.save}: see its message")
        yield check


def _nothing_held() -> None:
    """Let a process save that holds no folder."""


def _check_folder(config: CheckpointConfig) -> None:
    """Raise unless a checkpoint could be written and no other run would be overwritten."""
    assert config.save is not None
    folder = Path(config.save)
    probe = folder / f".writable.{os.getpid()}"
    probe.touch()
    probe.unlink()
    if has_checkpoints(folder) and not continues_there(config):
        raise ValueError(
            f"--save {folder} holds another run's checkpoints: continue it with --load {folder}, or "
            "name another folder"
        )


def continues_there(config: CheckpointConfig) -> bool:
    """Whether a run goes on in the folder that it saves to, whatever names the folder is given by."""
    if config.save is None or config.load is None:
        return False
    return Path(config.save).resolve() == Path(config.load).resolve()


def resume(run: Run) -> bool:
    """Whether a checkpoint was loaded; the run then stands where it was written.

    All processes must call it; they load the same one.

    Raises:
        FileNotFoundError: if there is none and the settings do not allow it.
        ValueError: if none is whole, or it is of another model or a run with other settings.
    """
    settings = run.config.checkpoint
    if settings.load is None:
        return False
    folder = Path(settings.load)
    checkpoint = agreed_checkpoint(
        run.engine, folder, moves_damaged=continues_there(settings), say=run.say
    )
    if checkpoint is None:
        if settings.allow_missing_checkpoint:
            return False
        raise FileNotFoundError(
            f"--load {settings.load} has no checkpoint; to start afresh there, add "
            "--allow-missing-checkpoint"
        )
    state = read_state(checkpoint, verified=True)
    _check_model(run, checkpoint, state)
    progress = _check_settings(run, state)
    load_engine(run.engine, checkpoint, progress)
    _resume_average(run, checkpoint, state)
    run.seconds = state["seconds"]
    run.say(f"continuing from {checkpoint}")
    return True


def _resume_average(run: Run, checkpoint: Path, state: Mapping[str, Any]) -> None:
    if run.average is None:
        return
    saved = read_average(checkpoint)
    if saved is None:
        run.say("the checkpoint holds no average of the weights: it begins here")
    else:
        run.average.load(run.engine, saved, state["average_updates"])


def _state(run: Run) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors, plain JSON data."""
    engine, config = run.engine, run.config
    sampler = run.loader.sampler
    return {
        "seconds": run.seconds,
        "architecture": _architecture(run),
        **({} if run.average is None else {"average_updates": run.average.num_updates}),
        "model": asdict(config.model),
        "settings": asdict(config),
        "learning_rate": asdict(_learning_rate(run)),
        "data_efficiency": engine.json_config.data_efficiency_json,
        "dataset": sampler.dataset_identity,
        "guarded": guarded_facts(run),
        "made_by": made_by(run),
    }


def made_by(run: Run) -> dict[str, Any]:
    """The program, the library and the machine that a run is computed by."""
    return provenance(
        engine="deepspeed" if run.config.training.deepspeed else "torch",
        num_processes=run.engine.ranks.world,
        device=run.engine.ranks.device,
    )


def _learning_rate(run: Run) -> LearningRate:
    assert run.engine.learning_rate is not None
    return run.engine.learning_rate


def _architecture(run: Run) -> str:
    return type(run.engine.module).__name__


def guarded_facts(run: Run) -> dict[str, Any]:
    """What the run and the checkpoint it continues from must agree on."""
    sampler = run.loader.sampler
    return guarded_record(
        run.config,
        data_efficiency=run.engine.data_efficiency_config,
        dataset_identity=sampler.dataset_identity,
        sampler_identity=sampler.identity(),
        clock=_learning_rate(run).clock,
        stage_starts=run.stage_starts,
    )


def _check_model(run: Run, checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Raise ValueError, naming what is different, unless a checkpoint is of the run's model."""
    if "engine" not in state:
        raise ValueError(
            f"{checkpoint} holds a model alone, such as a converted one: no run to go on"
        )
    if state["architecture"] != _architecture(run):
        raise ValueError(
            f"{checkpoint} is of a {state['architecture']}: this run trains a {_architecture(run)}"
        )
    differing = model_differences(state["model"], run.config.model)
    if differing:
        raise ValueError(f"{checkpoint} is of another model: {'; '.join(differing)}")


def _check_settings(run: Run, state: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's saved progress, for other data than the checkpoint's with a new place in them.

    Raises:
        ValueError: for settings that differ and are not overridden.
    """
    override = run.config.checkpoint.override
    found = differences(state["guarded"], guarded_facts(run))
    refuse_differences(found, override)
    for difference in found:
        run.say(f"overridden: {difference}")
    unused = [name for name in override if name not in {difference.name for difference in found}]
    if unused:
        run.say(f"note: --override {' '.join(unused)} lifts nothing: no difference")
    for name in ("peak", "minimum", "style", "warmup", "decay"):
        own, saved = getattr(_learning_rate(run), name), state["learning_rate"][name]
        if own != saved:
            run.say(f"note: the learning rate's {name} is {own} here and {saved} there")
    progress = dict(state["engine"])
    # Checkpoints written before the engine counted have the counters beside it.
    progress.setdefault("counters", state.get("counters"))
    sampler = run.loader.sampler
    if found and sampler.differences(progress["loader"]):
        progress["loader"] = sampler.state_at(progress["counters"]["steps"])
        run.say("overridden: samples are drawn as if none had been drawn before")
    return progress
