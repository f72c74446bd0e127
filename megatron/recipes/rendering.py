"""A recipe on a machine: the flags of the entry script and the content of the JSON file."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_efficiency import ConfigError, load_config, planned_totals
from megatron.arguments import flag_name, make_parser, run_config_from
from megatron.config import RunConfig
from megatron.recipes.recipe import LENGTH_METRICS, Recipe
from megatron.run_state import model_shape

Engine = Literal["torch", "deepspeed"]
# The PyTorch engine refuses what only DeepSpeed does.
DEEPSPEED_ONLY = ("prescale_gradients", "zero_optimization")


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A run that can be started: script, flags, JSON."""

    script: str
    flags: Mapping[str, Any]
    json: Mapping[str, Any]

    def arguments(self, json_file: str) -> list[str]:
        """The command line after the script's name."""
        words: list[str] = []
        for name, value in {**self.flags, "deepspeed_config": json_file}.items():
            flag = flag_name(name)
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag.removeprefix('--')}")
            elif isinstance(value, (list, tuple)):
                words += [flag, *map(str, value)]
            elif value is not None:
                words += [flag, str(value)]
        return words

    def command(self, json_file: str) -> str:
        """The command as a shell reads it, one flag a line."""
        lines: list[str] = [self.script]
        for word in self.arguments(json_file):
            if word.startswith("--"):
                lines.append(word)
            else:
                lines[-1] += " " + shlex.quote(word)
        return " \\\n    ".join(lines)

    def json_text(self) -> str:
        """The JSON file's content."""
        return json.dumps(self.json, indent=2) + "\n"

    def config(self) -> RunConfig:
        """The settings as the entry script will read them.

        Raises:
            ConfigError: for JSON that is not understood.
            ValueError: for flags that break a rule.
        """
        load_config(self.json)
        arguments = self.arguments("ds_config.json")
        if "data_path" not in self.flags:
            arguments += ["--data-path", "corpus"]
        return run_config_from(make_parser(self.script).parse_args(arguments))


def prepare_run(
    recipe: Recipe,
    *,
    num_processes: int,
    difficulty: str = "difficulty",
    engine: Engine | None = None,
    flags: Mapping[str, Any] | None = None,
) -> PreparedRun:
    """The recipe for so many processes.

    Args:
        difficulty: folder that holds the difficulty indexes, one a metric.
        flags: more flags, or others: paths, a seed.

    Raises:
        ConfigError: if the processes cannot share the global batch, or a value is not understood.
    """
    merged = {**recipe.flags, **(flags or {})}
    if engine is not None:
        merged["deepspeed"] = engine == "deepspeed"
    merged["data_efficiency_curriculum_learning"] = bool(recipe.metrics)
    merged["random_ltd"] = recipe.random_ltd is not None
    merged["micro_batch_size"] = _micro_batch_size(merged, num_processes)
    merged.setdefault("save_interval", max(1, recipe.full_length_steps // recipe.num_checkpoints))
    if merged.get("save") and "load" not in merged:
        merged |= {"load": merged["save"], "allow_missing_checkpoint": True}
    content = _json_content(recipe, merged, difficulty)
    run = PreparedRun(script=f"pretrain_{recipe.architecture}.py", flags=merged, json=content)
    if recipe.warmup_steps is None:
        return run
    # The learning rate has one clock: what the first steps add to it is known beforehand.
    warmup = planned_totals(
        load_config(content),
        model=model_shape(run.config().model),
        sequence_length=merged["seq_length"],
        num_steps=recipe.warmup_steps,
        data_parallel_size=num_processes,
    )
    warmup_tokens = warmup.layer_tokens // merged["num_layers"]
    return PreparedRun(
        script=run.script, flags={**merged, "lr_warmup_tokens": warmup_tokens}, json=content
    )


def _micro_batch_size(flags: Mapping[str, Any], num_processes: int) -> int:
    """The wanted micro-batch, smaller where there are more processes than it leaves work for."""
    batch = int(flags["global_batch_size"])
    size = min(int(flags["micro_batch_size"]), max(1, batch // num_processes))
    if batch % (size * num_processes):
        raise ConfigError(
            f"--global-batch-size is {batch}: {num_processes} processes cannot share it in "
            f"micro-batches of {size}; take a number of processes that divides {batch // size}, or "
            "another --micro-batch-size"
        )
    return size


def _json_content(recipe: Recipe, flags: Mapping[str, Any], difficulty: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "train_batch_size": flags["global_batch_size"],
        "gradient_clipping": flags["clip_grad"],
    }
    for name, section in recipe.json.items():
        if name in DEEPSPEED_ONLY and not flags.get("deepspeed"):
            continue
        content[name] = dict(section) if isinstance(section, Mapping) else section
    for precision in ("fp16", "bf16"):
        if flags.get(precision):
            content[precision] = {"enabled": True, **content.get(precision, {})}
        else:
            content.pop(precision, None)
    sampling: dict[str, Any] = {"enabled": bool(recipe.metrics)}
    if "num_workers" in flags:
        sampling["num_workers"] = flags["num_workers"]
    sampling["curriculum_learning"] = _curriculum(recipe, flags, difficulty)
    content["data_efficiency"] = {
        "enabled": bool(recipe.metrics) or recipe.random_ltd is not None,
        "seed": flags["seed"],
        "data_sampling": sampling,
        "data_routing": {
            "enabled": recipe.random_ltd is not None,
            "random_ltd": _random_ltd(recipe, flags),
        },
    }
    return content


def _curriculum(recipe: Recipe, flags: Mapping[str, Any], difficulty: str) -> dict[str, Any]:
    if not recipe.metrics:
        return {"enabled": False}
    metrics = {}
    for name, written in recipe.metrics.items():
        entry = dict(written)
        if "index_path" in entry:
            entry["index_path"] = f"{difficulty}/{entry['index_path']}"
        if name in LENGTH_METRICS:
            entry.setdefault("max_difficulty", flags["seq_length"])
        entry["schedule_config"] = {
            "total_curriculum_step": recipe.curriculum_steps,
            **entry["schedule_config"],
        }
        metrics[name] = entry
    return {"enabled": True, "curriculum_metrics": metrics}


def _random_ltd(recipe: Recipe, flags: Mapping[str, Any]) -> dict[str, Any]:
    """All layers but the first and the last drop tokens, down from `min_value` to none dropped."""
    if recipe.random_ltd is None:
        return {"enabled": False}
    num_layers = flags["num_layers"]
    schedule = recipe.random_ltd
    return {
        "enabled": True,
        "total_layer_num": num_layers,
        "random_ltd_layer_num": num_layers - 2,
        "random_ltd_layer_id": list(range(1, num_layers - 1)),
        "model_mask_name": "attention_mask",
        "model_type": "decoder" if recipe.architecture == "gpt" else "encoder",
        "hidden_state_order": "batch_seq_dim",
        "random_ltd_schedule": {
            "min_value": schedule["min_value"],
            "max_value": flags["seq_length"],
            "schedule_type": "fixed_linear",
            "schedule_config": {
                "require_steps": schedule["require_steps"],
                "seq_per_step": schedule["seq_per_step"],
            },
        },
    }
