import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors
from megatron.checkpoint import shares
from megatron.checkpoint.shares import Turns, divide, file_names, held_on_host, num_bytes


@pytest.fixture(autouse=True)
def every_file_is_worth_it(monkeypatch):
    monkeypatch.setattr(shares, "LEAST_BYTES", 1)


def tensors_of(sizes, calls=None):
    return [
        WholeTensor(
            name=f"t{number}",
            shape=(size,),
            dtype=torch.float32 if number % 3 else torch.float64,
            gather=lambda number=number: calls.append(number) or torch.full((1,), number),
        )
        for number, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 6))
def test_each_tensor_is_in_one_file_and_files_are_about_equally_large(sizes, num_processes):
    tensors = tensors_of(sizes)
    divided = divide("model", tensors, num_processes)
    assert divided == divide("model", tensors[::-1], num_processes)
    assert divided.num_files == min(num_processes, len(sizes))
    loads = [0] * divided.num_files
    for tensor in tensors:
        loads[divided.owners[tensor.name]] += num_bytes(tensor)
    assert min(loads) > 0
    # No file could give its smallest tensor away and be the smaller for it.
    assert max(loads) - min(loads) <= max(map(num_bytes, tensors))
    index = divided.index
    assert index["metadata"]["total_size"] == sum(loads)
    assert set(index["weight_map"].values()) == set(file_names("model", divided.num_files))


def test_small_models_are_in_one_file(monkeypatch):
    for least, num_files in ((1, 4), (1000, 4), (1100, 3), (4000, 1), (5000, 1)):
        monkeypatch.setattr(shares, "LEAST_BYTES", least)
        found = divide("model", whole_tensors({f"w{i}": torch.ones(100) for i in range(10)}), 4)
        assert found.num_files == num_files, least
    assert divide("optimizer", [], 4).names == ["optimizer.safetensors"]


@given(st.integers(1, 5), st.permutations(range(3)))
def test_all_processes_gather_the_same_tensors_in_the_same_order(num_processes, wanted):
    orders = []
    for rank in range(num_processes):
        calls = []
        kinds = [
            divide(name, tensors_of([5, 4, 9, 2, 7], calls), num_processes)
            for name in ("model", "optimizer")
        ]
        turns = Turns(kinds, rank)
        for kind in kinds[: wanted[0]]:
            for tensor in turns.own(kind):
                assert int(tensor.gather()) == int(tensor.name[1:])
        turns.finish()
        orders.append(calls)
    assert all(order == orders[0] for order in orders)
    assert len(orders[0]) == 10


def test_what_is_held_no_longer_changes():
    weight = torch.ones(3)
    [held] = held_on_host(whole_tensors({"w": weight}))
    weight.zero_()
    assert held.gather().tolist() == [1, 1, 1]
