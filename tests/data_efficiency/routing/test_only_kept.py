import torch
from torch.nn import functional

from data_efficiency.routing.only_kept import OnlyKept

KEPT = torch.tensor([[True, False, True, True], [False, True, True, True]])


def heads(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, 3, 4, 5, generator=generator)


def test_a_softmax_over_keys_leaves_the_dropped_ones_out():
    scores = heads(0)[..., :4]
    with OnlyKept(KEPT):
        weights = scores.softmax(-1)
    expected = scores.masked_fill(~KEPT[:, None, None], -torch.inf).softmax(-1)
    torch.testing.assert_close(weights, expected)


def test_so_does_a_fused_kernel():
    query, key, value = heads(1), heads(2), heads(3)
    with OnlyKept(KEPT):
        found = functional.scaled_dot_product_attention(query, key, value)
    mask = KEPT[:, None, None].expand(2, 1, 4, 4)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(found, expected)


def test_other_axes_and_sizes_are_left_alone():
    for scores, axis in ((torch.randn(2, 4), -1), (torch.randn(2, 3, 7), -1), (heads(0), 0)):
        with OnlyKept(KEPT):
            found = scores.softmax(axis)
        torch.testing.assert_close(found, scores.softmax(axis))


def test_nothing_is_random():
    with OnlyKept(None):
        assert torch.equal(torch.rand(3), torch.ones(3))
        torch.testing.assert_close(functional.dropout(torch.ones(9), 0.25), torch.ones(9))
