import numpy as np
import pytest
import torch

from data_efficiency.engine.ranks import (
    LOCAL_RANK,
    Ranks,
    naming_lost_processes,
    read_ranks,
    start_ranks,
)
from data_efficiency.json_section import ConfigError
from data_efficiency.launcher import RANK_AND_SIZE


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*sum(RANK_AND_SIZE, LOCAL_RANK), "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_the_run_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert start_ranks() == read_ranks()
    assert (read_ranks().rank, read_ranks().world) == (0, 1)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    "names", [(*names, local) for names, local in zip(RANK_AND_SIZE, LOCAL_RANK, strict=True)]
)
def test_a_launcher_says_which_process_it_is(monkeypatch, names):
    for name, value in zip(names, ("5", "8", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{names[1]} is 8 but MASTER_ADDR is not set: start"):
        read_ranks()
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    found = read_ranks()
    assert (found.rank, found.world, found.local_rank) == (5, 8, 1)
    assert isinstance(found, Ranks)
    monkeypatch.delenv(names[0])
    with pytest.raises(ConfigError, match=f"but {names[0]} is not set: start .* torchrun"):
        read_ranks()


def test_torchrun_inside_a_slurm_step_counts(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert read_ranks().world == 1


def test_mpirun_inside_a_slurm_step_counts(monkeypatch):
    """srun starts one daemon a node then, whose step is not the run's."""
    for name, value in {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_RANK": "6",
        "OMPI_COMM_WORLD_LOCAL_RANK": "2",
        "MASTER_ADDR": "here",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    found = read_ranks()
    assert (found.rank, found.world, found.local_rank) == (6, 8, 2)


def test_a_build_for_gpus_runs_without_one(monkeypatch):
    def current_accelerator(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert start_ranks().device == torch.device("cpu")


def show_devices(monkeypatch, number):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: number)


def test_a_process_takes_the_device_of_its_place(monkeypatch):
    show_devices(monkeypatch, 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert read_ranks().device == torch.device("cuda", 3)


def test_a_process_that_is_shown_its_own_device_alone_takes_it(monkeypatch):
    show_devices(monkeypatch, 1)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    found = read_ranks()
    assert (found.local_rank, found.device) == (3, torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("number", "started", "place"), [(1, "2", "0"), (1, "2", "1"), (2, "4", "0"), (2, "1", "3")]
)
def test_more_processes_than_devices_are_refused(monkeypatch, number, started, place):
    show_devices(monkeypatch, number)
    monkeypatch.setenv("LOCAL_RANK", place)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", started)
    rule = f"processes share this machine, whose cuda devices are {number}: start one process a"
    with pytest.raises(ConfigError, match=rule):
        read_ranks()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/a/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:3\nmore"),
        torch.distributed.DistNetworkError("no answer"),
    ],
)
def test_a_failed_collective_says_whom_and_what_to_do(monkeypatch, error):
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    expected = pytest.raises(ConnectionError, match="^process 1 of 4 has lost another")
    with expected as caught, naming_lost_processes():
        raise error
    assert "continue from the last checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^shapes differ$"), naming_lost_processes():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(("rank", "place"), [(0, (0, 0)), (1, (0, 1)), (4, (2, 0)), (5, (2, 1))])
def test_processes_of_a_tensor_group_follow_one_another(monkeypatch, rank, place):
    for name, value in zip(RANK_AND_SIZE[0], (str(rank), "6"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    found = read_ranks(tensor_parallel_size=2)
    assert (found.rank, found.world) == (rank, 6)
    assert (found.data_parallel_rank, found.tensor_parallel_rank) == place
    assert (found.data_parallel_size, found.tensor_parallel_size) == (3, 2)
    with pytest.raises(ConfigError, match="tensor-parallel size is 4, but the run has 6 processes"):
        read_ranks(tensor_parallel_size=4)


def test_of_a_table_each_tensor_group_counts_once():
    ranks = Ranks(world=4, data_parallel_size=2, tensor_parallel_size=2)
    table = np.array([[1, 5], [1, 6], [2, 7], [2, 8]])
    assert ranks.data_parallel(table).tolist() == [[1, 5], [2, 7]]
