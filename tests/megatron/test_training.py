import json
from functools import partial

import pytest
import torch

import pretrain_gpt
from megatron import training
from megatron.model.compilation import compile_model
from megatron.stopping import StopSignals
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


def length_curriculum(path, step):
    """A JSON file whose rows grow by so many tokens at a time."""
    metric = {
        "difficulty_type": "value",
        "clustering_type": "single_cluster",
        "min_difficulty": step,
        "max_difficulty": SEQ_LENGTH,
        "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": 32 // step, "difficulty_step": step},
    }
    learning = {"enabled": True, "curriculum_metrics": {"seqlen_truncate": metric}}
    sampling = {"enabled": True, "curriculum_learning": learning}
    path.write_text(json.dumps({"data_efficiency": {"enabled": True, "data_sampling": sampling}}))
    return str(path)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_each_length_of_a_curriculum_is_compiled_once_and_before_the_first_step(
    prefix, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training, "compile_model", partial(compile_model, backend="eager"))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    flags = ("--compile", "layers", "--compile-lengths", "static", "--no-evaluate")
    flags += ("--train-iters", "10", "--log-interval", "1", "--bf16")

    def train(step, folder):
        curriculum = length_curriculum(tmp_path / "curriculum.json", step)
        more = ("--deepspeed_config", curriculum, "--save", str(tmp_path / folder))
        return pretrain_gpt.main(flags_of(prefix, *flags, *more))

    assert train(4, "four") == 0
    lines = [
        json.loads(line) for line in (tmp_path / "four" / "log.jsonl").read_text().splitlines()
    ]
    lengths = [line["sequence_length"] for line in lines if line["kind"] == "train"]
    counts = [line["num_compilations"] for line in lines if line["kind"] == "train"]
    assert sorted(set(lengths)) == [4, 8, 12, 16]
    assert counts == [4] * 10
    assert lines[-1]["num_compilations"] == 4
    torch.compiler.reset()
    assert train(1, "many") == 1
    assert "seqlen_truncate has 16 lengths and each is compiled" in capsys.readouterr().err


def test_labels_of_our_samples_are_the_next_tokens(prefix, tmp_path):
    bags = {"enabled": True, "bag_size": 2, "num_steps": 3, "labels_are_next": False}
    path = tmp_path / "bags.json"
    routing = {"data_routing": {"token_superposition": bags}}
    path.write_text(json.dumps({"data_efficiency": routing}))
    with pytest.raises(ValueError, match="labels_are_next is false, but labels of this trainer"):
        make_run(settings(prefix, "--deepspeed_config", str(path)))


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


def test_what_is_compiled_and_loaded_before_the_first_step_takes_of_the_time(prefix, tmp_path):
    """Else a job of an hour whose shapes take ten minutes to compile is killed before it saves."""
    run = make_run(settings(prefix, "--save", str(tmp_path), "--exit-duration-in-mins", "1"))
    run.began -= 60
    with StopSignals() as stop:
        training.train(run, None, stop)
    assert (run.counters.steps, run.stop_request.out_of_time) == (1, True)
