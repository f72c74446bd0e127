"""Command lines of Megatron-DeepSpeed: what each of its flags becomes here."""

from megatron.migration.tables import (
    ANALYSIS,
    EVALUATION,
    MIGRATIONS,
    OTHER_DEFAULTS,
    PREPROCESSING,
    PRETRAINING,
    Fate,
    Migration,
)
from megatron.migration.words import own_words, pretraining_words

__all__ = [
    "ANALYSIS",
    "EVALUATION",
    "Fate",
    "MIGRATIONS",
    "OTHER_DEFAULTS",
    "PREPROCESSING",
    "PRETRAINING",
    "Migration",
    "own_words",
    "pretraining_words",
]
