import pytest
import torch

from data_efficiency.routing.layer_interface import LayerInterface

POSITIONS = torch.tensor([[0, 2], [1, 3]])
INTERFACE = LayerInterface(masks=("mask",), token_tables={"table": 1})


@pytest.mark.parametrize(
    "shape", [(2, 4), (2, 4, 4), (2, 3, 4, 4), (1, 1, 4, 4), (2, 1, 1, 4), (2, 1, 4, 1), (1, 4)]
)
def test_masks_are_taken_at_queries_and_keys(shape):
    mask = torch.rand(shape) < 0.5
    result = INTERFACE.shorten("mask", mask, POSITIONS, 4)
    assert result.shape[0] == 2
    for row in range(2):
        expected = mask[row if shape[0] == 2 else 0]
        for axis in range(max(0, expected.dim() - 2), expected.dim()):
            if expected.shape[axis] == 4:
                expected = expected.index_select(axis, POSITIONS[row])
        assert torch.equal(result[row], expected)


def test_tables_are_taken_at_tokens():
    table = torch.randn(1, 4, 3)
    result = INTERFACE.shorten("table", table, POSITIONS, 4)
    assert torch.equal(result[1], table[0, [1, 3]])


@pytest.mark.parametrize("value", [None, 3, "text", torch.ones(2, 5), [torch.ones(3)]])
def test_what_has_no_sequence_axis_comes_back_as_it_is(value):
    assert INTERFACE.shorten("other", value, POSITIONS, 4) is value


def test_an_absent_mask_stays_absent():
    assert INTERFACE.shorten("mask", None, POSITIONS, 4) is None


@pytest.mark.parametrize(
    "value", [torch.ones(2, 4), (torch.ones(2), torch.ones(1, 4)), {"key": [torch.ones(4)]}]
)
def test_an_undescribed_tensor_as_long_as_the_sequence_is_refused(value):
    with pytest.raises(ValueError, match=r"argument other holds a tensor .* nothing says whether"):
        INTERFACE.shorten("other", value, POSITIONS, 4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask", torch.ones(4), r"mask mask has shape \(4,\)"),
        ("mask", torch.ones(3, 4), "first axis must be the batch of 2 rows"),
        ("mask", torch.ones(2, 1, 4, 6), r"axis 3 must be as long as the sequence \(4\)"),
        ("table", torch.ones(1, 1, 4), r"axis 1 must be as long as the sequence \(4\)"),
    ],
)
def test_a_described_argument_must_fit(name, value, message):
    with pytest.raises(ValueError, match=message):
        INTERFACE.shorten(name, value, POSITIONS, 4)


def test_a_described_argument_must_be_a_tensor():
    for name in ("table", "mask"):
        with pytest.raises(TypeError, match=f"argument {name} is a list"):
            INTERFACE.shorten(name, [1, 2], POSITIONS, 4)


def test_tables_may_come_in_tuples():
    tables = (torch.randn(1, 4, 3), torch.randn(2, 4))
    cos, sin = INTERFACE.shorten("table", tables, POSITIONS, 4)
    assert torch.equal(cos[0], tables[0][0, [0, 2]])
    assert torch.equal(sin[1], tables[1][1, [1, 3]])


def test_masks_over_another_sequence_lose_queries_only():
    interface = LayerInterface(cross_masks=("cross",))
    mask = torch.rand(2, 1, 4, 4) < 0.5
    result = interface.shorten("cross", mask, POSITIONS, 4)
    assert torch.equal(result[1], mask[1][:, [1, 3]])
    for keys_only in (torch.ones(2, 4), torch.ones(2, 1, 1, 4)):
        assert torch.equal(interface.shorten("cross", keys_only, POSITIONS, 4), keys_only)


def test_a_square_mask_of_as_many_rows_as_tokens_is_refused():
    with pytest.raises(ValueError, match=r"\[batch, keys\] looks like \[queries, keys\]"):
        INTERFACE.shorten("mask", torch.ones(2, 2), torch.tensor([[0], [1]]), 2)


def test_a_complete_interface_refuses_every_tensor_it_does_not_know():
    interface = LayerInterface(untouched=("memory",), complete=True)
    with pytest.raises(ValueError, match=r"argument other holds a tensor of shape \(3,\)"):
        interface.shorten("other", {"bounds": torch.ones(3)}, POSITIONS, 4)
    number, memory = torch.tensor(3), torch.ones(2, 4)
    assert interface.shorten("num_items", number, POSITIONS, 4) is number
    assert interface.shorten("memory", memory, POSITIONS, 4) is memory


class Cache:
    def __init__(self, lengths):
        self.lengths = lengths

    def get_seq_length(self, number):
        return self.lengths[number]


def test_a_layer_that_drops_gets_no_cache_and_a_filled_one_is_refused():
    interface = LayerInterface(caches={"cache": "attention.number"})
    layer = torch.nn.Module()
    layer.attention = torch.nn.Module()
    layer.attention.number = 1
    for empty in (Cache([5, 0]), ()):
        assert interface.shorten("cache", empty, POSITIONS, 4, layer) is None
    for filled in (Cache([0, 5]), tuple(range(5))):
        with pytest.raises(ValueError, match="argument cache holds keys of 5 earlier tokens"):
            interface.shorten("cache", filled, POSITIONS, 4, layer)
    with pytest.raises(TypeError, match="argument cache is a str"):
        interface.shorten("cache", "keys", POSITIONS, 4, layer)
