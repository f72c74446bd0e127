import copy
import json
import logging

import pytest

from data_efficiency.config import (
    Curriculum,
    DataEfficiencyConfig,
    RandomLTD,
    load_config,
    section_of,
)
from data_efficiency.json_section import ConfigError
from data_efficiency.schedule import RootSchedule
from tests.json_sections import random_ltd

PUBLISHED = {
    "train_batch_size": 512,
    "train_micro_batch_size_per_gpu": 8,
    "steps_per_print": 100,
    "zero_optimization": {"stage": 1},
    "gradient_clipping": 1.0,
    "prescale_gradients": False,
    "fp16": {"enabled": True, "loss_scale": 0, "loss_scale_window": 500, "hysteresis": 2},
    "wall_clock_breakdown": False,
    "zero_allow_untested_optimizer": False,
    "dataloader_drop_last": True,
    "data_efficiency": {
        "enabled": True,
        "seed": 1234,
        "data_routing": {
            "enabled": True,
            "random_ltd": random_ltd(
                24,
                least=128,
                most=2048,
                steps=200000,
                step_size=16,
                model_mask_name="attention_mask",
                hidden_state_order="seq_batch_dim",
            ),
        },
        "data_sampling": {
            "enabled": True,
            "num_epochs": 1,
            "num_workers": 0,
            "curriculum_learning": {
                "enabled": True,
                "data_cluster_path": "/data/clusters",
                "curriculum_metrics": {
                    "voc": {
                        "index_to_sample_path": "/data/index_to_sample_percentile_merged",
                        "index_to_metric_path": "/data/index_to_metric",
                        "difficulty_type": "percentile",
                        "clustering_type": "schedule_based",
                        "min_difficulty": 1,
                        "max_difficulty": 100,
                        "schedule_type": "fixed_root",
                        "schedule_config": {
                            "total_curriculum_step": 110000,
                            "difficulty_step": 1,
                            "root_degree": 2,
                        },
                    },
                    "seqlen_truncate": {
                        "index_to_sample_path": "dummy",
                        "index_to_metric_path": "dummy",
                        "difficulty_type": "value",
                        "clustering_type": "single_cluster",
                        "min_difficulty": 80,
                        "max_difficulty": 2048,
                        "schedule_type": "fixed_linear",
                        "schedule_config": {"total_curriculum_step": 110000, "difficulty_step": 8},
                    },
                },
            },
        },
    },
}
LEGACY = {
    "enabled": True,
    "curriculum_type": "seqlen",
    "min_difficulty": 64,
    "max_difficulty": 1024,
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 100, "difficulty_step": 8},
}
METRICS = "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics"
LTD = "data_efficiency.data_routing.random_ltd"


def changed(path, value):
    """The published file with the value at a dotted path replaced, or removed where it is None."""
    content = copy.deepcopy(PUBLISHED)
    *parents, key = path.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[key]
    else:
        section[key] = value
    return content


def test_the_published_file_loads_unchanged(tmp_path, caplog):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(PUBLISHED))
    with caplog.at_level(logging.WARNING):
        config = load_config(path)
    assert caplog.records == []
    assert config.batch_sizes(data_parallel_size=64) == (8, 1)
    assert config.dataloader_drop_last
    assert config.data_efficiency.data_cluster_path == "/data/clusters"
    assert config.engine_sections["fp16"]["loss_scale_window"] == 500
    (voc,), (length,) = config.data_efficiency.selections, config.data_efficiency.length_plans
    assert voc.index_path == "/data/index_to_sample_percentile_merged"
    assert voc.schedule == RootSchedule(
        min_difficulty=1,
        max_difficulty=100,
        total_curriculum_step=110000,
        difficulty_step=1,
        root_degree=2,
    )
    assert length.name == "seqlen_truncate"
    assert length.action == "truncate"
    assert length.schedule.difficulty(110000) == 2048
    dropping = config.data_efficiency.random_ltd
    assert dropping.random_ltd_layer_id == tuple(range(1, 23))
    assert dropping.schedule.difficulty(0) == 128
    assert dropping.schedule.difficulty(200000) == 2048


