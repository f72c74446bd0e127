"""What a host's own settings must agree on with the JSON file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from data_efficiency.config import Config, DataEfficiencyConfig
from data_efficiency.engine.sections import HARMLESS, is_off
from data_efficiency.json_section import ConfigError


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """How a host splits and reads its steps; fields are called as in the JSON file."""

    host: str
    """Its name, for messages."""
    train_micro_batch_size_per_gpu: int
    gradient_accumulation_steps: int = 1
    dataloader_drop_last: bool = False
    num_workers: int = 0
    pin_memory: bool = False
    gradient_clipping: float | None = None
    """None: the host's script clips by itself, if at all."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Field -> how the host calls it, where that is another name."""


def settings_of_loader(
    loader: Any,
    host: str,
    gradient_accumulation_steps: int,
    gradient_clipping: float | None = None,
) -> HostSettings:
    """What a script's own DataLoader says, whose dataset and collate function are then read by us.

    Raises:
        TypeError: if it is no `torch.utils.data.DataLoader`.
        ConfigError: if it has something that would be ignored.
    """
    if type(loader) is not DataLoader:
        raise TypeError(
            f"a {type(loader).__name__} is no plain torch.utils.data.DataLoader: give the one that the script "
            f"makes, before {host} has prepared it"
        )
    reasons = {
        f"it draws by {type(loader.sampler).__name__}, which the curriculum would replace: leave sampler out": (
            not isinstance(loader.sampler, RandomSampler | SequentialSampler)
        ),
        "it has a batch_sampler of its own: give batch_size": loader.batch_size is None,
        "it has a worker_init_fn: let the dataset make what it draws from the sample's number": (
            loader.worker_init_fn is not None
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(f"the DataLoader cannot be taken over: {reason}")
    assert loader.batch_size is not None
    return HostSettings(
        host=host,
        train_micro_batch_size_per_gpu=loader.batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        dataloader_drop_last=loader.drop_last,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        gradient_clipping=gradient_clipping,
        names={"train_micro_batch_size_per_gpu": "batch_size", "dataloader_drop_last": "drop_last"},
    )


def refuse_disagreement(config: Config, settings: HostSettings, data_parallel_size: int) -> None:
    """Raise ConfigError, naming everything in which the JSON file and the host differ.

    A key that the file does not give, or gives as "auto", is the host's to say.
    """
    wrong = [*_different_values(config, settings, data_parallel_size)]
    wrong += [
        f"{name} is in the file, and {settings.host} has its own"
        for name, content in config.engine_sections.items()
        if name not in HARMLESS and not is_off(name, content)
    ]
    if wrong:
        raise ConfigError(
            f"{'; '.join(wrong)}: make them equal, or leave to {settings.host} what is its own"
        )


def refuse_what_needs_our_step(config: DataEfficiencyConfig, host: str) -> None:
    """Raise ConfigError for what cannot be carried out where a host takes the steps."""
    alike = f"which {host} counts as always alike"
    for is_on, reason in (
        (
            config.feedback is not None,
            f"data_sampling.feedback follows the losses of rows, which {host} does not tell",
        ),
        (
            config.length_buckets is not None,
            f"data_sampling.length_buckets changes the rows of a batch, {alike}",
        ),
        (config.has_constant_tokens, f"constant_tokens changes the rows of a batch, {alike}"),
        (
            config.batch_size is not None,
            f"data_sampling.batch_size changes the samples of a step, {alike}",
        ),
    ):
        if is_on:
            raise ConfigError(f"{reason}: train by engine.train_step, or remove it")


def _different_values(
    config: Config, settings: HostSettings, data_parallel_size: int
) -> Iterator[str]:
    micro, steps = settings.train_micro_batch_size_per_gpu, settings.gradient_accumulation_steps
    product = micro * steps * data_parallel_size
    if config.train_batch_size not in (None, product):
        yield (
            f"train_batch_size is {config.train_batch_size} in the file and {product} for "
            f"{settings.host} ({micro} x {steps} accumulation steps x {data_parallel_size} processes)"
        )
    reading = config.data_efficiency
    given: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "dataloader_drop_last": config.dataloader_drop_last or None,
        "num_workers": reading.num_workers or None,
        "pin_memory": reading.pin_memory or None,
        "gradient_clipping": config.gradient_clipping or None,
    }
    for name, value in given.items():
        own = getattr(settings, name)
        if value is not None and own is not None and value != own:
            yield (
                f"{name} is {value!r} in the file and {own!r} for {settings.host} "
                f"({settings.names.get(name, name)})"
            )
