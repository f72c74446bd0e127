import pytest


def test_a_vocabulary_that_processes_share_has_the_loss_and_the_gradients_of_one(few):
    """With and without a bias, labels of both halves and none, rows that are none, in bfloat16 too; and the logits."""
    left, right = (each["vocabulary"] for each in few)
    assert len(left) == 10
    for name, gap in left.items():
        assert right[name] == pytest.approx(gap, abs=1e-15), name
        assert gap < {"float": 2e-6, "bf16": 0.02}.get(name.split()[0], 1e-12), name
    assert left["bf16 with bias"] > 1e-6


def test_chunks_of_tokens_change_nothing(few):
    assert few[0]["chunked"] < 1e-12
