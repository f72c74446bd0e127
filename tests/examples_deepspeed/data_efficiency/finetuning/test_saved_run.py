import pytest
import torch
from safetensors.torch import load_file, save_file

from data_efficiency import initialize
from examples_deepspeed.data_efficiency.finetuning.saved_run import (
    load_run,
    own_memory,
    read_state,
    save_run,
)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, rows):
        return self.second(self.first(rows)).square().mean()


def make_engine(seed):
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD
    return initialize(
        model=Tied(),
        optimizer=lambda parameters: optimizer(parameters, lr=0.1, momentum=0.9),
        config={"train_batch_size": 2},
    )[0]


def train(engine, num_steps):
    for _ in range(num_steps):
        engine.backward(engine(torch.ones(2, 4)))
        engine.step()


def test_goes_on_where_it_was(tmp_path):
    engine = make_engine(0)
    train(engine, 2)
    save_run(tmp_path / "last", engine, {"mine": [1, 2]})
    train(engine, 2)
    other = make_engine(1)
    state, progress = read_state(tmp_path / "last")
    assert state == {"mine": [1, 2]}
    load_run(tmp_path / "last", other, progress)
    assert other.global_steps == 2
    train(other, 2)
    for name, tensor in engine.full_weights().items():
        assert torch.equal(tensor, other.full_weights()[name])


def test_a_later_save_replaces_the_earlier(tmp_path):
    engine = make_engine(0)
    save_run(tmp_path / "last", engine, {"number": 1})
    save_run(tmp_path / "last", engine, {"number": 2})
    assert read_state(tmp_path / "last")[0] == {"number": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_damage_is_noticed(tmp_path):
    engine = make_engine(0)
    save_run(tmp_path / "last", engine, {})
    path = tmp_path / "last" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors was changed"):
        read_state(tmp_path / "last")


def test_tied_tensors_get_memory_of_their_own(tmp_path):
    weights = own_memory(Tied().state_dict())
    save_file(weights, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert torch.equal(found["first.weight"], found["second.weight"])
