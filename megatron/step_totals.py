"""Numbers of one step, added up over the processes: two small collectives a step, exact.

Before the first backward pass the number of terms of each loss is summed; after the last one the
losses, the counters and the wish to stop travel together. All processes then hold the same values, so
their learning rates, budgets and stops cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, kw_only=True)
class StepTotals:
    """What one step came to: of one process, or of all."""

    loss_sums: Sequence[float]
    """Of each loss, in their order."""
    num_rows: int
    counters: Counters
    """What the step adds. Loss tokens, too, are those of all processes from the beginning."""
    stop_request: StopRequest = NO_STOP


def value_of_first_process(value: int, device: torch.device) -> int:
    """Process 0's value, whatever the others have."""
    return int(_table([value], device)[0, 0])


def sums_over_processes(values: Sequence[int], device: torch.device) -> list[int]:
    """The sum of every process's value, for each of several."""
    return _table(list(values), device).sum(axis=0).tolist()


def losses_over_processes(
    loss_sums: Sequence[float], num_terms: Sequence[int], device: torch.device
) -> list[float]:
    """The mean of each loss, each process given its sums and their numbers of terms."""
    table = _table([*map(_bits, loss_sums), *num_terms], device)
    sums = _floats(table[:, : len(loss_sums)]).sum(axis=0)
    return mean_losses(sums.tolist(), table[:, len(loss_sums) :].sum(axis=0).tolist())


def mean_losses(loss_sums: Sequence[float], num_terms: Sequence[int]) -> list[float]:
    """Each sum divided by its number of terms; 0 where there are none."""
    return [total / max(1, terms) for total, terms in zip(loss_sums, num_terms, strict=True)]


def step_over_processes(own: StepTotals, device: torch.device) -> StepTotals:
    """What the step came to on all processes together.

    Args:
        own: this process's. Steps, consumed samples and loss tokens, which are the same everywhere,
            are taken as they are, the other numbers summed; any process's stop request is everyone's.
        device: where the process group's collectives work.
    """
    counters, request = own.counters, own.stop_request
    table = _table(
        [
            own.num_rows,
            counters.corpus_tokens,
            counters.layer_tokens,
            counters.flops,
            request.signal,
            int(request.out_of_time),
            *map(_bits, own.loss_sums),
        ],
        device,
    )
    num_rows, corpus_tokens, layer_tokens, flops = table[:, :4].sum(axis=0).tolist()
    return StepTotals(
        loss_sums=_floats(table[:, 6:]).sum(axis=0).tolist(),
        num_rows=num_rows,
        counters=replace(
            counters, corpus_tokens=corpus_tokens, layer_tokens=layer_tokens, flops=flops
        ),
        stop_request=StopRequest(
            signal=int(table[:, 4].max()), out_of_time=bool(table[:, 5].max())
        ),
    )


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
