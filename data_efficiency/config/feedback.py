"""The `feedback` of data_sampling: which samples are drawn follows the losses that the run had on them."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from data_efficiency.json_section import ConfigError, Positive, Section

Policy = Literal["high_loss", "low_loss", "learnability"]


@dataclass(frozen=True, kw_only=True)
class FeedbackKeys:
    """`data_efficiency.data_sampling.feedback`."""

    policy: Policy
    """high_loss: samples whose last loss was high are drawn on, low_loss: low. learnability: samples whose loss fell most
    between the last two times."""
    kept_share: float
    """Of the samples that have been ranked, the share that is drawn from, above 0 and up to 1. Samples without losses
    enough stay in the pool."""
    refresh_steps: Positive
    """Steps of a round: at its beginning samples are ranked anew. The first round draws from all."""
    delay_steps: Positive
    """Steps that a ranking is behind: a round that begins with step s goes by the losses of steps up to s - delay_steps.
    At least 1, and more where workers read ahead."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """How the losses of a run choose its samples."""

    policy: Policy
    kept_share: float
    refresh_steps: int
    delay_steps: int

    def round_of(self, step: int) -> int:
        """The round that a step, counted from 1, belongs to; the first is 0."""
        return (step - 1) // self.refresh_steps

    def last_known(self, number: int) -> int:
        """The last step whose values the ranking of a round knows; 0 or less: none."""
        return number * self.refresh_steps + 1 - self.delay_steps

    def section(self) -> dict[str, Any]:
        """The keys of the JSON file."""
        return asdict(self)


def read_feedback(section: Section) -> Feedback:
    """The feedback that the section describes.

    Raises:
        ConfigError: for a share that is none, or a wrong key.
    """
    keys = section.read(FeedbackKeys)
    section.close()
    if not 0 < keys.kept_share <= 1:
        raise ConfigError(
            f"{section.path}.kept_share is {keys.kept_share}: must be above 0 and at most 1"
        )
    return Feedback(**vars(keys))
