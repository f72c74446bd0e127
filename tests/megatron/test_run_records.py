import json
from types import SimpleNamespace

import pytest
import torch

import pretrain_gpt
from data_efficiency import Counters
from megatron.config import ModelConfig, TrainingConfig
from megatron.run_records import (
    counter_record,
    losses_record,
    num_parameters,
    progress_record,
    start_record,
    step_record,
)
from megatron.run_state import Run
from tests.megatron.tiny_pretraining import (
    SEQ_LENGTH,
    flags_of,
    make_run,
    settings,
    write_corpus,
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_record_of_counters():
    run = Run(
        config=SimpleNamespace(model=ModelConfig(), training=TrainingConfig(train_iters=1)),
        task=None,
        engine=SimpleNamespace(counters=Counters(steps=2, corpus_tokens=640, layer_tokens=6000)),
        valid_dataset=None,
    )
    record = counter_record(run)
    assert record["step"] == 2
    assert record["effective_tokens"] == run.tokens() == 6000 / 12


def test_the_sum_of_the_losses_stands_before_each():
    assert losses_record({"lm": 2.0, "sop": 0.5}) == {"loss": 2.5, "lm_loss": 2.0, "sop_loss": 0.5}


def test_numbers_of_a_model_that_is_cut_are_those_of_the_whole():
    model = torch.nn.Linear(3, 2)
    assert num_parameters(model) == 8
    model.weight.ds_numel = 60
    assert num_parameters(model) == 62


def test_a_run_tells_what_it_begins_with_and_each_step(prefix):
    run = make_run(settings(prefix))
    start = start_record(run, num_samples=149)
    assert json.loads(json.dumps(start)).keys() == start.keys()
    assert start["num_parameters"] == 128 * 32 + SEQ_LENGTH * 32 + 2 * 12704 + 64
    assert (start["num_layers"], start["global_batch_size"], start["num_processes"]) == (2, 8, 1)
    assert start["weights"] == run.first_weights
    batches = next(run.loader.steps())
    result = run.engine.train_step(batches, run.loss_sums, run.loss_terms)
    record = step_record(run, result)
    assert record["loss"] == record["lm_loss"] == result.loss
    assert (record["step"], record["sequence_length"]) == (1, SEQ_LENGTH)
    assert record["difficulties"] == {}
    assert "step_samples" not in record
    progress = progress_record(run, Counters(), seconds=2.0)
    assert progress["tokens_per_second"] == progress["corpus_tokens"] / 2 == 4 * SEQ_LENGTH
    assert progress["step_seconds"] == 2.0


def test_the_end_says_what_the_time_went_into(prefix, tmp_path, capsys):
    flags = ("--eval-interval", "3", "--save-interval", "3", "--save", str(tmp_path / "run"))
    assert pretrain_gpt.main(flags_of(prefix, *flags)) == 0
    end = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    parts = [end[f"{name}_seconds"] for name in ("start_up", "evaluation", "checkpoints")]
    assert min(parts) > 0
    assert sum(parts) < end["process_seconds"]
    assert end["seconds"] > 0 == end["num_compilations"]
    assert f"evaluation {parts[1] / end['process_seconds']:.1%}, check" in capsys.readouterr().out
