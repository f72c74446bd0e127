import json
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_efficiency import load_config
from data_efficiency.sampling.sampler_state import SamplerIdentity
from megatron.checkpoint.guard import (
    differences,
    guarded_record,
    model_differences,
    refuse_differences,
)
from megatron.config import (
    GUARDED_SETTINGS,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    PretrainingLoggingConfig,
    RunConfig,
    Stage,
    TrainingConfig,
)
from tests.json_sections import metric, random_ltd

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=3))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text("ab", max_size=1), inner, max_size=3)
    ),
    max_leaves=6,
)
RECORDS = st.fixed_dictionaries(dict.fromkeys(GUARDED_SETTINGS, TREES))


@given(record=RECORDS)
def test_a_record_equals_itself_after_json(record):
    assert differences(record, json.loads(json.dumps(record))) == []
    assert differences(record, dict(reversed(record.items()))) == []


@given(saved=RECORDS, own=RECORDS)
def test_every_difference_is_one_and_both_sides_see_it(saved, own):
    found = differences(saved, own)
    assert all(difference.saved != difference.own for difference in found)
    back = differences(own, saved)
    assert [(d.field, d.saved, d.own) for d in found] == [(d.field, d.own, d.saved) for d in back]
    assert {d.name for d in found} >= {
        name for name in GUARDED_SETTINGS if type(saved[name]) is int and saved[name] != own[name]
    }


@given(saved=RECORDS, own=RECORDS)
def test_what_differs_is_lifted_by_its_names_and_by_nothing_less(saved, own):
    found = differences(saved, own)
    names = {difference.name for difference in found}
    refuse_differences(found, names)
    for name in names:
        with pytest.raises(ValueError, match=f"add --override {name}$"):
            refuse_differences(found, names - {name})
    # What is equal after taking over a name's value is not listed any more.
    for name in names:
        assert name not in {d.name for d in differences({**saved, name: own[name]}, own)}


@given(record=RECORDS, name=st.sampled_from(GUARDED_SETTINGS), value=LEAVES)
def test_one_changed_value_is_one_name(record, name, value):
    assume(differences({name: record[name]}, {name: value}))
    changed = {**record, name: value}
    assert {d.name for d in differences(record, changed)} == {name}


LINEAR = {"total_curriculum_step": 10, "difficulty_step": 1}
METRIC = metric(
    "here/rarity",
    difficulty_type="value",
    min_difficulty=1,
    max_difficulty=9,
    schedule_type="fixed_linear",
    schedule_config=LINEAR,
)
RANDOM_LTD = random_ltd(least=2, most=8, steps=4, step_size=2) | {
    "random_ltd_layer_num": 1,
    "random_ltd_layer_id": [1],
}
IDENTITY = {
    "type": "GPTDataset",
    "corpus": "0123",
    "num_tokens": 5000,
    "tokenizer": "abcd",
    "split": "9,1,0",
    "split_name": "train",
    "sequence_length": 32,
    "num_samples": 140,
}


def record(
    *,
    identity=(),
    metric=(),
    random_ltd=(),
    learning=(),
    values="f00d",
    clock="steps",
    row_shares=1,
    architecture="bert",
    stages=(),
    stage_starts=(),
    **settings,
):
    """The record of a run; keyword arguments are what is other than usual."""
    metrics = {"rarity": METRIC | dict(metric)}
    section = {"data_routing": {"random_ltd": RANDOM_LTD | dict(random_ltd)}}
    section["data_sampling"] = {
        "curriculum_learning": {"enabled": True, "curriculum_metrics": metrics, **dict(learning)}
    }
    parsed = load_config(
        {
            "train_batch_size": 8,
            "data_efficiency": section,
            "tensor_parallel": {"autotp_size": row_shares},
        }
    ).data_efficiency
    groups = {
        "model": ModelConfig(num_token_types=2),
        "data": DataConfig(data_path=("a",)),
        "training": TrainingConfig(train_iters=10, global_batch_size=8),
        "checkpoint": CheckpointConfig(),
        "logging": PretrainingLoggingConfig(),
    }
    for name, value in settings.items():
        group = next(key for key, part in groups.items() if hasattr(part, name))
        groups[group] = replace(groups[group], **{name: value})
    made = guarded_record(
        RunConfig(architecture=architecture, stages=stages, **groups),
        data_efficiency=parsed,
        dataset_identity=IDENTITY | dict(identity),
        sampler_identity=SamplerIdentity(
            seed=1, dataset="da7a", metrics={"rarity": {"values": values}}, part_weights=None
        ),
        clock=clock,
        stage_starts=stage_starts,
    )
    assert json.loads(json.dumps(made)) == made
    return made


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"identity": {"corpus": "4567", "num_tokens": 9, "num_samples": 3}}, ["data.identity"] * 2),
        ({"identity": {"tokenizer": "ef"}}, ["tokenizer"]),
        ({"mask_prob": 0.2, "mask_whole_words": True}, ["masking"] * 2),
        ({"split": "8,2,0", "identity": {"split": "8,2,0", "num_samples": 100}}, ["split"]),
        ({"seq_length": 16, "identity": {"sequence_length": 16, "num_samples": 9}}, ["seq_length"]),
        ({"global_batch_size": 16}, ["global_batch_size"]),
        ({"seed": 7}, ["seed"]),
        ({"values": "beef"}, ["difficulty_index"]),
        ({"metric": {"max_difficulty": 8}}, ["curriculum"] * 2),
        ({"metric": {"schedule_type": "fixed_root", "schedule_config": {
            "total_curriculum_step": 10, "difficulty_step": 1, "root_degree": 2}}}, ["curriculum"]),
        ({"metric": {"window_size": 3}}, ["curriculum.rarity.window_size"]),
        ({"random_ltd": {"random_ltd_layer_id": [2]}}, ["random_ltd"]),
        ({"random_ltd": {"enabled": False}}, ["random_ltd"]),
        ({"clock": "samples"}, ["clock"]),
        ({"clock": "effective"}, ["clock"]),
    ],
)  # fmt: skip
def test_what_is_noticed(change, fields):
    found = differences(record(), record(**change))
    assert len(found) == len(fields)
    for difference, field in zip(found, fields, strict=True):
        assert difference.field.startswith(field)


