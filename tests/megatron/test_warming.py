"""A rehearsed run is the run without a rehearsal, and compiles nothing more once it has begun."""

import json

import pytest
import torch

import pretrain_gpt
from data_efficiency import ModelShape, plan_run
from megatron.warming import is_rehearsed, rehearse_shapes, steps_to_rehearse
from tests.megatron.tiny_pretraining import flags_of, make_run, settings, write_corpus

SCHEDULE = {"schedule_type": "fixed_linear"}
LENGTHS = {
    "difficulty_type": "value",
    "clustering_type": "single_cluster",
    **{"min_difficulty": 8, "max_difficulty": 16},
    **SCHEDULE,
    "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 8},
}
DROPPING = {
    "enabled": True,
    **{"total_layer_num": 3, "random_ltd_layer_num": 1, "random_ltd_layer_id": [1]},
    **{"model_mask_name": None, "model_type": "decoder", "hidden_state_order": "batch_seq_dim"},
    "random_ltd_schedule": {
        **{"min_value": 4, "max_value": 16},
        **SCHEDULE,
        "schedule_config": {"require_steps": 5, "seq_per_step": 4},
    },
}
SECTION = {
    "data_sampling": {
        "enabled": True,
        "curriculum_learning": {
            "enabled": True,
            "curriculum_metrics": {"seqlen_truncate": LENGTHS},
        },
    },
    "data_routing": {"enabled": True, "random_ltd": DROPPING},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Flags of six steps with a curriculum of two lengths and with token dropping."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "json").write_text(json.dumps({"data_efficiency": SECTION}))
    flags = ("--deepspeed_config", str(folder / "json"), "--num-layers", "3", "--eval-iters", "1")
    return write_corpus(folder), flags


def test_a_step_of_each_shape_still_to_come():
    plan = plan_run(
        {"train_batch_size": 8, "data_efficiency": SECTION},
        model=ModelShape(
            **{"num_layers": 3, "hidden_size": 8, "query_size": 8, "key_value_size": 8},
            **{"ffn_size": 8, "num_ffn_matrices": 2, "vocab_size": 8},
        ),
        sequence_length=16,
        num_steps=9,
        num_samples=100,
    )

    def shape_at(step):
        shape = plan.stretch_at(step).shape
        kept = shape.dropped_sequence_length if shape.num_dropping_layers else shape.sequence_length
        return shape.sequence_length, kept < shape.sequence_length

    for begin in range(1, 10):
        found = [shape_at(step) for step in steps_to_rehearse(plan, begin)]
        assert found == list(dict.fromkeys(shape_at(step) for step in range(begin, 10)))
        assert all(step >= begin for step in steps_to_rehearse(plan, begin))
    assert {shape_at(step) for step in range(1, 10)} >= {(8, True), (16, True), (16, False)}


def trained(run, num_steps):
    """Losses and weights of some steps."""
    steps, losses = run.loader.steps(), []
    for _ in range(num_steps):
        result = run.engine.train_step(next(steps), run.loss_sums, run.loss_terms)
        losses.append((result.loss, result.grad_norm, result.kept_length, result.counters))
    return losses, [weight.detach().clone() for weight in run.engine.module.parameters()]


@pytest.mark.parametrize("precision", [(), ("--bf16",), ("--hidden-dropout", "0.1")])
def test_a_rehearsal_leaves_nothing(both, precision):
    prefix, flags = both
    first, second = (make_run(settings(prefix, *flags, *precision)) for _ in range(2))
    expected = trained(first, 6)
    rehearse_shapes(second)
    assert second.loader.state_dict()["step"] == 0
    losses, _ = trained(second, 3)
    rehearse_shapes(second)  # in the middle, as after a resume
    later, weights = trained(second, 3)
    assert losses + later == expected[0]
    assert all(torch.equal(*pair) for pair in zip(weights, expected[1], strict=True))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_nothing_is_compiled_after_the_first_step(both, tmp_path):
    torch.compiler.reset()
    prefix, flags = both
    flags = flags_of(prefix, *flags, "--save", str(tmp_path), "--log-interval", "1")
    assert pretrain_gpt.main([*flags, "--compile", "layers", "--compile-lengths", "static"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    compiled = [line["num_compilations"] for line in lines if line["kind"] in ("train", "end")]
    assert len(set(compiled)) == 1
    assert compiled[0] > 0


STAGES = """
[[stages]]
share = 0.5
seq_length = 8

[[stages]]
share = 0.5
"""


def test_stages_that_are_compiled_are_rehearsed(tmp_path):
    (tmp_path / "stages.toml").write_text(STAGES)
    staged = ("--config", str(tmp_path / "stages.toml"))
    compiled = ("--compile", "layers")
    assert [
        is_rehearsed(settings("corpus", *flags))
        for flags in (
            staged,
            compiled,
            (*staged, *compiled),
            (*compiled, "--compile-lengths", "static"),
        )
    ] == [False, False, True, True]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_no_stage_compiles_after_the_first_step(tmp_path):
    torch.compiler.reset()
    (tmp_path / "stages.toml").write_text(STAGES)
    more = ("--config", tmp_path / "stages.toml", "--save", tmp_path, "--log-interval", 1)
    flags = [*flags_of(write_corpus(tmp_path), *map(str, more)), "--compile", "layers"]
    assert pretrain_gpt.main([*flags, "--no-evaluate"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["sequence_length"] for line in steps] == [8, 8, 8, 16, 16, 16]
    assert len({line["num_compilations"] for line in steps}) == 1
    assert steps[0]["num_compilations"] > 0
