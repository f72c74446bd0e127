"""Rows that skip layers: right, the same for every split, counted, recomputed, proved or refused."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from data_efficiency.accounting import ModelShape, layer_tokens, training_flops
from data_efficiency.config import (
    DataEfficiencyConfig,
    LayerDropout,
    LayerDropoutConfig,
    RandomLTD,
    RoutingConfig,
)
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.routing.router import Router
from data_efficiency.routing.token_ops import sample_kept_rows
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.routing.reference_loop import loss_and_gradients
from tests.data_efficiency.small_models import LENGTH, NUM_LAYERS, Block, SmallModel, dropping

GROUP, NUM_ROWS = 4, 8
CPU = torch.device("cpu")


def skipping(percent=50, **changes):
    """Settings that keep so many percent of the rows in the last layer."""
    fields = {
        "schedule": CustomSchedule(function=lambda step: percent),
        "seed": 5,
        "rows_per_group": GROUP,
    }
    return LayerDropoutConfig(**(fields | changes))


def batch(number=1):
    generator = torch.Generator().manual_seed(number)
    tokens, labels = torch.randint(0, 50, (2, NUM_ROWS, LENGTH), generator=generator)
    return tokens, labels


def converted(settings=None, model=None, **changes):
    return convert_to_random_ltd(
        model or SmallModel().double(), Block, settings or skipping(**changes)
    )


def by_hand(model, tokens, kept_rows, *, is_scaled=True):
    """Logits, each row by itself: it goes through a layer or not.

    Args:
        kept_rows: for each layer the rows that go through it.
    """
    rows = []
    for row in range(len(tokens)):
        hidden = model.embed(tokens[row : row + 1])
        for layer, kept in zip(model.layers, kept_rows, strict=True):
            if row in kept:
                change = layer(hidden) - hidden
                hidden = hidden + change * (len(tokens) / len(kept) if is_scaled else 1)
        rows.append(hidden @ model.words.weight.T)
    return torch.cat(rows)


def expected_rows(settings, step, first_row, num_rows=NUM_ROWS):
    """For each layer the rows of a forward that are kept, as the contract says them."""
    kept = tuple(settings.kept_rows(step, layer, NUM_LAYERS) for layer in range(NUM_LAYERS))
    groups = range(first_row // GROUP, (first_row + num_rows) // GROUP)
    drawn = sample_kept_rows(
        seed=settings.seed, step=step, groups=groups, rows_per_group=GROUP, kept=kept, device=CPU
    )
    return [rows.tolist() for rows in drawn]


@pytest.mark.parametrize("scale", ["inverse_keep", "none"])
@pytest.mark.parametrize("changes", [{}, {"depth": "uniform"}, {"layer_id": (1, 3)}], ids=str)
def test_rows_skip_layers_as_the_loop_by_hand(scale, changes):
    settings = skipping(30, residual_scale=scale, **changes)
    model = converted(settings)
    slow = SmallModel().double()
    tokens, _ = batch()
    model.random_ltd_scheduler.set_position(3, 8)
    output = model(tokens)
    kept = expected_rows(settings, 3, 8)
    assert {len(rows) for rows in kept} != {NUM_ROWS}
    expected = by_hand(slow, tokens, kept, is_scaled=scale == "inverse_keep")
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)


def test_layers_see_the_kept_rows_only():
    model, seen = converted(), []
    for layer in model.layers:
        layer.dense.register_forward_hook(lambda *call: seen.append(call[-1].shape[0]))
    model.random_ltd_scheduler.set_position(0, 0)
    model(batch()[0])
    # Of each 4 rows 0, 1, 1 and 2 skip the layers: shares of 0, 1/6, 1/3 and 1/2, rounded.
    assert seen == [8, 6, 6, 4]


def test_every_split_of_the_global_batch_is_the_same():
    model = converted()
    tokens, labels = batch()

    def loss_of(rows):
        model.random_ltd_scheduler.set_position(2, rows.start)
        return model(tokens[rows], labels=labels[rows])

    whole = loss_of(slice(0, 8))
    parts = loss_of(slice(0, 4)) + loss_of(slice(4, 8))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)


def test_each_row_is_kept_as_often_as_every_other():
    counts = torch.zeros(NUM_LAYERS, GROUP)
    for step in range(800):
        drawn = sample_kept_rows(
            seed=1, step=step, groups=range(1), rows_per_group=GROUP, kept=(4, 3, 2, 1), device=CPU
        )
        for layer, rows in enumerate(drawn):
            counts[layer, rows] += 1
    share = counts / 800
    torch.testing.assert_close(
        share, torch.tensor([4, 3, 2, 1.0])[:, None].expand(-1, 4) / 4, rtol=0, atol=0.06
    )


def test_layers_groups_and_steps_are_drawn_independently():
    def drawn(step, groups):
        return sample_kept_rows(
            seed=1, step=step, groups=groups, rows_per_group=8, kept=(4, 4), device=CPU
        )

    first, second = drawn(0, range(40))
    assert not torch.equal(first, second)
    assert not torch.equal(first, drawn(1, range(40))[0])
    assert len({tuple(group.tolist()) for group in first.view(40, 4) % 8}) > 20


def test_keeping_everything_evaluation_and_the_final_phase_are_the_bare_model():
    tokens, labels = batch()
    bare = SmallModel()
    expected = loss_and_gradients(bare, bare(tokens, labels=labels))
    final = DataEfficiencyConfig(layer_dropout=skipping(), full_from_step=7)
    for settings in (skipping(100), final):
        model = convert_to_random_ltd(SmallModel(), Block, settings)
        model.random_ltd_scheduler.set_position(7, 0)
        found = loss_and_gradients(model, model(tokens, labels=labels))
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(found[1][name], one) for name, one in expected[1].items())
    model.random_ltd_scheduler.set_position(6, 0)
    assert not torch.equal(model(tokens, labels=labels), expected[0])
    model.eval()
    assert torch.equal(model(tokens), bare(tokens))


@pytest.mark.parametrize("spans", [(), ((1, 2),)], ids=["layers", "span"])
@pytest.mark.parametrize("token_scale", ["none", "length_ratio"])
def test_rows_and_tokens_together(spans, token_scale):
    """Against a loop over rows and tokens."""
    tokens_kept = dropping(spans=spans, residual_scale=token_scale)
    section = DataEfficiencyConfig(
        random_ltd=tokens_kept, layer_dropout=skipping(residual_scale="none")
    )
    model = convert_to_random_ltd(SmallModel().double(), Block, section)
    slow, (tokens, _) = SmallModel().double(), batch()
    router = model.random_ltd_scheduler
    router.set_position(1, 0)
    output = model(tokens)
    positions, kept_rows = router.positions, expected_rows(skipping(), 1, 0)
    subset = {1: 0, 2: 0 if spans else 1}
    factor = 1.0 if token_scale == "none" else LENGTH / positions.shape[2]
    rows = []
    for row in range(NUM_ROWS):
        hidden = slow.embed(tokens[row : row + 1])
        for number, layer in enumerate(slow.layers):
            if row not in kept_rows[number]:
                continue
            if number not in subset:
                hidden = layer(hidden)
                continue
            chosen = positions[subset[number], row]
            short = hidden[:, chosen]
            changed = short + (layer(short) - short) * factor
            hidden = hidden.index_copy(1, chosen, changed)
        rows.append(hidden @ slow.words.weight.T)
    torch.testing.assert_close(output, torch.cat(rows), rtol=1e-9, atol=1e-9)
    # The same numbers layer by layer, counted without the library's formula.
    lengths = [positions.shape[2] if number in subset else LENGTH for number in range(NUM_LAYERS)]
    counted = sum(len(kept) * length for kept, length in zip(kept_rows, lengths, strict=True))
    assert layer_tokens(router.last_shape(), NUM_LAYERS) == counted


def test_counts_are_those_of_every_layer_by_itself():
    model = ModelShape(
        num_layers=4,
        hidden_size=8,
        query_size=8,
        key_value_size=8,
        ffn_size=32,
        num_ffn_matrices=2,
        vocab_size=100,
    )
    routing = RoutingConfig(num_layers=4, random_ltd=dropping(), layer_dropout=skipping(20))
    shape = routing.shape(0, 16, LENGTH)
    tokens = flops = 0
    for layer in range(4):
        rows = 16 * routing.kept_rows(0)[layer] // GROUP
        length = 5 if layer in (1, 2) else LENGTH
        tokens += rows * length
        multiplied = 8 * (8 + 8 + 8 + 8) + 2 * 8 * 32 + 2 * length * 8
        flops += 3 * 2 * rows * length * multiplied
    flops += 3 * 2 * 16 * LENGTH * 8 * 100
    assert layer_tokens(shape, 4) == tokens
    assert training_flops(shape, model) == flops


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_recomputation_from_outside(reentrant, at_once):
    class Recomputing(SmallModel):
        recompute = None

        def forward(self, tokens, labels=None):
            hidden = self.embed(tokens)
            for start in range(0, NUM_LAYERS, at_once):
                run = nn.Sequential(*self.layers[start : start + at_once])
                run = run if self.recompute is None else partial(self.recompute, run)
                hidden = run(hidden)
            return hidden @ self.words.weight.T

    found = []
    for recompute in (None, partial(checkpoint, use_reentrant=reentrant)):
        model = Recomputing().double()
        model.recompute = recompute
        converted(model=model)
        loss = torch.zeros((), dtype=torch.float64)
        for step in (3, 4):
            model.random_ltd_scheduler.set_position(step, 0)
            loss = loss + model(batch(step)[0]).square().sum()
        loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(map(torch.equal, *found))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("whole", [False, True], ids=["layers", "model"])
def test_compiled_code_serves_every_number_of_rows(whole):
    settings = skipping(
        rows_per_group=8, schedule=CustomSchedule(function=lambda step: 20 + 10 * step)
    )
    plain, compiled = (
        convert_to_random_ltd(SmallModel().double(), Block, settings) for _ in range(2)
    )
    torch.compiler.reset()
    num_graphs = 0

    def backend(graph, inputs):
        nonlocal num_graphs
        num_graphs += 1
        return graph

    call = torch.compile(compiled, backend=backend) if whole else compiled
    for layer in () if whole else compiled.layers:
        layer.compile(backend=backend)
    tokens, labels = batch()
    for step in range(8):
        for model in (plain, compiled):
            model.random_ltd_scheduler.set_position(step, 0)
        expected = plain(tokens, labels=labels)
        torch.testing.assert_close(call(tokens, labels=labels), expected)
    torch.compiler.reset()
    assert 1 <= num_graphs <= 8


class Normalized(nn.Module):
    """A layer that looks at all rows of the batch."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.dense = norm, nn.Linear(4, 4)

    def forward(self, hidden, bias=None):
        return hidden + self.dense(self.norm(hidden.transpose(1, 2)).transpose(1, 2))


