import copy

import pytest
import torch

from data_efficiency.routing.refused_result import RefusedResult


@pytest.mark.parametrize(
    "use",
    [
        lambda result: result.shape,
        lambda result: result + 1,
        lambda result: 2 * result,
        lambda result: result[0],
        len,
        bool,
        torch.sum,
        lambda result: torch.stack([torch.ones(1), result]),
    ],
)
def test_every_use_is_refused_by_name(use):
    with pytest.raises(ValueError, match="Block returned, beside the hidden states, a tensor"):
        use(RefusedResult("Block"))


def test_it_may_be_copied_unused():
    assert isinstance(copy.deepcopy(RefusedResult("Block")), RefusedResult)
