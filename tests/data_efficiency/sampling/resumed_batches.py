"""Batches of a run that goes on, part after part, on other numbers of ranks and of loader workers."""

import json

import numpy as np

from data_efficiency import CurriculumDataLoader


def resumed_batches(sampler_of, num_samples, parts):
    """The samples of each step, those of all ranks together.

    Args:
        sampler_of: the sampler of a rank among so many.
        num_samples: of the data set, whose samples are their numbers.
        parts: (ranks, workers, steps) one after the other; each begins from the state that the one before has written.
    """
    state, found = None, []
    for num_ranks, num_workers, num_steps in parts:
        loaders = [
            CurriculumDataLoader(
                range(num_samples), sampler_of(rank, num_ranks), num_workers=num_workers
            )
            for rank in range(num_ranks)
        ]
        for loader in loaders if state else ():
            loader.load_state_dict(state)
        done = 0 if state is None else state["step"]
        own = [[batch.numpy() for batch in one.until(done + num_steps)] for one in loaders]
        found += [np.concatenate(rows) for rows in zip(*own, strict=True)]
        state = json.loads(json.dumps(loaders[0].state_dict()))
    return found