class Stack(nn.Module):
    def __init__(self, make, **arguments):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(make() for _ in range(2))
        self.arguments = arguments

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden, **self.arguments)
        return hidden


def run(model, **changes):
    settings = skipping(depth="uniform", **changes)
    convert_to_random_ltd(model, type(model.layers[0]), settings)
    model.random_ltd_scheduler.set_position(0, 0)
    return model(torch.randn(NUM_ROWS, 5, 4))


def test_rows_that_see_each_other_are_refused():
    model = Stack(lambda: Normalized(nn.BatchNorm1d(4)))
    with pytest.raises(
        ValueError, match="may not skip Normalized: its output for a row depends on"
    ):
        run(model)
    assert run(Stack(lambda: Normalized(nn.Identity()))).shape == (NUM_ROWS, 5, 4)


def test_each_kind_of_layer_is_proved_once(monkeypatch):
    proved = []
    monkeypatch.setattr(
        "data_efficiency.routing.proof.prove_rows", lambda skipped, *_: proved.append(skipped)
    )
    model = Stack(lambda: Normalized(nn.Identity()))
    run(model)
    model.random_ltd_scheduler.set_position(1, 0)
    model(torch.randn(NUM_ROWS, 5, 4))
    assert [one.layer_id for one in proved] == [0]


