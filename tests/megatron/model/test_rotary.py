import cmath

import pytest
import torch

from megatron.model.rotary import apply_rotary, rotary_tables

CPU = torch.device("cpu")


def test_tables_hold_the_published_angles():
    cos, sin = rotary_tables(5, 8, 100.0, CPU)
    assert cos.shape == sin.shape == (1, 5, 8)
    assert cos.dtype == sin.dtype == torch.float32
    for position in range(5):
        for pair in range(4):
            unit = cmath.exp(1j * position * 100.0 ** (-2 * pair / 8))
            found = [table[0, position, [pair, pair + 4]].tolist() for table in (cos, sin)]
            assert found[0] == pytest.approx([unit.real, unit.real], abs=1e-6)
            assert found[1] == pytest.approx([-unit.imag, unit.imag], abs=1e-6)


def test_rotation_turns_channel_pairs_as_complex_numbers():
    heads = torch.randn(2, 5, 3, 8)
    cos, sin = rotary_tables(5, 8, 100.0, CPU)
    units = torch.complex(cos[..., 4:], sin[..., 4:]).unsqueeze(2)
    turned = torch.complex(heads[..., :4], heads[..., 4:]) * units
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(apply_rotary(heads, cos, sin), expected)


def test_the_dtype_stays():
    heads = torch.randn(1, 4, 1, 8).to(torch.bfloat16)
    assert apply_rotary(heads, *rotary_tables(4, 8, 100.0, CPU)).dtype == torch.bfloat16
