"""Where checkpoints are written and read."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from megatron.setting_rules import NOT_NEGATIVE, POSITIVE, Settings

GuardedSetting = Literal[
    "data",
    "tokenizer",
    "masking",
    "documents",
    "split",
    "seq_length",
    "global_batch_size",
    "seed",
    "difficulty_index",
    "curriculum",
    "random_ltd",
    "layer_dropout",
    "full_from_step",
    "token_superposition",
    "feedback",
    "batch_size",
    "length_buckets",
    "selective_backprop",
    "stages",
    "clock",
]
GUARDED_SETTINGS: tuple[GuardedSetting, ...] = get_args(GuardedSetting)
"""What a run and the checkpoint it continues from must agree on."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Settings):
    """Where checkpoints are written and read."""

    save: str | None = None
    """Folder of the run: log, checkpoints, and run.toml, the run file that repeats it. Not given: a folder
    below runs/ with the name of the run file or, without one, of the script."""
    save_interval: Annotated[int | None, POSITIVE] = None
    """Steps between checkpoints; there is one at the end as well."""
    num_checkpoints: Annotated[int | None, POSITIVE] = None
    """Instead of --save-interval: checkpoints over as many steps as whole samples fill the budget in."""
    keep_last: Annotated[int, NOT_NEGATIVE] = 2
    """Newest checkpoints to keep; 0 keeps all."""
    async_save: bool = False
    """Train on while a checkpoint is written: each process copies its share to the host, and a thread writes it.
    Until all have, some steps later, the one before it is the run's last."""
    load: str | None = None
    """Folder of a run to continue. Not given: with a run file --save, if there is a run in it."""
    allow_missing_checkpoint: bool = False
    """Start afresh where --load names a folder without a checkpoint, which is an error otherwise."""
    override: tuple[GuardedSetting, ...] = ()
    """Continue although these differ from the checkpoint's run, which is an error otherwise."""
