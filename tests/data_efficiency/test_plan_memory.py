from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.accounting import ModelShape, StepShape
from data_efficiency.config import load_config
from data_efficiency.plan_memory import (
    WAYS,
    Way,
    format_memory,
    layer_numbers,
    memory_of,
    precision_of,
)
from tests.data_efficiency.test_plan import config, plan
from tests.json_sections import random_ltd

MODEL = ModelShape(
    num_layers=24,
    hidden_size=2048,
    query_size=2048,
    key_value_size=2048,
    ffn_size=8192,
    num_ffn_matrices=2,
    vocab_size=50304,
)
SHAPE = StepShape(num_rows=4, sequence_length=2048)
WHOLE, STAGE2, STAGE3 = (Way(stage=stage, recomputes=False) for stage in (0, 2, 3))


def of(way, precision="fp32", num_processes=8, shape=SHAPE, model=MODEL, **more):
    return memory_of(model, shape, way, precision=precision, num_processes=num_processes, **more)


def test_a_model_of_1_3_billion_takes_what_is_published():
    """16 bytes a parameter with Adam: the paper's 2 + 2 + 12 for half precision, 4 + 4 + 8 for float32."""
    numbers = 24 * 12 * 2048**2 + 50304 * 2048
    assert 24 * layer_numbers(MODEL) + 50304 * 2048 == numbers
    for precision in ("fp32", "half"):
        found = of(WHOLE, precision)
        assert found.weights + found.gradients + found.optimizer == 16 * numbers
        assert found.gathered == 0
    found = of(STAGE3)
    assert found.weights + found.gradients + found.optimizer == 2 * numbers
    assert found.gathered == 4 * (2 * layer_numbers(MODEL) + 50304 * 2048)
    assert of(STAGE2).gathered == 4 * numbers == 2 * of(STAGE2, "half_weights").gathered
    assert of(STAGE3, num_processes=1) == of(WHOLE, num_processes=1)
    assert found.total == sum(vars(found).values())


@given(
    st.sampled_from(WAYS),
    st.sampled_from(["fp32", "half", "half_weights"]),
    st.integers(2, 64),
    st.integers(1, 8),
    st.integers(1, 2048),
    st.sampled_from([2, 3]),
)
def test_more_of_anything_never_takes_less(way, precision, num_processes, rows, kept, matrices):
    model = replace(MODEL, num_ffn_matrices=matrices)
    shape = StepShape(num_rows=rows, sequence_length=2048, num_dropping_layers=20, kept_length=kept)
    found = of(way, precision, num_processes, shape, model)
    assert min(vars(found).values()) >= 0
    more = of(way, precision, num_processes, replace(shape, num_rows=rows + 1), model)
    assert more.activations > found.activations
    whole = of(way, precision, num_processes, replace(shape, kept_length=None), model)
    assert whole.activations >= found.activations
    assert of(way, precision, 2 * num_processes, shape, model).total <= found.total
    if way.recomputes:
        kept_all = of(replace(way, recomputes=False), precision, num_processes, shape, model)
        assert found.activations <= kept_all.activations
        assert found.weights == kept_all.weights


def test_processes_that_share_layers_share_what_is_published():
    """Weights and all that is computed, but what linear maps behind norms read, and the output's gradient."""
    positions = 2048**2
    outside = 50304 * 2048 + positions
    # So few that the logits of all are in memory at once.
    shape = StepShape(num_rows=2, sequence_length=2048)
    whole, cut = (of(replace(WHOLE, tensor=size), outside=outside, shape=shape) for size in (1, 4))
    for name in ("weights", "gradients", "optimizer"):
        numbers = getattr(cut, name) // (8 if name == "optimizer" else 4)
        assert numbers == (24 * layer_numbers(MODEL) + 50304 * 2048) // 4 + positions
    tokens = 2 * 2048
    not_cut = tokens * 4 * 2048 * (2 * 24 + 1)
    assert cut.activations - not_cut == (whole.activations - not_cut) // 4
    mesh = of(replace(STAGE3, tensor=4), num_processes=8, outside=outside)
    assert mesh.weights == -(-cut.weights // 2)
    assert mesh.gathered == 4 * (2 * layer_numbers(MODEL) // 4 + 50304 * 2048 // 4 + positions)
    assert of(replace(STAGE3, tensor=8), num_processes=8).gathered == 0


def test_a_table_of_meshes_goes_from_the_fewest_that_share_a_layer():
    made = plan(config() | {"tensor_parallel": {"autotp_size": 2}})
    settings = {"num_processes": 2, "precision": "fp32", "tensor_sizes": [4, 8]}
    *table, last = format_memory(made, device_bytes=1e9, **settings).splitlines()
    names = [line.strip().split("  ")[0] for line in table[1:]]
    assert names == [
        *(f"all on each (DDP){more}" for more in ("", ", layers recomputed")),
        *(f"FSDP2, stage {k}{more}" for k in (2, 3) for more in ("", ", layers recomputed")),
        *(f"TP 2{more}" for more in ("", ", layers recomputed")),
        *(f"TP 2 x FSDP2, stage {k}{more}" for k in (2, 3) for more in ("", ", layers recomputed")),
        *(f"TP 4{more}" for more in ("", ", layers recomputed")),
    ]
    assert last == "the first that fits 1G: all on each (DDP)"
    totals = [line.split()[-1] for line in table[1:]]
    assert totals[6] != totals[12]


def test_the_table_names_the_first_that_fits():
    made = plan(config(dropping=random_ltd()))

    def lines(device_bytes, num_processes=2):
        return format_memory(
            made, num_processes=num_processes, device_bytes=device_bytes, precision="fp32"
        ).splitlines()

    table = lines(1e9)
    assert [line.split("  ")[0].strip() or line for line in table][-1].endswith("(DDP)")
    assert len(table) == 1 + len(WAYS) + 1
    totals = [
        memory_of(
            made.model,
            StepShape(num_rows=4, sequence_length=32, num_dropping_layers=2, kept_length=None),
            way,
            precision="fp32",
            num_processes=2,
        ).total
        for way in WAYS
    ]
    assert lines(min(totals))[-1].endswith(str(WAYS[totals.index(min(totals))]))
    none = lines(min(totals) - 1)[-1]
    assert none.endswith("take a micro-batch below 4, more processes, or DeepSpeed with offloading")
    assert len(lines(1e9, num_processes=1)) == 1 + 2 + 1


def test_the_precision_is_the_files():
    base = {"train_batch_size": 4}
    assert precision_of(load_config(base)) == "fp32"
    assert precision_of(load_config(base | {"bf16": {"enabled": False}})) == "fp32"
    for name in ("bf16", "fp16"):
        content = load_config(base | {name: {"enabled": True}})
        assert precision_of(content) == "half"
        assert precision_of(content, bf16_weights=True) == "half_weights"


def test_a_micro_batch_without_rows_to_spare():
    with pytest.raises(ValueError, match="train_batch_size is 16"):
        format_memory(plan(config()), num_processes=3, device_bytes=1.0, precision="fp32")
