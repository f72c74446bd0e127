import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.routing.token_ops import (
    gather_tokens,
    put_back,
    sample_kept_positions,
    take_kept,
)

CPU = torch.device("cpu")


def sample(device: torch.device = CPU, **changes: int) -> torch.Tensor:
    arguments = {
        "seed": 7,
        "step": 3,
        "first_row": 0,
        "num_rows": 4,
        "num_layers": 3,
        "sequence_length": 40,
        "kept_length": 10,
    }
    arguments |= changes
    first_row, num_rows = arguments.pop("first_row"), arguments.pop("num_rows")
    rows = range(first_row, first_row + num_rows)
    return sample_kept_positions(**arguments, rows=rows, device=device)


def splitmix_reference(seed, step, layer, row, position):
    """The key's definition in plain integers."""
    word = 2**64 - 1
    gamma = 0x9E3779B97F4A7C15

    def mix(value):
        value &= word
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & word
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & word
        return value ^ (value >> 31)

    run = mix(mix(seed) + step)
    return mix(mix(mix(layer * gamma + run) + row) + (position + 1) * gamma)


def test_keys_are_those_of_the_integer_definition(device):
    drawn = sample(device, first_row=5, num_rows=2, sequence_length=13, kept_length=6)
    for layer in range(3):
        for row in range(2):

            def key(position, layer=layer, row=row + 5):
                value = splitmix_reference(7, 3, layer, row, position)
                value -= (value >> 63) << 64
                return (value & ~15) | position

            expected = sorted(sorted(range(13), key=key)[:6])
            assert drawn[layer, row].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**40),
    first_row=st.integers(0, 2**40),
    sequence_length=st.integers(1, 70),
    data=st.data(),
)
def test_subsets_are_sorted_distinct_and_independent_of_the_split(
    seed, step, first_row, sequence_length, data
):
    kept_length = data.draw(st.integers(1, sequence_length))
    split = data.draw(st.integers(1, 7))
    common = {
        "seed": seed,
        "step": step,
        "sequence_length": sequence_length,
        "kept_length": kept_length,
    }
    whole = sample(**common, first_row=first_row, num_rows=8)
    assert whole.shape == (3, 8, kept_length)
    assert whole.dtype == torch.int64
    assert whole.min() >= 0
    assert whole.max() < sequence_length
    assert (whole.diff(dim=-1) > 0).all()
    parts = [
        sample(**common, first_row=first_row, num_rows=split),
        sample(**common, first_row=first_row + split, num_rows=8 - split),
    ]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def membership(drawn: torch.Tensor, sequence_length: int) -> torch.Tensor:
    kept = torch.zeros(*drawn.shape[:2], sequence_length, dtype=torch.float64)
    return kept.scatter(2, drawn, 1.0)


def test_each_position_is_equally_likely():
    num_rows, length, kept = 20000, 32, 8
    drawn = sample(num_rows=num_rows, sequence_length=length, kept_length=kept)
    counts = membership(drawn, length).sum(dim=1)
    share = kept / length
    # Draws without replacement: the sum of squares, divided by this variance, follows a chi-square
    # distribution with length - 1 degrees of freedom (mean 31, 99.99 % point 68).
    variance = num_rows * share * (1 - share) * length / (length - 1)
    chi_square = ((counts - num_rows * share) ** 2 / variance).sum(dim=1)
    assert (chi_square < 68).all()
    assert (chi_square > 9).all()


@pytest.mark.parametrize("axis", [0, 1], ids=["layers", "rows"])
def test_neighbouring_subsets_are_independent(axis):
    length, kept = 64, 16
    drawn = sample(num_layers=40, num_rows=500, sequence_length=length, kept_length=kept)
    chosen = membership(drawn, length)
    overlap = (
        chosen.narrow(axis, 1, chosen.shape[axis] - 1)
        * chosen.narrow(axis, 0, chosen.shape[axis] - 1)
    ).sum(-1)
    # Hypergeometric: mean kept^2 / length = 4, variance 4 * (48 / 64) * (48 / 63).
    standard_error = (4 * 0.75 * 48 / 63 / overlap.numel()) ** 0.5
    assert abs(overlap.mean().item() - 4) < 4 * standard_error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize(("axis", "batch_axis"), [(1, 0), (0, 1), (2, 0), (-1, 0), (3, 1)])
def test_gather_takes_each_row_at_its_positions(dtype, axis, batch_axis):
    positions = sample(num_rows=3, num_layers=1, sequence_length=6, kept_length=4)[0]
    shape = [5, 5, 5, 5]
    shape[batch_axis], shape[axis] = 3, 6
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = gather_tokens(tokens, positions, axis, batch_axis)
    assert result.dtype == dtype
    for row in range(3):
        expected = tokens.select(batch_axis, row).unsqueeze(batch_axis)
        expected = expected.index_select(axis, positions[row]).squeeze(batch_axis)
        assert torch.equal(result.select(batch_axis, row), expected)