def test_arguments_that_may_go_with_the_rows_are_refused():
    model = Stack(lambda: Normalized(nn.Identity()), bias=torch.ones(NUM_ROWS, 3))
    with pytest.raises(ValueError, match="argument bias .*goes with the 8 rows of the batch"):
        run(model)


def test_described_arguments_follow_their_rows():
    interface = LayerInterface(
        masks=("mask",), token_tables={"table": 1}, untouched=("memory", "shared"), complete=True
    )
    interface = replace(interface, without_rows=("shared",))
    rows = torch.tensor([1, 3])

    def chosen(name, value):
        return interface.choose_rows(name, value, rows, 4)

    value = torch.arange(4)[:, None]
    for name in ("mask", "table", "memory"):
        assert chosen(name, value).tolist() == [[1], [3]]
        assert chosen(name, value[:1]).tolist() == [[0]]
        with pytest.raises(ValueError, match="first axis must be the batch of 4 rows, or 1"):
            chosen(name, value[:3])
    assert chosen("shared", value) is value
    assert chosen("table", (value, value))[1].tolist() == [[1], [3]]
    assert chosen("mask", None) is None
    assert chosen("flag", True)
    with pytest.raises(ValueError, match="argument other holds a tensor"):
        chosen("other", torch.ones(7))


