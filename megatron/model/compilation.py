"""Compiling a model with `torch.compile`, whole or layer by layer, for all lengths at once or for each."""

import sys
from collections.abc import Iterable
from typing import Any

import torch.fx.experimental._config as shape_config
from torch import nn

from megatron.config import CompileLengths, CompileMode

MOST_COMPILATIONS = 64
"""Of one piece of code. Where each length has code of its own, a schedule with more lengths than these
allow (each with training and evaluation, with and without dropping) is an error: to compile that often
takes longer than what it saves."""

MOST_LENGTHS = 8
"""Of a curriculum, where each has code of its own."""


def num_compilations() -> int:
    """Pieces of code that this process has compiled so far; each length, evaluation and graph break is one."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])


def compile_model(
    model: nn.Module,
    mode: CompileMode,
    lengths: CompileLengths = "dynamic",
    *,
    backend: str = "inductor",
) -> None:
    """Compile the model when it is first called, and on a GPU its loss with it.

    The modules stay what they are: names in `state_dict` do not change.

    Args:
        model: changed in place; its layers are attribute `layers`.
        mode: "model" compiles the whole, "layers" each layer; layers of one kind share their code, so
            the time to compile does not grow with the depth. "none" does nothing.
        lengths: "dynamic": all sizes are symbols from the first compilation on, so that one piece of
            code serves every batch size, sequence length and kept length, compiled again only for
            evaluation and for training that drops nothing. "static": one piece for each batch size and
            sequence length; kept lengths remain symbols, because the router says so of its positions.
    """
    if mode == "none":
        return
    # Else a first sequence as long as a head or the hidden axis is wide would be taken for that width,
    # which is constant.
    shape_config.use_duck_shape = False
    if lengths == "static":
        # Only who compiles pays for the import.
        import torch._dynamo.config as dynamo_config  # noqa: PLC0415

        # Beyond its limit the compiler would go on uncompiled, with nothing but a warning.
        dynamo_config.recompile_limit = max(MOST_COMPILATIONS, dynamo_config.recompile_limit)
        dynamo_config.fail_on_recompile_limit_hit = True
    parts: Any = model
    modules: Iterable[nn.Module] = (model,) if mode == "model" else parts.layers
    for module in modules:
        module.compile(backend=backend, dynamic=lengths == "dynamic")
    if hasattr(model, "compiles_loss"):
        parts.compiles_loss = True
