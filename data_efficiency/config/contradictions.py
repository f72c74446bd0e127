"""Techniques of the `data_efficiency` section that do not go together, refused by name."""

from collections.abc import Mapping, Sequence

from data_efficiency.config.metric_keys import OpenLengthPlan
from data_efficiency.config.metrics import WINDOWS, LengthPlan, Selection
from data_efficiency.json_section import ConfigError

Paced = Sequence[LengthPlan | OpenLengthPlan]


def refuse_contradictions(
    selections: Sequence[Selection], paced: Paced, techniques: Mapping[str, object]
) -> None:
    """Raise ConfigError for two techniques of which each changes what the other relies on.

    Args:
        paced: what happens to the lengths of rows, wherever in the file it stands.
        techniques: name -> settings of `data_sampling` and `data_routing`; None where it is off.
    """
    superposition = techniques["token_superposition"]
    _refuse_sliding_beside(techniques["random_ltd"], paced)
    if techniques["feedback"] is not None:
        _refuse_beside_feedback(selections, paced, superposition)
    _refuse_lengths_beside(superposition, paced)
    if techniques["length_buckets"] is not None:
        names = ("mix", "feedback", "batch_size", "token_superposition")
        _refuse_beside_buckets({name: techniques[name] for name in names}, paced)


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
