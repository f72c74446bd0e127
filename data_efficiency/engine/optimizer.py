"""The optimizer of the PyTorch engine, and which weights it updates."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from data_efficiency.json_section import ConfigError, Section


def make_optimizer(
    module: torch.nn.Module,
    optimizer: Any,
    chosen: list[Any] | None,
    description: Mapping[str, Any] | None,
) -> torch.optim.Optimizer | None:
    """The client's optimizer, or the AdamW that the JSON describes; None where there is neither.

    "Adam" means decoupled weight decay too, as DeepSpeed's Adam does by default.

    Args:
        optimizer: one, or a function that makes one of the parameters.
        chosen: what to optimize; None: all parameters of the module that require a gradient.
        description: the JSON section `optimizer`.

    Raises:
        ConfigError: for two optimizers, or a description that is not understood.
    """
    if optimizer is not None and description:
        raise ConfigError("an optimizer is given to initialize and in the JSON: remove one of them")
    if chosen is None:
        chosen = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if optimizer is not None:
        if isinstance(optimizer, torch.optim.Optimizer):
            return optimizer
        made: torch.optim.Optimizer = optimizer(chosen)
        return made
    if not description:
        return None
    section = Section(description, "optimizer")
    section.choice("type", ("Adam", "AdamW"))
    params = section.section("params")
    made = torch.optim.AdamW(
        chosen,
        lr=params.number("lr", 1e-3, at_least=0.0),
        betas=tuple(params.take("betas", (0.9, 0.999))),
        eps=params.number("eps", 1e-8, at_least=0.0),
        weight_decay=params.number("weight_decay", 0.0, at_least=0.0),
        fused=True,
    )
    params.close()
    section.close()
    return made


def updated_by(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The tensors that an optimizer updates."""
    for group in optimizer.param_groups:
        yield from group["params"]


def refuse_foreign_weights(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.Tensor], model: str
) -> None:
    """Raise ValueError if an optimizer updates what is none of a model's weights.

    Args:
        weights: name -> weight.
        model: its class.
    """
    own = set(map(id, weights.values()))
    for tensor in updated_by(optimizer):
        if id(tensor) not in own:
            raise ValueError(
                f"the optimizer updates a tensor of shape {tuple(tensor.shape)} that is no parameter of the {model}: its "
                "gradient would be neither clipped nor averaged over processes; make it a parameter of the model, and the "
                "optimizer of this model's parameters"
            )


def refuse_unreached_weights(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if no gradient reached a trained weight.

    DistributedDataParallel waits for it: gradients of other weights that travel along stay each process's own, without a
    word before the next forward, whose advice nobody here can follow.

    Args:
        weights: name -> weight.
    """
    unreached = [name for name, one in weights.items() if one.requires_grad and one.grad is None]
    if unreached:
        more = f" and {len(unreached) - 1} more" if len(unreached) > 1 else ""
        raise ValueError(
            f"no gradient reached {unreached[0]}{more}, and processes average gradients once all are there: switch "
            "requires_grad off for what the loss does not need, or take zero_optimization.stage 2"
        )
