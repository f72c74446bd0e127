import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron.checkpoint.files import checkpoints_of, read_weights
from megatron.conversion.merging import (
    checkpoints_to_merge,
    merge_checkpoints,
    merging_shares,
)
from tests.megatron.small_models import GPT2, LLAMA, make_gpt, save_run

SHAPES = ("mean", "ema", "exponential", "cosine", "minus_sqrt")


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at steps 9, 10 and 11, whose names do not sort as their steps do."""
    for seed, step in enumerate((9, 10, 11)):
        save_run(tmp_path / "run", make_gpt(GPT2, seed), step=step)
    return tmp_path / "run"


@given(st.integers(1, 20), st.sampled_from(SHAPES))
def test_shares_are_positive_and_sum_to_one(num_checkpoints, shape):
    shares = merging_shares(num_checkpoints, shape)
    assert len(shares) == num_checkpoints
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0


def test_shares_of_a_decay_are_what_the_rate_would_have_done_to_later_gradients():
    """theta_0 + g_1 + g_2 + ..., each g times the rate's share: the average must give the same sum."""
    shares = merging_shares(8, "cosine")
    for number in range(8):
        later = sum(shares[number:])
        assert later == pytest.approx(0.5 * (1 + math.cos(math.pi * number / 8)))


def test_ema_weighs_the_newest_most():
    shares = merging_shares(6, "ema", alpha=0.2)
    assert all(
        new == pytest.approx(old / 0.8) for old, new in zip(shares, shares[1:], strict=False)
    )
    assert merging_shares(6, "ema", alpha=0) == [1 / 6] * 6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_merge_is_the_average_by_hand_to_the_bit(run, shape):
    checkpoints = checkpoints_to_merge([run], None)
    assert [path.name for path in checkpoints] == ["global_step9", "global_step10", "global_step11"]
    shares = merging_shares(3, shape)
    merged = merge_checkpoints(checkpoints, shares)
    parts = [read_weights(checkpoint) for checkpoint in checkpoints]
    assert merged.step == 11
    for name, found in merged.weights.items():
        by_hand = sum(
            (
                share * part[name].to(torch.float64)
                for share, part in zip(shares, parts, strict=True)
            ),
            torch.zeros((), dtype=torch.float64),
        )
        assert torch.equal(found, by_hand.to(torch.float32))
    assert merged.weights.keys() == parts[0].keys()


def test_the_last_of_a_run_or_one_of_each_folder(run, tmp_path):
    other = save_run(tmp_path / "other", make_gpt(GPT2, 5), step=3)
    assert checkpoints_to_merge([run], 2) == checkpoints_of(run)[1:]
    assert checkpoints_to_merge([run / "global_step9", other], None) == [
        run / "global_step9",
        other / "global_step3",
    ]


def test_what_cannot_be_merged_is_named(run, tmp_path):
    llama = save_run(tmp_path / "llama", make_gpt(LLAMA))
    with pytest.raises(ValueError, match="3 checkpoints are there, 4 are needed"):
        checkpoints_to_merge([run], 4)
    with pytest.raises(ValueError, match="1 checkpoints are there, 2 are needed"):
        checkpoints_to_merge([run / "global_step9"], None)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints_to_merge([run, tmp_path], None)
    with pytest.raises(ValueError, match="is of another model than .*: they differ in"):
        merge_checkpoints(checkpoints_to_merge([run, llama], None), [0.5, 0.5])
    weights = run / "global_step10" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors"):
        merge_checkpoints(checkpoints_of(run), [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="alpha is 1.0"):
        merging_shares(2, "ema", alpha=1.0)