def test_loading_does_not_touch_the_given_object():
    content = copy.deepcopy(PUBLISHED)
    load_config(content)
    assert content == PUBLISHED


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("gradient_cliping", 1.0, "gradient_cliping is not a known key.*gradient_clipping"),
        ("data_efficiency.sed", 1, "data_efficiency.sed is not a known key.*'seed'"),
        (f"{METRICS}.voc.difficulty_type", "percentil", "did you mean 'percentile'"),
        (f"{METRICS}.voc.clustering_type", "single_clusters", "did you mean 'single_cluster'"),
        (f"{METRICS}.voc.min_difficulty", 200, r"min_difficulty is 200: above max_difficulty"),
        (f"{METRICS}.voc.index_to_sample_path", None, "index_path is missing"),
        (f"{METRICS}.voc.schedule_config.difficulty_step", 0, "must be at least 1"),
        (f"{METRICS}.voc.schedule_config.root_degre", 2, "root_degre is not a known key"),
        (f"{METRICS}.voc.schedule_config.root_degree", None, "root_degree is missing"),
        (f"{METRICS}.seqlen_truncate.sequence_length", "cut", "must be one of truncate"),
        (METRICS, {}, "must name at least one metric"),
        ("data_efficiency.data_sampling.num_epochs", "many", "must be a whole number"),
        (
            "data_efficiency.data_sampling.dynamic_batching",
            {"enabled": True, "max_tokens": 4096},
            'leaves out those above max_tokens.*"lr_exponent": 1 .its lr_scaling_method linear',
        ),
        (
            "data_efficiency.data_sampling.dynamic_batching",
            {"enabled": True, "lr_scaling_method": "sqrt"},
            'with "lr_exponent": 0.5 .its lr_scaling_method sqrt',
        ),
        (
            "data_efficiency.data_sampling.dynamic_batching",
            {"enabled": True, "lr_scaling_method": "root"},
            "lr_scaling_method is 'root': must be one of linear, sqrt, none",
        ),
        (
            "curriculum_learning",
            {"enabled": True},
            "curriculum_learning.min_difficulty, .*, curriculum_learning.curriculum_type are missing",
        ),
        ("max_grad_norm", 1.0, "max_grad_norm is not a known key; known keys are activation_ch"),
        ("curriculum_learning", LEGACY, "both enabled: keep the second"),
        ("curriculum_learning", LEGACY | {"curriculum_type": "loss"}, "curriculum_type is 'loss'"),
        ("curriculum_learning", LEGACY | {"index_path": "x"}, "index_path is not a known key"),
        (f"{METRICS}.voc.length_multiple", 8, "this metric changes no length"),
        (f"{METRICS}.seqlen_truncate.length_multiple", 0, "must be at least 1"),
        (f"{METRICS}.seqlen_truncate.min_difficulty", 0, "must be at least 1"),
        (f"{METRICS}.voc.sequence_length", "reshape", "'seqlen_truncate' truncates rows and 'voc'"),
        ("train_batch_size", 0, "must be at least 1"),
    ],
)
def test_bad_values_are_refused(path, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(changed(path, value))


@pytest.mark.parametrize(
    ("given", "ranks", "expected"),
    [
        ({"train_batch_size": 8, "gradient_accumulation_steps": 2}, 2, (2, 2)),
        ({"train_micro_batch_size_per_gpu": 4}, 2, (4, 1)),
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 4}, 2, (4, 2)),
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": "auto"}, 2, (8, 1)),
    ],
)
def test_batch_sizes_are_derived(given, ranks, expected):
    assert load_config(given).batch_sizes(ranks) == expected


def test_batch_sizes_that_do_not_divide_are_refused():
    config = load_config({"train_batch_size": 10, "train_micro_batch_size_per_gpu": 4})
    with pytest.raises(ConfigError, match=r"train_batch_size is 10, but .* \(4\) x .* is 8"):
        config.batch_sizes(1)
    with pytest.raises(ConfigError, match="must be given"):
        load_config({}).batch_sizes(1)


