"""Facts that runs are compared by: the weights they begin with, and whether they had to wait for others."""

import hashlib
from pathlib import Path

import torch


@torch.no_grad()
def weights_checksum(module: torch.nn.Module) -> str:
    """Over every parameter's name and bits: two runs that begin with other weights differ in it.

    The sum of each tensor's numbers as integers is taken on its device, so it costs one read of the
    weights.
    """
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        bits = parameter.detach().contiguous().view(torch.uint8).view(-1)
        size = {4: torch.int32, 2: torch.int16}.get(parameter.element_size(), torch.uint8)
        digest.update(f"{name} {int(bits.view(size).sum(dtype=torch.int64))}\n".encode())
    return digest.hexdigest()[:16]


class WaitingTime:
    """How much of its time this process's threads waited for a core that others had.

    Source: Linux, Documentation/scheduler/sched-stats.rst: /proc/PID/schedstat, nanoseconds on a core and
    nanoseconds waiting for one. Other systems do not tell.
    """

    def __init__(self) -> None:
        self._before = _ran_and_waited()

    def share(self) -> float | None:
        """Of the time since the beginning, 0 to 1; None where the system does not tell."""
        now = _ran_and_waited()
        if now is None or self._before is None:
            return None
        ran, waited = (after - before for after, before in zip(now, self._before, strict=True))
        return max(0.0, waited / (ran + waited)) if ran + waited > 0 else 0.0


def _ran_and_waited() -> tuple[float, float] | None:
    ran = waited = 0
    found = False
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            numbers = path.read_text().split()
        except OSError:
            continue  # the thread has ended
        ran, waited, found = ran + int(numbers[0]), waited + int(numbers[1]), True
    return (ran, waited) if found else None
