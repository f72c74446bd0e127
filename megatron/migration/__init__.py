"""Command lines of Megatron-DeepSpeed: what each of its flags becomes here."""

from megatron.migration.launch_script import started_by, training_command
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
from megatron.migration.words import (
    Translation,
    own_words,
    pretraining_translation,
    pretraining_words,
)

__all__ = [
    "ANALYSIS",
    "EVALUATION",
    "Fate",
    "MIGRATIONS",
    "OTHER_DEFAULTS",
    "PREPROCESSING",
    "PRETRAINING",
    "Migration",
    "Translation",
    "own_words",
    "pretraining_translation",
    "pretraining_words",
    "started_by",
    "training_command",
]