def test_forwards_that_are_no_whole_number_of_groups_are_refused():
    model = converted()
    tokens, _ = batch()
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(ConfigError, match="rows_per_group is 4, but a forward has 6 rows"):
        model(tokens[:6])
    model.random_ltd_scheduler.set_position(0, 2)
    with pytest.raises(ValueError, match="this forward begins with row 2 of the global batch"):
        model(tokens)


def test_no_key_is_shared_with_the_subsets_of_tokens():
    """With as many positions as rows of a group, rows are not those whose number the tokens have."""
    section = DataEfficiencyConfig.of(
        RandomLTD(start=4, end=4, steps=1, step_size=1, layers=[0, 1, 2, 3]),
        LayerDropout(start=50, end=50, steps=1, depth="uniform", rows_per_group=8),
        seed=1,
    )
    dropping_tokens = section.random_ltd.closed(num_layers=4, mask_name=None)
    router = Router(replace(section, random_ltd=dropping_tokens).routing(4))
    router.set_position(0, 0)
    router.begin_forward(8, 8, CPU)
    tokens = [router.positions[layer, 0].tolist() for layer in range(4)]
    rows = [one.tolist() for one in router.draw.rows]
    assert tokens != rows
    assert all(len(one) == 4 for one in rows)


def test_layers_that_the_model_does_not_have_are_refused():
    with pytest.raises(ConfigError, match=r"layer_id is \[1, 4\]: each must be below .*\(4\)"):
        converted(layer_id=(1, 4))


@pytest.mark.parametrize("part", ["layers", "model"])
def test_a_part_in_evaluation_mode_skips_nothing_though_the_other_trains(part):
    model, (tokens, _) = converted(), batch()
    for step in (0, 1):
        model.random_ltd_scheduler.set_position(step, 0)
        if step:
            for module in model.layers if part == "layers" else [model]:
                module.training = False
        output = model(tokens)
    assert torch.equal(output, SmallModel().double()(tokens))


def test_a_copy_skips_the_same_rows():
    model = converted()
    twin = copy.deepcopy(model)
    tokens, _ = batch()
    results = []
    for one in (model, twin):
        one.random_ltd_scheduler.set_position(5, 0)
        results.append(one(tokens))
    assert torch.equal(*results)