def test_processes_that_share_rows_matter_where_they_round_kept_lengths():
    """Of 2, 4, 6 and 8 tokens two keep as many as one does, four do not."""
    assert record(row_shares=2) == record()
    [found] = differences(record(), record(row_shares=4))
    assert str(found) == "random_ltd.row_shares is 4 here and None there"
    assert record(row_shares=4, random_ltd={"enabled": False})["random_ltd"] is None


def order_record(order, **learning):
    metrics = {"rarity": {"clustering_type": "sorted", "index_path": "d/rarity"}}
    return record(learning={"curriculum_metrics": metrics, "order": order, **learning})


def test_an_order_is_noticed():
    assert differences(order_record({}), order_record({})) == []
    for one, other in (
        (order_record({"num_buckets": 5}), order_record({"num_buckets": 6})),
        (order_record({}), order_record({}, random_rank=True)),
    ):
        (difference,) = differences(one, other)
        assert difference.name == "curriculum"


@pytest.mark.parametrize(
    "change",
    [
        {"metric": {"index_path": "elsewhere/rarity"}},
        {"data_path": ("b",)},
        {"micro_batch_size": 8},
        {"num_workers": 5},
        {"log_interval": 5},
        {"eval_interval": 7, "eval_iters": 2},
        {"save_interval": 3, "keep_last": 9, "save": "x", "load": "x"},
        {"deepspeed": True, "bf16": True},
        {"train_iters": 100, "lr": 1e-4},
        {"token_counter": "loss"},
    ],
)
def test_what_may_change_freely(change):
    assert differences(record(), record(**change)) == []


def test_the_counter_of_tokens_matters_where_the_clock_counts_them():
    found = differences(record(clock="effective"), record(clock="loss"))
    assert [str(one) for one in found] == [
        "clock is 'tokens (loss)' here and 'tokens (effective)' there"
    ]


def test_the_message_lists_both_values_and_the_flag():
    found = differences(record(), record(seed=7, split="8,2,0"))
    message = (
        "the checkpoint is of a run with other settings: seed is 7 here and 1234 there; "
        "split is '8,2,0' here and '969,30,1' there; if this is meant, add --override seed split"
    )
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        refuse_differences(found, ())
    refuse_differences(found, ("seed", "split"))


def test_models():
    config = ModelConfig()
    saved = vars(config)
    assert model_differences(saved, replace(config, hidden_dropout=0.5)) == []
    assert model_differences(saved, replace(config, hidden_size=96)) == [
        "--hidden-size is 96 here and 768 there"
    ]


def test_rows_that_keep_the_tokens_of_a_step_are_noticed():
    """Where they do not, the record is that of a checkpoint from before they could."""
    change = {"clustering_type": "single_cluster", "sequence_length": "truncate"}
    plain = record(metric=change)
    assert "constant_tokens" not in plain["curriculum"]["rarity"]
    constant = record(metric=change | {"constant_tokens": True})
    found = differences(plain, constant)
    assert [one.field for one in found] == ["curriculum.rarity.constant_tokens"]


def test_documents_of_other_flags_are_noticed():
    """Where none is given, the record is that of a checkpoint from before there were any."""
    plain, masked = record(), record(architecture="gpt", reset_attention_mask=True)
    both = record(architecture="gpt", reset_attention_mask=True, eod_mask_loss=True)
    assert plain["documents"] is None
    assert [found.field for found in differences(plain, masked)] == ["documents"]
    assert [found.field for found in differences(masked, both)] == ["documents.eod_mask_loss"]


def test_other_stages_and_other_beginnings_of_the_same_are_noticed():
    """Where there are none, the record is that of a checkpoint from before there were any."""
    stages = Stage(share=0.5), Stage(share=0.5, lr_factor=2.0)
    assert record()["stages"] is None
    staged = record(stages=stages, stage_starts=(1, 6))
    assert [one.field for one in differences(record(), staged)] == ["stages"]
    later = record(stages=stages, stage_starts=(1, 7))
    assert [one.field for one in differences(staged, later)] == ["stages.2.first_step"]
    other = record(stages=(stages[0], replace(stages[1], lr_factor=3.0)), stage_starts=(1, 6))
    assert [one.field for one in differences(staged, other)] == ["stages.2.lr_factor"]
