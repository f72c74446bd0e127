"""Compiling a model with `torch.compile`, whole or layer by layer."""

from collections.abc import Iterable
from typing import Any

import torch.fx.experimental._config as shape_config
from torch import nn

from megatron.config import CompileMode


def compile_model(model: nn.Module, mode: CompileMode, *, backend: str = "inductor") -> None:
    """Have the model compiled when it is first called.

    All lengths are symbols from the first compilation on, so that one piece of code serves every
    sequence length of a curriculum and every kept length of random-LTD, attached before or after. It
    is compiled again for evaluation and for training at the kept length that drops nothing. The modules
    stay what they are: names in `state_dict` do not change.

    Args:
        model: changed in place; its layers are attribute `layers`.
        mode: "model" compiles the whole, "layers" each layer; layers of one kind share their code, so
            the time to compile does not grow with the depth. "none" does nothing.
        backend: of `torch.compile`.
    """
    if mode == "none":
        return
    # Else a first sequence as long as a head or the hidden axis is wide would be taken for that width,
    # which is constant.
    shape_config.use_duck_shape = False
    layers: Any = model.layers
    modules: Iterable[nn.Module] = (model,) if mode == "model" else layers
    for module in modules:
        module.compile(backend=backend, dynamic=True)
