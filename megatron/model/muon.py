"""Muon for the matrices of the layers, AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

AdamWMaker = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class MuonWithAdamW(torch.optim.Optimizer):
    """PyTorch's Muon and an AdamW that share groups and state.

    Muon's step is a matrix of orthogonal directions; scaled to the size of AdamW's steps, both follow one
    learning rate and one weight decay. Queries, keys and values are one matrix, and so are SwiGLU's two inputs.

    Source: Muon (Jordan et al., 2024); the scale 0.2 sqrt(max(rows, columns)) from Muon is Scalable (Liu et
    al., 2025), section 2.2.

    Args:
        model: its `layers` hold the matrices.
        groups: all that is trained, with its weight decay.
        make_adamw: groups -> AdamW.
        lr: of both.
    """

    def __init__(
        self, model: nn.Module, groups: list[dict[str, Any]], make_adamw: AdamWMaker, lr: float
    ) -> None:
        layers: Any = model.layers
        matrices = {id(p) for p in layers.parameters() if p.ndim == 2}
        by_muon, by_adamw = (
            [
                {**one, "params": [p for p in one["params"] if (id(p) in matrices) == mine]}
                for one in groups
            ]
            for mine in (True, False)
        )
        adamw = make_adamw([one for one in by_adamw if one["params"]])
        muon = torch.optim.Muon(
            [one for one in by_muon if one["params"]], lr=lr, adjust_lr_fn="match_rms_adamw"
        )
        super().__init__([*muon.param_groups, *adamw.param_groups], adamw.defaults)
        # The dictionaries themselves: who sets a group's rate sets the part's.
        self.param_groups = [*muon.param_groups, *adamw.param_groups]
        for group in muon.param_groups:
            group["state_names"] = ("momentum_buffer",)
        for group in adamw.param_groups:
            group["state_names"] = ("step", "exp_avg", "exp_avg_sq")
        muon.state = adamw.state = self.state
        self._parts = (muon, adamw)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights by their gradients."""
        for part in self._parts:
            part.step()
