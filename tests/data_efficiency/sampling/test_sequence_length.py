from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding
from transformers.utils import ModelOutput

from data_efficiency import IGNORED_LABEL
from data_efficiency.config import LengthPlan
from data_efficiency.config.curriculum import CurriculumKeys
from data_efficiency.json_section import Section
from data_efficiency.sampling.sequence_length import (
    apply_actions,
    reshape,
    shape_after,
    trim_padding,
    truncate,
    windows_of,
)
from data_efficiency.schedule import CustomSchedule
from data_efficiency.token_names import arrays_of

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


B, S, CUT = 3, 8, 5
IDS = torch.arange(B * S).reshape(B, S)
ONES = torch.ones(B, S, dtype=torch.long)


@dataclass(frozen=True)
class Batch:
    labels: torch.Tensor
    input_ids: torch.Tensor
    name: str = "text"


Pair = namedtuple("Pair", "input_ids labels")


# entries of a batch, and the shapes of those that are cut to 5 of 8 positions
BATCHES = [
    pytest.param({"labels": torch.ones(B, 4), "input_ids": IDS}, {"input_ids": (B, CUT)}, id="tasks"),
    pytest.param({"labels": torch.ones(B), "input_ids": IDS}, {"input_ids": (B, CUT)}, id="rows"),
    pytest.param({"labels": ONES[:, :1], "tokens": IDS}, {"tokens": (B, CUT)}, id="column"),
    pytest.param(
        {"pixel_values": torch.ones(B, 3, S, S), "input_ids": IDS, "name": ["text"] * B},
        {"input_ids": (B, CUT)},
        id="images",
    ),
    pytest.param(
        {"input_ids": torch.ones(B, 4, S).long(), "attention_mask": torch.ones(B, 4, S), "labels": ONES[:, 0]},
        {"input_ids": (B, 4, CUT), "attention_mask": (B, 4, CUT)},
        id="choices",
    ),
    pytest.param(
        {"inputs_embeds": torch.ones(B, S, S), "attention_mask": ONES, "labels": IDS},
        {"inputs_embeds": (B, CUT, S), "attention_mask": (B, CUT), "labels": (B, CUT)},
        id="hidden = sequence",
    ),
    pytest.param(
        {
            "input_ids": IDS,
            "attention_mask": torch.ones(B, 1, S, S),
            "padding_mask": torch.ones(B, 1, 1, S),
            "position_ids": torch.arange(S)[None],
            "bbox": torch.ones(B, S, 4),
            "features": torch.ones(B, 7, 2),
        },
        {
            "input_ids": (B, CUT),
            "attention_mask": (B, 1, CUT, CUT),
            "padding_mask": (B, 1, 1, CUT),
            "position_ids": (1, CUT),
            "bbox": (B, CUT, 4),
        },
        id="masks",
    ),
    pytest.param({"position_ids": torch.ones(3, B, S).long(), "tokens": IDS},
        {"position_ids": (3, B, CUT), "tokens": (B, CUT)}, id="rotary axes"),
    pytest.param({"text": [{"input_ids": IDS.numpy(), "labels": IDS}]},
        {"text.0.input_ids": (B, CUT), "text.0.labels": (B, CUT)}, id="nested, numpy"),
    pytest.param(IDS, {"0": (B, CUT)}, id="alone"),
    pytest.param(Batch(torch.ones(B, 4), IDS), {"input_ids": (B, CUT)}, id="dataclass"),
    pytest.param(BatchEncoding({"labels": torch.ones(B, 4), "input_ids": IDS}), {"input_ids": (B, CUT)},
        id="BatchEncoding"),
    pytest.param(Pair(IDS, ONES[:, 0]), {"input_ids": (B, CUT)}, id="namedtuple"),
    pytest.param(ModelOutput(input_ids=IDS), {"input_ids": (B, CUT)}, id="ModelOutput"),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "expected"), BATCHES)
def test_names_tell_what_is_cut(batch, expected):
    cut = truncate(batch, CUT)
    assert type(cut) is type(batch)
    before, after = arrays_of(batch), arrays_of(cut)
    for name, array in before.items():
        assert tuple(after[name].shape) == expected.get(name, tuple(array.shape)), name
        kept = array[tuple(slice(0, size) for size in after[name].shape)]
        assert type(after[name]) is type(array)
        assert (kept == after[name]).all()
    for array in (after[name] for name in expected):
        assert array.flags["C_CONTIGUOUS"] if hasattr(array, "flags") else array.is_contiguous()
    assert truncate(batch, S) is batch


