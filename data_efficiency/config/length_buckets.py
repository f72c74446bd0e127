"""The `length_buckets` of data_sampling: rows of several lengths, one length a step, equally many tokens in each."""

import math
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from data_efficiency.json_section import ConfigError, Positive, Section

OddsName = Literal["uniform", "grow_linear", "grow_p2"]
SharesName = Literal["natural", "uniform"]


@dataclass(frozen=True, kw_only=True)
class LengthBucketKeys:
    """`data_efficiency.data_sampling.length_buckets`."""

    odds: Any = "uniform"
    """How much sooner than by its share a bucket is drawn in each cycle, until none of its steps is left there: a number for each,
    shortest rows first, or a name. uniform: all alike. grow_linear: 6, 5, 4, 3, 2, 1 for six buckets. grow_p2: 32, 16, 8,
    4, 2, 1."""
    token_shares: Any = "natural"
    """How the tokens of a pass are shared by the buckets: a number for each, in any unit. natural: as those of the data are.
    uniform: equally."""
    num_cycles: Positive = 1
    """Cycles of a pass, each with its part of every bucket's steps."""
    pass_steps: int | None = None
    """Steps of a pass through all cycles. Not given: what each row once comes to; in a run file "auto" is the whole run."""
    lengths: Any = None
    """Tokens of a row of each bucket, ascending, each dividing the last. Not given: those of the dataset, which must agree."""
    sizes: Any = None
    """Rows of each bucket. Not given: those of the dataset. A plan without the data needs them where shares are natural."""


@dataclass(frozen=True, kw_only=True)
class LengthBuckets:
    """Which bucket of rows each step draws from."""

    odds: tuple[float, ...] | OddsName = "uniform"
    token_shares: tuple[float, ...] | SharesName = "natural"
    num_cycles: int = 1
    pass_steps: int | None = None
    lengths: tuple[int, ...] = ()
    """Of a row of each bucket; empty: not known yet."""
    sizes: tuple[int, ...] = ()
    """Rows of each bucket; empty: not known yet."""

    def rows_in_place_of_one(self, bucket: int) -> int:
        """Rows of a bucket that have the tokens of one of the longest rows."""
        return self.lengths[-1] // self.lengths[bucket]

    def odds_of_buckets(self) -> tuple[float, ...]:
        """One number for each bucket, whose lengths are known.

        Example:
            >>> LengthBuckets(odds="grow_p2", lengths=(256, 512, 1024)).odds_of_buckets()
            (4.0, 2.0, 1.0)
        """
        if not isinstance(self.odds, str):
            return self.odds
        places = range(len(self.lengths), 0, -1)
        return tuple(
            {"uniform": 1.0, "grow_linear": float(place), "grow_p2": 2.0 ** (place - 1)}[self.odds]
            for place in places
        )

    def shares_of_buckets(self) -> tuple[float, ...]:
        """What part of the tokens each bucket has; the sum is 1.

        Raises:
            ConfigError: if they follow from sizes that are not known, or none of a bucket's rows is there to be drawn.
        """
        if isinstance(self.token_shares, str) and not self.sizes:
            raise ConfigError(
                f"data_sampling.length_buckets.token_shares is {self.token_shares!r}, and how many rows each bucket has is not "
                "known without the data: give its sizes (of a plan --num-samples N N ..., one for each), or shares in numbers"
            )
        if self.token_shares == "natural":
            amounts = [
                float(size * length) for size, length in zip(self.sizes, self.lengths, strict=True)
            ]
        elif self.token_shares == "uniform":
            amounts = [float(size > 0) for size in self.sizes]
        else:
            amounts = list(self.token_shares)
        for number, size in enumerate(self.sizes):
            if not size and amounts[number]:
                raise ConfigError(
                    f"data_sampling.length_buckets.token_shares is {list(amounts)}, but there are no rows of "
                    f"{self.lengths[number]} tokens: give bucket {number} the share 0, or other lengths"
                )
        return tuple(amount / sum(amounts) for amount in amounts)

    def of_rows(self, lengths: tuple[int, ...], sizes: tuple[int, ...]) -> "LengthBuckets":
        """The same for a dataset's rows.

        Raises:
            ConfigError: if other ones are written.
        """
        for name, found in (("lengths", lengths), ("sizes", sizes)):
            written = getattr(self, name)
            if written not in ((), found):
                raise ConfigError(
                    f"data_sampling.length_buckets.{name} is {list(written)}, but those of the dataset are {list(found)}: "
                    "remove the key, or give the dataset that it is of"
                )
        closed = replace(self, lengths=lengths, sizes=sizes)
        _refuse_uneven(closed, "data_sampling.length_buckets")
        return closed

    def section(self) -> dict[str, Any]:
        """The keys of the JSON file, those that are not given left out."""
        written = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
        }
        return {key: value for key, value in written.items() if value not in (None, [])}


