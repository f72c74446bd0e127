"""One subset through several layers: right, short in between, recomputed, and refused where it cannot be."""

import copy
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from data_efficiency.config import DataEfficiencyConfig, RandomLTD
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.routing.reference_loop import loss_and_gradients
from tests.data_efficiency.small_models import KEPT, LENGTH, ROWS, Block, SmallModel, dropping

SPANS = ((0, 1, 2), (3,))


def spanning(spans=SPANS, **changes):
    layers = tuple(layer for span in spans for layer in span)
    return dropping(
        random_ltd_layer_num=len(layers), random_ltd_layer_id=layers, spans=spans, **changes
    )


def batch(number=1):
    generator = torch.Generator().manual_seed(number)
    tokens, labels = torch.randint(0, 50, (2, ROWS, LENGTH), generator=generator)
    return tokens, labels


def by_hand(model, tokens, positions, spans=SPANS, scale=None):
    """Logits, each row by itself: cut before a span, put back behind it."""
    first = {span[0]: (number, span) for number, span in enumerate(spans)}
    rows = []
    for row in range(len(tokens)):
        hidden = model.embed(tokens[row : row + 1])
        layer = 0
        while layer < len(model.layers):
            if layer not in first:
                hidden, layer = model.layers[layer](hidden), layer + 1
                continue
            number, span = first[layer]
            kept = positions[number][row]
            short = hidden[:, kept]
            for inner in span:
                changed = model.layers[inner](short)
                factor = 1.0 if scale is None else scale(number, row)
                short = short + (changed - short) * factor
            full = [hidden[:, position] for position in range(hidden.shape[1])]
            for place, position in enumerate(kept.tolist()):
                full[position] = short[:, place]
            hidden, layer = torch.stack(full, 1), span[-1] + 1
        rows.append(hidden @ model.words.weight.T)
    return torch.cat(rows)


def compare(settings, spans=SPANS, scale=None, **given):
    model = SmallModel().double()
    slow = copy.deepcopy(model)
    convert_to_random_ltd(model, Block, settings)
    tokens, _ = batch()
    model.random_ltd_scheduler.set_position(2, 4)
    output = model(tokens, **given)
    positions = model.random_ltd_scheduler.positions
    expected = by_hand(slow, tokens, positions, spans, scale and partial(scale, positions))
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    _, found = loss_and_gradients(model, output)
    _, wanted = loss_and_gradients(slow, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)
    return positions


@pytest.mark.parametrize("spans", [SPANS, ((1, 2),), ((0, 1), (2, 3)), ((0, 1, 2, 3),)])
def test_a_span_is_what_the_loop_by_hand_gives(spans):
    positions = compare(spanning(spans), spans)
    assert positions.shape == (len(spans), ROWS, KEPT)


def test_spans_of_one_layer_are_random_ltd():
    """To the bit, and the same configuration."""
    tokens, labels = batch()
    losses = []
    for layers in ([1, 2], [[2], [1]]):
        line = RandomLTD(start=KEPT, end=KEPT, steps=1, step_size=1, layers=layers)
        model = convert_to_random_ltd(SmallModel(), Block, DataEfficiencyConfig.of(line, seed=11))
        model.random_ltd_scheduler.set_position(2, 0)
        losses.append(model(tokens, labels=labels))
    assert torch.equal(*losses)


def test_the_sequence_stays_short_between_the_layers(monkeypatch):
    """Tokens are moved twice a span, however many layers it has."""
    moved = []
    for name in ("take_kept", "put_back"):
        plain = getattr(__import__("data_efficiency.routing.dropping_layer", fromlist=["x"]), name)
        monkeypatch.setattr(
            f"data_efficiency.routing.dropping_layer.{name}",
            lambda *args, plain=plain, name=name: (moved.append(name), plain(*args))[1],
        )
    model = convert_to_random_ltd(SmallModel(), Block, spanning())
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    model.random_ltd_scheduler.set_position(0, 0)
    model(batch()[0])
    assert seen == [KEPT, KEPT, LENGTH, LENGTH]
    assert moved == ["take_kept", "put_back"] * 2


def test_keeping_everything_and_evaluation_are_the_bare_model():
    tokens, labels = batch()
    bare = SmallModel()
    expected = loss_and_gradients(bare, bare(tokens, labels=labels))
    model = convert_to_random_ltd(SmallModel(), Block, spanning(kept=LENGTH))
    model.random_ltd_scheduler.set_position(0, 0)
    found = loss_and_gradients(model, model(tokens, labels=labels))
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[1][name], one) for name, one in expected[1].items())
    model = convert_to_random_ltd(SmallModel(), Block, spanning()).eval()
    assert torch.equal(model(tokens), bare(tokens))


@pytest.mark.parametrize("always_keep", [(), (0, 7)])
def test_scales_of_the_change(always_keep):
    def inverse(positions, number, row):
        chance = (KEPT - len(always_keep)) / (LENGTH - len(always_keep))
        kept = positions[number][row].tolist()
        factors = [1.0 if p in always_keep else 1 / chance for p in kept]
        return torch.tensor(factors, dtype=torch.float64)[:, None]

    compare(
        spanning(always_keep=always_keep, residual_scale="length_ratio"),
        scale=lambda positions, number, row: LENGTH / KEPT,
    )
    compare(spanning(always_keep=always_keep, residual_scale="inverse_keep"), scale=inverse)


