"""The JSON object in DeepSpeed's form <-> a run's settings and the sections that are no settings.

A key that is a setting lives in the setting alone: `settings_of` takes it out of a file that was read,
`engine_json` writes it into the object that an engine, or DeepSpeed by itself, gets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_efficiency import ConfigError
from data_efficiency.config import filled_random_ltd, paces_length
from megatron.config import AnyRunConfig, RunConfig
from megatron.nested_keys import copied, merged, put, value_at
from megatron.stages import without_stages

SETTINGS_OF_KEYS = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_clipping": "clip_grad",
    "bf16.enabled": "bf16",
    "fp16.enabled": "fp16",
    "data_efficiency.seed": "seed",
    "data_efficiency.data_sampling.num_workers": "num_workers",
    "data_efficiency.data_sampling.curriculum_learning.enabled": "data_efficiency_curriculum_learning",
    "data_efficiency.data_routing.random_ltd.enabled": "random_ltd",
}
"""Dotted key of the JSON file -> field of the settings."""
_SAMPLING, _ROUTING = "data_efficiency.data_sampling", "data_efficiency.data_routing"
METRICS = f"{_SAMPLING}.curriculum_learning.curriculum_metrics"
BATCH_SIZE = f"{_SAMPLING}.batch_size"
BUCKETS = f"{_SAMPLING}.length_buckets"
PASS_SAMPLES = f"{_SAMPLING}.curriculum_learning.order.pass_samples"
DROPPING = f"{_ROUTING}.random_ltd"
BAGS = f"{_ROUTING}.token_superposition"


def settings_of(content: Mapping[str, Any], place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings among the keys of a JSON object, and what is left of it.

    Args:
        place: what to call the object in an error.

    Raises:
        ConfigError: for a section that flags stand for here.
    """
    for section in ("optimizer", "scheduler"):
        if content.get(section):
            raise ConfigError(
                f"{place} has the section {section!r}: optimizer and learning rate are set by flags here "
                "(--lr and the like); remove it"
            )
    found: dict[str, Any] = {}
    left = copied(content)
    for key, setting in SETTINGS_OF_KEYS.items():
        parents, _, last = key.rpartition(".")
        section = value_at(left, parents) if parents else left
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{place}: {parents} must be a JSON object, not {section!r}")
        if section and last in section:
            value = section.pop(last)
            if value != "auto":
                found[setting] = value
    legacy = left.get("curriculum_learning")
    if isinstance(legacy, dict) and legacy.setdefault("enabled", False) is True:
        # Without the key it follows the setting, as the other switches do.
        found["data_efficiency_curriculum_learning"] = legacy.pop("enabled")
    return found, left


def engine_json(
    config: AnyRunConfig,
    num_processes: int | None = None,
    *,
    num_layers: int | None = None,
    length: int | None = None,
) -> dict[str, Any]:
    """The whole object: sections with the settings in them, and each "auto" that follows from these.

    Args:
        num_processes: data-parallel ones, for the accumulation steps; None leaves these out.
        num_layers: of the model, where the settings do not say it; else an "auto" that needs it stays.
        length: of a sample, likewise.

    Raises:
        ConfigError: for accumulation steps that the batch sizes contradict.
    """
    if isinstance(config, RunConfig):
        config = without_stages(config, engine_json)
    training = config.training
    sections = merged(config.engine, config.deepspeed if training.deepspeed else {})
    content: dict[str, Any] = copied({"data_efficiency": config.data_efficiency, **sections})
    if training.fsdp:
        _put_stage(content, training.fsdp)
    _put_tensor_size(content, getattr(training, "tensor_model_parallel_size", 1))
    _put_buckets(content, config)
    _put_ramp(content, getattr(training, "rampup_batch_size", ()), training.batch_size)
    for precision in ("fp16", "bf16"):
        if not getattr(training, precision):
            content.pop(precision, None)
    for key, value in _values(content, config):
        put(content, key, value)
    if num_processes is not None:
        _put_accumulation(content, config, num_processes)
    _put_outer_switches(content)
    _put_autos(content, config, num_layers, length)
    return content


