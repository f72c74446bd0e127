import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from data_efficiency.engine.tensor_parallel import RowOrders, by_process, complete_gradients
from data_efficiency.json_section import ConfigError
from tests.processes import run_python


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 9))
def test_each_process_has_its_rows_of_every_matrix(sizes, num_processes, seed):
    sizes = [size * num_processes for size in sizes]
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(size, 2, generator=generator) for size in sizes]
    orders = RowOrders({"w": sizes}, num_processes)
    arranged = orders.arranged("w", torch.cat(matrices))
    for number, own in enumerate(arranged.chunk(num_processes)):
        parts = [matrix.chunk(num_processes)[number] for matrix in matrices]
        assert torch.equal(own, torch.cat(parts))
    assert torch.equal(orders.restored("w", arranged), torch.cat(matrices))
    assert sorted(by_process(sizes, num_processes).tolist()) == list(range(sum(sizes)))


def test_other_weights_and_counts_stay_as_they_are():
    orders = RowOrders({"w": (2, 2)}, 2)
    other, count = torch.arange(4), torch.tensor(7.0)
    for change in (orders.arranged, orders.restored):
        assert change("v", other) is other
        assert change("w", count) is count
    assert RowOrders().restored("w", other) is other


def test_a_modules_weights_are_arranged_in_place():
    linear = nn.Linear(1, 4)
    before = linear.weight.detach().clone()
    RowOrders({"weight": (2, 2)}, 2).arrange(linear)
    assert torch.equal(linear.weight, before[[0, 2, 1, 3]])
    with pytest.raises(
        ConfigError, match=r"a matrix of \(3, 2\) rows cannot be cut for 2 processes"
    ):
        by_process((3, 2), 2)


def test_gradients_of_one_process_are_complete():
    weights = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
    weights[0].sum().backward()
    complete_gradients(weights, None, 1)
    assert weights[0].grad.tolist() == [1, 1]
    assert weights[1].grad is None


@pytest.mark.full
def test_a_users_own_model_that_is_cut_trains_as_the_whole_one():
    """With an optimizer made before, fused maps, and token dropping in layers of which the user says that they may."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    worker = Path(__file__).with_name("tensor_parallel_worker.py")
    with ThreadPoolExecutor(2) as pool:
        said = [*pool.map(lambda rank: run_python(worker, RANK=rank, **places), "01")]
    left, right = (json.loads(one) for one in said)
    assert left == right
    assert left["weights"] < 1e-12
    assert left["losses"] < 1e-6
    assert left["kept_length"] == 4
    assert left["parts"] < 0.6 * left["numbers"]
    assert left["fell"] != 0
