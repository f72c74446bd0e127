"""The library's step on a user's own model: equal on one process, two, and every stage of ZeRO and FSDP2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.data_efficiency.engine.two_ranks import IMAGES, MODES, STEPS, WHOLE_GROUPS

ROOT = Path(__file__).resolve().parents[3]
QUICK = ("torch", "fsdp3", "zero2")
OTHERS = ("fsdp2", "zero0", "zero1", "zero3")
SHARDED = [*QUICK, *(pytest.param(engine, marks=pytest.mark.full) for engine in OTHERS)]
MICRO_BATCH_SIZES = [2, *(pytest.param(size, marks=pytest.mark.full) for size in (8, 1))]
# Shapes of the other modes depend on how the rows are split into micro-batches.
SPLIT_FREE = ("truncate", "none", "bags", "causal", "feedback", "routes")


def with_images(modes):
    """The modes, and that of images in the full suite."""
    return [
        *(mode for mode in modes if mode != IMAGES),
        pytest.param(IMAGES, marks=pytest.mark.full),
    ]


def run(folder, num_processes, micro, what, *engines):
    """The folder with what the processes found; of several test processes one starts them."""
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        partial = folder.with_suffix(".partial")
        partial.mkdir()
        command = [sys.executable]
        if num_processes > 1:
            command += ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
            command += ["--standalone"]
        environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [
                *command,
                Path(__file__).with_name("two_ranks.py"),
                partial,
                str(micro),
                what,
                *engines,
            ],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return partial.rename(folder)


@pytest.fixture(scope="session")
def found(tmp_path_factory, worker_id):
    """A folder that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="module")
def alone(found):
    """Micro-batch size -> what one process finds."""
    return lambda micro, _, what: run(
        found / f"two_ranks_alone_{what}_{micro}", 1, micro, what, "torch"
    )


@pytest.fixture(scope="module")
def pair(found):
    """Micro-batch size, engine -> what two processes find, with it and others."""

    def folder(micro, engine, what):
        name, engines = ("quick", QUICK) if engine in QUICK else ("others", OTHERS)
        return run(found / f"two_ranks_{name}_{what}_{micro}", 2, micro, what, *engines)

    return folder


def read(folder_of, engine, mode, micro, rank=0):
    folder = folder_of(micro, engine, IMAGES if mode == IMAGES else "others")
    return json.loads((folder / f"{engine}.{mode}.{micro}.{rank}.json").read_text())


def assert_equal(found, expected):
    *found, found_weights = found
    *expected, expected_weights = expected
    assert len(found) == len(expected) == STEPS
    for left, right in zip(found, expected, strict=True):
        for name, loss in right["losses"].items():
            assert left["losses"][name] == pytest.approx(loss, abs=1e-5)
        assert left["norm"] == pytest.approx(right["norm"], rel=1e-4)
        for name in ("num_terms", "counters", "lengths", "rate", "samples"):
            assert left[name] == right[name], name
    torch.testing.assert_close(
        torch.tensor(found_weights["weights"]),
        torch.tensor(expected_weights["weights"]),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("engine", SHARDED)
@pytest.mark.parametrize("mode", with_images(MODES))
@pytest.mark.parametrize("micro", MICRO_BATCH_SIZES)
def test_two_processes_train_as_one(alone, pair, engine, mode, micro):
    if mode in WHOLE_GROUPS and micro == 1:
        pytest.skip("a row alone is no group of rows")
    assert_equal(read(pair, engine, mode, micro), read(alone, "torch", mode, micro))
    assert read(pair, engine, mode, micro)[:-1] == read(pair, engine, mode, micro, rank=1)[:-1]


@pytest.mark.parametrize("mode", with_images(SPLIT_FREE))
@pytest.mark.parametrize("micro", [2, 1])
def test_micro_batches_are_only_a_split(alone, mode, micro):
    if mode in WHOLE_GROUPS and micro == 1:
        pytest.skip("a row alone is no group of rows")
    assert_equal(read(alone, "torch", mode, micro), read(alone, "torch", mode, 8))


def test_the_rate_moves_and_lengths_do(alone):
    steps = read(alone, "torch", "truncate", 8)[:-1]
    assert [step["lengths"][0] for step in steps] == [4, 4, 6, 6, 12, 12]
    assert len({step["rate"] for step in steps}) == STEPS
    assert any(step["lengths"][1] < step["lengths"][0] for step in steps)


def test_rows_skip_layers_until_the_last_step(alone):
    steps = read(alone, "torch", "routes", 8)[:-1]
    processed = [step["counters"]["layer_tokens"] for step in steps]
    added = [after - before for before, after in zip([0, *processed], processed, strict=False)]
    rows, length, num_layers = 16, 12, 4
    assert added[-1] == rows * length * num_layers
    kept = [step["lengths"][1] for step in steps[:-1]]
    # Half of the rows skip each layer; three layers see the kept tokens of the others.
    assert added[:-1] == [rows // 2 * (3 * one + length) for one in kept]


def test_samples_follow_the_losses_of_rows(alone):
    """The third round draws from rows without a value, and the half with the larger ones."""
    steps = read(alone, "torch", "feedback", 8)[:-1]
    known = {}
    for step in steps[:4]:
        known |= dict(zip(step["samples"], np.float32(step["rows"]).tolist(), strict=True))
    out = sorted(known, key=known.get)[: len(known) // 2]
    assert len(out) > 8
    assert not set(out) & {sample for step in steps[4:] for sample in step["samples"]}


def test_bags_read_twice_as_much_for_the_same_positions(alone):
    steps = read(alone, "torch", "bags", 8)[:-1]
    assert [step["num_terms"]["token"] for step in steps] == [16 * 12] * STEPS
    read_tokens = [step["counters"]["corpus_tokens"] for step in steps]
    assert read_tokens == [16 * 12 * number for number in (2, 4, 5, 6, 7, 8)]
    assert [step["lengths"][0] for step in steps] == [12] * STEPS


@pytest.mark.parametrize("engine", SHARDED)
def test_a_rehearsal_leaves_nothing_on_any_engine(pair, engine):
    assert read(pair, engine, "rehearsed", 2) == read(pair, engine, "truncate", 2)[:-1]


@pytest.mark.parametrize("engine", SHARDED)
def test_deepspeeds_calls_have_one_rate_and_one_count_on_all_ranks(alone, pair, engine):
    """Lengths differ by rank; the rate follows the layer tokens of all."""
    first, second = (read(pair, engine, "published", 2, rank) for rank in (0, 1))
    assert first == second == read(alone, "torch", "published", 2)
    assert len({step["rate"] for step in first}) == STEPS


@pytest.mark.parametrize("engine", SHARDED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_number_that_is_not_finite_on_one_rank_leaves_everything_as_it_was(
    pair, engine, precision
):
    for rank in (0, 1):
        found = read(pair, engine, "broken", 2, rank)[precision]
        assert found["error"] is not None, rank
        assert found["error"].startswith("step 3: the gradient's norm is ")
        assert found["same"]


def test_a_weight_that_no_loss_reaches_is_named_before_the_others_go_apart(alone, pair):
    """DistributedDataParallel would let each process update by its own gradients, and speak at the next step."""
    for rank in (0, 1):
        found = read(pair, "torch", "broken", 2, rank)["aside"]
        assert found["error"].startswith("no gradient reached pooler.weight and 1 more")
        assert found["same"]
    assert read(alone, "torch", "broken", 2)["aside"] == {"error": None}
