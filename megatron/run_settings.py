"""A run's settings, completed once its processes know each other: batch sizes, a folder, and the file that repeats it there."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from data_efficiency import Ranks, files
from megatron.config import RUN_KINDS, AnyRunConfig
from megatron.recipes import write_run_file
from megatron.reporting import RUN_FILE
from megatron.setting_rules import require

AnyRun = TypeVar("AnyRun", bound=AnyRunConfig)


def with_batch_size(config: AnyRun, num_processes: int) -> AnyRun:
    """The settings with the global batch size written out, and no larger micro-batches than a process gets.

    Raises:
        ValueError: if the processes cannot share it evenly.
    """
    training = config.training
    batch_size, micro = training.global_batch_size, training.micro_batch_size
    if batch_size is None:
        accumulation = config.engine.get("gradient_accumulation_steps", "auto")
        batch_size = micro * num_processes * (1 if accumulation == "auto" else accumulation)
    micro = min(micro, max(1, batch_size // num_processes))
    require(
        batch_size % (micro * num_processes) == 0,
        "global_batch_size",
        batch_size,
        f"must be a multiple of --micro-batch-size ({micro}) x processes ({num_processes})",
    )
    training = replace(training, global_batch_size=batch_size, micro_batch_size=micro)
    return replace(config, training=training)


def with_folder(config: AnyRun, ranks: Ranks) -> AnyRun:
    """The settings with a folder for the run: the first below runs/ that is free, unless one is given."""
    if config.checkpoint.save is not None:
        return config
    number = 1
    while ranks.is_first:
        try:
            # Made at once, so that another run that starts now takes the next one.
            Path(_folder(config, number)).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    save = _folder(config, ranks.first_of(number))
    if ranks.is_first:
        print(f"no --save is given: the run is kept in {save}")
    return replace(config, checkpoint=replace(config.checkpoint, save=save))


def _folder(config: AnyRunConfig, number: int) -> str:
    return f"runs/{config.architecture}" + (f"_{number}" if number > 1 else "")


def keep_run_file(config: AnyRunConfig) -> None:
    """Write the file that repeats the run into its folder."""
    path = Path(str(config.checkpoint.save)) / RUN_FILE
    command = f"python {RUN_KINDS[config.architecture].script} --config {path}"
    files.write_file(path, write_run_file(config, command).encode())
