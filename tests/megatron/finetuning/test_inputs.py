import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.finetuning.data import Examples
from megatron.finetuning.inputs import make_batch, make_rows
from megatron.tokenizer import build_tokenizer, train_bpe
from tests.megatron.finetuning.bert_task_data import CONTROL, WORDS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(
        tokenizer_file=write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer.json")
    )


def text(number: int) -> str:
    return " ".join(["good"] * number)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5))
def test_pairs_keep_what_fits(tokenizer, sizes):
    labels = np.zeros(len(sizes), np.int64)
    examples = Examples([text(a) for a, _ in sizes], [text(b) for _, b in sizes], labels)
    rows = make_rows(examples, tokenizer, 16)
    batch = make_batch(rows, range(len(sizes)))
    word = tokenizer.id_of("good")
    for i, (a, b) in enumerate(sizes):
        real = batch["padding_mask"][i]
        types = batch["token_types"][i]
        assert real.sum() == min(16, a + b + 3)
        assert not types[~real].any()
        tokens = batch["tokens"][i]
        num_second = int(types.sum()) - 1
        num_first = int(real.sum()) - num_second - 3
        expected = [2, *[word] * num_first, 3, *[word] * num_second, 3]
        assert tokens[real].tolist() == expected
        assert (tokens[~real] == 0).all()
        # The shorter text is cut only where it is more than half of the room.
        assert min(num_first, num_second) >= min(a, b, 6)
        assert abs(num_first - num_second) <= max(1, abs(a - b))


def test_single_texts_are_cut_and_control_tokens_in_a_text_are_words(tokenizer):
    examples = Examples(["bad [SEP] film", text(20)], None, np.zeros(2, np.int64))
    rows = make_rows(examples, tokenizer, 16)
    assert rows.ids[0].count(3) == 1
    assert len(rows.ids[1]) == 16
    assert not make_batch(rows, [1, 0])["token_types"].any()
    assert tokenizer.id_of(WORDS[0]) == len(CONTROL)


def test_a_tokenizer_of_gpt_is_refused():
    with pytest.raises(ValueError, match=r"the vocabulary has no '\[CLS\]'"):
        make_rows(Examples(["a"], None, np.zeros(1)), train_bpe(["a"], 257), 16)