def test_labelled_tokens_are_kept_before_others():
    model = convert_to_random_ltd(SmallModel(), Block, spanning(always_keep_labelled=True))
    tokens, labels = batch()
    labels[:] = -100
    for row, marked in enumerate(([3, 4], [], list(range(9)))):
        labels[row, marked] = 1
    router = model.random_ltd_scheduler
    for call in ({"labels": labels}, None):
        router.set_position(0, 0)
        if call is None:
            model(tokens, labels)
        else:
            model(tokens, **call)
        for subset in router.positions:
            assert {3, 4} <= set(subset[0].tolist())
            assert set(subset[2].tolist()) < set(range(9))
    assert not torch.equal(router.positions[0, 2], router.positions[1, 2])
    router.set_position(0, 0)
    with pytest.raises(ValueError, match="was given as labels none: needs one for each of 3 x 12"):
        model(tokens)


NON_REENTRANT = partial(checkpoint, use_reentrant=False)
REENTRANT = partial(checkpoint, use_reentrant=True)


class Recomputing(SmallModel):
    """Layers are called through `recompute`, `at_once` in each call."""

    recompute, at_once = staticmethod(lambda function, hidden: function(hidden)), 1

    def forward(self, tokens, labels=None):
        hidden = self.embed(tokens)
        for start in range(0, len(self.layers), self.at_once):
            part = self.layers[start : start + self.at_once]
            hidden = self.recompute(partial(self.run, part), hidden)
        return (hidden @ self.words.weight.T).double()

    @staticmethod
    def run(layers, hidden):
        for layer in layers:
            hidden = layer(hidden)
        return hidden


def recomputed(recompute, at_once, spans=SPANS):
    """Gradients of two forwards that are both pending when the backward begins."""
    model = Recomputing().double()
    model.recompute, model.at_once = recompute, at_once
    convert_to_random_ltd(model, Block, spanning(spans))
    loss = torch.zeros((), dtype=torch.float64)
    for step in (3, 4):
        model.random_ltd_scheduler.set_position(step, 2)
        loss = loss + model(batch(step)[0]).square().sum()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_recomputation_from_outside(at_once):
    expected = recomputed(Recomputing.recompute, 1)
    found = recomputed(NON_REENTRANT, at_once)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("at_once", "spans"), [(2, ((0, 1), (2, 3))), (4, SPANS)])
def test_reentrant_recomputation_of_whole_spans(at_once, spans):
    expected = recomputed(Recomputing.recompute, 1, spans)
    found = recomputed(REENTRANT, at_once, spans)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("at_once", "spans"), [(1, SPANS), (2, SPANS), (3, ((1, 2, 3),))])
def test_reentrant_recomputation_of_a_part_of_a_span_is_refused(at_once, spans):
    with pytest.raises(RuntimeError, match="use_reentrant=False, or whole spans at once"):
        recomputed(REENTRANT, at_once, spans)


def test_gradients_that_would_be_lost_are_refused():
    """The first layer within a reentrant checkpoint, the last one outside, and the other way round."""

    class Mixed(Recomputing):
        inside = 0

        def forward(self, tokens, labels=None):
            hidden = self.embed(tokens)
            for number, layer in enumerate(self.layers):
                call = REENTRANT if number == self.inside else Recomputing.recompute
                hidden = call(layer, hidden)
            return hidden

    for inside in (0, 2):
        model = Mixed()
        model.inside = inside
        convert_to_random_ltd(model, Block, spanning())
        model.random_ltd_scheduler.set_position(0, 0)
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            model(batch()[0])


def test_what_passes_by_is_not_kept_longer_than_the_graph():
    model = convert_to_random_ltd(SmallModel(), Block, spanning())
    tokens, labels = batch()
    router = model.random_ltd_scheduler
    router.set_position(0, 0)
    loss = model(tokens, labels=labels)
    held = router.draw.passing[0]
    assert held() is not None
    loss.backward()
    del loss
    assert held() is None


def test_a_copy_has_no_forward_under_way():
    model = convert_to_random_ltd(SmallModel(), Block, spanning())
    tokens, labels = batch()
    model.random_ltd_scheduler.set_position(0, 0)
    model(tokens, labels=labels).backward()
    twin = copy.deepcopy(model)
    results = []
    for one in (model, twin):
        one.random_ltd_scheduler.set_position(1, 0)
        results.append(one(tokens))
    assert torch.equal(*results)
    assert twin.random_ltd_scheduler.spans[0] is not model.random_ltd_scheduler.spans[0]
    assert twin.layers[0].forward.span is twin.random_ltd_scheduler.spans[0]


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("whole", [False, True], ids=["layers", "model"])
def test_compiled_layers_are_the_same(whole):
    schedule = CustomSchedule(function=lambda step: 4 + step)
    settings = spanning(schedule=schedule, residual_scale="inverse_keep", always_keep=(0,))
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
    for step in range(6):
        for model in (plain, compiled):
            model.random_ltd_scheduler.set_position(step, 0)
        expected = plain(tokens, labels=labels)
        torch.testing.assert_close(call(tokens, labels=labels), expected)
    torch.compiler.reset()
    assert 1 <= num_graphs <= 8
