import pytest

from data_efficiency.engine.sections import check_torch_sections, refuse_unsupported
from data_efficiency.json_section import ConfigError


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"zero_optimization": {"stage": 2}},
            "zero_optimization is .* would ignore it; .*DeepSpeed's",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is"),
        ({"activation_checkpointing": {"profile": True}}, "activation_checkpointing is"),
        ({"bf16": {"enabled": True, "grads": 1}}, "bf16.grads is not a known key"),
        ({"fp16": {"enabled": True, "loss_scal": 0}}, "nearest known key is 'loss_scale'"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "both true"),
    ],
)
def test_sections_that_the_torch_engine_would_ignore_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        check_torch_sections(sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"pipeline": {"stages": 2}}, "pipeline is .* only data parallelism"),
        ({"tensor_parallel": {"autotp_size": 4}}, "tensor_parallel is .* only data parallelism"),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size is 2: only data parallelism"),
        ({"hybrid_engine": {"enabled": True}}, "hybrid_engine is .* generation"),
        ({"autotuning": {"enabled": True}}, "autotuning is"),
    ],
)
def test_what_neither_engine_does_is_refused_with_the_reason(sections, message):
    for check in (check_torch_sections, refuse_unsupported):
        with pytest.raises(ConfigError, match=message):
            check(sections)


def test_sections_that_are_off_or_harmless_are_accepted():
    sections = {
        "fp16": {"enabled": False, "loss_scale": 0},
        "zero_optimization": {"stage": 0},
        "tensor_parallel": {"autotp_size": 1},
        "sequence_parallel_size": 1,
        "steps_per_print": 10,
        "wall_clock_breakdown": False,
    }
    taken = check_torch_sections(sections)
    assert (taken.bf16, taken.loss_scale, taken.optimizer) == (False, None, None)