def _put_autos(
    content: dict[str, Any], config: AnyRunConfig, num_layers: int | None, length: int | None
) -> None:
    """Write what each "auto" means, as far as it is known."""
    settings = {**vars(config.model), **vars(config.data)}
    num_layers = num_layers or settings.get("num_layers")
    length = length or settings.get("seq_length")
    autos = dict(_auto_values(content, settings.get("difficulty"), length))
    if isinstance(config, RunConfig):
        _refuse_unknown_pass(content)
        autos[PASS_SAMPLES] = _samples_of(config, value_at(content, BAGS) or {})
        autos[f"{BUCKETS}.pass_steps"] = config.num_whole_steps
    for key, value in autos.items():
        if value is not None and value_at(content, key) == "auto":
            put(content, key, value)
    dropping = value_at(content, DROPPING)
    if value_at(dropping, "enabled"):
        filled = filled_random_ltd(dropping, num_layers=num_layers, mask_name=None, length=length)
        put(content, DROPPING, filled)


def _values(content: dict[str, Any], config: AnyRunConfig) -> Iterator[tuple[str, Any]]:
    """Dotted key -> the setting that stands there; a precision has a section only where it is on."""
    settings = {**vars(config.data), **vars(config.training)}
    settings["global_batch_size"] = config.training.batch_size
    curriculum = bool(settings["data_efficiency_curriculum_learning"])
    legacy = content.get("curriculum_learning") or {}
    is_older_section = bool(legacy) and "enabled" not in legacy
    if is_older_section:
        legacy["enabled"] = curriculum
    for key, name in SETTINGS_OF_KEYS.items():
        if name not in settings:
            continue
        value = settings[name]
        if name == "data_efficiency_curriculum_learning":
            value = curriculum and (not is_older_section or bool(value_at(content, METRICS)))
        if value or name not in ("fp16", "bf16"):
            yield key, False if value is None else value


def _put_stage(content: dict[str, Any], stage: int) -> None:
    """Write the stage of sharding that a flag says."""
    written = value_at(content, "zero_optimization.stage")
    if written not in (None, "auto", stage):
        raise ConfigError(
            f"zero_optimization.stage is {written!r}, but --fsdp is {stage}: make them equal, leave out the flag, or "
            'write "auto" in the file'
        )
    put(content, "zero_optimization.stage", stage)


