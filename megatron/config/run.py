"""All settings of a run, of each kind of run, and the kinds by the `architecture` that a run file names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_type_hints

from megatron.config.checkpoint import CheckpointConfig
from megatron.config.data import DataConfig
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
from megatron.config.logs import LoggingConfig, PretrainingLoggingConfig
from megatron.config.model import ModelConfig
from megatron.config.stages import Stage
from megatron.config.steps import StepConfig
from megatron.config.training import TrainingConfig
from megatron.setting_rules import (
    BERT_ONLY,
    GPT_ONLY,
    ONLY_FOR_BERT,
    ONLY_FOR_GPT,
    Settings,
    require,
)

Architecture = Literal["gpt", "bert", "gpt_finetuning", "vit_finetuning", "bert_finetuning"]
SECTIONS = ("data_efficiency", "engine", "deepspeed")
"""Fields of a run that hold parts of DeepSpeed's JSON file."""


@dataclass(frozen=True, kw_only=True)
class AnyRunConfig:
    """What every run has; each kind has its own groups of settings below these names."""

    architecture: Architecture
    model: Settings
    data: Settings
    training: StepConfig
    checkpoint: CheckpointConfig | GlueCheckpointConfig
    logging: LoggingConfig
    data_efficiency: Mapping[str, Any] = field(default_factory=dict)
    """The section of DeepSpeed's JSON file, without the keys that are settings above."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Other sections of that file, likewise; fp16 and bf16 count in their precision only."""
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """Sections that count with --deepspeed only."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(AnyRunConfig):
    """All settings of pretraining; only entry scripts and `training.py` see it whole."""

    architecture: Architecture = "gpt"
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    checkpoint: CheckpointConfig
    logging: PretrainingLoggingConfig
    stages: tuple[Stage, ...] = ()
    """Empty: what other tables say holds from the first step to the last."""

    def __post_init__(self) -> None:
        require(
            self.data.seq_length <= self.model.max_position_embeddings,
            "seq_length",
            self.data.seq_length,
            f"must not exceed --max-position-embeddings ({self.model.max_position_embeddings})",
        )
        require(
            self.architecture == "gpt" or not self.logging.sample_prompts,
            "sample_prompts",
            list(self.logging.sample_prompts),
            "a BERT writes no texts; it belongs to pretrain_gpt.py",
        )
        share = self.training.tensor_model_parallel_size
        self.model.require_even_parts(share)
        require(
            self.data.seq_length % share == 0,
            "seq_length",
            self.data.seq_length,
            f"must be a multiple of --tensor-model-parallel-size ({share}), whose processes share each row",
        )
        other, rule = (
            (BERT_ONLY, ONLY_FOR_BERT) if self.architecture == "gpt" else (GPT_ONLY, ONLY_FOR_GPT)
        )
        for group in (self.data, self.training):
            for one in fields(group):
                if other in group.marks.get(one.name, ()):
                    value = getattr(group, one.name)
                    require(value == one.default, one.name, value, rule)

    @property
    def num_whole_steps(self) -> int:
        """Steps in which whole samples fill the nearest budget."""
        training = self.training
        samples = [] if training.train_samples is None else [training.train_samples]
        if training.train_tokens is not None:
            samples.append(-(-training.train_tokens // self.data.seq_length))
        steps = [-(-number // training.batch_size) for number in samples]
        return min(steps if training.train_iters is None else [*steps, training.train_iters])

    @property
    def save_interval(self) -> int | None:
        """Steps between checkpoints; None: one at the end."""
        saving = self.checkpoint
        if saving.save_interval is not None or saving.num_checkpoints is None:
            return saving.save_interval
        return max(1, self.num_whole_steps // saving.num_checkpoints)


@dataclass(frozen=True, kw_only=True)
class GlueRunConfig(AnyRunConfig):
    """All settings of a BERT's finetuning on one task."""

    architecture: Architecture = "bert_finetuning"
    model: PretrainedBertConfig
    data: GlueDataConfig
    training: GlueTrainingConfig
    checkpoint: GlueCheckpointConfig


@dataclass(frozen=True, kw_only=True)
class TextRunConfig(AnyRunConfig):
    """All settings of a language model's finetuning on a text."""

    architecture: Architecture = "gpt_finetuning"
    model: PretrainedConfig
    data: TextDataConfig
    training: FinetuningConfig
    checkpoint: FinetuningCheckpointConfig


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig(AnyRunConfig):
    """All settings of a vision transformer's finetuning on images."""

    architecture: Architecture = "vit_finetuning"
    model: ImageModelConfig
    data: ImageDataConfig
    training: FinetuningConfig
    checkpoint: FinetuningCheckpointConfig


@dataclass(frozen=True)
class RunKind:
    """What a run of an architecture is described by, and started with."""

    run: type[AnyRunConfig]
    script: str
    """Of this project: `SCRIPT --config RUN.toml`."""

    @cached_property
    def groups(self) -> dict[str, type[Any]]:
        """Table of a run file -> the settings in it."""
        hints = get_type_hints(self.run)
        return {
            name: hints[name] for name in ("model", "data", "training", "checkpoint", "logging")
        }

    @property
    def has_stages(self) -> bool:
        """Whether a run file may list stages."""
        return "stages" in get_type_hints(self.run)

    @cached_property
    def hints(self) -> dict[str, Any]:
        """Setting -> type, whatever its table."""
        return {k: v for group in self.groups.values() for k, v in get_type_hints(group).items()}

    @cached_property
    def table_of(self) -> dict[str, str]:
        """Setting -> the table it stands in."""
        return {one.name: name for name, group in self.groups.items() for one in fields(group)}


_EXAMPLES = "examples_deepspeed/data_efficiency"
RUN_KINDS: Mapping[str, RunKind] = {
    "gpt": RunKind(RunConfig, "pretrain_gpt.py"),
    "bert": RunKind(RunConfig, "pretrain_bert.py"),
    "gpt_finetuning": RunKind(TextRunConfig, f"{_EXAMPLES}/gpt_finetuning/finetune.py"),
    "vit_finetuning": RunKind(ImageRunConfig, f"{_EXAMPLES}/vit_finetuning/finetune.py"),
    "bert_finetuning": RunKind(GlueRunConfig, "tools/finetune_bert.py"),
}
CONFIG_GROUPS: tuple[type, ...] = tuple(RUN_KINDS["gpt"].groups.values())
"""Of pretraining."""