def read_length_buckets(section: Section) -> LengthBuckets:
    """The buckets that the section describes.

    Raises:
        ConfigError: for lists that are none, or do not fit each other.
    """
    keys, path = section.read(LengthBucketKeys), section.path
    section.close()
    buckets = LengthBuckets(
        odds=_named_or_numbers(f"{path}.odds", keys.odds, get_args(OddsName), above=True),
        token_shares=_named_or_numbers(
            f"{path}.token_shares", keys.token_shares, get_args(SharesName), above=False
        ),
        num_cycles=keys.num_cycles,
        pass_steps=keys.pass_steps,
        lengths=_whole_numbers(f"{path}.lengths", keys.lengths, least=1),
        sizes=_whole_numbers(f"{path}.sizes", keys.sizes, least=0),
    )
    _refuse_uneven(buckets, path)
    return buckets


def _named_or_numbers(path: str, given: object, names: tuple[str, ...], *, above: bool) -> Any:
    if isinstance(given, str) and given in names:
        return given
    numbers = given if isinstance(given, (list, tuple)) else []
    fit = all(type(one) in (int, float) and 0 <= one <= sys.float_info.max for one in numbers)
    if not numbers or not fit or not 0 < sum(numbers) < math.inf or (above and not all(numbers)):
        rule = "above 0" if above else "of at least 0, not all 0"
        raise ConfigError(
            f"{path} is {given!r}: must be one of {', '.join(names)}, or a list of numbers {rule}, one for each bucket"
        )
    return tuple(float(one) for one in numbers)


def _whole_numbers(path: str, given: object, *, least: int) -> tuple[int, ...]:
    if given is None:
        return ()
    numbers = given if isinstance(given, (list, tuple)) else []
    if not numbers or not all(type(one) is int and one >= least for one in numbers):
        raise ConfigError(
            f"{path} is {given!r}: must be a list of whole numbers of at least {least}, one for each bucket"
        )
    return tuple(numbers)


def _refuse_uneven(buckets: LengthBuckets, path: str) -> None:
    """Raise ConfigError for lists of different lengths, or rows that cannot have equally many tokens."""
    lists = {
        name: value
        for name in ("lengths", "sizes", "odds", "token_shares")
        if (value := getattr(buckets, name)) and not isinstance(value, str)
    }
    numbers = {name: len(value) for name, value in lists.items()}
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{name} has {number}" for name, number in numbers.items())
        raise ConfigError(f"{path}: {told}: must be a number for each bucket")
    lengths = buckets.lengths
    rises = all(low < high for low, high in pairwise(lengths))
    if lengths and not (rises and all(lengths[-1] % one == 0 for one in lengths)):
        raise ConfigError(
            f"{path}.lengths is {list(lengths)}: must ascend, and each divide the last one, so that steps have equally many tokens"
        )
    if buckets.pass_steps is not None and buckets.num_cycles > buckets.pass_steps:
        raise ConfigError(
            f"{path}.num_cycles is {buckets.num_cycles}: must be at most pass_steps ({buckets.pass_steps})"
        )
