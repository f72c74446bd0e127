import torch

from data_efficiency.engine.whole_tensor import WholeTensor, gather_all, whole_tensors


def test_tensors_at_hand_are_announced_and_not_copied():
    weight = torch.randn(3, 2, requires_grad=True)
    announced = whole_tensors({"weight": weight, "step": torch.tensor(4)})
    assert [(one.name, one.shape, one.dtype) for one in announced] == [
        ("weight", (3, 2), torch.float32),
        ("step", (), torch.int64),
    ]
    found = announced[0].gather()
    assert found.data_ptr() == weight.data_ptr()
    assert not found.requires_grad


def test_who_does_not_keep_them_takes_part_all_the_same():
    calls = []

    def gather():
        calls.append(1)
        return torch.ones(2)

    tensors = [WholeTensor(name="a", shape=(2,), dtype=torch.float32, gather=gather)] * 3
    assert torch.equal(gather_all(tensors)["a"], torch.ones(2))
    assert gather_all(tensors, keep=False) == {}
    assert len(calls) == 6
