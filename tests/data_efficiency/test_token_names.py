from dataclasses import dataclass

import pytest
import torch

from data_efficiency.token_names import rows_and_length


@dataclass
class Batch:
    labels: torch.Tensor
    input_ids: torch.Tensor


IDS = torch.zeros(4, 16, dtype=torch.long)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((IDS,), {}, (4, 16)),
        ((torch.zeros(4, 16, 8),), {}, (4, 16)),
        ((), {"labels": torch.zeros(4, 3), "input_ids": IDS}, (4, 16)),
        ((), {"labels": torch.zeros(4, 3), "inputs_embeds": torch.zeros(4, 16, 16)}, (4, 16)),
        ((), {"input_ids": torch.zeros(4, 5, 16).long()}, (20, 16)),
        ((Batch(torch.zeros(4, 3), IDS),), {}, (4, 16)),
        (({"labels": torch.zeros(4, 3), "tokens": IDS},), {}, (4, 16)),
        ((), {"pixel_values": torch.zeros(4, 3, 16, 16)}, (4, 0)),
        ((torch.zeros(4, 3, 16, 16),), {}, (4, 0)),
        ((), {"labels": torch.zeros(4, 3, dtype=torch.long)}, (4, 0)),
        ((), {}, (0, 0)),
        (("text", 3), {"flag": True}, (0, 0)),
    ],
)
def test_names_tell_never_sizes_or_places(args, kwargs, expected):
    assert rows_and_length(args, kwargs) == expected
