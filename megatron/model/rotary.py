"""Rotary position embeddings.

Source: RoFormer (Su et al., 2021), eq. 34, with channel i paired to channel i + size / 2 as GPT-NeoX
and Llama do.
"""

import torch


def rotary_tables(
    sequence_length: int, head_size: int, theta: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of positions 0 ... sequence_length - 1: for a channel, and for the one paired with it.

    They are made anew for each forward pass: a buffer would be rounded by a model-wide change of
    dtype, and the cost is negligible.

    Returns:
        Cosines, and sines that are negative in the first half of the channels: float32
        [1, sequence_length, head_size]. The first axis is the batch, for token routing, which gives
        each row tables of its own.
    """
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    positions = torch.arange(sequence_length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, theta**-exponents).unsqueeze(0)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rotary(
    heads: torch.Tensor, rotary_cos: torch.Tensor, rotary_sin: torch.Tensor
) -> torch.Tensor:
    """The channels of each head turned by the angle of their token's position.

    Rolling by half a head brings each channel's partner to its place; on a CPU this takes half the
    time of splitting the channels and joining them again.

    Args:
        heads: [batch, sequence, heads, head_size].
        rotary_cos: [batch or 1, sequence, head_size], from `rotary_tables`.

    Returns:
        Shape and dtype of `heads`; the products are formed in the wider of the two dtypes.
    """
    partners = heads.roll(heads.shape[-1] // 2, dims=-1)
    turned = heads * rotary_cos.unsqueeze(2) + partners * rotary_sin.unsqueeze(2)
    return turned.to(heads.dtype)
