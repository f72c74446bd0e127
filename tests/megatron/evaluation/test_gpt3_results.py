"""The averages over the 19 tasks that the paper's numbers give, and scores that its text names."""

import pytest

from megatron.evaluation.gpt3_results import FEW_SHOT, SIZES, ZERO_SHOT


def test_averages_of_the_size_that_the_published_runs_have():
    place = SIZES.index("1.3B")
    averages = [sum(row[place] for row in table.values()) / 19 for table in (ZERO_SHOT, FEW_SHOT)]
    assert averages == pytest.approx([47.9, 49.0], abs=0.05)


@pytest.mark.parametrize(
    ("table", "task", "score"),
    [
        (ZERO_SHOT, "triviaqa", 64.3),
        (FEW_SHOT, "triviaqa", 71.2),
        (ZERO_SHOT, "webqs", 14.4),
        (FEW_SHOT, "webqs", 41.5),
        (FEW_SHOT, "hellaswag", 79.3),
        (FEW_SHOT, "lambada_openai", 86.4),
        (FEW_SHOT, "record", 90.1),
    ],
)
def test_scores_of_the_largest(table, task, score):
    assert table[task][-1] == score
    assert all(0 < value < 100 for row in table.values() for value in row)
