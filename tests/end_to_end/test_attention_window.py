"""A run whose attention windows grow: the plan, the counters, a resume, and what cannot carry windows out."""

import json

import pytest
import torch

import pretrain_bert
import pretrain_gpt
from data_efficiency import ConfigError, DataEfficiencyConfig, initialize
from data_efficiency.config import Curriculum, read_json
from tests.end_to_end.bert_runs import bert_flags, write_workspace
from tests.end_to_end.engine_runs import log_lines
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.tiny_runs import SEQ_LENGTH, random_ltd_section, training_flags
from tests.json_sections import length_metric
from tests.processes import run_python


def write_windows(path, kind="attention_window", *, dropping=True, **metrics):
    metrics |= {kind: length_metric(4, SEQ_LENGTH, steps=12, step_size=4)}
    section = {
        "data_sampling": {"curriculum_learning": {"enabled": True, "curriculum_metrics": metrics}},
        "data_routing": {"random_ltd": random_ltd_section() | {"enabled": dropping}},
    }
    path.write_text(json.dumps({"data_efficiency": section}))
    return path


def flags_of(workspace, config, folder, *, dropping=True, **flags):
    switches = {"data_efficiency_curriculum_learning": True, "random_ltd": dropping or None}
    return training_flags(workspace, deepspeed_config=config, save=folder, **(switches | flags))


def run(*arguments, **flags):
    return pretrain_gpt.main(flags_of(*arguments, **flags))


@pytest.mark.parametrize("kind", ["attention_window", "sliding_window"])
def test_plan_and_counters_see_the_window(workspace, tmp_path, kind):
    dropping = kind == "attention_window"
    config = write_windows(tmp_path / "windows.json", kind, dropping=dropping)
    assert run(workspace, config, tmp_path / "run", dropping=dropping) == 0
    content = read_json(config) | {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    lines = [one for one in log_lines(tmp_path / "run") if one["kind"] == "train"]
    samples = log_lines(tmp_path / "run")[0]["train_samples_in_dataset"]
    plan = assert_planned_is_logged(content, tmp_path / "run", num_samples=samples)
    windows = [plan.stretch_at(step).shape.attention_window for step in (1, 6, 20)]
    assert windows == [4, 16, None]
    assert lines[0]["flops"] < lines[-1]["flops"] - lines[-2]["flops"]


def test_a_resume_goes_on_with_the_window_of_its_step(workspace, tmp_path):
    config = write_windows(tmp_path / "windows.json")
    assert run(workspace, config, tmp_path / "whole") == 0
    assert run(workspace, config, tmp_path / "parts", train_iters=7, lr_decay_iters=20) == 0
    assert run(workspace, config, tmp_path / "parts", load=tmp_path / "parts") == 0
    whole, parts = (
        {
            line["step"]: line["loss"]
            for line in log_lines(tmp_path / name)
            if line["kind"] == "train"
        }
        for name in ("whole", "parts")
    )
    assert parts == whole


@pytest.mark.parametrize(
    "flags", [{"fsdp": 3}, {"deepspeed": True}, {"recompute_activations": True}]
)
def test_sharded_and_recomputed_it_is_the_same(workspace, tmp_path, flags):
    config = write_windows(tmp_path / "windows.json")
    assert run(workspace, config, tmp_path / "plain", train_iters=6) == 0
    # In a process of its own: engines leave their process group and its environment behind.
    other = flags_of(workspace, config, tmp_path / "other", train_iters=6, **flags)
    run_python("pretrain_gpt.py", *other)
    plain, other = (
        [line["loss"] for line in log_lines(tmp_path / name) if line["kind"] == "train"]
        for name in ("plain", "other")
    )
    assert other == pytest.approx(plain, rel=1e-5)


def test_a_model_that_has_no_windows_is_refused(tmp_path, capsys):
    bert = write_workspace(tmp_path / "bert", num_documents=40)
    config = write_windows(tmp_path / "windows.json", dropping=False)
    assert pretrain_bert.main(bert_flags(bert, config, save=tmp_path / "run", random_ltd=None)) == 1
    assert "forward has no argument attention_window" in capsys.readouterr().err


class Swallowing(torch.nn.Module):
    """Takes any keyword and does nothing with it, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))

    def forward(self, input_ids, **_):
        return self.weight[input_ids].sum()


class Windowed(Swallowing):
    """Has the argument."""

    def forward(self, input_ids, attention_window=None):
        return self.weight[input_ids].sum() * (attention_window or 1)


@pytest.mark.parametrize(
    ("model", "passes", "message"),
    [
        (Swallowing(), True, "Swallowing.forward has no argument attention_window"),
        (Windowed(), False, "attention_window of 2, but the model was given None: pass the batch"),
        (Windowed(), True, None),
    ],
)
def test_a_window_that_the_model_does_not_get_is_an_error(model, passes, message):
    rows = [{"input_ids": torch.arange(4)} for _ in range(8)]
    config = DataEfficiencyConfig.of(Curriculum("attention_window", start=2, steps=5, step_size=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, _, loader, _ = initialize(
        model=model,
        optimizer=optimizer,
        training_data=rows,
        config={"train_batch_size": 2, "data_efficiency": config},
    )
    batch = next(iter(loader))
    assert batch["attention_window"] == 2
    arguments = batch if passes else {"input_ids": batch["input_ids"]}
    if message is None:
        engine.backward(engine(**arguments))
        engine.step()
        return
    with pytest.raises(ConfigError, match=message):
        engine(**arguments)
