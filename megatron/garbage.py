"""Python's garbage, collected between steps: in mid-step it stops one process, and all others wait for it."""

import contextlib
import gc
from collections.abc import Iterator

COLLECT_STEPS = 50
"""From one collection to the next."""


@contextlib.contextmanager
def collecting_by_hand() -> Iterator[None]:
    """Leave all garbage within the block to `collect_after`."""
    gc.collect()
    # What is there already stays, so a collection looks at what steps have made.
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def collect_after(step: int) -> None:
    """Collect if it is time, a step being done."""
    if step % COLLECT_STEPS == 0:
        gc.collect()
