"""The DeepSpeed JSON file <-> frozen dataclasses.

Our sections are parsed whole: an unknown or misspelled key is an error that names the nearest key, a
wrong value one that names the key's path, the value and the rule. Published files load unchanged.
Sections that only DeepSpeed understands are kept as they are for the engine, which checks them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_efficiency.config.data_efficiency import DataEfficiencyConfig, read_data_efficiency
from data_efficiency.config.deepspeed_sections import DEEPSPEED_SECTIONS
from data_efficiency.config.layer_dropout import (
    layer_dropout_of_progressive,
    read_layer_dropout,
)
from data_efficiency.config.legacy_warm_up import read_legacy_warm_up
from data_efficiency.config.written import section_of
from data_efficiency.files import read_json_object
from data_efficiency.json_section import ConfigError, Faults, Given, Section, own_copy


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole DeepSpeed JSON file, our section parsed."""

    train_batch_size: int | None = None
    """Samples of a global batch: micro batch x accumulation steps x data-parallel size."""
    train_micro_batch_size_per_gpu: int | None = None
    """Samples of one forward pass on one process."""
    gradient_accumulation_steps: int | None = None
    """Forward passes before an optimizer step."""
    gradient_clipping: float = 0.0
    """Largest norm of the whole gradient; 0 means no clipping."""
    dataloader_drop_last: bool = False
    """Whether an incomplete last global batch is left out instead of filled up from the next pass."""
    data_efficiency: Given[DataEfficiencyConfig] = field(default_factory=DataEfficiencyConfig)
    data_efficiency_json: Given[dict[str, Any]] = field(default_factory=dict)
    """The section as it was written, for logs and checkpoints; a legacy `curriculum_learning`
    section stands in it under its own name."""
    engine_sections: Given[dict[str, Any]] = field(default_factory=dict)
    """What is left for the engine: optimizer, precision, ZeRO and the like."""

    def batch_sizes(self, data_parallel_size: int) -> tuple[int, int]:
        """Micro batch size and accumulation steps, the one that is not given derived.

        Raises:
            ConfigError: if micro batch x accumulation x data-parallel size is not the global batch.
        """
        total, micro = self.train_batch_size, self.train_micro_batch_size_per_gpu
        steps = self.gradient_accumulation_steps
        if micro is None and total is None:
            raise ConfigError("train_batch_size or train_micro_batch_size_per_gpu must be given")
        if micro is None and total is not None:
            micro = total // (data_parallel_size * (steps or 1))
        assert micro is not None
        if steps is None:
            steps = 1 if total is None else max(1, total // max(1, micro * data_parallel_size))
        if total is not None and micro * steps * data_parallel_size != total:
            raise ConfigError(
                f"train_batch_size is {total}, but train_micro_batch_size_per_gpu ({micro}) x "
                f"gradient_accumulation_steps ({steps}) x data-parallel size "
                f"({data_parallel_size}) is {micro * steps * data_parallel_size}"
            )
        return micro, steps


ConfigSource = str | Path | Mapping[str, Any] | Config | DataEfficiencyConfig
"""The path of a JSON file, its content (whose `data_efficiency` may be parsed already), or what is parsed."""


def load_config(source: ConfigSource) -> Config:
    """The parsed configuration: of a JSON file's path or content, or what is parsed already.

    Raises:
        ConfigError: with all that is missing or not understood: each key's path, its value and the rule.
        FileNotFoundError: if the file does not exist.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, DataEfficiencyConfig):
        return Config(data_efficiency=source, data_efficiency_json=section_of(source))
    content = read_json(source)
    ready = content.get("data_efficiency")
    if isinstance(ready, DataEfficiencyConfig):
        content["data_efficiency"] = section_of(ready)
    else:
        ready = None
    section, faults = Section(content, ""), Faults()
    engine_sections = {name: section.take(name) for name in DEEPSPEED_SECTIONS if name in section}
    raw = section.take("data_efficiency", None) or {}
    data_efficiency = ready or faults.ask(
        lambda: read_data_efficiency(section.section("data_efficiency"))
    )
    data_efficiency, raw = _with_progressive_layer_drop(section, faults, data_efficiency, raw)
    legacy = section.take("curriculum_learning", None)
    warm_up = faults.ask(lambda: read_legacy_warm_up(section.section("curriculum_learning")))
    found = faults.ask(
        lambda: section.read(
            Config, data_efficiency=data_efficiency, data_efficiency_json=raw, engine_sections={}
        )
    )
    faults.ask(lambda: section.close(also_known=DEEPSPEED_SECTIONS))
    faults.refuse()
    assert found is not None
    assert data_efficiency is not None
    if warm_up is not None:
        if data_efficiency.metric_names:
            raise ConfigError(
                "curriculum_learning at the top level and in data_efficiency.data_sampling are both "
                "enabled: keep the second, where the warm-up is the metric seqlen_truncate"
            )
        data_efficiency = replace(
            data_efficiency, length_plans=(warm_up,), metric_names=(warm_up.name,)
        )
        data_efficiency.refuse_contradictions()
        raw = {**raw, "curriculum_learning": legacy}
    data_efficiency = data_efficiency.with_row_shares(_row_shares(engine_sections))
    return replace(
        found,
        data_efficiency=data_efficiency,
        data_efficiency_json=json.loads(json.dumps(raw)),
        engine_sections=engine_sections,
    )


def _row_shares(engine_sections: Mapping[str, Any]) -> int:
    """Processes that share each layer and each row."""
    content = {"tensor_parallel": engine_sections.get("tensor_parallel") or {}}
    section = Section(content, "", is_quiet=True).section("tensor_parallel")
    return section.integer("autotp_size", 0, at_least=0) or 1


def _with_progressive_layer_drop(
    section: Section,
    faults: Faults,
    data_efficiency: DataEfficiencyConfig | None,
    raw: dict[str, Any],
) -> tuple[DataEfficiencyConfig | None, dict[str, Any]]:
    """Our section, parsed and as it is written, with what `progressive_layer_drop` stands for in it."""
    written = faults.ask(
        lambda: layer_dropout_of_progressive(section.section("progressive_layer_drop"))
    )
    if written is None or data_efficiency is None:
        return data_efficiency, raw
    if data_efficiency.layer_dropout is not None:
        raise ConfigError(
            "progressive_layer_drop and data_efficiency.data_routing.layer_dropout are both enabled: keep the "
            "second"
        )
    dropout = read_layer_dropout(Section(written, "progressive_layer_drop"), data_efficiency.seed)
    routing = {**(raw.get("data_routing") or {}), "layer_dropout": written}
    raw = {**raw, "data_routing": routing}
    return replace(data_efficiency, layer_dropout=dropout), raw


def read_json(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A fresh copy of the JSON object, which nobody else holds."""
    if isinstance(source, Mapping):
        copied: dict[str, Any] = own_copy(source)
        return copied
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"configuration file {path} does not exist")
    try:
        return read_json_object(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None
