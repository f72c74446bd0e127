"""That a plan is what a run logs is shown by tests/end_to_end/test_run_page.py."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from data_efficiency import DifficultyIndex
from megatron.run_page.planned import NoPlanError, plan_of
from tests.json_sections import length_metric, metric, random_ltd
from tests.megatron.tiny_pretraining import SEQ_LENGTH, settings

BOTH_LAYERS = {"random_ltd_layer_num": 2, "random_ltd_layer_id": [0, 1]}


def start_of(*flags, metrics=None, dropping=None):
    config = settings("corpus", *flags)
    section = {}
    if metrics:
        learning = {"enabled": True, "curriculum_metrics": metrics}
        section["data_sampling"] = {"enabled": True, "curriculum_learning": learning}
    if dropping:
        section["data_routing"] = {"enabled": True, "random_ltd": dropping}
    return {
        "kind": "start",
        "settings": asdict(config),
        "global_batch_size": 8,
        "sequence_length": SEQ_LENGTH,
        "train_samples_in_dataset": 1000,
        "data_efficiency": section,
    }


def anywhere(_path):
    return True


def nowhere(_path):
    return False


def test_lengths_kept_and_the_end_by_steps():
    start = start_of(
        metrics={"seqlen_truncate": length_metric(8, SEQ_LENGTH, steps=4)},
        dropping=random_ltd(2, 4, SEQ_LENGTH, 6, **BOTH_LAYERS),
    )
    planned = plan_of(start, nowhere)
    columns = planned.columns()
    assert planned.last_step == 6
    assert columns["step"] == [1, 2, 3, 4, 5, 6]
    assert columns["sequence_length"][0] < columns["sequence_length"][-1] == SEQ_LENGTH
    assert columns["pool_size"] == [1000] * 6
    assert columns["kept_length"][0] == 4
    assert columns["corpus_tokens"][0] == 8 * columns["sequence_length"][0]
    assert columns["effective_tokens"][-1] <= columns["corpus_tokens"][-1]


@pytest.mark.parametrize(
    ("counter", "tokens", "steps"),
    [("corpus", 8 * SEQ_LENGTH * 5, 5), ("effective", 8 * SEQ_LENGTH * 3, 6), ("loss", 1, 1)],
)
def test_a_budget_of_tokens_ends_where_its_counter_is_full(counter, tokens, steps):
    flags = ["--train-iters", "900", "--train-tokens", str(tokens), "--token-counter", counter]
    dropping = None
    if (
        counter == "effective"
    ):  # two layers of which both keep half: half an effective token a token
        dropping = random_ltd(2, SEQ_LENGTH // 2, SEQ_LENGTH, 10**6, **BOTH_LAYERS)
    assert plan_of(start_of(*flags, dropping=dropping), nowhere).last_step == steps


def test_steps_end_a_run_before_its_tokens_do():
    start = start_of("--train-iters", "3", "--train-tokens", "100000")
    assert plan_of(start, nowhere).last_step == 3
    assert plan_of(start_of("--train-samples", "33", "--train-iters", "9"), nowhere).last_step == 5
    start = start_of("--train-samples", "33", "--train-iters", "9", "--train-tokens", "100000")
    assert plan_of(start, nowhere).last_step == 5


def test_planned_and_logged_totals_beside_each_other():
    planned = plan_of(start_of(), nowhere)
    rows = planned.beside({"step": 2, "corpus_tokens": 256, "layer_tokens": None, "flops": True})
    assert rows == [{"name": "corpus tokens", "planned": 256, "logged": 256}]


def test_a_pool_by_percentile_is_known_without_its_index_and_one_by_value_is_not(tmp_path):
    values = np.arange(1000)
    identity = {"type": "GPTDataset"}
    DifficultyIndex.write(tmp_path / "rarity", values, metric="rarity", dataset_identity=identity)
    by_percentile = start_of(metrics={"rarity": metric(tmp_path / "rarity", steps=4)})
    from_index, by_count = (plan_of(by_percentile, may) for may in (anywhere, nowhere))
    assert from_index.columns()["pool_size"] == by_count.columns()["pool_size"]
    assert from_index.columns()["pool_size"][0] < 1000
    value = metric(tmp_path / "rarity", steps=10**8) | {"difficulty_type": "value"}
    value |= {"min_difficulty": 99, "max_difficulty": 999}
    start = start_of(metrics={"rarity": value})
    assert plan_of(start, anywhere).columns()["pool_size"][0] == 100
    asked: list[Path] = []
    with pytest.raises(
        NoPlanError, match="which this page may not read: give its folder by --data"
    ):
        plan_of(start, lambda path: bool(asked.append(path)))
    assert asked == [tmp_path / "rarity"]


def test_a_long_plan_is_drawn_from_few_steps_with_all_changes():
    metrics = {"seqlen_truncate": length_metric(8, SEQ_LENGTH, steps=700_000)}
    columns = plan_of(start_of("--train-iters", "1000000", metrics=metrics), nowhere).columns()
    assert len(columns["step"]) < 1300
    assert set(columns["sequence_length"]) == {8, 16}
    change = columns["sequence_length"].index(16)
    assert columns["step"][change] - columns["step"][change - 1] == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"settings": {}}, "only pretraining is planned"),
        ({"settings": None}, "only pretraining is planned"),
        ({"data_efficiency": {"data_sampling": {"enabeld": True}}}, "enabeld"),
        ({"global_batch_size": None}, "no plan can be made of its log"),
        ({"sequence_length": "x"}, "no plan can be made of its log"),
    ],
)
def test_a_start_that_says_too_little_has_no_plan_and_says_why(damage, message):
    with pytest.raises(NoPlanError, match=message):
        plan_of(start_of() | damage, nowhere)


def test_what_a_log_does_not_tell_is_named():
    start = start_of()
    del start["global_batch_size"]
    with pytest.raises(NoPlanError, match="which does not tell 'global_batch_size'"):
        plan_of(start, nowhere)
