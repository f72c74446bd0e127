"""Rotary position embeddings.

Source: RoFormer (Su et al., 2021), eq. 34, with channel i paired to channel i + size / 2 as GPT-NeoX
and Llama do.
"""

import torch


def rotary_tables(
    sequence_length: int, head_size: int, theta: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions 0 ... sequence_length - 1.

    They are made anew for each forward pass: a buffer would be rounded by a model-wide change of
    dtype, and the cost is negligible.

    Returns:
        Two float32 tensors [1, sequence_length, head_size / 2]. The first axis is the batch, for
        token routing, which gives each row tables of its own.
    """
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    positions = torch.arange(sequence_length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, theta**-exponents).unsqueeze(0)
    return angles.cos(), angles.sin()


def apply_rotary(
    heads: torch.Tensor, rotary_cos: torch.Tensor, rotary_sin: torch.Tensor
) -> torch.Tensor:
    """The channels of each head turned by the angle of their token's position.

    Args:
        heads: [batch, sequence, heads, head_size].
        rotary_cos: [batch or 1, sequence, head_size / 2].
        rotary_sin: [batch or 1, sequence, head_size / 2].

    Returns:
        Shape and dtype of `heads`; the products are formed in the wider of the two dtypes.
    """
    cos, sin = rotary_cos.unsqueeze(2), rotary_sin.unsqueeze(2)
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(heads.dtype)
