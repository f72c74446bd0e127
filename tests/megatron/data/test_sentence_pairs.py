import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data import sentence_pairs
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.sentence_pairs import SentencePairs
from tests.megatron.data.sentence_corpus import write_sentences

DOCUMENTS = st.lists(
    st.lists(st.integers(1, 12), min_size=0, max_size=20), min_size=1, max_size=12
).filter(lambda documents: any(documents))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sentences")


def pairs_of(folder, documents, max_tokens=20, seed=1, short_seq_prob=0.1, chosen=None):
    corpus = IndexedDataset(write_sentences(str(folder / "c"), documents))
    return SentencePairs(
        corpus,
        chosen or range(len(documents)),
        max_tokens=max_tokens,
        seed=seed,
        short_seq_prob=short_seq_prob,
    )


def pieces_of(num_sentences, limit):
    """Pieces of a document as (first, end), written down as the rule is told."""
    num_pieces = -(-num_sentences // limit)
    edges = [num_sentences * number // num_pieces for number in range(num_pieces + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def expected_runs(pairs, documents, limit=sentence_pairs.MAX_PIECE_SENTENCES):
    """The runs of sentences, one after the other."""
    runs, base = [], 0
    for sentences in documents:
        for first, end in pieces_of(len(sentences), limit) if len(sentences) > 1 else []:
            while first < end:
                target = int(pairs.targets(np.array([base + first]))[0])
                after = first + 2
                while after < end and sum(sentences[first:after]) < target:
                    after += 1
                if end - after < 2:
                    after = end
                runs.append((base + first, base + after))
                first = after
        base += len(sentences)
    return runs


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, st.integers(2, 40), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_each_sentence_of_a_usable_document_is_in_one_sample(
    folder, documents, max_tokens, seed, short_seq_prob
):
    pairs = pairs_of(folder, documents, max_tokens, seed, short_seq_prob)
    begin, end = pairs.sentences(np.arange(len(pairs)))
    runs = list(zip(begin.tolist(), end.tolist(), strict=True))
    assert runs == expected_runs(pairs, documents)
    assert all(after - first >= 2 for first, after in runs)
    used = [sentence for first, after in runs for sentence in range(first, after)]
    edges = np.cumsum([0, *map(len, documents)])
    usable = [
        sentence
        for first, after in zip(edges[:-1], edges[1:], strict=True)
        if after - first > 1
        for sentence in range(first, after)
    ]
    assert used == usable
    assert pairs.num_skipped_documents == sum(len(sentences) < 2 for sentences in documents)


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS, st.integers(2, 40))
def test_pieces_and_blocks(folder, documents, max_tokens):
    with pytest.MonkeyPatch.context() as patch:
        whole = pairs_of(folder, documents, max_tokens)
        patch.setattr(sentence_pairs, "SENTENCES_PER_BLOCK", 7)
        in_blocks = pairs_of(folder, documents, max_tokens)
        everything = np.arange(len(whole))
        assert np.array_equal(whole.sentences(everything), in_blocks.sentences(everything))
        patch.setattr(sentence_pairs, "MAX_PIECE_SENTENCES", 4)
        pairs = pairs_of(folder, documents, max_tokens)
        begin, end = pairs.sentences(np.arange(len(pairs)))
        runs = list(zip(begin.tolist(), end.tolist(), strict=True))
        assert runs == expected_runs(pairs, documents, limit=4)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.integers(2, 40), st.integers(0, 5))
def test_segments_lie_on_both_sides_of_a_sentence_boundary(folder, documents, max_tokens, seed):
    pairs = pairs_of(folder, documents, max_tokens, seed, 0.3)
    samples = np.arange(len(pairs))
    begin, end = pairs.sentences(samples)
    lengths = [length for sentences in documents for length in sentences]
    offsets = np.cumsum([0, *lengths])
    targets = pairs.targets(begin)
    segments = pairs.segments(samples)
    for number in samples.tolist():
        first_start, first_length, second_start, second_length, is_swapped = (
            part[number] for part in segments
        )
        spans = [(first_start, first_length), (second_start, second_length)]
        (start, length), (next_start, next_length) = spans[::-1] if is_swapped else spans
        room = targets[number]
        text = offsets[begin[number]], offsets[end[number]]
        assert min(length, next_length) >= 1
        assert text[0] <= start < start + length <= next_start
        assert next_start + next_length <= text[1]
        assert length + next_length == min(room, text[1] - text[0])
        partings = offsets[begin[number] + 1 : end[number]]
        assert any(start + length <= parting <= next_start for parting in partings)
        if text[1] - text[0] <= room:
            assert start == text[0]
            assert start + length == next_start
            assert next_start in partings


def test_choices_are_spread_evenly(folder):
    documents = [[3] * 8] * 4000
    pairs = pairs_of(folder, documents, max_tokens=24, short_seq_prob=0.0)
    assert len(pairs) == 4000
    segments = pairs.segments(np.arange(4000))
    assert abs(segments.is_swapped.mean() - 0.5) < 0.03
    assert np.bincount(segments.first_length // 3)[1:8].min() > 4000 / 7 * 0.8
    short = pairs_of(folder, documents, max_tokens=24, short_seq_prob=0.3)
    targets = short.targets(np.arange(32_000))
    assert abs((targets < 24).mean() - 0.3 * 22 / 23) < 0.01
    assert np.bincount(targets)[2:24].min() > 32_000 * 0.3 / 23 * 0.8
    assert targets.min() == 2


def test_a_cut_takes_from_both_ends(folder):
    pairs = pairs_of(folder, [[50, 50]] * 2000, max_tokens=10, short_seq_prob=0.0)
    segments = pairs.segments(np.arange(2000))
    assert set(segments.first_length.tolist()) == {5}
    skipped = np.where(segments.is_swapped, segments.first_start - 50, segments.first_start) % 100
    assert abs(skipped.mean() - 22.5) < 1.5
    assert set(skipped.tolist()) == set(range(46))


def test_samples_depend_on_the_seed_but_not_on_the_split(folder):
    documents = [[4, 5, 3, 6, 2, 7, 3, 3]] * 50
    whole = pairs_of(folder, documents)
    again = pairs_of(folder, documents)
    other = pairs_of(folder, documents, seed=2)
    everything = np.arange(len(whole))
    assert np.array_equal(whole.segments(everything), again.segments(everything))
    assert not np.array_equal(
        whole.segments(np.arange(50)).first_length, other.segments(np.arange(50)).first_length
    )
    rest = pairs_of(folder, documents, chosen=range(20, 50))
    num_before = len(whole) - len(rest)
    of_whole = whole.segments(everything[num_before:])
    assert np.array_equal(of_whole, rest.segments(np.arange(len(rest))))


def test_an_empty_sentence_is_named(folder):
    with pytest.raises(ValueError, match="c: sentence 2 has no tokens; make the corpus with"):
        pairs_of(folder, [[3, 4], [0, 5]])
