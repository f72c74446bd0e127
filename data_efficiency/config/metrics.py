"""What a metric of the JSON file is parsed to: a selection of samples, or a plan of the rows' length."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from data_efficiency.json_section import ConfigError
from data_efficiency.schedule.protocol import Schedule

DifficultyType = Literal["value", "percentile"]
LengthAction = Literal[
    "truncate", "reshape", "attention_window", "sliding_window", "trim_padding", "user"
]
WINDOWS: Sequence[LengthAction] = ("attention_window", "sliding_window")
"""What leaves the rows as they are, and is an argument of the model's forward."""
ACTIONS_BY_NAME: Mapping[str, LengthAction] = {
    "seqlen_truncate": "truncate",
    "seqlen_reshape": "reshape",
    "attention_window": "attention_window",
    "sliding_window": "sliding_window",
}
"""Name of a metric -> what it does where nothing else is said; these follow their schedule."""


@dataclass(frozen=True, kw_only=True)
class PacedMetric:
    """What selections and length plans have in common: a name and a difficulty that is paced."""

    name: str
    difficulty_type: DifficultyType
    min_difficulty: int
    max_difficulty: int
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class Selection(PacedMetric):
    """A metric that decides which samples may be drawn."""

    index_path: str
    """Folder of the difficulty index, or DeepSpeed's `index_to_sample` without ending."""
    values_path: str | None = None
    """DeepSpeed's `index_to_metric` without ending; not read beside an index of ours."""
    trust_order: bool = False
    shuffle_index: str | None = None
    window_size: int | None = None
    """Samples that lie this far or farther below the highest difficulty so far are retired; None: none is."""
    sorts: bool = False
    """Whether it admits all samples, and sorts them for the configuration's `order`."""
    num_bands: int | None = None
    """Of a metric that sorts: bands of equally many samples that it tells apart; None: it sorts exactly."""


@dataclass(frozen=True, kw_only=True)
class LengthPlan(PacedMetric):
    """A metric that says what happens to the rows of a batch."""

    action: LengthAction
    length_multiple: int = 1
    """Lengths are rounded up to a multiple of this."""
    constant_tokens: bool = False
    """Whether a step has more rows while they are shorter, so that it has as many tokens."""
    keep_end_token: int | None = None
    """Token that a row which ends with it keeps at its end when it is cut; None: it is cut off."""
    finds_end_token: bool = False
    """Whether the dataset says which token that is, and has not yet."""

    def rows_in_place_of_one(self, difficulty: int) -> int:
        """Rows that a step reads for each of its batch size's, at a difficulty."""
        length = self.length_at(difficulty) if self.constant_tokens else None
        return 1 if length is None else max(1, self.max_difficulty // length)

    @property
    def follows_schedule(self) -> bool:
        """Whether the difficulty is a length; otherwise the content of the batches decides."""
        return self.action in ACTIONS_BY_NAME.values()

    def length_at(self, difficulty: int) -> int | None:
        """Positions of a row, or of its window, that a difficulty means; None where it does not decide.

        Raises:
            ValueError: for a length below 1.
        """
        if not self.follows_schedule:
            return None
        if difficulty < 1:
            raise ValueError(
                f"the schedule of metric {self.name!r} gives a sequence length of {difficulty}: "
                "must be at least 1"
            )
        return -(-difficulty // self.length_multiple) * self.length_multiple

    def refuse_shorter_rows(self, length: int) -> None:
        """Raise ConfigError if tokens are to stay those of rows that the data, of rows of a length, do not have."""
        if self.constant_tokens and self.max_difficulty > length:
            raise ConfigError(
                f"metric {self.name!r} goes up to {self.max_difficulty} tokens with constant_tokens, but rows have {length}: "
                f"steps of shorter rows would have more tokens than the last ones; let it go up to {length}"
            )

    def refuse_uneven_lengths(self, row_shares: int) -> None:
        """Raise ConfigError for rows that so many processes cannot share evenly."""
        if self.action in WINDOWS or self.action == "user":
            # The one leaves rows as they are; what the other makes of them is looked at as it comes.
            return
        if self.length_multiple % row_shares == 0:
            return
        multiple = math.lcm(self.length_multiple, row_shares)
        advice = f'give the metric "length_multiple": {multiple}'
        if not self.follows_schedule:
            raise ConfigError(
                f"the lengths of metric {self.name!r} follow from the rows, which {row_shares} processes share evenly "
                f"(tensor parallelism): {advice}"
            )
        for step, difficulty in self.schedule.values(1) if self.schedule.ends else ():
            length = self.length_at(difficulty)
            if length is not None and length % row_shares:
                raise ConfigError(
                    f"metric {self.name!r} gives rows of {length} tokens at step {step}, which {row_shares} processes "
                    f"cannot share evenly (tensor parallelism): {advice}"
                )
