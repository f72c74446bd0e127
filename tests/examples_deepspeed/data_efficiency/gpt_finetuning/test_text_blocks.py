import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import IGNORED_LABEL
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import (
    TokenBlocks,
    divide,
    make_blocks,
    read_splits,
)


class Letters:
    """A tokenizer: one token a letter, 0 ends a text."""

    eos_token_id = 0

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    def __len__(self):
        return 128


def test_labels_are_the_next_tokens():
    blocks = TokenBlocks(np.arange(12, dtype=np.int32).reshape(3, 4), 12)
    batch = blocks.get_batch(np.array([2, 0]), np.array([0, 0]))
    assert batch["input_ids"].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[9, 10, 11, IGNORED_LABEL], [1, 2, 3, IGNORED_LABEL]]


def test_spans_are_the_blocks():
    blocks = TokenBlocks(np.arange(12, dtype=np.int32).reshape(3, 4), 12)
    tokens, starts, lengths = blocks.token_spans(1, 3)
    spans = [tokens[a : a + n].tolist() for a, n in zip(starts, lengths, strict=True)]
    assert spans == blocks.tokens[1:].tolist()


def test_identity_is_that_of_the_tokens():
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert TokenBlocks(tokens, 12).identity == TokenBlocks(tokens.copy(), 12).identity
    assert TokenBlocks(tokens, 12).identity != TokenBlocks(tokens[::-1], 12).identity


@given(st.lists(st.text("abc", max_size=9), min_size=1, max_size=12), st.booleans())
def test_blocks_are_the_texts_end_to_end(texts, separate):
    flat = "".join(text + ("\0" if separate else "") for text in texts)
    if len(flat) < 3:
        with pytest.raises(ValueError, match="do not fill one block of 3 tokens"):
            make_blocks(texts, Letters(), 3, separate=separate, group_rows=0)
        return
    blocks = make_blocks(texts, Letters(), 3, separate=separate, group_rows=0)
    expected = [ord(letter) for letter in flat[: len(flat) // 3 * 3]]
    assert blocks.tokens.reshape(-1).tolist() == expected


def test_groups_leave_out_their_own_rest():
    blocks = make_blocks(["aaaa", "bbb", "cccc"], Letters(), 3, separate=False, group_rows=2)
    found = ["".join(map(chr, row)) for row in blocks.tokens]
    assert found == ["aaa", "abb", "ccc"]


@given(st.lists(st.text(max_size=5), max_size=60), st.randoms())
def test_parts_hold_each_text_and_do_not_depend_on_the_order(texts, shuffling):
    splits = divide(texts, (0.2, 0.3))
    shuffled = list(texts)
    shuffling.shuffle(shuffled)
    other = divide(shuffled, (0.2, 0.3))
    parts = [splits.train, splits.validation, splits.test]
    assert sorted(sum(parts, [])) == sorted(texts)
    assert [sorted(part) for part in parts] == [
        sorted(part) for part in (other.train, other.validation, other.test)
    ]
    assert not {*splits.train} & {*splits.test}


def test_lines_of_a_plain_file_and_of_json(tmp_path):
    texts = [f"text {number}" for number in range(60)]
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("\n\n".join(texts))
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = read_splits(str(plain), config_name=None, shares=(0.2, 0.2))
    assert found == read_splits(str(lines), config_name=None, shares=(0.2, 0.2))
    assert len(found.train) + len(found.validation) + len(found.test) == 60


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_missing_file_is_no_data_set_of_the_hub(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_splits(str(tmp_path / name), config_name=None, shares=(0.2, 0.2))


@pytest.mark.parametrize("line", ["not json", '{"other": 1}', "[1]"])
def test_bad_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: "):
        read_splits(str(path), config_name=None, shares=(0.2, 0.2))


def test_empty_part_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one text")
    with pytest.raises(ValueError, match="leaves no text for"):
        read_splits(str(path), config_name=None, shares=(0.2, 0.2))


def test_hub_needs_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        read_splits("ptb_text_only", config_name=None, shares=(0.2, 0.2))
