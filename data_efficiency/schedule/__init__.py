"""Schedules: the difficulty that is accepted at a step, pure and without state.

Steps count from 1 for the curriculum (its first batch is step 1) and from 0 for token dropping (its
first forward is step 0), as the published configurations mean them.

Source: DeepSpeed's `fixed_linear`, `fixed_root`, `fixed_discrete` and `custom` schedules.
Differs: the value does not depend on which steps were asked before. The published class is asked no
more once it has returned its maximum, so what comes later depends on its history; here a schedule
that goes down goes down, and the pool of samples keeps the running maximum.
"""

from data_efficiency.schedule.custom import CustomSchedule
from data_efficiency.schedule.discrete import DiscreteSchedule
from data_efficiency.schedule.protocol import Schedule, growth
from data_efficiency.schedule.registry import register_schedule
from data_efficiency.schedule.root import RootSchedule

__all__ = [
    "CustomSchedule",
    "DiscreteSchedule",
    "RootSchedule",
    "Schedule",
    "growth",
    "register_schedule",
]
