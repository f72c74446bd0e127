"""Whose folder it is: a run goes on, or is known as finished, only with its own settings and data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.checkpoint.saved_run import SavedRun, refuse_other_settings
from megatron.config import AnyRunConfig
from megatron.reporting import read_log
from megatron.reporting.run_log import LOG_FILE

# Where a run stands, how it is computed and what a plan is made by: nothing that is part of what it is.
_NOT_PART_OF_A_RUN = frozenset(
    [
        *("deepspeed", "exit_duration_in_mins", "distributed_timeout_minutes", "num_workers"),
        *("num_samples", "num_layers", "num_positions", "counted_batch"),
        *("text", "folder", "data", "pretrained", "tokenizer_file", "difficulty"),
    ]
)


def saved_run(config: AnyRunConfig, identity: Mapping[str, Any]) -> SavedRun:
    """The folder of a run, and whose it is."""
    kept = {
        **vars(config.model),
        **vars(config.data),
        **vars(config.training),
        "data_efficiency": config.data_efficiency,
        "data_identity": identity,
    }
    interval = config.checkpoint.save_interval
    assert interval is not None
    return SavedRun(
        folder=Path(str(config.checkpoint.save)),
        interval=interval,
        settings=json.loads(
            json.dumps({k: v for k, v in kept.items() if k not in _NOT_PART_OF_A_RUN})
        ),
    )


def is_finished(config: AnyRunConfig, identity: Mapping[str, Any]) -> bool:
    """Whether the run is over and its log lies in its folder.

    Raises:
        ValueError: if it is another run's.
    """
    saved = saved_run(config, identity)
    if not (saved.folder / LOG_FILE).is_file():
        return False
    log = read_log(saved.folder)
    if log.end is None:
        return False
    found = log.start["settings"]
    groups = [found.get(name, {}) for name in ("model", "data", "training")]
    settings = {k: v for group in groups for k, v in group.items() if k not in _NOT_PART_OF_A_RUN}
    sections = {"data_efficiency": found.get("data_efficiency"), "data_identity": log.start["data"]}
    refuse_other_settings(saved.folder, {**settings, **sections}, saved.settings)
    print(f"{saved.folder} is finished", flush=True)
    return True
