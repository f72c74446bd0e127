"""Techniques of the `data_efficiency` section that do not go together, refused by name."""

from collections.abc import Mapping, Sequence

from data_efficiency.config.data_sampling import DataSampling
from data_efficiency.config.metric_keys import OpenLengthPlan
from data_efficiency.config.metrics import WINDOWS, LengthPlan, Selection
from data_efficiency.json_section import ConfigError

Paced = Sequence[LengthPlan | OpenLengthPlan]


def refuse_contradictions(sampling: DataSampling, routes: Mapping[str, object]) -> None:
    """Raise ConfigError for two techniques of which each changes what the other relies on.

    Args:
        routes: name -> settings of `data_routing`; None where it is off.
    """
    paced, superposition = sampling.paced, routes["token_superposition"]
    _refuse_sliding_beside(routes["random_ltd"], paced)
    if sampling.feedback is not None:
        _refuse_beside_feedback(sampling.metrics.selections, paced, superposition)
    _refuse_lengths_beside(superposition, paced)
    if sampling.length_buckets is not None:
        others = {
            "mix": sampling.mix,
            "feedback": sampling.feedback,
            "batch_size": sampling.batch_size,
            "token_superposition": superposition,
        }
        _refuse_beside_buckets(others, paced)


def _refuse_sliding_beside(dropping: object, plans: Paced) -> None:
    sliding = [plan.name for plan in plans if plan.action == "sliding_window"]
    if dropping is not None and sliding:
        raise ConfigError(
            f"metric {sliding[0]!r} slides a window over the tokens of a row, and random_ltd drops some of them: "
            "windows that are blocks (attention_window) go with it; use those, or disable random_ltd"
        )


def _refuse_beside_feedback(
    selections: Sequence[Selection],
    paced: Paced,
    superposition: object,
) -> None:
    reshaping = [plan.name for plan in paced if plan.action == "reshape"]
    for is_there, what in (
        (bool(selections), f"metric {selections[0].name!r} chooses samples" if selections else ""),
        (bool(reshaping), f"metric {reshaping[0]!r} mixes samples in rows" if reshaping else ""),
        (superposition is not None, "token_superposition makes rows of several samples"),
    ):
        if is_there:
            raise ConfigError(
                f"data_sampling.feedback chooses samples by the loss of their rows, and {what}: remove one of the two"
            )


def _refuse_beside_buckets(others: Mapping[str, object], paced: Paced) -> None:
    """Raise ConfigError for what says the lengths or the numbers of rows too."""
    found = [name for name, one in others.items() if one is not None]
    found += [f"metric {plan.name!r}" for plan in paced if plan.action not in (*WINDOWS, "user")]
    if found:
        raise ConfigError(
            "data_sampling.length_buckets says which rows a step has, how long and how many they are, and so does "
            f"{found[0]}: remove one of the two"
        )


def _refuse_lengths_beside(superposition: object, paced: Paced) -> None:
    if superposition is not None and paced:
        raise ConfigError(
            "token_superposition and a metric that paces the length of rows are both enabled: bags are of whole "
            "samples; switch one of them off"
        )
