"""A recipe: one run, put together from its own file, its model's file, and what its family shares."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from data_efficiency import ConfigError
from megatron.config import CONFIG_GROUPS
from megatron.recipes.catalogue import Catalogue
from megatron.recipes.toml_file import TomlFile, check_known, read_toml

KNOWN_FLAGS = frozenset(field.name for group in CONFIG_GROUPS for field in fields(group))
LENGTH_METRICS = ("seqlen_truncate", "seqlen_reshape")
"""Metrics whose difficulties are lengths, which end at the sequence length."""
PRETRAINING_KEYS = ("flags", "json", "metrics", "num_checkpoints", "random_ltd", "warmup_steps")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run before it is placed on a machine: no paths, no number of processes."""

    name: str
    title: str
    result: str | None
    """What was published for it."""
    architecture: Literal["gpt", "bert"]
    model: str
    """Name of the model."""
    flags: Mapping[str, Any]
    """Fields of `megatron/config.py`."""
    warmup_steps: int | None
    """Warm-up of the learning rate, where it is published in steps."""
    num_checkpoints: int
    """Over the length of a run without curriculum and dropping."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Metric -> its entry in the JSON file but for the total of its schedule; empty: no curriculum."""
    curriculum_steps: int | None
    random_ltd: Mapping[str, int] | None
    """`min_value`, `seq_per_step` and `require_steps`; None: no token is dropped."""
    json: Mapping[str, Any]
    """Sections of the JSON file besides `data_efficiency`."""

    @property
    def full_length_steps(self) -> int:
        """Steps in which whole samples fill the token budget."""
        tokens_of_step = self.flags["global_batch_size"] * self.flags["seq_length"]
        return -(-int(self.flags["train_tokens"]) // tokens_of_step)


def read_recipe(catalogue: Catalogue, name: str, *, model: str | None = None) -> Recipe:
    """The recipe of a name, or of a path that ends in .toml.

    Raises:
        ConfigError: for an unknown name or key, with the nearest known one.
    """
    own = read_toml(catalogue.recipe_path(name))
    own.check_keys(("model", "flags", "curriculum", "metrics", "random_ltd"))
    own.check_keys(("metrics", "total_steps"), "curriculum")
    own.check_keys(("require_steps",), "random_ltd")
    model = model or str(_need(own, "model"))
    model_file = read_toml(catalogue.model_path(model))
    model_file.check_keys(("architecture", "flags"))
    architecture = _need(model_file, "architecture")
    check_known([str(architecture)], catalogue.families, f"{model_file.path.name}: architecture")
    shared = read_toml(catalogue.families[str(architecture)])
    shared.check_keys(PRETRAINING_KEYS)
    for file in (shared, model_file, own):
        file.check_keys(KNOWN_FLAGS, "flags")
    curriculum = own.content.get("curriculum", {})
    dropping = own.content.get("random_ltd")
    known_metrics = shared.content.get("metrics", {})
    chosen = curriculum.get("metrics", [])
    check_known(chosen, known_metrics, f"{own.path.name}: [curriculum] metrics")
    own.check_keys(chosen, "metrics")
    if bool(chosen) != ("total_steps" in curriculum):
        raise ConfigError(f"{own.path.name}: [curriculum] needs both metrics and total_steps")
    return Recipe(
        name=own.path.stem,
        title=own.comment[0] if own.comment else own.path.stem,
        result=own.remark("Result"),
        architecture=architecture,
        model=model,
        flags={
            **shared.content.get("flags", {}),
            **model_file.content.get("flags", {}),
            **own.content.get("flags", {}),
        },
        warmup_steps=shared.content.get("warmup_steps"),
        num_checkpoints=shared.content.get("num_checkpoints", 1),
        metrics={
            metric: {**known_metrics[metric], **own.content.get("metrics", {}).get(metric, {})}
            for metric in chosen
        },
        curriculum_steps=curriculum.get("total_steps"),
        random_ltd=None
        if dropping is None
        else {**shared.content.get("random_ltd", {}), **dropping},
        json=shared.content.get("json", {}),
    )


def _need(file: TomlFile, key: str) -> Any:
    if key not in file.content:
        raise ConfigError(f"{file.path.name}: {key} is missing")
    return file.content[key]