@pytest.mark.parametrize(("axis", "batch_axis"), [(1, 0), (0, 1), (2, 0), (-1, 0), (3, 1)])
def test_a_batch_of_one_serves_all_rows(axis, batch_axis):
    positions = sample(num_rows=3, num_layers=1, sequence_length=6, kept_length=4)[0]
    shape = [5, 5, 5, 5]
    shape[batch_axis], shape[axis] = 1, 6
    tokens = torch.randn(shape)
    expanded = tokens.repeat_interleave(3, dim=batch_axis)
    assert torch.equal(
        gather_tokens(tokens, positions, axis, batch_axis),
        gather_tokens(expanded, positions, axis, batch_axis),
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_what_was_taken_is_put_back(axis):
    positions = sample(num_rows=3, num_layers=1, sequence_length=6, kept_length=4)[0]
    tokens = torch.randn((6, 3, 2) if axis == 0 else (3, 6, 2))
    before = tokens.clone()
    passing, kept = take_kept(tokens, positions, axis)
    assert torch.equal(kept, gather_tokens(tokens, positions, axis, 1 - axis))
    assert torch.equal(put_back(passing, kept, positions, axis), tokens)
    changed = put_back(passing, kept + 1, positions, axis)
    assert torch.equal(gather_tokens(changed, positions, axis, 1 - axis), kept + 1)
    assert (changed != tokens).sum() == kept.numel()
    assert torch.equal(tokens, before)


def test_what_was_put_back_may_be_changed_in_place():
    tokens, positions = torch.ones(2, 5, 3, requires_grad=True), torch.tensor([[0, 2], [1, 4]])
    passing, kept = take_kept(tokens, positions, 1)
    put_back(passing, 2 * kept, positions, 1).mul_(3).sum().backward()
    expected = torch.full((2, 5, 3), 3.0).scatter(1, positions[..., None].expand(2, 2, 3), 6.0)
    assert torch.equal(tokens.grad, expected)


@pytest.mark.parametrize(
    ("full", "part", "result"),
    [
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_what_is_put_back_keeps_the_wider_dtype(full, part, result):
    positions = torch.tensor([[1, 2]])
    tokens = torch.ones(1, 3, 2, dtype=full, requires_grad=True)
    other = torch.full((1, 2, 2), 2.0, dtype=part, requires_grad=True)
    passing, kept = take_kept(tokens, positions, 1)
    merged = put_back(passing, other + 0 * kept.to(part), positions, 1)
    assert merged.dtype == result
    assert merged[0, :, 0].tolist() == [1, 2, 2]
    merged.sum().backward()
    assert tokens.grad.dtype == full
    assert other.grad.dtype == part
    assert tokens.grad[0, :, 0].tolist() == [1, 0, 0]
    assert other.grad.tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_are_right_also_where_a_gradient_is_shared(axis):
    positions = sample(num_rows=2, num_layers=1, sequence_length=5, kept_length=3)[0]
    shape = (5, 2, 2) if axis == 0 else (2, 5, 2)

    def layer(tokens, other):
        passing, kept = take_kept(tokens, positions, axis)
        return put_back(passing, kept.sin() * kept, positions, axis) + other

    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(layer, inputs)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_second_derivative_is_right(axis):
    positions = sample(num_rows=2, num_layers=1, sequence_length=5, kept_length=3)[0]
    tokens = torch.randn((5, 2, 2) if axis == 0 else (2, 5, 2), dtype=torch.float64)

    def layer(tokens):
        passing, kept = take_kept(tokens, positions, axis)
        return put_back(passing, kept.sin() * kept, positions, axis)

    assert torch.autograd.gradgradcheck(layer, tokens.requires_grad_())


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_are_bit_equal_to_those_of_plain_operators(axis):
    """What autograd makes of taking and replacing by itself, whose kept places sum with zeros."""
    positions = sample(num_rows=3, num_layers=1, sequence_length=6, kept_length=4)[0]
    tokens = torch.randn((6, 3, 2) if axis == 0 else (3, 6, 2), requires_grad=True)
    rows = torch.arange(3).unsqueeze(1)
    index = (rows, positions) if axis == 1 else (positions, rows)

    def found(tokens):
        passing, kept = take_kept(tokens, positions, axis)
        return put_back(passing, kept.exp() * 3, positions, axis)

    def plain(tokens):
        return tokens.index_put(index, tokens[index].exp() * 3)

    weights = torch.randn(tokens.shape)
    gradients = [torch.autograd.grad((f(tokens) * weights).sum(), tokens) for f in (found, plain)]
    assert torch.equal(*(gradient for (gradient,) in gradients))


def test_the_backward_pass_makes_one_new_tensor_of_all_tokens():
    positions = sample(num_rows=2, num_layers=1, sequence_length=64, kept_length=8)[0]
    tokens = torch.randn(2, 64, 16, requires_grad=True)
    passing, kept = take_kept(tokens, positions, 1)
    merged = put_back(passing, 2 * kept, positions, 1)
    gradient = torch.ones_like(merged)
    made = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.numel() == gradient.numel():
                made.add(result.untyped_storage().data_ptr())
            return result

    with Watch():
        torch.autograd.grad(merged, tokens, gradient)
    assert len(made - {gradient.untyped_storage().data_ptr()}) == 1
