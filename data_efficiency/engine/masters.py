"""Weights in bfloat16 of which the optimizer updates float32 originals, the masters."""

from collections.abc import Mapping

import torch
from torch import nn

from data_efficiency.json_section import ConfigError


def is_half(weight: torch.Tensor) -> bool:
    """Whether a weight has so few digits that small updates of it would be rounded away."""
    return weight.dtype in (torch.bfloat16, torch.float16)


def refuse_half_weights(module: nn.Module, precision: str) -> None:
    """Raise ConfigError if an optimizer would update half-precision weights themselves.

    Args:
        precision: the JSON section that is on, "bf16" or "fp16".
    """
    for name, weight in module.named_parameters():
        if weight.requires_grad and is_half(weight):
            keep = "initialize(..., bf16_weights=True), which keeps float32 originals"
            others = f", or take {keep}" if precision == "bf16" else ""
            raise ConfigError(
                f"{precision}.enabled is true, and {name} is {weight.dtype}: computation is in half precision then, but of "
                "the weights themselves small updates would be rounded away; load the model in float32 "
                f"(from_pretrained(..., dtype=torch.float32)){others}"
            )


class Masters:
    """The float32 originals of a module's trained weights, which become bfloat16 in it, if they are not yet.

    Layers then read, and the residual stream is, bfloat16; a weight is the master rounded to the nearest.
    A gradient goes to the master's, in float32, as soon as a micro-batch has made it.

    Source: Mixed Precision Training (Micikevicius et al., 2018), section 3.1.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._weights = [
            p
            for p in module.parameters()
            if p.requires_grad and (p.dtype == torch.float32 or is_half(p))
        ]
        self._masters = [
            nn.Parameter(weight.detach().to(torch.float32, copy=True)) for weight in self._weights
        ]
        self._of = dict(zip(map(id, self._weights), self._masters, strict=True))
        for weight in self._weights:
            weight.data = weight.data.to(torch.bfloat16)

    def put_into(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer update the masters instead of the weights.

        Raises:
            ValueError: if it has made steps already.
        """
        if optimizer.state:
            raise ValueError("the optimizer has a state already: give initialize a new one")
        for group in optimizer.param_groups:
            group["params"] = [self._of.get(id(one), one) for one in group["params"]]

    def take_gradients(self) -> None:
        """Add the weights' gradients to those of the masters, and free them."""
        for weight, master in zip(self._weights, self._masters, strict=True):
            if weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad += weight.grad
            weight.grad = None

    def give_weights(self) -> None:
        """Round the masters into the weights."""
        with torch.no_grad():
            torch._foreach_copy_([*self._weights], [*self._masters])

    def named(self, *, every_name: bool = False) -> dict[str, torch.Tensor]:
        """All the module's parameters, masters in their weights' places; tied ones once, or by every name."""
        parameters = self._module.named_parameters(remove_duplicate=not every_name)
        return {name: self._of.get(id(one), one) for name, one in parameters}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the masters, by the names of `named`, and round them into the weights."""
        with torch.no_grad():
            for name, own in self.named().items():
                own.copy_(tensors[name])
        self.give_weights()
