"""A window of difficulty: a pool that also retires its easiest samples as it grows.

The samples that one metric accepts are a prefix of its index's order. Those that lie `window_size` or more below
the highest difficulty so far are a shorter prefix, and are retired. So the pool is a slice of the order whose two
ends move upwards, and a cluster is what both ends leave whole.

A worked example: difficulties 1 to 4, one sample each, a window of 2 and a schedule 2, 3, 4: the pools are
{1, 2}, {2, 3}, {3, 4}.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.admission import MetricPool
from data_efficiency.schedule import growth

Int64Array = NDArray[np.int64]
_NEVER = 2**62


class Window(NamedTuple):
    """Clusters of a pool that retires samples; int64 [clusters], `starts` one longer."""

    admission_steps: Int64Array
    retirement_steps: Int64Array
    """The step from which on nothing is drawn from the cluster, 2**62 for never; it does not decrease."""
    starts: Int64Array


def window_of(pool: MetricPool) -> Window:
    """The clusters of a metric that has a window, whose schedule ends.

    Raises:
        ConfigError: for a schedule without a known end.
        ValueError: if a step would have nothing to draw.
    """
    metric, width = pool.metric, pool.metric.window_size
    assert width is not None
    if not metric.schedule.ends:
        raise ConfigError(
            f"metric {metric.name!r} has a window_size and the schedule {metric.schedule.describe()}: which samples "
            "retire together is known beforehand only where the schedule's end is; use another schedule_type"
        )
    rises = [*growth(metric.schedule, 0, None, None)]
    ends = np.zeros((len(rises), 2), np.int64)  # the retired samples, and the accepted ones
    known = [0, 0]
    for number, (step, difficulty) in enumerate(rises):
        known = [
            pool.size_at(limit, size)
            for limit, size in zip((difficulty - width, difficulty), known, strict=True)
        ]
        ends[number] = known
        if known[0] == known[1]:
            raise ValueError(
                f"metric {metric.name!r} accepts no sample at step {step}: none has a difficulty above "
                f"{difficulty - width} and at most {difficulty}; give it a larger window_size"
            )
    steps = np.array([step for step, _ in rises], np.int64)
    starts = np.unique(np.append(ends, 0))
    retired_at = np.searchsorted(ends[:, 0], starts[1:], "left")
    return Window(
        admission_steps=steps[np.searchsorted(ends[:, 1], starts[1:], "left")],
        retirement_steps=np.append(steps, _NEVER)[retired_at],
        starts=starts,
    )
