"""Tasks on the machines of a Ray cluster."""

import os
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from data_efficiency.analysis.executors import Counts, Task, TaskError, add_counts

MAX_RETRIES = 3
_SECONDS_A_LOOK = 1.0


class RayExecutor:
    """Items on a Ray cluster, each on one of its CPUs; what they keep must lie where all its machines see it.

    The cluster is the one that this process is connected to, or else that of RAY_ADDRESS, one that runs on this
    machine, or one that is started here for as long as a `run`. An item whose process or machine is lost is run
    again elsewhere, three times at most; after a failure no further item is started, and the running ones are
    finished first.

    Args:
        num_processes: at most so many items at once. Not given: as many as the cluster has CPUs.

    Raises:
        ModuleNotFoundError: if ray is not installed.
    """

    def __init__(self, num_processes: int | None = None) -> None:
        if num_processes is not None and num_processes < 1:
            raise ValueError(f"number of processes is {num_processes}: at least 1 is needed")
        try:
            import ray  # noqa: PLC0415  an extra
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the executor ray needs it: pip install 'data-efficiency[ray]'"
            ) from error
        self.ray: Any = ray
        self.num_processes = num_processes

    def run(self, task: Task, items: Sequence[int]) -> Iterator[Counts]:
        """The counts of each item as it ends; a TaskError for the first one that failed."""
        if not items:
            return
        ray = self.ray
        is_ours = not ray.is_initialized()
        if is_ours:
            # Own metrics are found where this process finds them.
            path = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
            ray.init(configure_logging=False, log_to_driver=False, runtime_env={"env_vars": path})
        try:
            yield from self._run(task, items)
        finally:
            if is_ours:
                ray.shutdown()

    def _run(self, task: Task, items: Sequence[int]) -> Iterator[Counts]:
        ray = self.ray
        work = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_run_item)
        # Sent once, not with every item.
        sent = ray.put(task)
        at_once = self.num_processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, running = list(reversed(items)), dict[Any, int]()
        failures: list[TaskError] = []
        try:
            while running or (waiting and not failures):
                while waiting and not failures and len(running) < at_once:
                    item = waiting.pop()
                    running[work.remote(sent, item)] = item
                ended, _ = ray.wait(list(running), timeout=_SECONDS_A_LOOK)
                for one in ended:
                    item = running.pop(one)
                    try:
                        kind, content = ray.get(one)
                    except ray.exceptions.RayTaskError as error:
                        kind, content = "failed", (_not_begun(error), str(error))
                    except ray.exceptions.RayError as error:
                        kind, content = "failed", (_lost(error), None)
                    if kind == "failed":
                        failures.append(TaskError(item, *content))
                    elif content:
                        yield content
        finally:
            for one in running:
                ray.cancel(one, force=True)
        if failures:
            raise failures[0]


def _not_begun(error: Exception) -> str:
    """Why a worker could not even take an item, as where a package or an own metric is missing on its machine."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"a worker of the cluster could not begin with it ({lines[-1].strip()})"


def _lost(error: Exception) -> str:
    """Why Ray gave an item up."""
    first_line = str(error).strip().partition("\n")[0]
    return f"Ray has lost it {1 + MAX_RETRIES} times ({type(error).__name__}: {first_line})"


def _run_item(task: Task, item: int) -> tuple[str, Any]:
    """What an item came to, in a worker: ("done", its counts) or ("failed", (cause, trace))."""
    try:
        return "done", add_counts(list(task(item)))
    except Exception as error:
        cause = error.cause if isinstance(error, TaskError) else f"{type(error).__name__}: {error}"
        return "failed", (cause, traceback.format_exc())
