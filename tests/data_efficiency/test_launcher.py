"""Rank and size as the launchers give them."""

import itertools

import pytest

from data_efficiency.launcher import worker_of_launcher


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, (0, 2)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, (5, 6)),
        # A batch script of a job with six tasks: nothing but srun starts the others.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1)),
        ({"RANK": "3"}, (0, 1)),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            (1, 2),
        ),
    ],
)
def test_worker(environment, worker):
    assert worker_of_launcher({"HOME": "/", **environment}) == worker


@pytest.mark.parametrize(("first", "step", "num_jobs", "num_tasks"), [(0, 1, 4, 1), (3, 2, 3, 2)])
def test_each_task_of_an_array_is_another_worker(first, step, num_jobs, num_tasks):
    workers = [
        worker_of_launcher(
            {
                "SLURM_ARRAY_TASK_ID": str(first + step * job),
                "SLURM_ARRAY_TASK_MIN": str(first),
                "SLURM_ARRAY_TASK_STEP": str(step),
                "SLURM_ARRAY_TASK_COUNT": str(num_jobs),
                "SLURM_PROCID": str(task),
                "SLURM_STEP_NUM_TASKS": str(num_tasks),
            }
        )
        for job, task in itertools.product(range(num_jobs), range(num_tasks))
    ]
    size = num_jobs * num_tasks
    assert workers == [(rank, size) for rank in range(size)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4"}, r"RANK is 4: 0..3 is needed \(WORLD_SIZE\)"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, "RANK is 'x': a number is needed"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "1",
                "SLURM_ARRAY_TASK_COUNT": "2",
            },
            "SLURM_ARRAY_TASK_ID is 7: not a task of an array of 2 .* give the array as --array=0-1",
        ),
        ({"SLURM_ARRAY_TASK_ID": "7"}, "SLURM_ARRAY_TASK_MIN is '': a number"),
    ],
)
def test_variables_that_are_not_right(environment, message):
    with pytest.raises(ValueError, match=message):
        worker_of_launcher(environment)
