import json
from dataclasses import replace

import pytest

from benchmarks.evaluation import Answer, Questions, compare, main, misses, turns
from megatron.conversion.model import Model, save_as_hugging_face
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import LLAMA, make_gpt, make_tokenizer

GOOD = {
    "beside_hf": {"largest_difference": 1.3e-3, "num_other_greedy": 0, "num_other_score": 0},
    "beside_hf_float64_softmax": {"largest_difference": 9e-4, "where": "a task, item 1"},
    "ratio_to_hf": 1.2,
}


@pytest.mark.full
def test_a_small_model_answers_alike(tmp_path, capfd):
    tokenizer = make_tokenizer()
    config = replace(LLAMA, vocab_size=tokenizer.vocab_size)
    model = Model(config, make_gpt(config).state_dict())
    save_as_hugging_face(model, tmp_path / "model", tokenizer)
    write_task_data(tmp_path / "data")
    given = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data")]
    assert main([*given, "--items", "3", "--turn", "2", "--shots", "0,1"]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    # One answer an item of LAMBADA, two of the others.
    assert figures["num_log_likelihoods"] == 2 * (3 + 6 + 6)
    assert figures["ratio_to_hf"] > 0
    for side in ("hf", "hf_float64_softmax"):
        found = figures[f"beside_{side}"]
        assert found["largest_difference"] < 1e-3
        assert (found["num_other_greedy"], found["num_other_score"]) == (0, 0)


def test_turns_cover_all_items_once():
    found = turns(["a", "b"], [0, 2], 5, 2)
    assert found[:3] == [
        Questions("a", 0, range(2)),
        Questions("a", 0, range(2, 4)),
        Questions("a", 0, range(4, 5)),
    ]
    assert len(found) == len(set(found)) == 12


def test_answers_are_compared_one_by_one():
    ours = {"x": Answer(-1.0, True, 1.0), "y": Answer(-2.0, False, 0.0)}
    theirs = {"x": Answer(-1.5, True, 1.0), "y": Answer(-2.0, True, 1.0)}
    found = compare(ours, theirs)
    assert (found["largest_difference"], found["where"]) == (0.5, "x")
    assert (found["num_above_target"], found["num_other_greedy"], found["num_other_score"]) == (
        1,
        1,
        1,
    )
    with pytest.raises(ValueError, match="not asked the same"):
        compare(ours, {"x": theirs["x"]})


@pytest.mark.parametrize(
    ("where", "name", "value", "line"),
    [
        ("beside_hf", "num_other_score", 2, "num_other_score is 2 beside hf, not 0"),
        ("beside_hf", "num_other_greedy", 1, "num_other_greedy is 1 beside hf, not 0"),
        (
            "beside_hf_float64_softmax",
            "largest_difference",
            2e-3,
            "a task, item 1: 2.0e-03 off the exact log-likelihood, not 1e-03",
        ),
    ],
)
def test_missed_targets_are_named(where, name, value, line):
    assert misses(GOOD) == []
    assert misses(GOOD | {where: GOOD[where] | {name: value}}) == [line]
    assert misses(GOOD | {"ratio_to_hf": 0.9}) == ["0.9 times as fast as hf, not 1.0"]
