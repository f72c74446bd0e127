"""A value of each row of a step, such as its loss: noted where losses are formed, told to the sampler that follows them."""

import numpy as np
import torch
from numpy.typing import NDArray

from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.loader import CurriculumDataLoader

Values = NDArray[np.float64]


class RowValues:
    """Those of this process's rows in the present step."""

    def __init__(self) -> None:
        self._noted: list[torch.Tensor] = []

    def note(self, values: torch.Tensor) -> None:
        """Take those of the next micro-batch, [rows]."""
        self._noted.append(values.detach().double())

    def clear(self) -> None:
        """Begin another step."""
        self._noted = []

    def numbers(self) -> list[float]:
        """All of them, in the order of the rows."""
        return [value for rows in self._noted for value in rows.tolist()]


def checked_values(values: Values, num_samples: int, *, are_needed: bool) -> Values | None:
    """The values of all rows of the global batch; None where none was noted.

    Raises:
        ConfigError: if samples follow them, and not every sample has one.
    """
    if are_needed and len(values) != num_samples:
        raise ConfigError(
            f"data_sampling.feedback is there, but {len(values)} values were noted for {num_samples} samples: give "
            "engine.note_rows the mean loss of each row, where loss_sums forms it, or remove the section"
        )
    return values if len(values) else None


def tell_sampler(loader: CurriculumDataLoader | None, values: Values | None) -> None:
    """Let the sampler observe the step that has just finished, where it follows values."""
    if loader is None or loader.sampler.feedback is None:
        return
    assert loader.plan is not None
    batch = loader.plan.batch
    loader.sampler.observe(batch.step, batch.samples, values)
