"""Numbers of one step, added up over the processes: two small collectives a step, exact.

Before the first backward pass the number of tokens in the loss is summed; after the last one the
loss, the counters and the wish to stop travel together. All processes then hold the same values, so
their learning rates, budgets and stops cannot disagree.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from data_efficiency import Counters

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """Why a process wants to stop, if it does."""

    signal: int = 0
    """Number of the signal that was received; 0 for none."""
    out_of_time: bool = False


NO_STOP = StopRequest()


def sum_over_processes(value: int, device: torch.device) -> int:
    """The sum of every process's value."""
    return int(_table([value], device).sum())


def value_of_first_process(value: int, device: torch.device) -> int:
    """Process 0's value, whatever the others have."""
    return int(_table([value], device)[0, 0])


def loss_over_processes(loss_sum: float, loss_tokens: int, device: torch.device) -> float:
    """The mean loss, each process given its summed loss and its number of tokens."""
    table = _table([_bits(loss_sum), loss_tokens], device)
    return float(_floats(table[:, 0]).sum() / table[:, 1].sum())


def step_over_processes(
    loss_sum: float, counters: Counters, request: StopRequest, device: torch.device
) -> tuple[float, Counters, StopRequest]:
    """Summed loss, counters and stop request of all processes.

    Args:
        loss_sum: this process's.
        counters: what the step adds. Steps and consumed samples, which are the same everywhere, are
            taken as they are; the other counts are summed.
        request: any process's is everyone's.
        device: where the process group's collectives work.
    """
    table = _table(
        [
            _bits(loss_sum),
            counters.corpus_tokens,
            counters.layer_tokens,
            counters.flops,
            request.signal,
            int(request.out_of_time),
        ],
        device,
    )
    corpus_tokens, layer_tokens, flops = table[:, 1:4].sum(axis=0).tolist()
    total = Counters(
        steps=counters.steps,
        consumed_samples=counters.consumed_samples,
        corpus_tokens=corpus_tokens,
        loss_tokens=counters.loss_tokens,
        layer_tokens=layer_tokens,
        flops=flops,
    )
    stop = StopRequest(signal=int(table[:, 4].max()), out_of_time=bool(table[:, 5].max()))
    return float(_floats(table[:, 0]).sum()), total, stop


def _table(row: list[int], device: torch.device) -> Int64Array:
    """int64 [processes, numbers]: every process's row, in the order of their ranks."""
    own = torch.tensor(row, dtype=torch.int64, device=device)
    rows = [own]
    if torch.distributed.is_initialized():
        rows = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(rows, own)
    return torch.stack(rows).cpu().numpy()


def _floats(bits: Int64Array) -> NDArray[np.float64]:
    return np.ascontiguousarray(bits).view(np.float64)


def _bits(number: float) -> int:
    """A float64's bits as an integer, so that it travels with the integers."""
    return int(np.float64(number).view(np.int64))
