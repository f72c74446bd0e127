"""Weights and optimizer state of a DeepSpeed engine as whole tensors by plain names, and back.

The form is that of the PyTorch engine, so a checkpoint does not depend on the engine, the ZeRO stage
or the number of processes. Where DeepSpeed keeps the float32 copy that the optimizer updates:

- stage 0 in float32: the parameter itself;
- stage 0 in half precision: a copy of each parameter, or one flat tensor a parameter group;
- stages 1 to 3: parts of flat tensors on all processes, put together by DeepSpeed's `safe_get_...`.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import nn

from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors
from data_efficiency.routing.random_ltd import remove_random_ltd_state_dict

_STEP = "step"


def undo_empty_step(engine: deepspeed.DeepSpeedEngine) -> None:
    """Put the optimizer before its first update.

    In half precision without ZeRO, DeepSpeed lets it make its state by an update with gradients of zero.
    It would begin with decayed weights, and with a bias correction that is a step ahead: Adam's first
    updates would be a quarter too small.
    """
    places = None if engine.optimizer is None else _unsharded_places(engine)
    if places is None:
        return
    with torch.no_grad():
        for parameter, place in places.items():
            if place[0] is not parameter:
                _view(place, parameter).copy_(parameter)
    base = engine.basic_optimizer
    base.state.clear()
    for group in base.param_groups:
        if _STEP in group:
            group[_STEP] = 0


def whole_weights(engine: deepspeed.DeepSpeedEngine) -> list[WholeTensor]:
    """Weights in float32, and buffers; a collective call."""
    places = _unsharded_places(engine)
    parameters = dict(engine.module.named_parameters(remove_duplicate=False))
    plain = remove_random_ltd_state_dict(
        {name: (name, tensor) for name, tensor in engine.module.state_dict().items()}
    )
    tensors = []
    for plain_name, (name, own) in plain.items():
        parameter = parameters.get(name)
        if parameter is None:
            tensors += whole_tensors({plain_name: own})
            continue
        if parameter.requires_grad and places is not None:
            tensors += whole_tensors({plain_name: _view(places[parameter], parameter)})
            continue
        whole = WholeTensor(
            name=plain_name,
            shape=_whole_shape(parameter),
            dtype=torch.float32 if parameter.requires_grad else parameter.dtype,
            gather=partial(_gather_weight, parameter, plain_name),
        )
        tensors.append(whole)
    return tensors


def _gather_weight(parameter: nn.Parameter, name: str) -> torch.Tensor:
    if parameter.requires_grad:
        return _found(safe_get_full_fp32_param(parameter), name)
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _gather_state(parameter: nn.Parameter, name: str, key: str) -> torch.Tensor:
    return _found(safe_get_full_optimizer_state(parameter, key), name)


def _whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    # Where ZeRO keeps parts, `ds_shape` is the whole's shape.
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def load_whole_weights(
    engine: deepspeed.DeepSpeedEngine, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Fill parameters, their float32 copies and buffers with the tensors; a collective call."""
    places = _unsharded_places(engine)
    for name, parameter in engine.module.named_parameters():
        value = tensors[name].to(engine.device)
        with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
        if not parameter.requires_grad:
            continue
        if places is not None:
            with torch.no_grad():
                _view(places[parameter], parameter).copy_(value)
        elif _is_partitioned(parameter):
            safe_set_local_fp32_param(parameter, _own_part(engine, parameter, value.float()))
        else:
            safe_set_full_fp32_param(parameter, value.float())
    for name, buffer in engine.module.named_buffers():
        if name in tensors:
            buffer.copy_(tensors[name])


def whole_optimizer_state(engine: deepspeed.DeepSpeedEngine) -> list[WholeTensor]:
    """`<weight>.<name of the state>`, in float32 where ZeRO keeps parts; a collective call."""
    _link_state(engine)
    places = _unsharded_places(engine)
    state = engine.basic_optimizer.state
    keys = sorted(
        {key for entry in state.values() for key, value in entry.items() if _is_elementwise(value)}
    )
    step = torch.tensor(float(_step_count(engine)))
    tensors = []
    for name, parameter in _trainable(engine):
        if keys:
            tensors += whole_tensors({f"{name}.{_STEP}": step})
        for key in keys:
            if places is not None:
                owner, start = places[parameter]
                tensors += whole_tensors(
                    {f"{name}.{key}": _view((state[owner][key], start), parameter)}
                )
                continue
            whole = WholeTensor(
                name=f"{name}.{key}",
                shape=_whole_shape(parameter),
                dtype=torch.float32,
                gather=partial(_gather_state, parameter, name, key),
            )
            tensors.append(whole)
    return tensors


