"""What an engine does with the JSON's sections that are not ours: takes them, or refuses them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_efficiency.engine.loss_scale import LossScale, loss_scale_of
from data_efficiency.json_section import ConfigError, Section

HARMLESS = frozenset(
    {
        "prescale_gradients",
        "sequence_parallel_size",
        "steps_per_print",
        "zero_allow_untested_optimizer",
    }
)
_ONLY_DATA_PARALLEL = (
    "only data parallelism is supported (ZeRO covers models that one device cannot hold)"
)
REFUSED: dict[str, str] = {
    "tensor_parallel": _ONLY_DATA_PARALLEL,
    "pipeline": _ONLY_DATA_PARALLEL,
    "hybrid_engine": "it alternates training with generation, which this engine does not",
    "autotuning": "it starts runs of its own with other batch sizes",
}
"""Sections that neither engine takes, and why."""


@dataclass(frozen=True, kw_only=True)
class TorchSections:
    """What the PyTorch engine takes from the JSON's other sections."""

    bf16: bool
    loss_scale: LossScale | None
    """Given for float16."""
    optimizer: Mapping[str, Any] | None


def check_torch_sections(sections: Mapping[str, Any]) -> TorchSections:
    """What the PyTorch engine does with the JSON's other sections.

    Raises:
        ConfigError: for a section that this engine would ignore.
    """
    refuse_unsupported(sections)
    for name, content in sections.items():
        if name in HARMLESS or name in ("bf16", "fp16", "optimizer") or is_off(name, content):
            continue
        raise ConfigError(
            f"{name} is {content!r}: the PyTorch engine would ignore it; remove the section, or "
            'take DeepSpeed\'s engine (engine="deepspeed", --deepspeed)'
        )
    all_sections = Section(sections, "")
    section = all_sections.section("bf16")
    bf16 = section.boolean("enabled", False)
    section.close()
    loss_scale = loss_scale_of(all_sections.section("fp16"))
    if bf16 and loss_scale is not None:
        raise ConfigError("bf16.enabled and fp16.enabled are both true: switch one of them off")
    return TorchSections(bf16=bf16, loss_scale=loss_scale, optimizer=sections.get("optimizer"))


def refuse_unsupported(sections: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the reason, if a section asks for what neither engine does."""
    for name, reason in REFUSED.items():
        content = sections.get(name)
        if not is_off(name, content):
            raise ConfigError(f"{name} is {content!r}: {reason}; remove the section")
    sequence_parallel = sections.get("sequence_parallel_size", 1)
    if sequence_parallel not in (None, 1):
        raise ConfigError(f"sequence_parallel_size is {sequence_parallel!r}: {_ONLY_DATA_PARALLEL}")


def is_off(name: str, content: object) -> bool:
    """Whether a section, as it is written, asks for nothing."""
    if not content:
        return True
    if not isinstance(content, Mapping):
        return False
    if name == "zero_optimization":
        return content.get("stage", 0) == 0
    if name == "tensor_parallel":
        return content.get("autotp_size", 0) in (0, 1)
    return content.get("enabled") is False
