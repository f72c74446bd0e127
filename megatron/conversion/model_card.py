"""A model's card, the README.md of a Hugging Face folder: what it is, what it saw and how, from its run.

What the run's files say is told, to the checkpoint's step and no further; what they do not say, such as a
licence, is named as missing. Paths of this machine stay here: of each only the last part is shown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_efficiency import ConfigError, DataEfficiencyConfig, load_config
from megatron.arguments import run_config_from
from megatron.checkpoint.model import checkpoint_in
from megatron.config import ModelConfig
from megatron.conversion.hub import card_metadata
from megatron.recipes import SHIPPED, read_run_file, write_run_file
from megatron.reporting import RUN_FILE, RunLog, read_log
from megatron.reporting.run_log import LOG_FILE, Record

CARD_FILE = "README.md"
COUNTERS = {
    "corpus_tokens": "corpus tokens read",
    "loss_tokens": "tokens in the loss",
    "effective_tokens": "effective tokens (layer tokens a layer)",
    "flops": "model FLOPs",
}


@dataclass(frozen=True, kw_only=True)
class CardFields:
    """What no file of a run says, and only its maker knows."""

    license: str | None = None
    """Of the weights, by its name on the hub, such as apache-2.0."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes, such as en."""
    datasets: tuple[str, ...] = ()
    """Names on the hub."""


def model_card(
    name: str, model: ModelConfig, folder: Path, fields: CardFields, *, pipeline: str
) -> str:
    """The text of a model's card.

    Args:
        name: of the model, the card's title.
        folder: the model was read from; a run's says how it was trained, another says nothing.
        pipeline: the hub's name of what the model is for, such as text-generation.

    Raises:
        ValueError: if the run's log is damaged.
    """
    log, step = _log_until(folder)
    lines = [
        f"# {name}",
        "",
        f"{model.num_layers} layers, hidden size {model.hidden_size}, {model.num_attention_heads} heads, "
        f"up to {model.max_position_embeddings:,} positions, a vocabulary of {model.vocab_size:,}.",
        "",
        *_usage(pipeline),
        *(_no_run() if log is None else _training(log, step)),
        *_licence(fields),
        *_run_file(folder),
    ]
    return _header(fields, pipeline, log) + "\n".join(lines) + "\n"


def _log_until(folder: Path) -> tuple[RunLog | None, int]:
    """The log of the run that a folder is or belongs to, without what came after its checkpoint."""
    checkpoint = checkpoint_in(folder)
    if checkpoint is None or not (checkpoint.parent / LOG_FILE).is_file():
        return None, 0
    log = read_log(checkpoint.parent)
    step = int(checkpoint.name.removeprefix("global_step"))

    def before(records: Sequence[Record]) -> tuple[Record, ...]:
        return tuple(record for record in records if record["step"] <= step)

    return replace(log, train=before(log.train), valid=before(log.valid)), step


def _header(fields: CardFields, pipeline: str, log: RunLog | None) -> str:
    """The card's metadata, in YAML, as the hub reads it."""
    tags = ["data-efficiency"]
    if log is not None:
        config = _data_efficiency(log)
        tags += ["curriculum-learning"] if config and config.schedules else []
        tags += [route.replace("_", "-") for route in config.routes] if config else []
    metadata = card_metadata(
        license=fields.license,
        languages=fields.languages,
        datasets=fields.datasets,
        pipeline=pipeline,
        tags=tags,
    )
    return f"---\n{metadata}\n---\n\n"


def _usage(pipeline: str) -> list[str]:
    return [
        "```python",
        "from transformers import pipeline",
        "",
        f'model = pipeline("{pipeline}", model="path/or/name/of/this/folder")',
        "```",
        "",
    ]


def _no_run() -> list[str]:
    return ["How it was trained is not known: it was not converted from a run's folder.", ""]


def _training(log: RunLog, step: int) -> list[str]:
    """What the run's log says, section by section."""
    return [
        *_data(log),
        *_techniques(log),
        *_costs(log, step),
        *_losses(log),
    ]


def _data(log: RunLog) -> Iterator[str]:
    settings, identity = log.start["settings"]["data"], log.start.get("data", {}).get("identity")
    yield from ("## Training data", "")
    parts = [Path(str(part)).name for part in settings.get("data_path") or ()]
    if parts:
        yield f"`{' '.join(parts)}`, split {settings.get('split')}, samples of {log.start['sequence_length']:,} tokens:"
    yield f"{log.start['train_samples_in_dataset']:,} training samples."
    if isinstance(identity, Mapping) and "corpus" in identity:
        yield f"Fingerprint of the tokens: `{identity['corpus'][:16]}`."
    yield ""


def _data_efficiency(log: RunLog) -> DataEfficiencyConfig | None:
    """The run's section; None where another version of this project wrote it, which cannot be read now."""
    try:
        return load_config(
            {"train_batch_size": 1, "data_efficiency": log.start["data_efficiency"]}
        ).data_efficiency
    except ConfigError:
        return None


