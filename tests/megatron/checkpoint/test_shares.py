import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors
from megatron.checkpoint import shares
from megatron.checkpoint.shares import divide, file_names, held_on_host, in_turns, num_bytes


@pytest.fixture(autouse=True)
def every_file_is_worth_it(monkeypatch):
    monkeypatch.setattr(shares, "LEAST_BYTES", 1)


def tensors_of(sizes):
    return [
        WholeTensor(
            name=f"t{number}",
            shape=(size,),
            dtype=torch.float32 if number % 3 else torch.float64,
            gather=lambda number=number: torch.full((1,), number),
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


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 6))
def test_processes_take_turns_and_each_gets_its_own_in_its_file_s_order(sizes, num_processes):
    divided = divide("model", tensors_of(sizes), num_processes)
    turns = in_turns(divided)
    assert sorted(tensor.name for _, tensor in turns) == sorted(divided.owners)
    for number in range(divided.num_files):
        own = [tensor for owner, tensor in turns if owner == number]
        assert own == [one for one in divided.tensors if divided.owners[one.name] == number]
    # While there is something for everybody, nobody gets two before all have one.
    owners = [owner for owner, _ in turns]
    rounds = min(owners.count(number) for number in range(divided.num_files))
    assert owners[: rounds * divided.num_files] == [*range(divided.num_files)] * rounds


def test_what_is_held_no_longer_changes():
    weight = torch.ones(3, requires_grad=True)
    held = held_on_host(weight)
    with torch.no_grad():
        weight.zero_()
    assert held.tolist() == [1, 1, 1]
    assert not held.requires_grad
