"""Which of the run's processes this one is, the process group that joins them, and sums over them.

Launchers (torchrun, `deepspeed`, srun, mpirun) tell it by environment variables; without any the run is
one process.
"""

import contextlib
import datetime
import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from data_efficiency.json_section import ConfigError
from data_efficiency.launcher import RANK_AND_SIZE

TIMEOUT_MINUTES = 30.0
"""How long a process waits for the others: longer than any save or evaluation, shorter than a night."""

_COMMUNICATION = ("gloo", "NCCL", "XCCL", "Connection closed by peer", "Connection reset by peer")
"""What the message of a failed collective has in it, where its type does not say so."""

LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""The process's number on its machine, by the launchers of `RANK_AND_SIZE` in their order."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the processes of the run.

    Rows and samples follow the data-parallel rank, files and messages the rank. Processes of one tensor group
    follow one another, share each layer and each row, and read the same samples.
    """

    rank: int = 0
    """0 <= rank < world; rank 0 prints, logs and writes for all."""
    world: int = 1
    local_rank: int = 0
    """Number on this machine."""
    data_parallel_rank: int = 0
    """Which share of each global batch this process trains on."""
    data_parallel_size: int = 1
    tensor_parallel_rank: int = 0
    """Which share of each layer and each row this process computes."""
    tensor_parallel_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process prints, logs and writes for all."""
        return self.rank == 0

    def table(self, row: Sequence[int]) -> NDArray[np.int64]:
        """int64 [world, numbers]: each process's row, in their order.

        One collective; every process gets the same table.
        """
        own = torch.tensor(row, dtype=torch.int64, device=self.device)
        rows = [own]
        if self.world > 1:
            rows = [torch.empty_like(own) for _ in range(self.world)]
            torch.distributed.all_gather(rows, own)
        return torch.stack(rows).cpu().numpy()

    def data_parallel(self, table: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [data_parallel_size, numbers]: of a table, one row of each tensor group, whose rows tell the same."""
        return table[:: self.tensor_parallel_size]

    def sums(self, row: Sequence[int]) -> list[int]:
        """The sum over the data-parallel processes of each number."""
        totals: list[int] = self.data_parallel(self.table(row)).sum(axis=0).tolist()
        return totals

    def first_of(self, value: int) -> int:
        """Process 0's value, whatever the others have."""
        return int(self.table([value])[0, 0])

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give process 0's values to all, into their tensors of the same shapes."""
        for tensor in tensors if self.world > 1 else ():
            torch.distributed.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        """Return once every process is here."""
        if self.world > 1:
            torch.distributed.barrier()


def float_bits(number: float) -> int:
    """A float64's bits as an integer, so that it travels with the integers of a table."""
    return int(np.float64(number).view(np.int64))


def floats_of(bits: NDArray[np.int64]) -> NDArray[np.float64]:
    """The numbers that `float_bits` made integers of."""
    return np.ascontiguousarray(bits).view(np.float64)


def read_ranks(tensor_parallel_size: int = 1) -> Ranks:
    """What an existing process group says, or else the launcher; one process if nobody says anything.

    Args:
        tensor_parallel_size: processes of a tensor group.

    Raises:
        ConfigError: if the launcher's variables are incomplete, it started more processes here
            than there are accelerators, or all together are no whole number of tensor groups.
    """
    rank, world = _joined() if torch.distributed.is_initialized() else _launched()
    if world % tensor_parallel_size:
        raise ConfigError(
            f"the tensor-parallel size is {tensor_parallel_size}, but the run has {world} processes: must be a "
            "whole number of groups; start another number of processes"
        )
    local_rank = int(next((os.environ[name] for name in LOCAL_RANK if name in os.environ), "0"))
    return Ranks(
        rank=rank,
        world=world,
        local_rank=local_rank,
        data_parallel_rank=rank // tensor_parallel_size,
        data_parallel_size=world // tensor_parallel_size,
        tensor_parallel_rank=rank % tensor_parallel_size,
        tensor_parallel_size=tensor_parallel_size,
        device=_own_device(local_rank),
    )


def _joined() -> tuple[int, int]:
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _launched() -> tuple[int, int]:
    """Rank and world as the launcher's environment variables say."""
    rank_name, world_name = next(
        (names for names in RANK_AND_SIZE if names[1] in os.environ), RANK_AND_SIZE[0]
    )
    world = int(os.environ.get(world_name, "1"))
    if world == 1:
        return 0, 1
    needed = (rank_name, "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{world_name} is {world} but {missing[0]} is not set: start the run with torchrun, or "
            f"another launcher, so that {', '.join(needed)} are set"
        )
    return int(os.environ[rank_name]), world


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


def start_ranks(
    *,
    always_join: bool = False,
    timeout_minutes: float = TIMEOUT_MINUTES,
    tensor_parallel_size: int = 1,
) -> Ranks:
    """This process, joined with the others in torch.distributed's default group if there are any.

    A group that exists already is used as it is.

    Args:
        always_join: make a group even for a single process, as DeepSpeed needs it.
        timeout_minutes: how long a collective waits for the other processes before it fails.
        tensor_parallel_size: as in `read_ranks`.
    """
    ranks = read_ranks(tensor_parallel_size)
    if ranks.device.type != "cpu":
        torch.accelerator.set_device_index(ranks.device)
    if torch.distributed.is_initialized() or (ranks.world == 1 and not always_join):
        return ranks
    backend = torch.distributed.get_default_backend_for_device(ranks.device)
    if ranks.world > 1:
        torch.distributed.init_process_group(
            backend,
            store=_store_of_restart(),
            timeout=datetime.timedelta(minutes=timeout_minutes),
            rank=ranks.rank,
            world_size=ranks.world,
        )
    else:
        torch.distributed.init_process_group(
            backend,
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    return ranks


def _store_of_restart() -> Any:
    """Where processes that torchrun started again find each other; None: where they do so in any case.

    torchrun keeps one store for all attempts, in which the second would find the addresses of the first.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]
    return torch.distributed.PrefixStore(f"attempt_{attempt}", store)  # type: ignore[attr-defined]


def leave_ranks() -> None:
    """Give up the process group, if there is one, once no engine is in use any more.

    What is left of an engine refers to the group. Freed only as the interpreter ends, gloo's threads
    would end the process with SIGABRT now and then (pytorch/pytorch#190489).
    """
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Turns the failure of a collective into one line that says what happened; a decorator as well.

    A process that is killed closes its connections, so the others fail at their next collective; for
    one that only stands still they wait as long as `start_ranks` was told.

    Raises:
        ConnectionError: if another process has ended, or has not answered in time.
        ChildProcessError: if a loader's worker has ended.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if text.startswith("DataLoader worker"):
            # PyTorch says so wherever the main process stands.
            raise ChildProcessError(f"{text.strip()} Continue from the last checkpoint") from error
        lost = isinstance(error, torch.distributed.DistError)
        if not lost and not any(word in text for word in _COMMUNICATION):
            raise
        rank, world = _joined() if torch.distributed.is_initialized() else _launched()
        raise ConnectionError(
            f"process {rank} of {world} has lost another one, which ended or did "
            f"not answer ({text.splitlines()[0]}): look for its own message, then continue from the "
            "last checkpoint"
        ) from error