def test_all_missing_keys_are_named_at_once():
    sampling = {"enabled": True, "curriculum_metrics": {"voc": {"schedule_type": "fixed_root"}}}
    dropping = {"enabled": True, "random_ltd_schedule": {"schedule_type": "fixed_linear"}}
    section = {
        "data_sampling": {"curriculum_learning": sampling},
        "data_routing": {"random_ltd": dropping},
    }
    with pytest.raises(ConfigError, match="are missing$") as error:
        load_config({"data_efficiency": section})
    missing = str(error.value).removesuffix(" are missing").split(", ")
    assert [path.rpartition(".")[2] for path in missing] == [
        *("min_difficulty", "max_difficulty", "clustering_type", "difficulty_type"),
        *("total_curriculum_step", "difficulty_step", "root_degree"),
        *("min_value", "require_steps", "seq_per_step"),
    ]


def test_all_that_is_wrong_is_told_at_once():
    content = copy.deepcopy(PUBLISHED)
    section = content["data_efficiency"]
    metrics = section["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
    del metrics["voc"]["difficulty_type"]
    metrics["voc"]["schedule_config"] = {"root_degree": 0, "total_curriculum_steps": 5}
    metrics["seqlen_truncate"] |= {"min_difficulty": "few", "multiple": 8}
    section["data_sampling"]["num_epochs"] = -1
    dropping = section["data_routing"]["random_ltd"]
    dropping["random_ltd_schedule"]["min_value"] = 0
    dropping["always_keeps"] = [0]
    section["sed"] = 1
    content |= {"train_batch_size": "many", "optimiser": {}}
    with pytest.raises(ConfigError) as error:
        load_config(content)
    told = str(error.value)
    voc = "curriculum_metrics.voc"
    for part in (
        f"{voc}.difficulty_type, ",
        f"{voc}.schedule_config.total_curriculum_step, ",
        f"{voc}.schedule_config.difficulty_step are missing",
        f"{voc}.schedule_config.root_degree is 0",
        f"{voc}.schedule_config.total_curriculum_steps is not a known key",
        "seqlen_truncate.min_difficulty is 'few'",
        "seqlen_truncate.multiple is not a known key",
        "num_epochs is -1",
        "random_ltd_schedule.min_value is 0",
        "random_ltd.always_keeps is not a known key",
        "data_efficiency.sed is not a known key",
        "train_batch_size is 'many'",
        "optimiser is not a known key",
    ):
        assert told.count(part) == 1, part


def test_what_is_parsed_goes_wherever_a_file_goes(tmp_path):
    section = DataEfficiencyConfig.of(RandomLTD(start=8, end=16, steps=3, layers=[1]), seed=5)
    assert load_config(section).data_efficiency is section
    whole = load_config({"train_batch_size": 4, "data_efficiency": section})
    assert whole.data_efficiency is section
    assert whole.train_batch_size == 4
    assert load_config(whole) is whole
    written = {"data_efficiency": whole.data_efficiency_json}
    (tmp_path / "c.json").write_text(json.dumps(written))
    assert load_config(tmp_path / "c.json").data_efficiency == section


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_config(tmp_path / "none.json")
    path = tmp_path / "bad.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="must hold a JSON object"):
        load_config(path)


def test_what_is_parsed_is_nobody_elses():
    parts = (Curriculum("seqlen", start=8, steps=4), RandomLTD(start=8, steps=4, layers=[1]))
    parsed = DataEfficiencyConfig.of(*parts)
    content = {"optimizer": {"params": {"lr": 1}}, "data_efficiency": section_of(parsed)}
    config = load_config(content)
    before = load_config(config)
    content["optimizer"]["params"]["lr"] = 2
    for section in (content["data_efficiency"], section_of(config.data_efficiency)):
        kept = section["data_routing"]["random_ltd"]["random_ltd_schedule"]
        metrics = section["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
        kept["min_value"], metrics["seqlen_truncate"]["schedule_config"]["difficulty_step"] = 1, 2
    assert config.engine_sections == {"optimizer": {"params": {"lr": 1}}}
    assert config.data_efficiency.with_length(64) == parsed.with_length(64)
    assert config.data_efficiency == parsed
    assert before is config