def _put_ramp(content: dict[str, Any], ramp: Sequence[int], end: int) -> None:
    """Write the batch sizes of `--rampup-batch-size`, stage by stage.

    Source: Megatron-LM's `RampupBatchsizeNumMicroBatchesCalculator`: of n increments the k-th comes once k/n of the samples
    were consumed.
    """
    if not ramp:
        return
    if value_at(content, BATCH_SIZE) is not None:
        raise ConfigError(
            f"{BATCH_SIZE} is written in the file, and --rampup-batch-size is given: remove one of the two"
        )
    start, increment, samples = ramp
    sizes = [*range(start, end + 1, increment)]
    if len(sizes) == 1:
        return
    last = [-(-samples * number // (len(sizes) - 1)) - 1 for number in range(1, len(sizes))]
    if sorted(set(last)) != last:
        raise ConfigError(
            f"--rampup-batch-size is {' '.join(map(str, ramp))}: {samples} samples are fewer than {len(last)} increments: "
            "give more samples, or larger increments"
        )
    stages = {"difficulty": sizes, "max_step": last}
    section = {"min_value": start, "max_value": end, "counter": "samples"}
    put(
        content,
        BATCH_SIZE,
        {**section, "schedule_type": "fixed_discrete", "schedule_config": stages},
    )


def _put_buckets(content: dict[str, Any], config: AnyRunConfig) -> None:
    """Write the lengths of the pieces that documents are cut into.

    Raises:
        ConfigError: if others are written.
    """
    if not isinstance(config, RunConfig) or config.data.shortest_piece is None:
        return
    lengths, written = list(config.data.piece_lengths), value_at(content, f"{BUCKETS}.lengths")
    if written not in (None, lengths):
        raise ConfigError(
            f"{BUCKETS}.lengths is {written}, but --shortest-piece and --seq-length make {lengths}: remove the key"
        )
    put(content, f"{BUCKETS}.lengths", lengths)


def with_rows_of_buckets(config: RunConfig, sizes: Sequence[int]) -> RunConfig:
    """The run with the number of rows of each bucket, where it has some, for what is planned of it.

    Raises:
        ConfigError: if it has none.
    """
    if config.data.shortest_piece is None:
        raise ConfigError(
            f"{len(sizes)} numbers of samples are given, and rows have one length: give one, or --shortest-piece"
        )
    section = copied(config.data_efficiency)
    put(section, "data_sampling.length_buckets.sizes", list(sizes))
    return replace(config, data_efficiency=section)


def with_buckets_of(config: RunConfig, dataset: Any) -> RunConfig:
    """The run with the number of rows of each bucket that its training data have; as it is where they have none."""
    if getattr(dataset, "part_lengths", None) is None:
        return config
    return with_rows_of_buckets(config, dataset.part_sizes)


def _put_tensor_size(content: dict[str, Any], size: int) -> None:
    """Write how many processes share each layer, which a flag says."""
    written = value_at(content, "tensor_parallel.autotp_size")
    if written not in (None, 0, "auto", size):
        raise ConfigError(
            f"tensor_parallel.autotp_size is {written!r}, but --tensor-model-parallel-size is {size}: give the flag, "
            "which pretraining has, or remove the section"
        )
    if size > 1:
        put(content, "tensor_parallel.autotp_size", size)
    else:
        content.pop("tensor_parallel", None)


def _put_accumulation(content: dict[str, Any], config: AnyRunConfig, num_processes: int) -> None:
    """Write the accumulation steps, which follow from the batch sizes."""
    training = config.training
    steps = training.batch_size // (training.micro_batch_size * num_processes)
    written = content.get("gradient_accumulation_steps", "auto")
    if written not in ("auto", steps):
        raise ConfigError(
            f"gradient_accumulation_steps is {written}, but --global-batch-size ({training.batch_size}) / "
            f"--micro-batch-size ({training.micro_batch_size}) / processes ({num_processes}) is {steps}: "
            "remove it"
        )
    content["gradient_accumulation_steps"] = steps


def _refuse_unknown_pass(content: Mapping[str, Any]) -> None:
    metrics = (value_at(content, METRICS) or {}).values()
    changing = {
        "constant_tokens": any(value_at(metric, "constant_tokens") is True for metric in metrics),
        "length_buckets": value_at(content, BUCKETS) is not None,
        "batch_size": value_at(content, BATCH_SIZE) is not None,
    }
    found = [name for name, changes in changing.items() if changes]
    if found and value_at(content, PASS_SAMPLES) == "auto":
        raise ConfigError(
            f"{PASS_SAMPLES} is 'auto', and {found[-1]} changes how many samples a step draws: give the number that the "
            "run draws (tools/plan.py shows it)"
        )


def _samples_of(config: RunConfig, bags: Mapping[str, Any]) -> int:
    """The samples that whole rows fill the budget with, of which a row of bags takes several."""
    training, steps = config.training, config.num_whole_steps
    size, num_steps = bags.get("bag_size"), bags.get("num_steps")
    drawn = steps * training.batch_size
    if bags.get("enabled") is not True or bags.get("bags") == "output":
        return drawn
    if type(size) is not int or type(num_steps) is not int:
        return drawn
    longer = drawn + min(steps, num_steps) * (size - 1) * training.batch_size
    budgets = [] if training.train_samples is None else [training.train_samples]
    if training.train_tokens is not None and training.token_counter == "corpus":
        budgets.append(-(-training.train_tokens // config.data.seq_length))
    # A budget of samples or corpus tokens is used up sooner, by rows of bags.
    return min([longer, *budgets])


def _auto_values(
    content: Mapping[str, Any], difficulty: str | None, length: int | None
) -> Iterator[tuple[str, Any]]:
    """Dotted key of a metric -> what "auto" means there."""
    for name, metric in (value_at(content, METRICS) or {}).items():
        if difficulty is not None:
            yield f"{METRICS}.{name}.index_path", f"{difficulty}/{name}"
        if paces_length(name, metric):
            yield f"{METRICS}.{name}.max_difficulty", length


def _put_outer_switches(content: dict[str, Any]) -> None:
    """Write the three outer `enabled`, which repeat the inner ones, where they are not written."""
    section = content["data_efficiency"]
    curriculum = value_at(content, f"{_SAMPLING}.curriculum_learning.enabled")
    sampling = section["data_sampling"]
    samples = curriculum or any(
        sampling.get(key) is not None for key in ("mix", "feedback", "batch_size", "length_buckets")
    )
    routes = [value_at(route, "enabled") is True for route in section["data_routing"].values()]
    section.setdefault("enabled", samples or any(routes))
    section["data_sampling"].setdefault("enabled", samples)
    section["data_routing"].setdefault("enabled", any(routes))
