"""Spans of layers, as `random_ltd_layer_id` may name them: lists in a list."""

from collections.abc import Sequence
from typing import Any

from data_efficiency.json_section import ConfigError


def layers_in(chosen: Sequence[Any]) -> list[Any]:
    """The layers that `random_ltd_layer_id` names, in one list whether it is one or a list of lists.

    Example:
        >>> layers_in([[1, 2], [4]])
        [1, 2, 4]
    """
    return [layer for one in chosen for layer in (one if isinstance(one, list) else [one])]


def read_spans(chosen: Any, path: str) -> tuple[tuple[int, ...], ...]:
    """The spans that a list of lists names, by their first layers; empty where each layer stands alone.

    Raises:
        ConfigError: for a mixture of numbers and lists, and for layers that do not follow one another.
    """
    if not isinstance(chosen, list) or not any(isinstance(one, list) for one in chosen):
        return ()
    place = f"{path}.random_ltd_layer_id is {chosen}"
    for span in chosen:
        numbers = span if isinstance(span, list) else []
        if not numbers or not all(type(layer) is int for layer in numbers):
            raise ConfigError(
                f"{place}: must be a list of layers, or of lists of layers with a layer in each"
            )
        if numbers != [*range(numbers[0], numbers[0] + len(numbers))]:
            raise ConfigError(
                f"{place}: the layers of a span must follow one another, and {numbers} do not"
            )
    spans = tuple(sorted(tuple(span) for span in chosen))
    # Layers that stand alone keep a subset each, as in a plain list: the same configuration.
    return () if all(len(span) == 1 for span in spans) else spans
