"""What a plan says beforehand against what a run of the same configuration logs."""

import json

import pytest

import pretrain_gpt
from data_efficiency import plan_run
from data_efficiency.config import read_json
from megatron.arguments import parse_run_config
from megatron.run_state import model_shape
from tests.end_to_end.engine_runs import log_lines
from tests.end_to_end.tiny_runs import SEQ_LENGTH, composed_flags, training_flags

COUNTERS = ("consumed_samples", "corpus_tokens", "loss_tokens", "layer_tokens", "flops")


def assert_planned_is_logged(content, folder, num_samples=None):
    """The plan of a configuration, after every line of a run's log was what it says."""
    model = model_shape(parse_run_config("", training_flags(folder)).model)
    plan = plan_run(
        content,
        model=model,
        sequence_length=SEQ_LENGTH,
        num_steps=20,
        num_samples=num_samples,
    )
    logged = [line for line in log_lines(folder) if line["kind"] == "train"]
    assert [line["step"] for line in logged] == list(range(1, 21))
    for line in logged:
        step = line["step"]
        shape = plan.stretch_at(step).shape
        assert shape.sequence_length == line["sequence_length"]
        kept_length = shape.kept_length if shape.num_dropping_layers else None
        assert kept_length == line["kept_length"]
        assert plan.pool_size(step) == line["pool_size"]
        assert plan.difficulties(step) == line["difficulties"]
        totals = plan.counters(step)
        assert {name: getattr(totals, name) for name in COUNTERS} == {
            name: line[name] for name in COUNTERS
        }
    return plan


@pytest.mark.parametrize("action", ["truncate", "reshape"])
def test_plan_and_run_say_the_same(workspace, composed_config, tmp_path, action):
    batches = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    content = read_json(composed_config) | batches
    sampling = content["data_efficiency"]["data_sampling"]
    length = sampling["curriculum_learning"]["curriculum_metrics"]["seqlen_truncate"]
    length |= {"sequence_length": action, "length_multiple": 5}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(content))
    assert pretrain_gpt.main(composed_flags(workspace, config, save=tmp_path / "run")) == 0
    plan = assert_planned_is_logged(content, tmp_path / "run")
    assert plan.num_samples == 606
    assert {10, 20, 25, 32} == {stretch.shape.sequence_length for stretch in plan.stretches}


def test_plan_and_run_say_the_same_of_every_route(workspace, composed_config, tmp_path):
    """Bags in the first steps, then plain rows; spans, rows that skip layers, and at last neither."""
    content = read_json(composed_config)
    content |= {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    sampling = content["data_efficiency"]["data_sampling"]
    del sampling["curriculum_learning"]["curriculum_metrics"]["seqlen_truncate"]
    routing = content["data_efficiency"]["data_routing"]
    layers = routing["random_ltd"]["random_ltd_layer_id"]
    routing["random_ltd"]["random_ltd_layer_id"] = [layers]
    constant = {"min_value": 50, "schedule_type": "constant"}
    routing["layer_dropout"] = {"enabled": True, "rows_per_group": 4, "keep_schedule": constant}
    routing["token_superposition"] = {"enabled": True, "bag_size": 3, "num_steps": 6}
    routing["full_from_step"] = 15
    config = tmp_path / "config.json"
    config.write_text(json.dumps(content))
    assert pretrain_gpt.main(composed_flags(workspace, config, save=tmp_path / "run")) == 0
    plan = assert_planned_is_logged(content, tmp_path / "run")
    assert plan.counters(20).consumed_samples == 8 * (20 + 2 * 6)
    assert {stretch.shape.tokens_per_position for stretch in plan.stretches} == {1, 3}
    assert [bool(plan.stretch_at(step).shape.skipped) for step in (1, 15, 16)] == [
        True,
        True,
        False,
    ]