# batches that names do not explain, what is said, and a declaration that does
UNTOLD = [
    ((IDS, IDS), "nothing to cut", {"0": 1, "1": 1}),
    ([IDS, torch.ones(B, S)], "nothing to cut", {"0": 1}),
    (torch.ones(B, S), "nothing to cut", {"0": 1}),
    ({"pixel_values": torch.ones(B, 3, S, S)}, "nothing to cut", None),
    ({"input_features": torch.ones(B, 80, S)}, "nothing to cut", {"input_features": 2}),
    ({"input_ids": list(ONES.T)}, "'input_ids.0' does not hold tokens", None),
    ({"input_ids": IDS, "labels": torch.ones(B, S)}, "'labels' may have", {"input_ids": 1}),
    ({"input_ids": IDS, "labels": ONES[:, :4]}, "'labels' may have", {"input_ids": 1, "labels": 1}),
    ({"input_ids": IDS, "weights": torch.ones(B, S)}, "'weights' may have", {"input_ids": 1, "weights": -1}),
    ({"tokens": IDS, "audio": torch.ones(B, 80, S)}, "'audio' may have", {"tokens": 1}),
    ({"tokens": torch.ones(B, S, S)}, "'tokens' does not hold", {"tokens": 1}),
    ({"input_ids": torch.ones(B, 4, S).long()}, "no mask tells", {"input_ids": 2}),
    ({"input_ids": IDS, "attention_mask": torch.ones(B, 1, 4, S)}, "'attention_mask' may", {"input_ids": 1}),
    ({"input_ids": IDS, "decoder_input_ids": IDS}, "sequence of its own", {"input_ids": 1}),
    ({"input_ids": IDS, "cu_seq_lens_q": torch.arange(4)}, "sequence of its own", None),
    ({"input_ids": IDS, "lengths": ONES[:, 0]}, "'lengths' counts positions", {"input_ids": 1}),
    ({"input_ids": IDS, "mc_token_ids": ONES[:, :2]}, "'mc_token_ids' counts", {"input_ids": 1}),
    ({"a": {"input_ids": IDS}, "b": {"input_ids": ONES[:, :4]}}, "different shapes", {"a.input_ids": 1}),
    ({"input_ids": IDS, "mask": torch.ones(B, S, S)}, "'mask' may have", {"input_ids": 1, "mask": [1, 2]}),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "message", "declared"), UNTOLD)
def test_what_names_do_not_tell_is_refused_or_declared(batch, message, declared):
    for length in (CUT, S):
        with pytest.raises(ValueError, match=f"{message}.*sequence_axes"):
            truncate(batch, length)
    if declared is None:
        return
    axes = CurriculumKeys(order=Section({}, ""), sequence_axes=declared).axes("")
    before, after = arrays_of(batch), arrays_of(truncate(batch, CUT, axes))
    for name, array in before.items():
        size = list(array.shape)
        for axis in axes.get(name, ()):
            size[axis] = min(CUT, size[axis])
        assert list(after[name].shape) == size, name


