"""A run of stages: the plan, the log, a resume at and inside a stage, several processes, sharded engines."""

import pytest

import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.engine_json import engine_json
from tests.end_to_end.engine_runs import assert_equal_runs, finish, log_lines, start
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.tiny_runs import SEQ_LENGTH, training_flags

STAGES = """
[[stages]]
share = 0.25
seq_length = 16
kept_length = 8
order = "shuffled"

[[stages]]
share = 0.3125
attention_window = 8
kept_length = 16
order = "ascending"
lr_factor = 1.5

[[stages]]
share = 0.4375
order = "descending"
lr_factor = 0.5

[data_efficiency.data_sampling.curriculum_learning]
order.num_buckets = 8
curriculum_metrics.vocab_rarity = { clustering_type = "sorted", index_path = "auto" }
"""


def flags_of(workspace, folder, **flags):
    return training_flags(
        workspace,
        **{
            "config": workspace / "stages.toml",
            "difficulty": workspace / "difficulty",
            "save": folder,
            "train_iters": None,
            "train_tokens": 16 * 8 * SEQ_LENGTH,
            "token_counter": "corpus",
            "lr_decay_style": "constant",
            "keep_last": 0,
        }
        | flags,
    )


def train_lines(folder):
    return [line for line in log_lines(folder) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def whole(workspace):
    """A run in one go; a checkpoint lies at the end of the second stage, and one inside it."""
    (workspace / "stages.toml").write_text(STAGES)
    folder = workspace / "stages_run"
    assert pretrain_gpt.main(flags_of(workspace, folder)) == 0
    return folder


def test_each_stage_is_what_the_file_says_and_the_plan(workspace, whole):
    lines = train_lines(whole)
    found = {
        (line["stage"], line["sequence_length"], line["kept_length"], line["learning_rate"])
        for line in lines
    }
    assert found == {
        (1, 16, 8, 1e-3),
        (2, SEQ_LENGTH, 16, 1.5e-3),
        (3, SEQ_LENGTH, SEQ_LENGTH, 0.5e-3),
    }
    assert [line["stage"] for line in lines] == [1] * 8 + [2] * 5 + [3] * 7
    content = engine_json(parse_run_config("", flags_of(workspace, whole)), 1)
    plan = assert_planned_is_logged(content, whole)
    assert [plan.stretch_at(step).shape.attention_window for step in (1, 9, 14)] == [None, 8, None]
    percents = [line["difficulties"]["vocab_rarity"] for line in lines]
    rising, falling = percents[8:13], percents[13:]
    assert rising == sorted(rising)
    assert rising[0] < 20 < 80 < rising[-1]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 20 < 80 < falling[0]


@pytest.mark.parametrize(
    ("step", "processes"),
    [
        pytest.param(8, 1, id="at the end of a stage"),
        pytest.param(8, 2, id="there on two processes", marks=pytest.mark.full),
        pytest.param(10, 1, id="inside a stage", marks=pytest.mark.full),
        pytest.param(10, 2, id="there on two processes", marks=pytest.mark.full),
    ],
)
def test_a_resume_goes_on_in_its_stage(workspace, whole, tmp_path, step, processes):
    run = tmp_path / "run"
    assert pretrain_gpt.main(flags_of(workspace, run, train_iters=step)) == 0
    assert len(train_lines(run)) == step
    micro = 4 // processes
    if processes == 1:
        assert pretrain_gpt.main(flags_of(workspace, run)) == 0
        drop = ("seconds", "step_seconds", "tokens_per_second", "flops_per_second")
        own, expected = (
            [{k: v for k, v in line.items() if k not in drop} for line in train_lines(folder)]
            for folder in (run, whole)
        )
        assert own == expected
    else:
        finish(start(flags_of(workspace, run, micro_batch_size=micro), processes))
    assert_equal_runs(run, whole, from_step=step + 1)


@pytest.mark.full
@pytest.mark.parametrize("flags", [{"fsdp": 2}, {"fsdp": 3}, {"deepspeed": True}])
def test_sharded_on_two_processes_it_is_the_same(workspace, whole, tmp_path, flags):
    finish(start(flags_of(workspace, tmp_path / "run", micro_batch_size=2, **flags), 2))
    names = ("stage", "consumed_samples", "corpus_tokens", "layer_tokens", "flops", "learning_rate")
    own, expected = (
        [[line[name] for name in (*names, "loss")] for line in train_lines(folder)]
        for folder in (tmp_path / "run", whole)
    )
    assert len(own) == 20
    for one, other in zip(own, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_other_stages_are_refused_with_the_name_that_lifts_it(workspace, whole, tmp_path, capsys):
    other = tmp_path / "other.toml"
    other.write_text(STAGES.replace("lr_factor = 1.5", "lr_factor = 2"))
    assert pretrain_gpt.main(flags_of(workspace, tmp_path / "run", config=other, load=whole)) == 1
    assert "stages.2.lr_factor is 2.0 here and 1.5 there" in capsys.readouterr().err


def test_finetuning_has_no_stages(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('architecture = "gpt_finetuning"\n' + STAGES)
    with pytest.raises(ValueError, match="stages is not a known key"):
        parse_run_config("", ["--config", str(file)], architecture="gpt_finetuning")
