"""Pieces of documents by length: the plan, the log, a resume on other processes, sharded engines, what is refused."""

import json

import pytest

import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.engine_json import engine_json
from tests.end_to_end.engine_runs import assert_equal_runs, finish, log_lines, start
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.tiny_runs import SEQ_LENGTH, random_ltd_section, training_flags

LENGTHS = [4, 8, 16, 32]


def write_buckets(path, **keys):
    buckets = {"odds": "grow_p2", "token_shares": "uniform", "num_cycles": 2, "pass_steps": "auto"}
    section = {
        "data_sampling": {"length_buckets": buckets | keys},
        "data_routing": {"random_ltd": random_ltd_section()},
    }
    path.write_text(json.dumps({"data_efficiency": section}))
    return path


def flags_of(workspace, config, folder, **flags):
    own = {"shortest_piece": 4, "random_ltd": True, "keep_last": 0}
    return training_flags(workspace, deepspeed_config=config, save=folder, **(own | flags))


def train_lines(folder):
    return [line for line in log_lines(folder) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def config(workspace):
    return write_buckets(workspace / "buckets.json")


@pytest.fixture(scope="module")
def whole(workspace, config):
    """A run in one go, with dropped tokens."""
    folder = workspace / "buckets_run"
    assert pretrain_gpt.main(flags_of(workspace, config, folder)) == 0
    return folder


def test_plan_and_log_say_the_same(workspace, config, whole):
    """Each step has the tokens of whole rows, of one length; short ones come first in each of the two cycles."""
    first = log_lines(whole)[0]
    sizes = [first["pieces"]["sizes"][str(length)] for length in LENGTHS]
    content = engine_json(parse_run_config("", flags_of(workspace, config, whole)), 1)
    plan = assert_planned_is_logged(content, whole, num_samples=sizes)
    lines = train_lines(whole)
    assert [line["corpus_tokens"] for line in lines] == [
        8 * SEQ_LENGTH * step for step in range(1, 21)
    ]
    assert all(line["loss_tokens"] == line["corpus_tokens"] for line in lines)
    lengths = [line["sequence_length"] for line in lines]
    assert set(lengths) == set(LENGTHS)
    for cycle in (lengths[:10], lengths[10:]):
        assert sum(cycle[:5]) < sum(cycle[-5:])
    assert [lengths.count(length) for length in LENGTHS] == [5] * 4
    drawn = [lengths.count(length) * 8 * SEQ_LENGTH // length for length in LENGTHS]
    assert lines[-1]["part_epochs"] == pytest.approx(
        [each / size for each, size in zip(drawn, sizes, strict=True)]
    )
    assert (
        sum(drawn) == lines[-1]["consumed_samples"] == sum(line["step_samples"] for line in lines)
    )
    assert 0 < first["pieces"]["left_out_share"] < 0.1
    assert sum(plan.bucket_shares(10)) == pytest.approx(1)


@pytest.mark.full
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2)])
def test_a_resume_goes_on_with_the_bucket_of_its_step(
    workspace, config, whole, tmp_path, processes, workers
):
    run = tmp_path / "run"
    whole_pass = {"train_iters": 5, "lr_decay_iters": 20}
    shorter = write_buckets(tmp_path / "buckets.json", pass_steps=20)
    assert pretrain_gpt.main(flags_of(workspace, shorter, run, **whole_pass)) == 0
    flags = flags_of(
        workspace, config, run, load=run, micro_batch_size=4 // processes, num_workers=workers
    )
    if processes == 1:
        assert pretrain_gpt.main(flags) == 0
        assert_equal_runs(run, whole, from_step=6)
        return
    finish(start(flags, processes))
    names = ("loss", "grad_norm", "consumed_samples", "layer_tokens", "flops", "part_epochs")
    for one, other in zip(train_lines(run), train_lines(whole), strict=True):
        for name in names:
            assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_other_buckets_are_refused_with_the_name_that_lifts_it(workspace, whole, tmp_path, capsys):
    other = write_buckets(tmp_path / "buckets.json", odds="grow_linear")
    flags = flags_of(workspace, other, tmp_path / "run", load=whole)
    assert pretrain_gpt.main(flags) == 1
    assert (
        "length_buckets.odds is 'grow_linear' here and 'grow_p2' there" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"shortest_piece": 5},
            r"--shortest-piece is 5: must be --seq-length (32) halved some times",
        ),
        ({"shortest_piece": None}, "does not say what its lengths are"),
    ],
)
def test_what_does_not_fit_is_refused(workspace, config, tmp_path, capsys, flags, message):
    assert pretrain_gpt.main(flags_of(workspace, config, tmp_path / "run", **flags)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("flags", [{"fsdp": 2}, {"fsdp": 3}, {"deepspeed": True}])
def test_sharded_on_two_processes_it_is_the_same(workspace, config, whole, tmp_path, flags):
    finish(start(flags_of(workspace, config, tmp_path / "run", micro_batch_size=2, **flags), 2))
    names = ("loss", "consumed_samples", "corpus_tokens", "layer_tokens", "flops")
    for one, other in zip(train_lines(tmp_path / "run"), train_lines(whole), strict=True):
        assert [one[name] for name in names] == pytest.approx(
            [other[name] for name in names], rel=1e-4
        )
