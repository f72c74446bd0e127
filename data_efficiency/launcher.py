"""Which worker of how many this process is, as whatever started it says."""

from collections.abc import Mapping

# Rank and size, by launcher. Of two that are set, the one nearer to the process comes first.
RANK_AND_SIZE = (
    ("RANK", "WORLD_SIZE"),  # torchrun, deepspeed, accelerate
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun; a batch script itself has no size of a step
)
ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")


def worker_of_launcher(environment: Mapping[str, str]) -> tuple[int, int]:
    """This worker's number and how many there are; (0, 1) where no launcher says.

    A SLURM array of jobs with several tasks each has tasks times jobs workers.

    Raises:
        ValueError: naming a variable that is not right.

    Example:
        >>> worker_of_launcher({"RANK": "2", "WORLD_SIZE": "4"})
        (2, 4)
    """
    rank, size = 0, 1
    for rank_name, size_name in RANK_AND_SIZE:
        if rank_name in environment and size_name in environment:
            rank, size = _number(environment, rank_name), _number(environment, size_name)
            if not 0 <= rank < size:
                raise ValueError(f"{rank_name} is {rank}: 0..{size - 1} is needed ({size_name})")
            break
    if ARRAY[0] not in environment:
        return rank, size
    task, first, step = (_number(environment, name) for name in ARRAY)
    num_jobs = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    job, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= job < num_jobs:
        raise ValueError(
            f"{ARRAY[0]} is {task}: not a task of an array of {num_jobs} from {first} in steps of "
            f"{step}; give the array as --array=0-{num_jobs - 1}"
        )
    return job * size + rank, num_jobs * size


def _number(environment: Mapping[str, str], name: str) -> int:
    """An environment variable as a number."""
    text = environment.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}: a number is needed") from None
