"""The studies behind `make demo` and `make demo-bert`; what a study does is tested with tools/study.py."""

from pathlib import Path

import pytest

from data_efficiency import load_config
from megatron.engine_json import engine_json
from megatron.study import jobs_of, read_study
from megatron.study.study_file import filled
from tools import analyze_data, prepare_demo_corpus, preprocess_data, train_tokenizer

EXAMPLES = Path(__file__).resolve().parents[3] / "examples_deepspeed" / "data_efficiency"
ARMS = ["baseline", "curriculum", "random_ltd", "curriculum_random_ltd"]
TOOLS = (prepare_demo_corpus, train_tokenizer, preprocess_data, analyze_data)


@pytest.fixture(params=["gpt", "bert"])
def study(request, tmp_path):
    path = EXAMPLES / request.param / "quickstart" / "study.toml"
    text = tmp_path / "my.jsonl"
    text.write_text("{}")
    return read_study(path, output=tmp_path, values={"corpus": str(text)})


def test_four_arms_differ_in_their_techniques_alone(study):
    jobs = jobs_of(study)
    best = [job.config for job in jobs if job.arm.name == "baseline_batch4"]
    jobs = [job for job in jobs if job.arm.name != "baseline_batch4"]
    assert [job.arm.name for job in jobs] == ARMS
    configs = [job.config for job in jobs]
    assert [bool(c.training.data_efficiency_curriculum_learning) for c in configs] == [0, 1, 0, 1]
    assert [bool(c.training.random_ltd) for c in configs] == [0, 0, 1, 1]
    first = configs[0]
    for other in best:  # evaluated on the same rows, as often a budget
        ours, its = first.training, other.training
        assert 2 * its.global_batch_size == ours.global_batch_size
        assert its.eval_iters * its.global_batch_size == ours.eval_iters * ours.global_batch_size
        assert other.model == first.model
        assert (its.train_tokens, its.lr) == (ours.train_tokens, ours.lr)
    assert all((c.model, c.data) == (first.model, first.data) for c in configs)
    assert len({(c.training.train_tokens, c.training.seed, c.training.lr) for c in configs}) == 1
    assert configs[3].data_efficiency == {
        **configs[1].data_efficiency,
        **configs[2].data_efficiency,
    }


def test_every_pacing_ends_at_full_length(study):
    for job in jobs_of(study):
        section = load_config(engine_json(job.config, 1)).data_efficiency
        for name, schedule in section.schedules.items():
            end = job.config.data.seq_length if name == "seqlen_truncate" else 100
            assert schedule.difficulty(10**6) == end
        if section.random_ltd is not None:
            layers = tuple(range(1, job.config.model.num_layers - 1))
            assert section.random_ltd.random_ltd_layer_id == layers
            assert section.random_ltd.schedule.difficulty(10**6) == job.config.data.seq_length


def test_commands_of_the_stages_parse_and_agree_with_the_runs(study):
    data = jobs_of(study)[0].config.data
    for stage, tool in zip(study.prepare, TOOLS, strict=True):
        script, *flags = filled(stage.command, study.values)
        assert Path(script).stem == tool.__name__.rpartition(".")[2]
        arguments = tool.parse_arguments(flags)
        if tool is analyze_data:
            assert (arguments.split, arguments.seq_length) == (data.split, data.seq_length)
            assert Path(arguments.save) == Path(data.difficulty)
            assert tuple(arguments.data_path) == data.data_path
    assert f"--input={study.values['corpus']}" in filled(study.prepare[0].command, study.values)
    assert filled(study.prepare[0].command, {"corpus": ""})[-1] != "--input="


def test_own_text_that_is_changed_is_read_again(study):
    assert study.prepare[0].reads == ["{corpus}"]
