import json

import pytest

import pretrain_gpt
from megatron.training import make_optimizer
from tests.megatron.tiny_pretraining import SEQ_LENGTH, flags_of, make_run, settings, write_corpus


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_training_learns_and_logs(prefix, tmp_path, capsys):
    flags = flags_of(
        prefix,
        *("--train-iters", "30", "--micro-batch-size", "8", "--lr", "1e-2", "--log-interval", "5"),
        *("--eval-interval", "20", "--eval-iters", "0", "--save", str(tmp_path / "run")),
        *("--save-interval", "10", "--keep-last", "2", "--bf16", "--recompute-activations"),
    )
    assert pretrain_gpt.main(flags) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [5, 10, 15, 20, 25, 30]
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [20, 30]
    assert train[-1]["loss"] < train[0]["loss"]
    assert train[-1]["corpus_tokens"] == 30 * 8 * SEQ_LENGTH == train[-1]["effective_tokens"]
    assert lines[0]["num_parameters"] == 128 * 32 + SEQ_LENGTH * 32 + 2 * 12704 + 64
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("global_step*"))
    assert checkpoints == ["global_step20", "global_step30"]
    output = capsys.readouterr().out
    assert output.startswith(f"{lines[0]['num_parameters']:,} parameters | 149 training and ")
    assert "stopped after step 30: --train-iters (30)" in output
    assert "validation at step 30" in output


def test_weight_decay_is_for_matrices_only(prefix):
    run = make_run(settings(prefix))
    optimizer = make_optimizer(run.engine.module, run.config.training)
    decayed, others = optimizer.param_groups
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in others["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(run.engine.module.parameters()))


def test_a_run_without_a_folder_gets_one(prefix, tmp_path, monkeypatch, capsys):
    """Its model was thrown away."""
    monkeypatch.chdir(tmp_path)
    flags = flags_of(prefix, "--train-iters", "1", "--no-evaluate")
    assert pretrain_gpt.main(flags) == 0
    assert pretrain_gpt.main(flags) == 0
    assert (tmp_path / "runs" / "gpt" / "global_step1" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "gpt_2" / "log.jsonl").is_file()
    output = capsys.readouterr().out
    assert "the run is kept in runs/gpt_2\n" in output
    assert "validation at" not in output


def test_a_finished_run_is_measured_again(prefix, tmp_path, capsys):
    flags = flags_of(prefix, "--train-iters", "2", "--eval-interval", "2", "--save", str(tmp_path))
    assert pretrain_gpt.main(flags) == 0
    assert capsys.readouterr().out.count("validation at step 2") == 1
    again = ["--config", str(tmp_path / "run.toml"), "--eval-iters", "0"]
    assert pretrain_gpt.main(again) == 0
    assert "validation at step 2" in capsys.readouterr().out


def test_a_run_out_of_time_asks_to_be_started_again(prefix, tmp_path):
    flags = flags_of(prefix, "--save", str(tmp_path), "--exit-duration-in-mins", "0.0001")
    assert pretrain_gpt.main(flags) == 75
    again = ["--config", str(tmp_path / "run.toml"), "--exit-duration-in-mins", "9"]
    assert pretrain_gpt.main(again) == 0
