"""`initialize`: model, data and JSON in; an engine and its curriculum-aware loader out."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from data_efficiency.accounting import ModelShape
from data_efficiency.config import Config, ConfigSource, load_config
from data_efficiency.engine.ranks import start_ranks
from data_efficiency.engine.torch_engine import TorchEngine
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.row_length import closed_by_rows

if TYPE_CHECKING:
    # It takes longer to import than all the rest.
    from data_efficiency.engine.tensor_parallel import TensorParallel


def initialize(  # noqa: PLR0913 - the published signature
    args: Any = None,
    model: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | Callable[[Any], torch.optim.Optimizer] | None = None,
    model_parameters: Iterable[Any] | None = None,
    training_data: Any = None,
    lr_scheduler: Any = None,
    distributed_port: int = 29500,
    mpu: Any = None,
    dist_init_required: bool | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    config: ConfigSource | None = None,
    mesh_param: Any = None,
    config_params: ConfigSource | None = None,
    *,
    engine: Literal["torch", "deepspeed"] | None = None,
    model_shape: ModelShape | None = None,
    bf16_weights: bool = False,
    tensor_parallel: "TensorParallel | None" = None,
) -> tuple[Any, Any, Any, Any]:
    """Engine, optimizer, training data loader and learning-rate scheduler, as DeepSpeed's `initialize`.

    Args:
        args: its attribute `deepspeed_config` names the JSON file, if `config` does not.
        model: the module to train; it is moved to the accelerator, if there is one.
        optimizer: one, or a function that makes one of the parameters; None: as the JSON describes.
        model_parameters: what to optimize; all parameters that require a gradient if None.
        training_data: map-style dataset that the loader reads; None: no loader is made.
        lr_scheduler: object with `step()`, or a function that makes one of the optimizer.
        distributed_port, dist_init_required: not used: launchers set it, an existing group is taken.
        mpu, mesh_param: refused: the mesh is made here (`zero_optimization` spreads what one device cannot hold over the
            data-parallel processes, `tensor_parallel` cuts it).
        collate_fn: items of the dataset -> batch; PyTorch's default if None.
        config, config_params: whatever `load_config` takes; the second is the older name.
        engine: "torch" or "deepspeed"; None: the second if `args.deepspeed` is true.
        model_shape: for layer tokens and FLOPs; without it no FLOPs, and random-LTD's layers, or one.
        bf16_weights: with bf16, bfloat16 weights and residual stream beside float32 masters, as DeepSpeed has.
        tensor_parallel: how the model is cut where `tensor_parallel.autotp_size` in the JSON is above 1.

    Raises:
        ConfigError, ValueError: for JSON that is not understood, a foreign index, or refused arguments.
    """
    if model is None:
        raise ValueError("model is None: initialize needs the module to train")
    _refuse_mesh(mpu, mesh_param)
    given = _first_given(config, config_params, getattr(args, "deepspeed_config", None))
    source = _closed(load_config(given), training_data)
    if engine is None:
        engine = "deepspeed" if getattr(args, "deepspeed", False) else "torch"
    made = _maker(engine, source, bf16_weights, tensor_parallel)(
        module=model,
        optimizer=optimizer,
        parameters=model_parameters,
        training_data=training_data,
        lr_scheduler=lr_scheduler,
        collate_fn=collate_fn,
    )
    made.model_shape = model_shape
    return made, made.optimizer, made.training_dataloader, made.lr_scheduler


def _refuse_mesh(mpu: Any, mesh_param: Any) -> None:
    """Raise ValueError for a mesh of processes that somebody else made."""
    if mpu is not None or mesh_param is not None:
        raise ValueError(
            "mpu and mesh_param are refused: the mesh is made here; give tensor_parallel for a model that is cut"
        )


def _closed(source: Config, training_data: Any) -> Config:
    """The configuration, its lengths closed by the rows that there are."""
    if training_data is None:
        return source
    section = closed_by_rows(source.data_efficiency, training_data)
    return replace(source, data_efficiency=section)


def _refuse_uncut(size: int, tensor_parallel: object, engine: str) -> None:
    """Raise ConfigError where processes shall share each layer, and cannot."""
    if size > 1 and engine != "torch":
        raise ConfigError(
            f"tensor_parallel.autotp_size is {size}, and DeepSpeed's engine holds whole layers here: take the PyTorch "
            "engine, whose FSDP2 (zero_optimization.stage 2 or 3) goes with it"
        )
    if size > 1 and tensor_parallel is None:
        raise ConfigError(
            f"tensor_parallel.autotp_size is {size}, but nothing says how this model is cut: give initialize "
            "tensor_parallel=, or take zero_optimization.stage 3, which needs no knowledge of it"
        )


def _first_given(*sources: Any) -> Any:
    """The first configuration that is not None."""
    for source in sources:
        if source is not None:
            return source
    raise ConfigError("no configuration: give config= or args.deepspeed_config")


def _maker(
    engine: str, config: Config, bf16_weights: bool, tensor_parallel: "TensorParallel | None"
) -> Callable[..., Any]:
    """What makes the engine of a name for a configuration, on the processes that there are."""
    size = config.data_efficiency.row_shares
    _refuse_uncut(size, tensor_parallel, engine)
    make = _class_of(engine)
    more: dict[str, Any] = {}
    if engine == "torch":
        cut = tensor_parallel if size > 1 else None
        more = {"bf16_weights": bf16_weights, "tensor_parallel": cut}
    ranks = start_ranks(always_join=engine == "deepspeed", tensor_parallel_size=size)
    return partial(make, config=config, ranks=ranks, **more)


def _class_of(engine: str) -> Callable[..., Any]:
    if engine not in ("torch", "deepspeed"):
        raise ValueError(f'engine is {engine!r}: must be "torch" or "deepspeed"')
    if engine == "torch":
        return TorchEngine
    try:
        # Imported here, so that nobody needs DeepSpeed who does not ask for it.
        from data_efficiency.engine.deepspeed_engine import make_deepspeed_engine  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the DeepSpeed engine needs a package that is not installed ({error.name}): "
            "pip install 'data-efficiency[deepspeed]'"
        ) from error
    return make_deepspeed_engine
