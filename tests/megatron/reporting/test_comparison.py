import doctest
import json
import re

import pytest

from megatron.reporting import RunLog, compare_runs, format_comparison, read_log
from megatron.reporting.comparison import QUANTITIES, first_crossing


def make_log(losses, *, cost=1.0, parameters=1000):
    """A run evaluated every 10 steps; each step costs 100 x cost effective tokens and 1 second."""
    valid = [
        {
            "kind": "valid",
            "step": 10 * number,
            "loss": loss,
            "perplexity": None if loss is None else 2.0**loss,
            "corpus_tokens": 1200 * number,
            "effective_tokens": round(1000 * cost * number),
            "flops": 10**9 * number,
            "seconds": 10.0 * number,
        }
        for number, loss in enumerate(losses, start=1)
    ]
    start = {"num_parameters": parameters, "sequence_length": 64, "train_samples_in_dataset": 50}
    return RunLog(start=start, train=(), valid=tuple(valid), end={"reason": "token budget"})


def test_finals_are_taken_at_the_last_evaluation():
    report = compare_runs({"baseline": make_log([6.0, 5.0]), "other": make_log([6.0, 5.0, 4.0])})
    assert report["runs"]["other"]["final"] == {
        "validation_loss": 4.0,
        "validation_perplexity": 16.0,
        "corpus_tokens": 3600,
        "effective_tokens": 3000,
        "flops": 3 * 10**9,
        "seconds": 30.0,
        "steps": 30,
    }
    relative = report["runs"]["other"]["relative_to_baseline"]
    assert relative["validation_loss"] == 0.8
    assert relative["steps"] == relative["seconds"] == 1.5
    assert set(report["runs"]["baseline"]["relative_to_baseline"].values()) == {1.0}
    assert report["runs"]["baseline"]["training_tokens_in_data"] == 50 * 64


def test_crossing_is_interpolated():
    runs = {"baseline": make_log([6.0, 5.0]), "fast": make_log([5.5, 4.5], cost=0.5)}
    reached = compare_runs(runs)["runs"]["fast"]["to_reach_baseline_loss"]
    assert reached["seconds"] == 15.0
    assert reached["effective_tokens"] == 750
    assert reached["relative_to_baseline"] == {"effective_tokens": 0.375, "seconds": 0.75}


def test_loss_never_reached_is_said():
    report = compare_runs({"baseline": make_log([6.0, 5.0]), "slow": make_log([6.0, 5.1])})
    reached = report["runs"]["slow"]["to_reach_baseline_loss"]
    assert reached["effective_tokens"] is reached["seconds"] is None
    assert any(
        line.split() == ["slow", "not", "reached"] for line in format_comparison(report).split("\n")
    )


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.0, 4.0], 10.0),
        ([4.0, 6.0], 10.0),
        ([6.0, 5.0], 20.0),
        ([7.0, 6.0, 5.0, 7.0, 4.0], 30.0),
        ([7.0, None, 4.0], 30.0),
        ([None, 6.0], None),
        ([], None),
    ],
)
def test_first_crossing(losses, expected):
    assert first_crossing(make_log(losses).valid, "seconds", 5.0) == expected


def test_examples_run():
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    for example in finder.find(first_crossing, globs={"first_crossing": first_crossing}):
        assert runner.run(example).attempted > 0
    assert runner.failures == 0


def test_diverged_run_is_shown_and_json_can_hold_the_report():
    report = compare_runs({"baseline": make_log([6.0, 5.0]), "bad": make_log([6.0, None])})
    assert report["runs"]["bad"]["relative_to_baseline"]["validation_loss"] is None
    assert "diverged" in format_comparison(report)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_text_says_what_one_seed_shows(four_runs):
    report = compare_runs({name: read_log(folder) for name, folder in four_runs.items()})
    text = format_comparison(report)
    assert "3.45M parameters" in text
    assert "1.28M tokens of training data" in text
    assert "prove nothing" in " ".join(text.split())
    assert "five or more seeds" in " ".join(text.split())
    assert "Unfinished" not in text
    assert "Not a fair pair" not in text


def test_table_is_aligned_and_narrow(four_runs):
    runs = {name: read_log(folder) for name, folder in four_runs.items()}
    runs["a_run_with_a_name_that_is_much_too_long"] = make_log([10.0, 123.4567])
    lines = format_comparison(compare_runs(runs)).split("\n")
    assert max(map(len, lines)) <= 100
    rule = next(number for number, line in enumerate(lines) if line.startswith("---"))
    table = lines[rule - 1 : lines.index(lines[rule], rule + 1)]
    assert len({len(line) for line in table}) == 1
    assert len(table) == 2 + 2 * len(runs) - 1
    assert all(len(line.split()) >= len(QUANTITIES) for line in table if "-" not in line[:1])


def test_unlike_runs_are_pointed_out(write_run, tmp_path):
    runs = {
        "baseline": read_log(write_run(tmp_path / "a")),
        "running": read_log(write_run(tmp_path / "b", finished=False)),
        "larger": make_log([6.0], parameters=9_000_000),
    }
    text = format_comparison(compare_runs(runs))
    assert "Unfinished: running is still running or was killed." in text
    assert "Not a fair pair: larger has 9M parameters." in text


def test_missing_baseline_and_missing_evaluation_are_errors():
    with pytest.raises(ValueError, match="'baseline' is not among the runs: a, b"):
        compare_runs({"a": make_log([1.0]), "b": make_log([1.0])})
    with pytest.raises(ValueError, match="run 'b' has no evaluation"):
        compare_runs({"a": make_log([1.0]), "b": make_log([])}, baseline="a")


def test_the_first_of_several_losses_is_compared(write_run, tmp_path):
    bert, gpt = tmp_path / "bert" / "a", tmp_path / "gpt" / "a"
    for folder, sentence_loss in ((bert, 0.7), (gpt, None)):
        folder.parent.mkdir()
        write_run(folder, sentence_loss=sentence_loss)
    reports = [compare_runs({"a": read_log(folder)}, "a") for folder in (bert, gpt)]
    assert [report["loss"] for report in reports] == ["masked_lm", "lm"]
    ours, theirs = (report["runs"]["a"] for report in reports)
    assert ours["final"] == theirs["final"]
    assert ours["to_reach_baseline_loss"] == theirs["to_reach_baseline_loss"]
    assert (ours["other_final_losses"], theirs["other_final_losses"]) == ({"sentence": 0.7}, {})
    text, other_text = map(format_comparison, reports)
    assert "The validation loss above is masked_lm." in text
    assert re.search(r"^a +0\.7000$", text, re.MULTILINE)
    assert "Further losses" not in other_text


def test_runs_with_other_losses_are_not_compared(write_run, tmp_path):
    runs = {
        "baseline": read_log(write_run(tmp_path / "gpt")),
        "bert": read_log(write_run(tmp_path / "bert", sentence_loss=0.7)),
    }
    message = (
        "run 'bert' has the losses masked_lm, sentence, the baseline lm: they cannot be compared"
    )
    with pytest.raises(ValueError, match=message):
        compare_runs(runs)