def test_a_declaration_must_fit_the_batch():
    for declared, message in (
        ({"ids": (1,)}, "names 'ids', which is no tensor"),
        ({"input_ids": (2,)}, r"of 'input_ids' are \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            truncate({"input_ids": IDS}, CUT, declared)


@pytest.mark.parametrize("length", [8, 100])
def test_a_length_that_does_not_cut_changes_nothing(length):
    tokens = torch.zeros(2, 8).long()
    assert truncate(tokens, length) is tokens
    batch = numbered_batch(2, 8)
    assert reshape(batch, length) is batch


@given(shapes)
def test_reshaping_trains_each_token_once_whatever_the_length(shape):
    rows, length, wanted = shape
    batch = numbered_batch(rows, length) | {"name": "x", "bbox": torch.rand(rows, length, 3)}
    batch["position_ids"] = torch.arange(length).expand(rows, length)
    cut = reshape(batch, wanted)
    in_loss = cut["labels"] != IGNORED_LABEL
    assert sorted(cut["tokens"][in_loss].tolist()) == list(range(rows * length))
    assert torch.equal(cut["labels"][in_loss], cut["tokens"][in_loss] + 1)
    assert torch.equal(cut["loss_mask"] == 1, in_loss)
    steps = cut["tokens"].diff(dim=1)
    assert torch.equal(steps, torch.ones_like(steps))
    flat = batch["bbox"].flatten(0, 1)
    assert torch.equal(cut["bbox"], flat[cut["tokens"]])
    places = torch.arange(cut["tokens"].shape[1])
    assert torch.equal(cut["position_ids"], places.expand_as(cut["tokens"]))
    assert tuple(cut["tokens"].shape) == shape_after(
        (metric("r", "reshape"),), {"r": wanted}, rows, length
    )
    assert cut["name"] == "x"
    assert torch.equal(batch["labels"], numbered_batch(rows, length)["labels"])


def test_what_the_last_row_repeats_is_context_only():
    cut = reshape(numbered_batch(2, 5), 4)
    assert cut["tokens"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert cut["labels"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [-100, -100, 9, 10]]


def test_documents_of_different_rows_stay_apart():
    """Also where the last row begins inside the row before; numbers go on rising."""
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 2]])
    cut = reshape({**numbered_batch(2, 5), "document_ids": documents}, 4)["document_ids"]
    assert cut.tolist() == [[0, 0, 1, 1], [1, 3, 3, 3], [3, 3, 3, 5]]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": None, "loss_mask": None}, "needs 'labels' or 'loss_mask', one a token"),
        (
            {"labels": torch.ones(2).long(), "loss_mask": None},
            "needs 'labels' or 'loss_mask', one a token",
        ),
        ({"labels": torch.ones(2)}, r"'labels' has shape \[2\]"),
        ({"attention_mask": torch.ones(2, 1, 8, 8)}, r"'attention_mask' has shape \[2, 1, 8, 8\]"),
        ({"index": torch.arange(2)}, r"'index' has shape \[2\]"),
        ({"position_ids": torch.arange(8)[None]}, "'position_ids' has shape"),
        ({"position_ids": torch.arange(8).expand(2, 8) % 5}, "'position_ids' does not count"),
    ],
)
def test_batches_that_cannot_be_reshaped(entries, message):
    batch = {
        name: value for name, value in (numbered_batch(2, 8) | entries).items() if value is not None
    }
    with pytest.raises(ValueError, match=message):
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


LEFT = {
    "tokens": torch.tensor(
        [[0, 0, 0, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 0, 0], [0, 0, 0, 0, 0, 0, 0, 9]]
    ),
    "labels": torch.tensor(
        [[-100] * 3 + [5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7] + [-100] * 2, [-100] * 7 + [10]]
    ),
}
LEFT["attention_mask"] = (LEFT["tokens"] > 0).long()
LEFT["inputs_embeds"] = LEFT["tokens"][..., None].float()


def test_rows_padded_at_the_front_keep_their_first_real_tokens():
    cut = truncate(LEFT, 3)
    assert cut["tokens"].tolist() == [[4, 5, 6], [1, 2, 3], [9, 0, 0]]
    assert cut["labels"].tolist() == [[5, 6, 7], [2, 3, 4], [10, -100, -100]]
    assert cut["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert torch.equal(cut["inputs_embeds"][..., 0].long(), cut["tokens"])
    trimmed = trim_padding(LEFT)
    assert trimmed["tokens"].tolist() == [
        [4, 5, 6, 7, 8, 0],
        [1, 2, 3, 4, 5, 6],
        [9, 0, 0, 0, 0, 0],
    ]
    assert trim_padding(LEFT, 4) is LEFT
    both = apply_actions(
        LEFT, (metric("p", "trim_padding"), metric("a", "truncate")), {"p": 1, "a": 3}
    )
    assert torch.equal(both["tokens"], cut["tokens"])
    choices = {
        name: value[None] for name, value in LEFT.items() if name in ("tokens", "attention_mask")
    }
    assert torch.equal(truncate(choices, 3)["tokens"][0], cut["tokens"])
    pair = (LEFT["tokens"], {"attention_mask": LEFT["attention_mask"]})
    moved = truncate(pair, 3, {"0": (1,), "1.attention_mask": (1,)})
    assert torch.equal(moved[0], cut["tokens"])


@pytest.mark.parametrize(
    "entry",
    [
        {"padding_mask": (LEFT["tokens"] > 0)[:, None, None].expand(3, 1, 8, 8)},
        {"position_ids": torch.arange(8)[None]},
        {"start_positions": torch.tensor([3, 1, 7])},
    ],
)
def test_padding_at_the_front_that_cannot_be_moved_is_refused(entry):
    with pytest.raises(ValueError, match=f"'{next(iter(entry))}'.* pad rows at their end"):
        truncate(LEFT | entry, 3)


def test_a_mask_of_four_axes_alone_shows_padding_at_the_front():
    seen = (LEFT["tokens"] > 0)[:, None, None].expand(3, 1, 8, 8).tril()
    for mask in (seen, torch.zeros(3, 1, 8, 8).masked_fill(~seen, -1e9)):
        batch = {"tokens": LEFT["tokens"], "attention_mask": mask}
        with pytest.raises(ValueError, match="padding at the front"):
            truncate(batch, 3)
        right = {name: value[1:2] for name, value in batch.items()}
        assert truncate(right, 3)["attention_mask"].shape == (1, 1, 3, 3)


def test_rows_of_padding_only():
    empty = {"attention_mask": torch.zeros(2, 4), "tokens": torch.zeros(2, 4).long()}
    assert trim_padding(empty)["attention_mask"].shape == (2, 1)


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2, 8).long(),
        {"tokens": ONES},
        {"tokens": ONES, "attention_mask": torch.ones(B, 1, S, S)},
    ],
)
def test_trimming_needs_a_padding_mask(batch):
    with pytest.raises(ValueError, match="'padding_mask', 'attention_mask'"):
        trim_padding(batch)


