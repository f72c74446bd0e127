"""What is printed and recorded."""

from dataclasses import dataclass
from typing import Annotated

from megatron.setting_rules import POSITIVE, Settings


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Settings):
    """What is printed and recorded."""

    log_interval: Annotated[int, POSITIVE] = 10
    """Steps between lines on the console and in log.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard events into the run's folder."""
