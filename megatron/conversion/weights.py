"""Renaming and reshaping weights by a list of rules, forwards and backwards.

A model family is described by its rules alone; what they do is here, pure and the same for all.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

Weights = Mapping[str, torch.Tensor]


class Rule(NamedTuple):
    """One tensor of ours and the tensor, or tensors, of theirs that hold the same numbers."""

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...] | None = None
    """Rows of each of theirs, where several follow each other in ours."""
    transposed: bool = False
    """Whether theirs is [in, out]."""


def rules_of_layers(
    layer: Mapping[str, str],
    num_layers: int,
    prefixes: tuple[str, str],
    sizes: Mapping[str, tuple[int, ...]],
) -> Iterator[Rule]:
    """The rules of all layers from those of one.

    Args:
        layer: ours -> theirs, without the prefix; several of theirs have spaces between them, and a
            leading ".T " marks one that is transposed.
        prefixes: ours and theirs, with "{i}" for the layer's number, from 0.
        sizes: ours -> rows of each of theirs, where there are several.
    """
    for i in range(num_layers):
        our_prefix, their_prefix = (prefix.format(i=i) for prefix in prefixes)
        for ours, theirs in layer.items():
            names = tuple(their_prefix + name for name in theirs.removeprefix(".T ").split())
            yield Rule(our_prefix + ours, names, sizes.get(ours), theirs.startswith(".T "))


def to_theirs(weights: Weights, rules: Iterable[Rule]) -> dict[str, torch.Tensor]:
    """Their tensors from ours.

    Raises:
        ValueError: if a tensor is missing, left over or of the wrong size.
    """
    rules = list(rules)
    _check_names(weights, {rule.ours for rule in rules})
    result = {}
    for rule in rules:
        tensor = weights[rule.ours]
        if rule.sizes is not None and tensor.shape[0] != sum(rule.sizes):
            raise ValueError(
                f"{rule.ours} has {tensor.shape[0]} rows, not {sum(rule.sizes)}: the weights and the"
                " configuration do not belong together"
            )
        parts = (tensor,) if rule.sizes is None else tensor.split(rule.sizes)
        for name, part in zip(rule.theirs, parts, strict=True):
            result[name] = (part.t() if rule.transposed else part).contiguous()
    return result


def to_ours(weights: Weights, rules: Iterable[Rule]) -> dict[str, torch.Tensor]:
    """Our tensors from theirs; the errors of `to_theirs`."""
    rules = list(rules)
    _check_names(weights, {name for rule in rules for name in rule.theirs})
    result = {}
    for rule in rules:
        parts = [weights[name] for name in rule.theirs]
        if rule.transposed:
            parts = [part.t() for part in parts]
        result[rule.ours] = (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()
    return result


def _check_names(weights: Weights, expected: set[str]) -> None:
    missing, surplus = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
    if missing or surplus:
        found = [f"{len(missing)} missing, such as {missing[0]}"] if missing else []
        found += [f"{len(surplus)} without a counterpart, such as {surplus[0]}"] if surplus else []
        raise ValueError(f"these are not the weights that the configuration describes: {found}")