def _techniques(log: RunLog) -> Iterator[str]:
    yield from ("## Data efficiency", "")
    config = _data_efficiency(log)
    if config is None:
        yield "Its settings are those of another version; the run file below has them."
    elif not config.schedules and not config.routes and config.mix is None:
        yield "No curriculum and no token dropping or other route: a baseline."
    else:
        yield from _of_the_curriculum(config)
        yield from _of_the_routes(config)
    yield ""


def _of_the_curriculum(config: DataEfficiencyConfig) -> Iterator[str]:
    order = "over a random order" if config.random_rank else "easiest samples first"
    if config.order is not None:
        names = ", inside by ".join(f"`{one.name}`" for one in config.selections)
        chance = " over a random order" if config.random_rank else ""
        yield f"- samples sorted by {names}, played {config.order.describe()}{chance}"
    for selection in () if config.order else config.selections:
        window = "" if selection.window_size is None else f", a window of {selection.window_size}"
        yield (
            f"- curriculum `{selection.name}`, {order}: {selection.difficulty_type} "
            f"{selection.schedule.describe()}{window}"
        )
    if config.mix is not None:
        points = ", ".join(
            f"{[round(weight, 3) for weight in weights]} from {point:g} {config.mix.unit} on"
            for weights, point in zip(config.mix.weights, config.mix.points, strict=True)
        )
        yield f"- sources weighted {points}{', linear between' if config.mix.is_linear else ''}"
    for plan in config.length_plans:
        pace = f": length {plan.schedule.describe()}" if plan.follows_schedule else ""
        yield f"- lengths, `{plan.name}` ({plan.action}){pace}"


def _of_the_routes(config: DataEfficiencyConfig) -> Iterator[str]:
    dropping = config.closed_random_ltd
    if dropping is not None:
        yield (
            f"- random-LTD in {dropping.random_ltd_layer_num} of {dropping.total_layer_num} layers: "
            f"{dropping.kept_length_unit} kept {dropping.schedule.describe()}"
            + (f", in spans {[list(span) for span in dropping.spans]}" if dropping.spans else "")
        )
    if config.layer_dropout is not None:
        yield (
            "- layer dropout: percent of the rows that the last layer keeps "
            f"{config.layer_dropout.schedule.describe()}"
        )
    if config.token_superposition is not None:
        bags = config.token_superposition
        yield f"- bags of {bags.bag_size} tokens ({bags.bags}) in the first {bags.num_steps} steps"
    if config.full_from_step is not None:
        yield f"- nothing dropped or skipped from step {config.full_from_step} on"


def _costs(log: RunLog, step: int) -> Iterator[str]:
    yield from ("## Training", "")
    done = max((*log.train, *log.valid), key=lambda record: record["step"], default=None)
    yield f"{step:,} steps of {log.start['global_batch_size']:,} samples."
    if done is not None:
        at = "" if done["step"] == step else f" at step {done['step']:,}"
        for key, words in COUNTERS.items():
            amount = f"{done[key]:.3g}" if key == "flops" else f"{done[key]:,.0f}"
            yield f"- {words}{at}: {amount}"
    made = log.start["environment"]
    yield f"- {made['num_processes']} x {made['device_name']}, PyTorch {made['versions']['torch']}"
    yield ""


def _losses(log: RunLog) -> Iterator[str]:
    if not log.valid:
        return
    names = [key for key in log.valid[-1] if key == "bits_per_byte" or key.endswith("_loss")]
    yield from (
        "## Validation",
        "",
        f"| step | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    )
    # The course of a run in a few lines: first, last, and evenly between.
    count = min(8, len(log.valid))
    chosen = {round(i * (len(log.valid) - 1) / max(1, count - 1)) for i in range(count)}
    for number in sorted(chosen):
        record = log.valid[number]
        cells = ("" if record.get(key) is None else f"{record[key]:.4f}" for key in names)
        yield f"| {record['step']:,} | {' | '.join(cells)} |"
    yield ""


def _licence(fields: CardFields) -> list[str]:
    if fields.license is None:
        return ["## Licence", "", "None was named.", ""]
    return ["## Licence", "", f"{fields.license}, for the weights; the data have their own.", ""]


def _run_file(folder: Path) -> list[str]:
    """The run's settings as a run file that others can use: without its folders."""
    checkpoint = checkpoint_in(folder)
    path = folder if checkpoint is None else checkpoint.parent / RUN_FILE
    if not path.is_file():
        return []
    try:
        layer = read_run_file(SHIPPED, str(path.resolve()))
        config: Any = run_config_from(layer.settings, layer)
    except ValueError as error:
        return ["## Settings", "", f"The run file cannot be read now: {error}", ""]
    bare = {name: type(getattr(config, name))() for name in ("checkpoint", "logging")}
    shown = replace(config, **bare)
    text = write_run_file(shown, "the settings of this model's run, for --config; paths are yours")
    return ["## Settings", "", "```toml", without_folders(text).strip(), "```", ""]


def without_folders(text: str) -> str:
    """A run file's text with the last part of each path only.

    >>> without_folders('data_path = ["0.3", "/data/tokens/wiki", "b"]')
    'data_path = ["0.3", "wiki", "b"]'
    """
    return re.sub(r'"[^"\n]*[/\\]([^"/\\\n]+)"', r'"\1"', text)
