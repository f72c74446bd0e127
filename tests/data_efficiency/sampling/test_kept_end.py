"""A row that ends with the token which ends texts does so when it is cut: tokens, labels of both kinds, padding at either end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import IGNORED_LABEL, ConfigError, Curriculum
from data_efficiency.config import DataEfficiencyConfig, section_of
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.sequence_length import truncate

END, PAD = 9, 0


def cut_by_hand(row, labels, length, *, are_next):
    """What a row without padding becomes, as lists."""
    kept, asked = list(row[:length]), list(labels[:length])
    place = len(row)
    while place and row[place - 1] == END:
        place -= 1
    if place == len(row) or place < length:
        return kept, asked
    kept[-1], asked[-1] = END, labels[place]
    if are_next and length > 1:
        asked[-2] = labels[place - 1]
    return kept, asked


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 2)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 8),
    st.sampled_from(["next", "own", "none"]),
    st.sampled_from(["end", "front", "as_end"]),
)
def test_rows_are_cut_as_by_hand(texts, length, kind, padding):
    """Texts of several lengths, padded at the end, at the front, or at the end by the ending token itself."""
    rows = [[*text, *[END] * (number > 0)] for text, number in texts]
    size = max(length, *map(len, rows)) + 1
    pad = END if padding == "as_end" else PAD
    expected, batch = [], {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        labels = row if kind == "own" else [*row[1:], IGNORED_LABEL]
        expected.append(cut_by_hand(row, labels, length, are_next=kind == "next"))
        filling = [size - len(row)]
        sides = (filling[0], 0) if padding == "front" else (0, filling[0])
        for name, values, filler in (
            ("input_ids", row, pad),
            ("attention_mask", [1] * len(row), 0),
            ("labels", labels, IGNORED_LABEL),
        ):
            batch[name].append([filler] * sides[0] + list(values) + [filler] * sides[1])
    given_batch = {name: torch.tensor(rows) for name, rows in batch.items()}
    if kind == "none":
        del given_batch["labels"]
    copies = {name: one.clone() for name, one in given_batch.items()}
    found = truncate(given_batch, length, keep_end=END)
    for number, ((tokens, labels), row) in enumerate(zip(expected, rows, strict=True)):
        whole = min(length, len(row))
        assert found["input_ids"][number, :whole].tolist() == tokens
        assert found["attention_mask"][number].sum() == whole
        if kind != "none":
            assert found["labels"][number, :whole].tolist() == labels
            assert (found["labels"][number, whole:] == IGNORED_LABEL).all()
    assert all(torch.equal(one, copies[name]) for name, one in given_batch.items())


def test_only_rows_that_end_with_it_change():
    tokens = np.array([[1, 2, 3, 4, END], [1, 2, 3, END, 4]])
    batch = {"tokens": tokens, "labels": np.array([[2, 3, 4, END, 5], [2, 3, END, 4, 6]])}
    found = truncate(batch, 3, keep_end=END)
    assert found["tokens"].tolist() == [[1, 2, END], [1, 2, 3]]
    assert found["labels"].tolist() == [[2, END, 5], [2, 3, END]]
    assert truncate(batch, 3)["tokens"].tolist() == [[1, 2, 3], [1, 2, 3]]
    assert truncate(tokens, 2, keep_end=END).tolist() == [[1, END], [1, 2]]


def test_pairs_of_texts_are_cut_each_by_itself():
    rows = torch.tensor([[1, 2, END, PAD], [1, 2, 3, END]])
    batch = {
        "chosen": {"input_ids": rows, "attention_mask": (rows != PAD).long()},
        "rejected": {"input_ids": rows.flip(0), "attention_mask": (rows.flip(0) != PAD).long()},
    }
    found = truncate(batch, 2, keep_end=END)
    assert found["chosen"]["input_ids"].tolist() == [[1, END], [1, END]]
    assert found["rejected"]["input_ids"].tolist() == [[1, END], [1, END]]


def test_what_is_in_the_loss_goes_with_it():
    tokens = torch.tensor([[1, 2, 3, 4, END]])
    labels = torch.tensor([[2, 3, 4, END, IGNORED_LABEL]])
    mask = torch.tensor([[0, 0, 0, 1, 0]])
    found = truncate({"tokens": tokens, "labels": labels, "loss_mask": mask}, 3, keep_end=END)
    assert found["loss_mask"].tolist() == [[0, 1, 0]]
    with pytest.raises(ValueError, match="has a loss_mask and no labels"):
        truncate({"tokens": tokens, "loss_mask": mask}, 3, keep_end=END)


def test_labels_of_masked_tokens_are_refused():
    tokens = torch.tensor([[1, 7, 3, 4, END]])
    labels = torch.tensor([[IGNORED_LABEL, 2, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL]])
    with pytest.raises(ValueError, match="labels are neither the tokens nor those that follow"):
        truncate({"tokens": tokens, "labels": labels}, 3, keep_end=END)


class Texts:
    """Rows that end with `END`, which the dataset says."""

    end_of_text = END
    sequence_length = 8

    def __len__(self):
        return 64

    def __getitem__(self, sample):
        tokens = torch.full((8,), 1 + sample % 7)
        tokens[-1] = END
        return {"input_ids": tokens, "labels": tokens}


def ramp(**more):
    return DataEfficiencyConfig.of(Curriculum("seqlen", start=4, steps=4, step_size=2, **more))


@pytest.mark.parametrize("token", ["auto", END])
def test_the_curriculum_keeps_it_in_every_step(token):
    config = ramp(keep_end_token=token)
    assert (
        section_of(config.with_length(8))["data_sampling"]["curriculum_learning"][
            "curriculum_metrics"
        ]["seqlen_truncate"]["keep_end_token"]
        == token
    )
    loader = CurriculumDataLoader(Texts(), CurriculumSampler(Texts(), config, micro_batch_size=4))
    lengths = []
    for number, (batch,) in enumerate(loader.steps(), start=1):
        lengths.append(batch["input_ids"].shape[1])
        assert (batch["input_ids"] == END).sum(1).tolist() == [1] * 4
        assert torch.equal(batch["input_ids"], batch["labels"])
        assert (batch["input_ids"][:, -1] == END).all()
        if number == 5:
            break
    assert lengths[0] < lengths[-1] == 8


class Untold(Texts):
    end_of_text = None


def test_what_cannot_be_is_told():
    with pytest.raises(ConfigError, match=r"the dataset does not say which it is \(end_of_text\)"):
        CurriculumSampler(Untold(), ramp(keep_end_token="auto"), micro_batch_size=4)
    with pytest.raises(
        ConfigError, match='keep_end_token is -1: must be the id of a token, or "auto"'
    ):
        ramp(keep_end_token=-1)
    with pytest.raises(
        ConfigError, match="keep_end_token is 9, but belongs to a metric that truncates"
    ):
        DataEfficiencyConfig.of(Curriculum("seqlen_reshape", start=4, steps=4, keep_end_token=9))
    with pytest.raises(ConfigError, match="keep_end_token belongs to a length of rows"):
        Curriculum("rarity", index="x", steps=4, keep_end_token=9)


@pytest.mark.parametrize("names", [("0", "1"), ("src", "labels"), ("inputs_embeds", "labels")])
def test_entries_of_which_none_holds_tokens_by_its_name_are_refused(names):
    rows = torch.tensor([[1, 2, 3, 4, END]])
    batch = (rows, rows) if names[0] == "0" else dict.fromkeys(names, rows)
    with pytest.raises(
        ValueError, match=f"none of '{names[0]}', '{names[1]}' is known to hold the ids"
    ):
        truncate(batch, 3, dict.fromkeys(names, (1,)), keep_end=END)
