"""DeepSpeed's older section for a sequence-length warm-up, at the top level of the file."""

from dataclasses import dataclass
from typing import Literal

from data_efficiency.config.metric_keys import PacedKeys
from data_efficiency.config.metrics import LengthPlan
from data_efficiency.json_section import Section


@dataclass(frozen=True, kw_only=True)
class LegacyCurriculumKeys(PacedKeys):
    """`curriculum_learning` at the top level."""

    enabled: bool = False
    """The switch of DeepSpeed's older section for sequence-length warm-up, removed there in 0.19.8;
    read as the metric seqlen_truncate."""
    curriculum_type: Literal["seqlen"]
    """What is paced."""


def read_legacy_warm_up(section: Section) -> LengthPlan | None:
    """The length plan that a top-level `curriculum_learning` section means; None where it is off.

    Source: DeepSpeed's sequence-length warm-up, removed in 0.19.8. Differs: the loader truncates,
    so that the model need not know `curriculum_seqlen`.
    """
    if not section.boolean("enabled", False):
        return None
    paced = section.read(LegacyCurriculumKeys).paced(section, lowest=1)
    section.close()
    return LengthPlan(name="seqlen_truncate", difficulty_type="value", action="truncate", **paced)
