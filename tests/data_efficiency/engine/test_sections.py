import pytest

from data_efficiency.engine.sections import (
    check_torch_sections,
    refuse_offloading,
    refuse_unsupported,
)
from data_efficiency.json_section import ConfigError


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"zero_optimization": {"stage": 1}},
            r"zero_optimization.stage is 1: the PyTorch engine \(FSDP2\) has 2 and 3",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
            r"zero_optimization.offload_param is .* \(FSDP2\) would ignore it; .*DeepSpeed's",
        ),
        (
            {"zero_optimization": {"stage": 2, "leaf_module": {"class": ["A"]}}},
            "leaf_module.class is not a known key; the nearest known key is 'classes'",
        ),
        (
            {"zero_optimization": {"stage": 2, "leaf_module": {"names": [1]}}},
            "leaf_module.names is .*: must be a list of texts",
        ),
        (
            {"zero_optimization": {"stge": 3}},
            "zero_optimization.stge is 3, but there is no stage: .* would ignore it",
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
        ({"pipeline": {"stages": 2}}, "pipeline is .* own the step, .* take zero_.*stage 3"),
        (
            {"sequence_parallel_size": 2},
            "sequence_parallel_size is 2: .* uneven; take recomputation",
        ),
        ({"hybrid_engine": {"enabled": True}}, "hybrid_engine is .* generation"),
        ({"autotuning": {"enabled": True}}, "autotuning is"),
    ],
)
def test_what_neither_engine_does_is_refused_with_the_reason(sections, message):
    for check in (check_torch_sections, refuse_unsupported):
        with pytest.raises(ConfigError, match=message):
            check(sections)


def test_of_tensor_parallelism_its_size_alone_is_taken():
    check_torch_sections({"tensor_parallel": {"autotp_size": 4}})
    with pytest.raises(ConfigError, match="tensor_parallel.autotp_sizes is not a known key"):
        check_torch_sections({"tensor_parallel": {"autotp_sizes": 4}})


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
    assert taken.zero.stage == 0


def test_the_stage_of_a_published_file_is_taken_with_what_paces_deepspeed():
    paced = {"stage": 3, "overlap_comm": True, "reduce_bucket_size": 5e8}
    paced |= {"stage3_max_live_parameters": 1e9, "offload_param": None, "cpu_offload": False}
    zero = check_torch_sections({"zero_optimization": paced}).zero
    assert (zero.stage, zero.names_units) == (3, False)
    leaves = {"classes": "Layer", "names": ["head"]}
    zero = check_torch_sections({"zero_optimization": {"stage": 2, "leaf_module": leaves}}).zero
    assert (zero.leaf_classes, zero.leaf_names, zero.names_units) == (("Layer",), ("head",), True)


def test_buffers_on_the_host_beside_batches_that_change():
    refuse_offloading({"zero_optimization": {"stage": 3}})
    refuse_offloading({"zero_optimization": {"offload_optimizer": {"device": "none"}}})
    for name in ("offload_optimizer", "offload_param"):
        sections = {"zero_optimization": {"stage": 3, name: {"device": "cpu"}}}
        with pytest.raises(ConfigError, match=f"{name} is .* number of micro-batches"):
            refuse_offloading(sections)
