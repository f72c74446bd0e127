import numpy as np
import pytest

from megatron.data.row_dataset import RowDataset


class Squares(RowDataset):
    def __len__(self):
        return 3

    def get_batch(self, samples, visits=None):
        assert visits is None
        return {"squares": np.stack([samples, samples**2], 1)}


def test_one_sample_is_a_batch_of_one_and_an_iteration_ends():
    assert [one["squares"].tolist() for one in Squares()] == [[0, 0], [1, 1], [2, 4]]


@pytest.mark.parametrize("sample", [-1, 3])
def test_a_number_that_no_sample_has_is_refused(sample):
    with pytest.raises(IndexError, match=rf"sample {sample} of a dataset of 3"):
        Squares()[sample]
