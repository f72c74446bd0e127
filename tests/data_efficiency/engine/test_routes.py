"""All routes by the engine: counted as by hand, planned to the digit, killed and resumed to the bit."""

import copy

import pytest
import torch

import data_efficiency
from data_efficiency import (
    ConfigError,
    LayerDropout,
    ModelShape,
    RandomLTD,
    TokenSuperposition,
    bag_loss_sum,
    convert_to_random_ltd,
    num_loss_positions,
    plan_run,
)
from data_efficiency.config import Curriculum, DataEfficiencyConfig
from tests.data_efficiency.small_models import NUM_LAYERS, Block, SmallModel

LENGTH, STEPS, MICRO = 16, 8, 4
SHAPE = ModelShape(
    num_layers=NUM_LAYERS,
    hidden_size=16,
    query_size=16,
    key_value_size=16,
    ffn_size=16,
    num_ffn_matrices=1,
    vocab_size=50,
)
SPAN = RandomLTD(start=4, end=12, steps=6, step_size=4, layers=[[1, 2]])
SKIP = LayerDropout(start=40, steps=7, rows_per_group=MICRO)
BAGS = TokenSuperposition(bag_size=2, steps=3)
CASES = {
    "span": ([SPAN], {}),
    "rows": ([SKIP], {}),
    "both": ([SPAN, SKIP], {}),
    "bags": ([BAGS], {}),
    "output bags": ([TokenSuperposition(bag_size=2, steps=3, bags="output")], {}),
    "bags in layers": ([BAGS, SPAN, SKIP], {"full_from_step": 6}),
    "final": ([SPAN, SKIP], {"full_from_step": 3}),
    "lengths": ([SPAN, SKIP, Curriculum("seqlen", start=8, end=LENGTH, steps=5, step_size=4)], {}),
    "reshaped": (
        [SPAN, SKIP, Curriculum("seqlen_reshape", start=8, end=LENGTH, steps=5, step_size=8)],
        {"full_from_step": 6},
    ),
}


class Model(SmallModel):
    """Takes bags of tokens and of labels, too."""

    def embed(self, tokens):
        words = self.words(tokens)
        return (words.mean(2) if tokens.dim() == 3 else words) + self.positions.weight[
            : tokens.shape[1]
        ]

    def forward(self, tokens, labels=None):
        logits = super().forward(tokens)
        return logits if labels is None else bag_loss_sum(logits, labels)


class Rows(torch.utils.data.Dataset):
    identity = {"name": "rows"}

    def __len__(self):
        return 128

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(0, 50, (LENGTH + 1,), generator=generator)
        return {"tokens": tokens[:-1], "labels": tokens[1:]}


def config_of(case):
    parts, settings = CASES[case]
    return {
        "train_batch_size": 2 * MICRO,
        "train_micro_batch_size_per_gpu": MICRO,
        "data_efficiency": DataEfficiencyConfig.of(*parts, seed=3, **settings),
    }


def make_engine(case):
    engine, _, loader, _ = data_efficiency.initialize(
        model=Model(length=LENGTH),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        training_data=Rows(),
        config=config_of(case),
        engine="torch",
        model_shape=SHAPE,
    )
    if engine.data_efficiency_config.layer_routes:
        convert_to_random_ltd(engine, Block)
    return engine, loader


def train(engine, loader, last_step=STEPS):
    """Losses and counters of the steps up to one."""
    found = []
    for batches in loader.steps():
        result = engine.train_step(
            batches,
            lambda batch: engine(batch["tokens"], labels=batch["labels"]),
            lambda batch: num_loss_positions(batch["labels"]),
        )
        found.append((result.loss, result.counters))
        if engine.counters.steps == last_step:
            break
    return found


@pytest.mark.parametrize("case", CASES)
def test_counters_are_what_the_layers_processed_and_the_plan_said(case):
    engine, loader = make_engine(case)
    seen = []
    for layer in engine.module.layers:
        layer.norm.register_forward_hook(lambda *call: seen.append(call[-1].shape[:2]))
    plan = plan_run(
        config_of(case), model=SHAPE, sequence_length=LENGTH, num_steps=STEPS, num_samples=128
    )
    total = 0
    for step, (_, counters) in enumerate(train(engine, loader), 1):
        total = sum(rows * length for rows, length in seen[: 2 * NUM_LAYERS * step])
        assert counters.layer_tokens == total
        planned = plan.counters(step)
        if case == "lengths":
            # Of a row that is cut, the last position's label is in no row: what a plan cannot know.
            planned = planned.plus(
                type(planned)(loss_tokens=counters.loss_tokens - planned.loss_tokens)
            )
        assert planned == counters
    long_steps = 3 if case.startswith("bags") else 0
    assert counters.consumed_samples == 2 * MICRO * (STEPS + long_steps)
    if long_steps:
        assert counters.corpus_tokens == 2 * MICRO * LENGTH * (STEPS + long_steps)
    assert total < plan.baseline.layer_tokens or case in ("reshaped", "bags", "output bags")
    assert len(plan.stretches) > 1 or case == "output bags"


