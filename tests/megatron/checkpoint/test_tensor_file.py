import hashlib
import json
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from data_efficiency import NonFiniteError
from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors
from megatron.checkpoint.tensor_file import DTYPE_NAMES, in_file_order, write_tensor_file

SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(SHAPES, st.sampled_from(list(DTYPE_NAMES))),
    max_size=6,
)


def filled(shape, dtype):
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return (numbers % 2 == 0) if dtype == torch.bool else numbers.to(dtype)


@settings(max_examples=60, deadline=None)
@given(described=TENSORS)
def test_any_tensors_come_back(described, tmp_path_factory):
    tensors = {name: filled(*kind) for name, kind in described.items()}
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    entry = write_tensor_file(path, whole_tensors(tensors))
    content = path.read_bytes()
    assert entry == {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = load(content)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_bytes_are_those_of_the_library(tmp_path):
    tensors = {
        "layer.weight": torch.randn(5, 3),
        "a.half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "ä.weight": torch.randn(2),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 6).t(),
    }
    write_tensor_file(tmp_path / "ours", whole_tensors(tensors))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_memory_holds_no_more_than_one_tensor_and_the_next(tmp_path):
    alive, most = set(), []

    def gather():
        numbers = np.zeros(1000, np.float32)
        alive.add(id(numbers))
        weakref.finalize(numbers, alive.discard, id(numbers))
        most.append(len(alive))
        return torch.from_numpy(numbers)

    tensors = [
        WholeTensor(name=str(number), shape=(1000,), dtype=torch.float32, gather=gather)
        for number in range(5)
    ]
    write_tensor_file(tmp_path / "file", tensors)
    assert len(most) == 5
    assert max(most) <= 2
    assert not alive


def test_wide_numbers_come_first():
    tensors = {
        "b": torch.zeros(1),
        "a": torch.zeros(1),
        "c": torch.zeros(1, dtype=torch.int64),
        "d": torch.zeros(1, dtype=torch.bool),
    }
    assert [tensor.name for tensor in in_file_order(whole_tensors(tensors))] == ["c", "a", "b", "d"]


def test_a_tensor_that_was_announced_as_another(tmp_path):
    wrong = WholeTensor(name="w", shape=(3,), dtype=torch.float32, gather=lambda: torch.zeros(4))
    with pytest.raises(ValueError, match=r"w was announced as torch.float32 \[3\] and is .* \[4\]"):
        write_tensor_file(tmp_path / "file", [wrong])
    complex_one = whole_tensors({"w": torch.zeros(1, dtype=torch.complex64)})
    with pytest.raises(ValueError, match="w has dtype torch.complex64: safetensors has no such"):
        write_tensor_file(tmp_path / "other", complex_one)


def test_the_header_can_be_read_without_any_library(tmp_path):
    write_tensor_file(tmp_path / "file", whole_tensors({"w": torch.ones(2)}))
    content = (tmp_path / "file").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    }


@pytest.mark.parametrize("dtype", [kind for kind in DTYPE_NAMES if kind.is_floating_point])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, value, dtype):
    bad = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    bad[1] = torch.finfo(dtype).min
    write_tensor_file(tmp_path / "largest.safetensors", whole_tensors({"bad": bad}))
    bad[2] = value
    tensors = whole_tensors({"good": torch.ones(3), "bad": bad})
    with pytest.raises(NonFiniteError, match="bad has numbers that are not finite"):
        write_tensor_file(tmp_path / "a.safetensors", tensors)


@pytest.mark.parametrize("place", [0, 2**20 - 1, 2**20, 2**21 + 4])
def test_one_number_in_any_block_is_found(tmp_path, place):
    many = torch.zeros(2**21 + 5)
    write_tensor_file(tmp_path / "zeros.safetensors", whole_tensors({"many": many}))
    assert torch.equal(load((tmp_path / "zeros.safetensors").read_bytes())["many"], many)
    many[place] = float("nan")
    with pytest.raises(NonFiniteError, match="many has numbers"):
        write_tensor_file(tmp_path / "a.safetensors", whole_tensors({"many": many}))
