"""Which kernels compute attention and the optimizer's update, among those that are installed.

The only file that knows flash-attn and apex. `auto` takes what is there and fits; a kernel asked for by
name is used or refused, never replaced. Normalization has no choice: PyTorch's own is one kernel too.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron.config import AttentionImplementation, OptimizerImplementation
from megatron.model.blocked_attention import blocked_causal_attention
from megatron.setting_rules import require

Attention = Callable[..., torch.Tensor]
"""(query, key, value, *, attention_mask, dropout, is_causal) -> context, all [batch, heads, sequence,
head_size]; keys and values may have fewer heads. With a mask, `is_causal` is false."""

_MAX_FLASH_HEAD_SIZE = 256


def choose_attention(model: nn.Module, implementation: AttentionImplementation) -> None:
    """Let every attention of the model compute with an implementation.

    Raises:
        ValueError: if it is asked for by name and not there.
    """
    if implementation == "flash":
        _require_for_flash(_flash_attention() is not None, "flash-attn cannot be imported")
        _require_for_flash(torch.cuda.is_available(), "it needs a GPU, and there is none")
    for module in model.modules():
        attention: Any = module
        if hasattr(attention, "attend"):
            attention.attend = ATTENTIONS[implementation]


def weight_decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of what is trained: matrices decay, biases and normalizations do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_adamw(
    groups: list[dict[str, Any]], implementation: OptimizerImplementation, **settings: Any
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, whatever computes it.

    Args:
        implementation: "fused" and "foreach" are PyTorch's, "apex" is apex's FusedAdam; "auto" is
            "fused", which is always there.

    Raises:
        ValueError: if apex is asked for and not there.
    """
    if implementation != "apex":
        is_foreach = implementation == "foreach"
        return torch.optim.AdamW(groups, fused=not is_foreach, foreach=is_foreach, **settings)
    fused_adam = _imported("apex.optimizers", "FusedAdam")
    require(
        fused_adam is not None,
        "optimizer_implementation",
        implementation,
        "apex cannot be imported: install it, or choose auto",
    )
    assert fused_adam is not None
    optimizer: torch.optim.Optimizer = fused_adam(groups, adam_w_mode=True, **settings)
    # It counts its steps in the groups, and only from the first step on: a resume must find the place.
    for group in optimizer.param_groups:
        group.setdefault("step", 0)
    return optimizer


def attend_automatically(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
) -> torch.Tensor:
    """Attention by whatever is fastest where the tensors are."""
    is_plain = is_causal and not dropout and query.shape[1] == key.shape[1]
    if is_plain and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return blocked_causal_attention(query, key, value)
    is_free = attention_mask is None and not torch.compiler.is_compiling()
    if is_free and not _reason_against_flash(query):
        return _attend_by_flash(query, key, value, dropout=dropout, is_causal=is_causal)
    return _attend_by_pytorch(
        *(query, key, value), attention_mask=attention_mask, dropout=dropout, is_causal=is_causal
    )


def _attend_by_pytorch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
) -> torch.Tensor:
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=is_causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_by_plain_products(*heads: torch.Tensor, **settings: Any) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return _attend_by_pytorch(*heads, **settings)


def _attend_by_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    dropout: float,
    is_causal: bool,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    _require_for_flash(attention_mask is None, "it takes no attention mask, and this model has one")
    reason = _reason_against_flash(query)
    _require_for_flash(reason is None, f"{reason}")
    attention = _flash_attention()
    assert attention is not None
    # Its order is [batch, sequence, heads, head_size].
    heads = (tensor.transpose(1, 2) for tensor in (query, key, value))
    context: torch.Tensor = attention(*heads, dropout_p=dropout, causal=is_causal)
    return context.transpose(1, 2)


def _reason_against_flash(query: torch.Tensor) -> str | None:
    """Why flash-attn cannot compute with such tensors; None if it can."""
    if query.device.type != "cuda":
        return f"the model is on a {query.device.type}"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in half precision and the model in {query.dtype}: add --bf16"
    if query.shape[-1] > _MAX_FLASH_HEAD_SIZE:
        return f"heads have {query.shape[-1]} channels, more than {_MAX_FLASH_HEAD_SIZE}"
    return "flash-attn cannot be imported" if _flash_attention() is None else None


def _require_for_flash(condition: bool, rule: str) -> None:
    require(condition, "attention_implementation", "flash", f"{rule}; or choose auto")


@functools.cache
def _flash_attention() -> Callable[..., torch.Tensor] | None:
    return _imported("flash_attn", "flash_attn_func")


def _imported(module: str, name: str) -> Any:
    """Something of a package that may be missing, or built for another PyTorch: then None."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, OSError, RuntimeError):
        return None


ATTENTIONS: Mapping[AttentionImplementation, Attention] = {
    "auto": attend_automatically,
    "math": _attend_by_plain_products,
    "sdpa": _attend_by_pytorch,
    "flash": _attend_by_flash,
}