@pytest.mark.parametrize("case", ["rows", "both"])
def test_rows_that_fill_a_micro_batch_up_are_counted_nowhere(case):
    """Of four rows two count, none of the next four."""
    engine, loader = make_engine(case)
    seen = []
    numbers = iter([2, 0])
    batches = next(loader.steps())
    result = engine.train_step(
        batches,
        lambda batch: engine(batch["tokens"], labels=batch["labels"]),
        lambda batch: num_loss_positions(batch["labels"]),
        shape=lambda batch: (
            seen.append(engine.random_ltd_scheduler.draw) or next(numbers),
            LENGTH,
        ),
    )
    draw = seen[0]
    kept = 0
    for layer in range(NUM_LAYERS):
        rows = draw.rows[layer] if draw.rows else None
        counted = 2 if rows is None else int((rows < 2).sum())
        drops = case == "both" and layer in (1, 2)
        kept += counted * (draw.positions.shape[2] if drops else LENGTH)
    assert result.num_rows == 2
    assert (result.counters.consumed_samples, result.counters.corpus_tokens) == (2, 2 * LENGTH)
    assert result.counters.layer_tokens == kept
    assert any(rows is not None for rows in draw.rows)


@pytest.mark.parametrize("case", ["both", "final", "bags in layers"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(case):
    whole, loader = make_engine(case)
    expected = train(whole, loader)
    first, loader = make_engine(case)
    found = train(first, loader, 3)
    saved = copy.deepcopy(first.progress_state())
    weights = {one.name: one.gather().clone() for one in first.whole_weights()}
    optimizer = {one.name: one.gather().clone() for one in first.whole_optimizer_state()}
    del first
    torch.manual_seed(99)
    again, loader = make_engine(case)
    again.load_whole_weights(weights)
    again.load_whole_optimizer_state(optimizer)
    again.load_progress_state(saved)
    found += train(again, loader)
    assert found == expected
    ends = [
        {one.name: one.gather() for one in (*e.whole_weights(), *e.whole_optimizer_state())}
        for e in (whole, again)
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_plan_refuses_rows_that_reshaping_makes_no_whole_groups_of():
    reshape = Curriculum("seqlen_reshape", start=12, end=LENGTH, steps=5, step_size=4)
    section = DataEfficiencyConfig.of(SKIP, reshape)
    content = config_of("rows") | {"data_efficiency": section}
    with pytest.raises(ConfigError, match="rows_per_group is 4, but a forward has 6 rows"):
        plan_run(content, model=SHAPE, sequence_length=LENGTH, num_steps=9, num_samples=128)


def test_rows_that_nobody_lets_skip_are_refused():
    engine, _, loader, _ = data_efficiency.initialize(
        model=SmallModel(length=LENGTH),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        training_data=Rows(),
        config=config_of("rows"),
        engine="torch",
    )
    with pytest.raises(ConfigError, match="data_routing.layer_dropout is enabled, but no layer"):
        train(engine, loader)


def test_bags_that_nobody_reads_are_refused():
    engine, _, _, _ = data_efficiency.initialize(
        model=Model(length=LENGTH),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        config=config_of("bags"),
        engine="torch",
    )
    with pytest.raises(ConfigError, match="token_superposition is enabled, but there is no loader"):
        engine(torch.zeros(MICRO, LENGTH, dtype=torch.int64))


def test_a_plan_refuses_what_a_run_would():
    content = config_of("rows") | {"train_micro_batch_size_per_gpu": 2}
    with pytest.raises(ConfigError, match="rows_per_group is 4, but a forward has 2 rows"):
        plan_run(content, model=SHAPE, sequence_length=LENGTH, num_steps=9, num_samples=128)


def test_the_layers_of_a_model_without_a_shape_are_counted_by_its_routes():
    engine, _, _, _ = data_efficiency.initialize(
        model=SmallModel(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        config=config_of("rows"),
        engine="torch",
    )
    assert engine.num_layers == 1
    assert convert_to_random_ltd(engine, Block).num_layers == NUM_LAYERS