def load_whole_optimizer_state(
    engine: deepspeed.DeepSpeedEngine, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Fill the optimizer's state with the tensors; a collective call."""
    if not tensors:
        return
    keys = sorted({full_name.rpartition(".")[2] for full_name in tensors} - {_STEP})
    steps = {float(value) for name, value in tensors.items() if name.endswith(f".{_STEP}")}
    if len(steps) > 1:
        raise ValueError(f"the parameters were updated {sorted(steps)} times: must be equal")
    missing = [name for name, _ in _trainable(engine) if f"{name}.{_STEP}" not in tensors]
    if missing:
        raise ValueError(f"the optimizer's state lacks that of {missing[0]}, which DeepSpeed needs")
    _make_state(engine, keys, int(max(steps, default=0.0)))
    places = _unsharded_places(engine)
    state = engine.basic_optimizer.state
    for name, parameter in _trainable(engine):
        for key in keys:
            value = tensors[f"{name}.{key}"].to(engine.device)
            if places is not None:
                owner, start = places[parameter]
                _view((state[owner][key], start), parameter).copy_(value)
            elif _is_partitioned(parameter):
                part = _own_part(engine, parameter, value)
                safe_set_local_optimizer_state(parameter, part, key)
            else:
                safe_set_full_optimizer_state(parameter, value, key)


def loss_scale_state(optimizer: Any) -> dict[str, float | int] | None:
    """The float16 loss scale as `LossScale.state_dict` gives it; None in other precisions."""
    scaler = _scaler(optimizer)
    if scaler is None:
        return None
    return {
        "value": float(scaler.cur_scale),
        "tolerated": int(getattr(scaler, "cur_hysteresis", 1)),
        "since_overflow": scaler.cur_iter - scaler.last_overflow_iter - 2,
    }


def load_loss_scale(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Let the loss scale go on from a saved state, where there is one."""
    scaler = _scaler(optimizer)
    if scaler is None:
        return
    scaler.cur_scale = float(saved["value"])
    scaler.last_overflow_iter = -1
    scaler.cur_iter = int(saved["since_overflow"]) + 1
    if hasattr(scaler, "cur_hysteresis"):
        scaler.cur_hysteresis = int(saved["tolerated"])


def _scaler(optimizer: Any) -> Any:
    """DeepSpeed's dynamic loss scaler; None where the scale is constant."""
    found = getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)
    return found if getattr(found, "last_overflow_iter", None) is not None else None


def _trainable(engine: deepspeed.DeepSpeedEngine) -> Iterable[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]


def _is_elementwise(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _found(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    if tensor is None:
        raise ValueError(f"DeepSpeed keeps no float32 copy of {name}: its state cannot be saved")
    return tensor


def _unsharded_places(
    engine: deepspeed.DeepSpeedEngine,
) -> dict[nn.Parameter, tuple[torch.Tensor, int]] | None:
    """Parameter -> (tensor that the optimizer updates, place of its first number); None if sharded."""
    if engine.zero_optimization():
        return None
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_groups_flat"):
        places = {}
        for group, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            start = 0
            for parameter in group:
                places[parameter] = (flat, start)
                start += parameter.numel()
        return places
    if hasattr(optimizer, "fp32_groups"):
        pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        return {
            parameter: (copy, 0)
            for group, copies in pairs
            for parameter, copy in zip(group, copies, strict=True)
        }
    return {parameter: (parameter, 0) for _, parameter in _trainable(engine)}


def _view(place: tuple[torch.Tensor, int], parameter: nn.Parameter) -> torch.Tensor:
    owner, start = place
    return owner.flatten().narrow(0, start, parameter.numel()).view(parameter.shape)


def _is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO stage 3 keeps only a part of it on each process."""
    return hasattr(parameter, "ds_id")


def _own_part(
    engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, value: torch.Tensor
) -> torch.Tensor:
    """The part of a whole tensor that this process keeps, the last one filled up with zeros.

    DeepSpeed's own call for whole tensors fails where the parts are not equally long.
    """
    size = safe_get_local_fp32_param(parameter).numel()
    first = engine.ranks.data_parallel_rank * size
    part = value.new_zeros(size)
    own = value.flatten()[first : first + size]
    part[: own.numel()] = own
    return part


def _updated_tensors(engine: deepspeed.DeepSpeedEngine) -> Iterable[torch.Tensor]:
    """The tensors of this process that the optimizer updates."""
    places = _unsharded_places(engine)
    if places is not None:
        return {id(owner): owner for owner, _ in places.values()}.values()
    optimizer = engine.optimizer
    for name in (
        "fp32_partitioned_groups_flat",
        "single_partition_of_fp32_groups",
        "fp32_groups_flat_partition",
    ):
        if hasattr(optimizer, name):
            found: list[torch.Tensor] = getattr(optimizer, name)
            return found
    raise ValueError(
        f"{type(optimizer).__name__} of DeepSpeed is not known: no state can be loaded"
    )


def _step_count(engine: deepspeed.DeepSpeedEngine) -> int:
    """Updates so far by the optimizer's own count, which the state or the groups keep."""
    base = engine.basic_optimizer
    for entry in (*base.state.values(), *base.param_groups):
        if _STEP in entry:
            return int(entry[_STEP])
    return int(engine.global_steps - engine.skipped_steps)


def _make_state(engine: deepspeed.DeepSpeedEngine, keys: Iterable[str], step: int) -> None:
    """Give the optimizer a state of zeros for each tensor it updates, and the step count.

    Optimizers make their state in their first step, which a resumed run has yet to take.
    """
    base = engine.basic_optimizer
    is_torch = type(base).__module__.startswith("torch.")
    for tensor in _updated_tensors(engine):
        state = base.state[tensor]
        on_device = base.defaults.get("fused") or base.defaults.get("capturable")
        device = tensor.device if on_device else torch.device("cpu")
        state[_STEP] = torch.tensor(float(step), device=device) if is_torch else step
        for key in keys:
            state[key] = torch.zeros_like(tensor, requires_grad=False)
    for group in base.param_groups:
        if _STEP in group:
            group[_STEP] = step
    _link_state(engine)


def _link_state(engine: deepspeed.DeepSpeedEngine) -> None:
    """Let parameters find their parts of the optimizer's state.

    DeepSpeed links once, when only the first parameter group has made its state.
    """
    if hasattr(engine.optimizer, "_hp_optimizer_states_linked"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
