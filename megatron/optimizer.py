"""The optimizer of a model, as the settings describe it."""

from functools import partial

import torch

from megatron.config import TrainingConfig
from megatron.model.muon import MuonWithAdamW
from megatron.model.optional_kernels import make_adamw, weight_decay_groups


def make_optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The settings' optimizer, with their rates."""
    make = partial(
        make_adamw,
        implementation=config.optimizer_implementation,
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
    )
    groups = weight_decay_groups(model, config.weight_decay)
    return (
        MuonWithAdamW(model, groups, make, config.lr)
        if config.optimizer == "muon"
        else make(groups)
    )
