import pytest

from megatron.config import DataConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data_path": ("x",), "seq_length": 0}, "--seq-length is 0"),
        ({"data_path": ("x",), "num_workers": -1}, "--num-workers is -1"),
        (
            {"data_path": ("x",), "seq_length": 24, "shortest_piece": 4},
            r"--shortest-piece is 4: must be --seq-length \(24\) halved some times, such as 3",
        ),
        ({"data_path": ("x",), "shortest_piece": 2048}, "--shortest-piece is 2048"),
        ({"data_path": ("x",), "mask_prob": 1.5}, "--mask-prob is 1.5"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)


def test_pieces_have_the_lengths_from_the_shortest_to_a_row():
    assert DataConfig(data_path=("x",), seq_length=24).piece_lengths == (24,)
    found = DataConfig(data_path=("x",), seq_length=24, shortest_piece=3).piece_lengths
    assert found == (3, 6, 12, 24)
