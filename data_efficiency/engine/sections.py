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
_TAKEN = ("bf16", "fp16", "optimizer", "tensor_parallel", "zero_optimization")
REFUSED: dict[str, str] = {
    "pipeline": "a schedule of stages would own the step, and each length of a curriculum need its own; take "
    "zero_optimization.stage 3, which covers models that one device cannot hold",
    "hybrid_engine": "it alternates training with generation, which this engine does not",
    "autotuning": "it starts runs of its own with other batch sizes",
}
"""Sections that neither engine takes, and why."""
_NO_CONTEXT_PARALLELISM = (
    "dropped tokens make the processes' shares of a row uneven; take recomputation and smaller micro-batches, or the "
    "PyTorch engine's tensor parallelism, which shares rows between layers"
)

_ONLY_PACES_ZERO = frozenset(
    {
        *("allgather_bucket_size", "allgather_partitions", "contiguous_gradients", "overlap_comm"),
        *(
            "ignore_unused_parameters",
            "reduce_bucket_size",
            "reduce_scatter",
            "round_robin_gradients",
        ),
        *("stage3_gather_16bit_weights_on_model_save", "stage3_max_live_parameters"),
        *("stage3_max_reuse_distance", "stage3_param_persistence_threshold"),
        *("stage3_prefetch_bucket_size", "sub_group_size", "use_multi_rank_bucket_allreduce"),
    }
)
"""Keys of `zero_optimization` that say how DeepSpeed paces its work, and nothing of what comes out."""


@dataclass(frozen=True, kw_only=True)
class ZeroSettings:
    """What the PyTorch engine takes from the section `zero_optimization`."""

    stage: int
    """2 or 3; 0: each process holds everything."""
    leaf_classes: tuple[str, ...] = ()
    """Classes of the modules whose weights are gathered together, with or without the names of their modules."""
    leaf_names: tuple[str, ...] = ()
    """Names of such modules."""
    leaf_name_suffixes: tuple[str, ...] = ()
    """Ends of such names."""

    @property
    def names_units(self) -> bool:
        """Whether the units are named, rather than found."""
        return bool(self.leaf_classes or self.leaf_names or self.leaf_name_suffixes)


@dataclass(frozen=True, kw_only=True)
class TorchSections:
    """What the PyTorch engine takes from the JSON's other sections."""

    bf16: bool
    loss_scale: LossScale | None
    """Given for float16."""
    optimizer: Mapping[str, Any] | None
    zero: ZeroSettings


def check_torch_sections(sections: Mapping[str, Any]) -> TorchSections:
    """What the PyTorch engine does with the JSON's other sections.

    Raises:
        ConfigError: for a section that this engine would ignore.
    """
    refuse_unsupported(sections)
    for name, content in sections.items():
        if name in HARMLESS or name in _TAKEN or is_off(name, content):
            continue
        raise ConfigError(
            f"{name} is {content!r}: the PyTorch engine would ignore it; remove the section, or "
            'take DeepSpeed\'s engine (engine="deepspeed", --deepspeed)'
        )
    all_sections = Section(sections, "")
    section = all_sections.section("tensor_parallel")
    section.take("autotp_size", 0)
    section.close()
    section = all_sections.section("bf16")
    bf16 = section.boolean("enabled", False)
    section.close()
    loss_scale = loss_scale_of(all_sections.section("fp16"))
    if bf16 and loss_scale is not None:
        raise ConfigError("bf16.enabled and fp16.enabled are both true: switch one of them off")
    return TorchSections(
        bf16=bf16,
        loss_scale=loss_scale,
        optimizer=sections.get("optimizer"),
        zero=_zero_settings(all_sections.section("zero_optimization")),
    )


def _zero_settings(section: Section) -> ZeroSettings:
    """The sharding that the section asks for.

    Raises:
        ConfigError: for stage 1, and for what only DeepSpeed has, such as offloading.
    """
    written = [key for key, value in section.content.items() if value]
    if written and "stage" not in section:
        raise ConfigError(
            f"zero_optimization.{written[0]} is {section.content[written[0]]!r}, but there is no stage: the PyTorch "
            "engine would ignore it; give stage (2 or 3; 0 for none), or remove the section"
        )
    stage = section.integer("stage", 0, at_least=0)
    if stage not in (0, 2, 3):
        raise ConfigError(
            f"zero_optimization.stage is {stage}: the PyTorch engine (FSDP2) has 2 and 3; take 2, which keeps "
            'gradients in parts as well, or DeepSpeed\'s engine (engine="deepspeed", --deepspeed)'
        )
    if not stage:
        return ZeroSettings(stage=0)
    leaves = section.section("leaf_module")
    named = {key: _names(leaves, key) for key in ("classes", "names", "name_suffixes")}
    leaves.close()
    for key, value in section.content.items():
        if key not in ("stage", "leaf_module") and key not in _ONLY_PACES_ZERO and value:
            raise ConfigError(
                f"zero_optimization.{key} is {value!r}: the PyTorch engine (FSDP2) would ignore it; remove it, or "
                'take DeepSpeed\'s engine (engine="deepspeed", --deepspeed)'
            )
    return ZeroSettings(
        stage=stage,
        leaf_classes=named["classes"],
        leaf_names=named["names"],
        leaf_name_suffixes=named["name_suffixes"],
    )


def _names(section: Section, key: str) -> tuple[str, ...]:
    """A list of texts, or a single one."""
    value = section.take(key, [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{section.path}.{key} is {value!r}: must be a list of texts")
    return tuple(names)


def refuse_offloading(sections: Mapping[str, Any]) -> None:
    """Raise ConfigError where DeepSpeed lays its buffers out for one number of micro-batches."""
    zero = sections.get("zero_optimization") or {}
    for name in ("offload_optimizer", "offload_param"):
        if (zero.get(name) or {}).get("device", "none") != "none":
            raise ConfigError(
                f"zero_optimization.{name} is {zero[name]!r}, and data_sampling.batch_size changes the number of "
                "micro-batches, which DeepSpeed's buffers on the host have one of: remove one of the two"
            )


def refuse_unsupported(sections: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the reason, if a section asks for what neither engine does."""
    for name, reason in REFUSED.items():
        content = sections.get(name)
        if not is_off(name, content):
            raise ConfigError(f"{name} is {content!r}: {reason}; remove the section")
    sequence_parallel = sections.get("sequence_parallel_size", 1)
    if sequence_parallel not in (None, 1):
        raise ConfigError(
            f"sequence_parallel_size is {sequence_parallel!r}: {_NO_CONTEXT_PARALLELISM}"
        )


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
