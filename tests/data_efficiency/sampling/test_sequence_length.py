import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import IGNORED_LABEL
from data_efficiency.config import LengthPlan
from data_efficiency.sampling.sequence_length import (
    apply_actions,
    reshape,
    shape_after,
    trim_padding,
    truncate,
)
from data_efficiency.schedule import CustomSchedule

shapes = st.tuples(st.integers(1, 6), st.integers(1, 24), st.integers(1, 30))


def metric(name, action, multiple=1):
    return LengthPlan(
        name=name,
        difficulty_type="value",
        min_difficulty=1,
        max_difficulty=8,
        schedule=CustomSchedule(),
        action=action,
        length_multiple=multiple,
    )


def numbered_batch(rows, length):
    """Each token is its place in the batch, each label the place after it."""
    tokens = torch.arange(rows * length).reshape(rows, length)
    return {"tokens": tokens, "labels": tokens + 1, "loss_mask": torch.ones(rows, length)}


def test_every_tensor_is_cut_along_the_sequence():
    tokens = torch.arange(24).reshape(3, 8)
    batch = {
        "tokens": tokens,
        "pair": (tokens + 1, [tokens + 2]),
        "mask": torch.ones(3, 1, 8, 8),
        "broadcast_mask": torch.ones(3, 1, 1, 8),
        "features": torch.ones(3, 8, 5),
        "label": torch.ones(3),
        "name": "text",
    }
    cut = truncate(batch, 5)
    assert torch.equal(cut["tokens"], tokens[:, :5])
    assert torch.equal(cut["pair"][0], tokens[:, :5] + 1)
    assert torch.equal(cut["pair"][1][0], tokens[:, :5] + 2)
    shapes = {name: tuple(cut[name].shape) for name in ("mask", "broadcast_mask", "features")}
    assert shapes == {"mask": (3, 1, 5, 5), "broadcast_mask": (3, 1, 1, 5), "features": (3, 5, 5)}
    assert cut["label"].shape == (3,)
    assert cut["name"] == "text"
    assert cut["tokens"].is_contiguous()


@pytest.mark.parametrize("length", [8, 100])
def test_a_length_that_does_not_cut_changes_nothing(length):
    tokens = torch.zeros(2, 8)
    assert truncate(tokens, length) is tokens
    batch = numbered_batch(2, 8)
    assert reshape(batch, length) is batch


@given(shapes)
def test_reshaping_trains_each_token_once_whatever_the_length(shape):
    rows, length, wanted = shape
    batch = numbered_batch(rows, length) | {"features": torch.rand(rows, length, 3), "name": "x"}
    cut = reshape(batch, wanted)
    in_loss = cut["labels"] != IGNORED_LABEL
    assert sorted(cut["tokens"][in_loss].tolist()) == list(range(rows * length))
    assert torch.equal(cut["labels"][in_loss], cut["tokens"][in_loss] + 1)
    assert torch.equal(cut["loss_mask"] == 1, in_loss)
    steps = cut["tokens"].diff(dim=1)
    assert torch.equal(steps, torch.ones_like(steps))
    flat = batch["features"].flatten(0, 1)
    assert torch.equal(cut["features"], flat[cut["tokens"]])
    assert tuple(cut["tokens"].shape) == shape_after(
        (metric("r", "reshape"),), {"r": wanted}, rows, length
    )
    assert cut["name"] == "x"
    assert torch.equal(batch["labels"], numbered_batch(rows, length)["labels"])


def test_what_the_last_row_repeats_is_context_only():
    cut = reshape(numbered_batch(2, 5), 4)
    assert cut["tokens"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert cut["labels"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [-100, -100, 9, 10]]


def test_batches_that_cannot_be_reshaped():
    for batch in (torch.zeros(2, 8), {"tokens": torch.zeros(2, 8)}, {"labels": [1]}):
        with pytest.raises(ValueError, match="mappings with a tensor 'labels' or 'loss_mask'"):
            reshape(batch, 4)
    batch = numbered_batch(2, 8) | {"attention_mask": torch.ones(2, 1, 8, 8)}
    with pytest.raises(ValueError, match=r"'attention_mask' has shape .* needs \[2, 8, ...\]"):
        reshape(batch, 4)


@given(shapes, st.integers(1, 5))
def test_trimming_removes_only_positions_that_are_padding_in_every_row(shape, multiple):
    rows, length, seed = shape
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]).long()
    trimmed = trim_padding({"padding_mask": mask, "tokens": mask + 7}, multiple)
    longest = int(lengths.max())
    assert trimmed["tokens"].shape[1] == min(length, -(-longest // multiple) * multiple)
    assert trimmed["padding_mask"].sum() == mask.sum()
    assert torch.equal(trimmed["tokens"], trimmed["padding_mask"] + 7)


def test_padding_at_the_front_and_rows_of_padding_only():
    left = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    assert trim_padding({"attention_mask": left})["attention_mask"].shape == (2, 4)
    empty = torch.zeros(2, 4)
    assert trim_padding({"attention_mask": empty})["attention_mask"].shape == (2, 1)


@pytest.mark.parametrize(
    "batch", [torch.ones(2, 8), {"tokens": 1}, {"attention_mask": torch.ones(2, 1, 8, 8)}]
)
def test_trimming_needs_a_padding_mask(batch):
    with pytest.raises(ValueError, match="'padding_mask', 'attention_mask'"):
        trim_padding(batch)


def test_only_declared_actions_are_carried_out():
    tokens = torch.zeros(2, 8)
    metrics = (metric("a", "truncate"), metric("b", "user"), metric("c", None))
    assert apply_actions(tokens, metrics, {"a": 6, "b": 3, "c": 2}).shape == (2, 6)
    assert shape_after(metrics, {"a": 6, "b": 3, "c": 2}, 2, 8) == (2, 6)
    assert apply_actions(tokens, metrics[1:], {"b": 3, "c": 2}) is tokens
    assert shape_after(metrics[1:], {"b": 3, "c": 2}, 2, 8) == (2, 8)


def test_the_shortest_length_counts_and_lengths_are_rounded_up():
    tokens = torch.zeros(2, 16)
    metrics = (metric("a", "truncate", multiple=8), metric("b", "truncate", multiple=3))
    for a, b, expected in ((5, 16, 8), (9, 10, 12), (9, 4, 6), (17, 17, 16)):
        assert apply_actions(tokens, metrics, {"a": a, "b": b}).shape == (2, expected)
        assert shape_after(metrics, {"a": a, "b": b}, 2, 16) == (2, expected)
    reshaping = (metric("r", "reshape", multiple=8),)
    assert apply_actions(numbered_batch(2, 16), reshaping, {"r": 3})["labels"].shape == (4, 8)


def test_padding_is_trimmed_before_the_length_is_cut():
    mask = (torch.arange(16) < torch.tensor([[9], [11]])).long()
    metrics = (metric("rarity", "trim_padding", multiple=4), metric("a", "truncate"))
    batch = {"padding_mask": mask}
    assert apply_actions(batch, metrics, {"rarity": 1, "a": 14})["padding_mask"].shape == (2, 12)
    assert apply_actions(batch, metrics, {"rarity": 1, "a": 5})["padding_mask"].shape == (2, 5)


def test_a_schedule_that_falls_below_one_is_refused():
    metrics = (metric("a", "truncate"),)
    with pytest.raises(ValueError, match="metric 'a' gives a sequence length of 0"):
        apply_actions(torch.zeros(2, 8), metrics, {"a": 0})
