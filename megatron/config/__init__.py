"""Frozen settings of a run, one keyword-only dataclass a subject.

Each field carries its docstring below it: meaning, unit, legal range. The fields are the keys of a run
file (`[model] hidden_size`) and the flags of the command line (`--hidden-size`), and
`tools/generate_docs.py` turns them into docs/config.md, so here is the one place where a setting is
described. `None` means "not used" and is never filled in later: derived values are properties.
"""

import types
from typing import Any, get_args

from megatron.config.checkpoint import GUARDED_SETTINGS, CheckpointConfig, GuardedSetting
from megatron.config.data import DataConfig
from megatron.config.files import FilesConfig, SourceConfig
from megatron.config.finetuning import (
    FinetuningCheckpointConfig,
    FinetuningConfig,
    GlueCheckpointConfig,
    GlueDataConfig,
    GlueTrainingConfig,
    ImageDataConfig,
    ImageModelConfig,
    PretrainedBertConfig,
    PretrainedConfig,
    TextDataConfig,
)
from megatron.config.logs import LoggingConfig, PretrainingLoggingConfig, TrackerName
from megatron.config.model import ModelConfig
from megatron.config.run import (
    CONFIG_GROUPS,
    RUN_KINDS,
    SECTIONS,
    AnyRunConfig,
    Architecture,
    GlueRunConfig,
    ImageRunConfig,
    RunConfig,
    RunKind,
    TextRunConfig,
)
from megatron.config.stages import Stage, read_stages, shares_of
from megatron.config.steps import StepConfig
from megatron.config.training import (
    AttentionImplementation,
    CompileLengths,
    CompileMode,
    OptimizerImplementation,
    TrainingConfig,
)

__all__ = [
    "CONFIG_GROUPS",
    "GUARDED_SETTINGS",
    "RUN_KINDS",
    "SECTIONS",
    "AnyRunConfig",
    "Architecture",
    "AttentionImplementation",
    "CheckpointConfig",
    "CompileLengths",
    "CompileMode",
    "DataConfig",
    "FilesConfig",
    "FinetuningCheckpointConfig",
    "FinetuningConfig",
    "GlueCheckpointConfig",
    "GlueDataConfig",
    "GlueRunConfig",
    "GlueTrainingConfig",
    "GuardedSetting",
    "ImageDataConfig",
    "ImageModelConfig",
    "ImageRunConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimizerImplementation",
    "PretrainedBertConfig",
    "PretrainedConfig",
    "PretrainingLoggingConfig",
    "RunConfig",
    "RunKind",
    "SourceConfig",
    "Stage",
    "StepConfig",
    "TextDataConfig",
    "TextRunConfig",
    "TrackerName",
    "TrainingConfig",
    "read_stages",
    "shares_of",
    "without_none",
]


def without_none(hint: Any) -> Any:
    """The type besides None in an optional type."""
    if isinstance(hint, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint
