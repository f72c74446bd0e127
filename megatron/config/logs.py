"""What is printed and recorded."""

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron.setting_rules import POSITIVE, Settings

TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Settings):
    """What is printed and recorded."""

    log_interval: Annotated[int, POSITIVE] = 10
    """Steps between lines on the console and in log.jsonl."""
    trackers: tuple[TrackerName, ...] = ()
    """What shows the run beside log.jsonl: tensorboard (events in the run's folder), wandb, trackio, mlflow.
    Each is an extra of its name, TensorBoard's is report; WANDB_MODE=offline and the like count as there."""
    tracker_project: str = "data-efficiency"
    """Project that wandb and trackio keep the run under, and experiment of mlflow."""


@dataclass(frozen=True, kw_only=True)
class PretrainingLoggingConfig(LoggingConfig):
    """What is printed and recorded, texts of the model among it."""

    sample_prompts: tuple[str, ...] = ()
    """GPT: beginnings that the model continues while it is trained, into console, log and trackers; or one
    file with a prompt a line. Needs the tokenizer. The training stays as it is, to the bit."""
    sample_interval: Annotated[int, POSITIVE] = 1000
    """Steps between such texts; there are some at the end as well."""
    sample_tokens: Annotated[int, POSITIVE] = 50
    """Tokens of each text, at most; they are drawn at temperature 0.8 from --seed."""
