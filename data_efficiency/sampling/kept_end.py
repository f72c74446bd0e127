"""The token that ends a text stays at the end of a row that is cut.

A worked example, 9 ending texts: tokens 5 6 7 8 9, labels the tokens that follow, cut to 3: tokens 5 6 9, labels 6 9 and
what follows the text. The row ends as texts do, and the model is asked for the end where the text now has it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from data_efficiency.token_names import MASK_NAMES, NOT_TRAINED, Axes, arrays_of, last_name

_IDS = ("input_ids", "tokens")
Change = Callable[[torch.Tensor], torch.Tensor]


def kept_end_changes(batch: Any, axes: Axes, length: int, end: int) -> dict[str, Change]:
    """What becomes of the entries of a batch whose rows will be cut to `length` positions, and end with `end`.

    A row ends with it where its last token is that, or those before its padding are: of several in a row the first counts,
    since padding may be the same token. A row that does not end so is not changed. Tokens and labels change, and `loss_mask`.

    Args:
        batch: its rows are padded at their ends, if at all, as a `padding_mask` or `attention_mask` tells.
        axes: the entries along the sequence.

    Returns:
        Name of an entry -> what changes it.

    Raises:
        ValueError: if no entry is known to hold ids of tokens, or for labels that are neither the tokens nor those that follow.
    """
    arrays = {name: torch.as_tensor(array) for name, array in arrays_of(batch).items()}
    is_alone = list(arrays) == ["0"]
    ids = [
        name
        for name in axes
        if (is_alone or last_name(name) in _IDS) and axes[name] == (arrays[name].ndim - 1,)
    ]
    if not ids:
        raise ValueError(
            f"keep_end_token: none of {', '.join(map(repr, axes))} is known to hold the ids of tokens, so that nothing tells how "
            f"rows end: give batches with {' or '.join(_IDS)}, or remove the key"
        )
    changes: dict[str, Change] = {}
    for name in ids:
        tokens = arrays[name]
        if length >= tokens.shape[-1]:
            continue
        prefix = name.removesuffix(last_name(name)) if last_name(name) in _IDS else ""
        beside = {
            other: array
            for other, array in arrays.items()
            if other in axes
            and other == f"{prefix}{last_name(other)}"
            and array.shape == tokens.shape
        }
        place = _places(tokens, end, _used(beside, tokens))
        is_cut = (place >= length) & (place < tokens.shape[-1])
        if not is_cut.any():
            continue
        changes[name] = _moved(is_cut, place, {length - 1: 0})
        columns = {length - 1: 0}
        if _are_next(beside, tokens) and length > 1:
            columns[length - 2] = 1
        changes |= {
            other: _moved(is_cut, place, columns)
            for other in beside
            if last_name(other) in NOT_TRAINED
        }
    return changes


def _used(beside: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Which positions are no padding."""
    found = (array for name, array in beside.items() if last_name(name) in MASK_NAMES)
    return next((array != 0 for array in found), torch.ones_like(tokens, dtype=torch.bool))


def _places(tokens: torch.Tensor, end: int, used: torch.Tensor) -> torch.Tensor:
    """Where each row's last run of `end` begins, int64 [rows...]; the row's length where it does not end so."""
    size = tokens.shape[-1]
    numbers = torch.arange(1, size + 1)
    behind_text = (numbers * (used & (tokens != end))).amax(-1)
    behind_all = (numbers * used).amax(-1)
    return torch.where(behind_text < behind_all, behind_text, size)


def _moved(is_cut: torch.Tensor, place: torch.Tensor, columns: Mapping[int, int]) -> Change:
    """What writes into some columns of the rows that are cut what stands so many places before the end."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        for column, before in columns.items():
            source = (place - before).clamp(0, tensor.shape[-1] - 1)
            there = tensor.gather(-1, source[..., None]).squeeze(-1)
            changed[..., column] = torch.where(is_cut, there, tensor[..., column])
        return changed

    return change


def _are_next(beside: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> bool:
    """Whether labels are the tokens that follow; else they are the tokens themselves, or there are none.

    Raises:
        ValueError: if they are something else, or only a mask of them is there.
    """
    named = {last_name(name): array for name, array in beside.items()}
    if "shift_labels" in named:
        return True
    labels = named.get("labels")
    if labels is None:
        if "loss_mask" in named:
            raise ValueError(
                "keep_end_token: the batch has a loss_mask and no labels, so that nothing tells which tokens it is of: give labels, "
                "or remove the key"
            )
        return False
    known = labels != NOT_TRAINED["labels"]
    if torch.equal(labels[..., :-1][known[..., :-1]], tokens[..., 1:][known[..., :-1]]):
        return True
    if torch.equal(labels[known], tokens[known]):
        return False
    raise ValueError(
        "keep_end_token: the labels are neither the tokens nor those that follow them (a BERT's are of masked ones), so that nothing "
        "tells what is asked at the end of a row: remove the key"
    )
