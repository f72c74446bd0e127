"""What the JSON switches on is carried out by this training, or refused before a step is taken."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.engine.protocol import TokenRouter
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.loader import CurriculumDataLoader


def refuse_idle(
    config: DataEfficiencyConfig,
    router: TokenRouter | None,
    loader: CurriculumDataLoader | None,
    finished_steps: int,
) -> None:
    """Raise ConfigError if something is switched on and nobody carries it out in the coming step.

    Args:
        router: the model's, which routes tokens and rows; None: it was not converted.
        loader: what `initialize` returned; None: it was given no training data.
    """
    if config.layer_routes and router is None:
        routes = " and ".join(config.layer_routes)
        raise ConfigError(
            f"data_routing.{routes} is enabled, but no layer drops tokens or rows: call "
            "convert_to_random_ltd(engine, LayerClass) before the first step, or disable it"
        )
    superposition = config.token_superposition
    is_superposed = superposition is not None and superposition.is_on(finished_steps)
    if not (config.has_curriculum or is_superposed):
        return
    what = "token_superposition" if is_superposed else "the curriculum"
    if loader is None:
        raise ConfigError(
            f"{what} is enabled, but there is no loader that draws by it: give "
            "training_data to initialize and train on the loader that it returns, or disable it"
        )
    if loader.plan is None or loader.plan.batch.step <= finished_steps:
        raise ConfigError(
            f"{what} is enabled, but step {finished_steps + 1} was not read from the "
            "loader that initialize returned: train on its batches, or disable it"
        )


def refuse_unscaled_rate(config: DataEfficiencyConfig) -> None:
    """Raise ConfigError if the learning rate of an engine that follows none should go with the batch size."""
    batch = config.batch_size
    if batch is not None and batch.lr_exponent:
        raise ConfigError(
            f"data_sampling.batch_size.lr_exponent is {batch.lr_exponent}, but the engine does not set the learning rate: "
            "call engine.follow_learning_rate(...) in place of a scheduler, or leave lr_exponent out"
        )


def refuse_ignored_windows(
    windows: Mapping[str, int], module: torch.nn.Module, kwargs: Mapping[str, Any]
) -> None:
    """Raise ConfigError unless a training forward was given the windows of its step, and the model knows them.

    Args:
        windows: what `windows_of` gives.
        module: the model; one that takes any keyword would swallow a window without a word.
        kwargs: of the forward.
    """
    known = inspect.signature(module.forward).parameters if windows else {}
    for name, size in windows.items():
        if name not in known:
            raise ConfigError(
                f"the JSON sets {name}, but {type(module).__name__}.forward has no argument {name}: use a model "
                "that has it (our GPT), or remove the metric"
            )
        if kwargs.get(name) != size:
            raise ConfigError(
                f"the step has an {name} of {size}, but the model was given {kwargs.get(name)!r}: pass the batch's "
                f"entry {name!r} on to the model"
            )
