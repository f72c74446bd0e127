"""Times of steps on a device, one contestant after the other, and what the device can do at best.

A GPU is timed by its own events: the host only says what to do and runs ahead. Clocks of a GPU are steady
enough to measure one contestant after the other, which leaves each the whole memory. On a CPU, where
this is only tried with tiny shapes, the host's clock takes the events' place.
"""

import gc
import json
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Counted steps of one contestant."""

    seconds: tuple[float, ...]
    warmup_seconds: float
    """From the first step to the first counted one, compiling included."""
    peak_bytes: int
    """Most memory in tensors during the counted steps; on a CPU of the whole process so far."""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Quartile distance of a step's seconds as a share of the median; 0 for few steps."""
        if len(self.seconds) < 4:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return (third - first) / self.median


class Budget:
    """Seconds that a benchmark may take; what does not fit any more is left out, and said to be."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._taken: dict[str, float] = {}
        self._present: tuple[str, float] | None = None
        self.left_out: list[str] = []

    def allows(self, name: str, kind: str, guess: float) -> bool:
        """Whether `name` can still begin; what was begun before it is over.

        Args:
            name: of what would be left out.
            kind: what takes about as long as others of its kind: as long as the last one did.
            guess: seconds of the first one of its kind.
        """
        now = time.monotonic()
        if self._present is not None:
            before, begun = self._present
            self._taken[before] = now - begun
            self._present = None
        if now + self._taken.get(kind, guess) <= self._end:
            self._present = (kind, now)
            return True
        self.left_out.append(name)
        return False


def time_steps(
    step: Callable[[], None],
    device: torch.device,
    *,
    num_steps: int,
    num_warmup_steps: int = 3,
    collect_garbage: bool = True,
) -> Timing:
    """Times of steps after some that do not count.

    Args:
        step: does what is timed, once, on the device's current stream.
        device: where.
        num_steps: that count.
        num_warmup_steps: that do not, at least one: they compile, and allocate what later ones use.
        collect_garbage: leave Python's collector on, which stops the host at times of its own choice.
    """
    started = time.monotonic()
    for _ in range(num_warmup_steps):
        step()
    _wait_for(device)
    warmup_seconds = time.monotonic() - started
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    gc.collect()
    if not collect_garbage:
        gc.disable()
    try:
        measure = _time_by_events if device.type == "cuda" else _time_by_the_host
        seconds = measure(step, num_steps)
    finally:
        gc.enable()
    return Timing(seconds, warmup_seconds, _peak_bytes(device))


def free_memory(device: torch.device) -> None:
    """Give back the memory of what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def describe_machine(device: torch.device, *, matrix_size: int = 8192) -> dict[str, Any]:
    """The device, the versions, and its two ceilings: bytes copied and matrix products a second."""
    bytes_per_second, flops_per_second = _ceilings(device, matrix_size)
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device)
        if is_gpu
        else platform.processor() or platform.machine(),
        "memory_gib": torch.cuda.get_device_properties(device).total_memory >> 30
        if is_gpu
        else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "copy_gb_per_second": round(bytes_per_second / 1e9),
        "bf16_tflops_per_second": round(flops_per_second / 1e12, 2),
    }


def write_line(path: Path | None, line: dict[str, Any]) -> None:
    """Append the line as JSON to the file, if there is one, and print it."""
    text = json.dumps(line)
    print(text, flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text + "\n")


def _time_by_events(step: Callable[[], None], num_steps: int) -> tuple[float, ...]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(num_steps + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return tuple(
        before.elapsed_time(after) / 1e3 for before, after in zip(events, events[1:], strict=False)
    )


def _time_by_the_host(step: Callable[[], None], num_steps: int) -> tuple[float, ...]:
    seconds = []
    for _ in range(num_steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ceilings(device: torch.device, size: int) -> tuple[float, float]:
    """Bytes read and written a second by a copy, and operations a second of a bf16 product.

    Random numbers: a GPU multiplies zeros faster.
    """
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    product = torch.empty_like(left)
    source = torch.randn(size, 4 * size, device=device)
    target = torch.empty_like(source)

    def multiply() -> None:
        torch.mm(left, right, out=product)

    def copy() -> None:
        target.copy_(source)

    multiplied, copied = (time_steps(step, device, num_steps=20) for step in (multiply, copy))
    return 2 * source.nbytes / copied.median, 2 * size**3 / multiplied.median


def commit() -> str | None:
    """The commit of the source, where git and its folder are there."""
    command = ["git", "rev-parse", "HEAD"]
    folder = Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
