import pytest
import torch

from data_efficiency.engine.processes import Processes, read_processes, start_processes
from data_efficiency.json_section import ConfigError


def test_without_a_launcher_the_run_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert start_processes() == read_processes()
    assert (read_processes().rank, read_processes().size) == (0, 1)
    assert not torch.distributed.is_initialized()


def test_a_launcher_says_which_process_it_is(monkeypatch):
    for name, value in (("WORLD_SIZE", "8"), ("RANK", "5"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    found = read_processes()
    assert (found.rank, found.size, found.local_rank) == (5, 8, 1)
    assert isinstance(found, Processes)
    monkeypatch.delenv("RANK")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 8 but RANK is not set: start .* torchrun"):
        read_processes()


def test_a_build_for_gpus_runs_without_one(monkeypatch):
    def current_accelerator(check_available=False):
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert start_processes().device == torch.device("cpu")