def test_only_declared_actions_are_carried_out():
    tokens = torch.zeros(2, 8).long()
    metrics = (metric("a", "truncate"), metric("b", "user"), metric("c", None))
    assert apply_actions(tokens, metrics, {"a": 6, "b": 3, "c": 2}).shape == (2, 6)
    assert shape_after(metrics, {"a": 6, "b": 3, "c": 2}, 2, 8) == (2, 6)
    assert apply_actions(tokens, metrics[1:], {"b": 3, "c": 2}) is tokens
    assert shape_after(metrics[1:], {"b": 3, "c": 2}, 2, 8) == (2, 8)


def test_the_shortest_length_counts_and_lengths_are_rounded_up():
    tokens = torch.zeros(2, 16).long()
    metrics = (metric("a", "truncate", multiple=8), metric("b", "truncate", multiple=3))
    for a, b, expected in ((5, 16, 8), (9, 10, 12), (9, 4, 6), (17, 17, 16)):
        assert apply_actions(tokens, metrics, {"a": a, "b": b}).shape == (2, expected)
        assert shape_after(metrics, {"a": a, "b": b}, 2, 16) == (2, expected)
    reshaping = (metric("r", "reshape", multiple=8),)
    assert apply_actions(numbered_batch(2, 16), reshaping, {"r": 3})["labels"].shape == (4, 8)


def test_padding_is_trimmed_before_the_length_is_cut():
    mask = (torch.arange(16) < torch.tensor([[9], [11]])).long()
    metrics = (metric("rarity", "trim_padding", multiple=4), metric("a", "truncate"))
    batch = {"padding_mask": mask, "tokens": mask}
    assert apply_actions(batch, metrics, {"rarity": 1, "a": 14})["padding_mask"].shape == (2, 12)
    assert apply_actions(batch, metrics, {"rarity": 1, "a": 5})["padding_mask"].shape == (2, 5)


def test_a_schedule_that_falls_below_one_is_refused():
    metrics = (metric("a", "truncate"),)
    with pytest.raises(ValueError, match="metric 'a' gives a sequence length of 0"):
        apply_actions(torch.zeros(2, 8), metrics, {"a": 0})


def window_plans(*actions):
    return [
        LengthPlan(
            name=action,
            difficulty_type="value",
            min_difficulty=1,
            max_difficulty=64,
            schedule=CustomSchedule(),
            action=action,
        )
        for action in actions
    ]


@pytest.mark.parametrize("kind", ["attention_window", "sliding_window"])
def test_a_window_goes_beside_the_rows_and_does_not_cut_them(kind):
    plans = window_plans("truncate", kind)
    batch = {"tokens": torch.arange(16).view(2, 8)}
    shaped = apply_actions(batch, plans, {"truncate": 6, kind: 3})
    assert shaped[kind] == 3
    torch.testing.assert_close(shaped["tokens"], batch["tokens"][:, :6])
    assert kind not in batch
    assert shape_after(plans, {"truncate": 6, kind: 3}, 2, 8) == (2, 6)
    assert windows_of(plans, {"truncate": 6, kind: 3}) == {kind: 3}
    with pytest.raises(ValueError, match="the batch is a tuple"):
        apply_actions((batch["tokens"],) * 2, plans[1:], {kind: 3})
    with pytest.raises(ValueError, match="gives a sequence length of 0"):
        windows_of(plans, {"truncate": 6, kind: 0})
