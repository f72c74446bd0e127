"""A run of the trainer on every route at once: stopped within each phase and resumed, and guarded."""

import json

import pytest

import pretrain_bert
import pretrain_gpt
from tests.end_to_end.bert_runs import bert_flags, write_workspace
from tests.end_to_end.engine_runs import log_lines
from tests.end_to_end.tiny_runs import random_ltd_section, training_flags

ROUTES = {
    "random_ltd": random_ltd_section()
    | {"random_ltd_layer_id": [[1, 2]], "residual_scale": "length_ratio", "always_keep": [0]},
    "layer_dropout": {
        "enabled": True,
        "rows_per_group": 4,
        "keep_schedule": {
            "min_value": 30,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": 18, "difficulty_step": 1},
        },
    },
    "token_superposition": {"enabled": True, "bag_size": 3, "num_steps": 7},
    "full_from_step": 16,
}


def write(path, **changes):
    routing = {**ROUTES, **changes}
    path.write_text(json.dumps({"data_efficiency": {"data_routing": routing}}))
    return path


def run(workspace, config, folder, **flags):
    settings = {"random_ltd": True, "deepspeed_config": config, "save": folder}
    return pretrain_gpt.main(training_flags(workspace, **(settings | flags)))


def lines_of(folder):
    timing = ("seconds", "step_seconds", "tokens_per_second", "flops_per_second", "waited")
    return [
        {key: value for key, value in line.items() if key not in timing}
        for line in log_lines(folder)
        if line["kind"] in ("train", "valid")
    ]


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """Configuration and folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("routes")
    config = write(folder / "routes.json")
    assert run(workspace, config, folder / "run") == 0
    return config, folder / "run"


@pytest.mark.parametrize("step", [4, 10, 17])
def test_a_resume_goes_on_in_the_phase_of_its_step(workspace, whole, tmp_path, step):
    config, folder = whole
    parts = tmp_path / "parts"
    assert run(workspace, config, parts, train_iters=step, lr_decay_iters=20) == 0
    assert run(workspace, config, parts, load=parts) == 0
    found = {line["step"]: line for line in lines_of(parts) if line["kind"] == "train"}
    wanted = {line["step"]: line for line in lines_of(folder) if line["kind"] == "train"}
    assert found == wanted
    ends = [path / "global_step20" / "model.safetensors" for path in (folder, parts)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_other_routes_are_another_run(workspace, whole, tmp_path, capsys):
    _, folder = whole
    changes = {
        "layer_dropout": {"layer_dropout": ROUTES["layer_dropout"] | {"rows_per_group": 2}},
        "token_superposition": {
            "token_superposition": ROUTES["token_superposition"] | {"bag_size": 2}
        },
        "full_from_step": {"full_from_step": 18},
        "random_ltd": {"random_ltd": ROUTES["random_ltd"] | {"residual_scale": "none"}},
    }
    for name, change in changes.items():
        config = write(tmp_path / "other.json", **change)
        assert run(workspace, config, tmp_path / name, load=folder, train_iters=22) == 1
        message = capsys.readouterr().err
        assert f"--override {name}" in message, message


def test_bags_of_berts_rows_are_refused(tmp_path, capsys):
    workspace = write_workspace(tmp_path / "bert")
    config = write(tmp_path / "routes.json")
    settings = {"save": tmp_path / "run", "data_efficiency_curriculum_learning": None}
    flags = bert_flags(workspace, config, **settings)
    assert pretrain_bert.main(flags) == 1
    assert "token_superposition is enabled, but batches have" in capsys.readouterr().err
