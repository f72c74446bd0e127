"""Which of the run's processes this one is, and the process group that joins them.

Launchers (torchrun, `deepspeed`, srun, mpirun) tell it by environment variables; without any the run is
one process.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed

from data_efficiency.json_section import ConfigError
from data_efficiency.launcher import RANK_AND_SIZE

TIMEOUT_MINUTES = 30.0
"""How long a process waits for the others: longer than any save or evaluation, shorter than a night."""

_COMMUNICATION = ("gloo", "NCCL", "XCCL", "Connection closed by peer", "Connection reset by peer")
"""What the message of a failed collective has in it, where its type does not say so."""

LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""The process's number on its machine, by the launchers of `RANK_AND_SIZE` in their order."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among the processes of the run, all of which are data-parallel."""

    rank: int = 0
    """0 <= rank < size; rank 0 writes logs and checkpoints."""
    size: int = 1
    local_rank: int = 0
    """Place on this machine."""
    device: torch.device = torch.device("cpu")


def read_processes() -> Processes:
    """What the launcher says; one process if it says nothing.

    Raises:
        ConfigError: if the launcher's variables are incomplete, or it started more processes here
            than there are accelerators.
    """
    rank_name, size_name = next(
        (names for names in RANK_AND_SIZE if names[1] in os.environ), RANK_AND_SIZE[0]
    )
    size = int(os.environ.get(size_name, "1"))
    rank = 0
    local_rank = int(next((os.environ[name] for name in LOCAL_RANK if name in os.environ), "0"))
    if size > 1:
        needed = (rank_name, "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in needed if name not in os.environ]
        if missing:
            raise ConfigError(
                f"{size_name} is {size} but {missing[0]} is not set: start the run with torchrun, or "
                f"another launcher, so that {', '.join(needed)} are set"
            )
        rank = int(os.environ[rank_name])
    return Processes(rank=rank, size=size, local_rank=local_rank, device=_own_device(local_rank))


def _own_device(local_rank: int) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    num_devices = torch.accelerator.device_count()
    # SLURM's --gpus-per-task shows each process its own GPU alone; torchrun shows all to all.
    index = local_rank if num_devices > 1 else 0
    num_started = max(index + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if num_started > num_devices:
        raise ConfigError(
            f"{num_started} processes share this machine, whose {accelerator.type} devices are "
            f"{num_devices}: start one process a device, or hide the devices (CUDA_VISIBLE_DEVICES= "
            "for NVIDIA's) to compute on the CPU"
        )
    return torch.device(accelerator.type, index)


def start_processes(
    *, always_join: bool = False, timeout_minutes: float = TIMEOUT_MINUTES
) -> Processes:
    """This process, joined with the others in torch.distributed's default group if there are any.

    A group that exists already is used as it is.

    Args:
        always_join: make a group even for a single process, as DeepSpeed needs it.
        timeout_minutes: how long a collective waits for the other processes before it fails.
    """
    processes = read_processes()
    if processes.device.type != "cpu":
        torch.accelerator.set_device_index(processes.device)
    if torch.distributed.is_initialized() or (processes.size == 1 and not always_join):
        return processes
    backend = torch.distributed.get_default_backend_for_device(processes.device)
    if processes.size > 1:
        torch.distributed.init_process_group(
            backend,
            timeout=datetime.timedelta(minutes=timeout_minutes),
            rank=processes.rank,
            world_size=processes.size,
        )
    else:
        torch.distributed.init_process_group(
            backend,
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    return processes


@contextlib.contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Turns the failure of a collective into one line that says what happened; a decorator as well.

    A process that is killed closes its connections, so the others fail at their next collective; for
    one that only stands still they wait as long as `start_processes` was told.

    Raises:
        ConnectionError: if another process has ended, or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        lost = isinstance(error, torch.distributed.DistError)
        if not lost and not any(word in text for word in _COMMUNICATION):
            raise
        processes = read_processes()
        raise ConnectionError(
            f"process {processes.rank} of {processes.size} has lost another one, which ended or did "
            f"not answer ({text.splitlines()[0]}): look for its own message, then continue from the "
            "last checkpoint"
        ) from error
