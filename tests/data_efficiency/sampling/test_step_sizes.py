"""Numbers of samples a step are those of a slow count; a ramp of lengths keeps the tokens of a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import ConfigError
from data_efficiency.config import Curriculum, DataEfficiencyConfig
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.step_sizes import StepSizes

LENGTH, ROWS = 64, 4


class Rows:
    """Rows of 64 positions, all of their own number."""

    def __init__(self, count=1000):
        self.count = count

    def __len__(self):
        return self.count

    def get_batch(self, samples, _visits=None):
        return {"tokens": np.repeat(samples[:, None], LENGTH, 1)}


def config_of(start=8, steps=10, **settings):
    ramp = Curriculum(
        "seqlen", start=start, end=LENGTH, steps=steps, step_size=8, constant_tokens=True
    )
    return DataEfficiencyConfig.of(ramp, **settings)


def sampler_of(config, *, ranks=1, rank=0, count=1000, **settings):
    return CurriculumSampler(
        Rows(count),
        config,
        micro_batch_size=ROWS // ranks // settings.get("gradient_accumulation_steps", 1),
        data_parallel_rank=rank,
        data_parallel_size=ranks,
        **settings,
    )


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=5
    ),
    st.integers(0, 600),
)
def test_sums_are_those_of_a_slow_count(stretches, budget):
    starts = np.cumsum([1, *(length for length, *_ in stretches[:-1])]).tolist()
    rows, per_row = ([one[place] for one in stretches] for place in (1, 2))
    sizes = StepSizes(starts, rows, per_row)
    lengths = [*(length for length, *_ in stretches[:-1]), 700]
    slow_rows = np.repeat(rows, lengths).tolist()
    slow = np.repeat(np.multiply(rows, per_row), lengths).tolist()
    steps = range(1, 60)
    assert [sizes.rows(step) for step in steps] == slow_rows[:59]
    assert [sizes.samples(step) for step in steps] == slow[:59]
    assert [sizes.rows_before(step) for step in steps] == [sum(slow_rows[:n]) for n in range(59)]
    assert [sizes.samples_before(step) for step in steps] == [sum(slow[:n]) for n in range(59)]
    found = sizes.steps_in(budget)
    assert sum(slow[:found]) <= budget < sum(slow[: found + 1])
    changes = [step + 1 for step in steps if slow_rows[step] != slow_rows[step - 1]]
    seen, step = [], sizes.next_change(1)
    while step is not None:
        seen.append(step)
        step = sizes.next_change(step)
    assert set(changes) <= set(seen) == set(starts[1:])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(0, 900),
)
def test_sums_over_periods_are_those_of_a_slow_count(stretches, budget):
    """What a pass has comes again after it."""
    lengths, per_row = zip(*stretches, strict=True)
    period = sum(lengths)
    starts = np.cumsum([1, *lengths[:-1]]).tolist()
    sizes = StepSizes(starts, [2] * len(starts), per_row, period)
    slow = np.resize(np.repeat(per_row, lengths), 1000)
    assert [sizes.per_row(step) for step in range(1, 60)] == slow[:59].tolist()
    assert [sizes.samples(step) for step in range(1, 60)] == (2 * slow[:59]).tolist()
    before = [0, *np.cumsum(2 * slow).tolist()]
    assert [sizes.samples_before(step) for step in range(1, 60)] == before[:59]
    assert [sizes.rows_before(step) for step in range(1, 60)] == list(range(0, 118, 2))
    for kind in set(per_row):
        own = [0, *np.cumsum(np.where(slow == kind, 2 * slow, 0)).tolist()]
        assert [sizes.samples_before(step, per_row=kind) for step in range(1, 60)] == own[:59]
    found = sizes.steps_in(budget)
    assert before[found] <= budget < before[found + 1]
    seen, step = [], sizes.next_change(1)
    while step is not None and step < 60:
        seen.append(step)
        step = sizes.next_change(step)
    assert {n + 1 for n in range(1, 59) if slow[n] != slow[n - 1]} <= set(seen)


def batches(counter, *, low=4, high=16, total=12, unit=4, **more):
    return {
        "min_value": low,
        "max_value": high,
        "counter": counter,
        "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": total, "difficulty_step": unit},
        **more,
    }


@given(
    st.sampled_from(["steps", "samples", "tokens"]),
    st.integers(1, 300),
    st.booleans(),
    st.integers(0, 2),
)
def test_batches_are_those_of_a_loop_that_counts(counter, total, has_ramp, growth):
    """Step by step: each looks at what was drawn before it."""
    per_sample = LENGTH if counter == "tokens" else 1
    section = batches(counter, high=4 + 4 * growth, total=total * per_sample)
    parts = [Curriculum("seqlen", start=8, end=LENGTH, steps=9, step_size=8, constant_tokens=True)]
    config = DataEfficiencyConfig.of(*parts[: int(has_ramp)], batch_size=section)
    config = config.with_length(LENGTH)
    sizes, schedule = StepSizes.of(config, 8, 4), config.batch_size.schedule
    drawn = 0
    for step in range(1, 80):
        place = step if counter == "steps" else drawn * per_sample
        plan = config.length_plans[0] if has_ramp else None
        length = LENGTH if plan is None else plan.schedule.difficulty(step)
        rows = schedule.difficulty(place)
        assert (sizes.rows(step), sizes.samples_before(step)) == (rows, drawn)
        assert sizes.samples(step) == rows * (LENGTH // length)
        drawn += sizes.samples(step)


def test_a_batch_is_whole_micro_batches_of_all_processes():
    config = DataEfficiencyConfig.of(batch_size=batches("samples", total=100))
    with pytest.raises(ConfigError, match=r"gives step 1 4 samples: must be a multiple .* \(8\)"):
        StepSizes.of(config, 16, 8)
    odd = DataEfficiencyConfig.of(batch_size=batches("steps", low=8, high=11, unit=1))
    with pytest.raises(ConfigError, match="gives step 4 9 samples: must be a multiple"):
        StepSizes.of(odd, 8, 4)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0)])
def test_growing_batches_are_the_same_on_any_ranks_and_after_a_stop(ranks, workers):
    """Steps of 4, 8 ... 16 rows, in micro-batches of 2 a process."""
    config = DataEfficiencyConfig.of(batch_size=batches("samples", total=60), seed=3)
    settings = {"micro_batch_size": 2, "gradient_accumulation_steps": 8 // ranks}
    whole = CurriculumSampler(Rows(), config, **settings | {"gradient_accumulation_steps": 8})
    expected = [whole.next_global_batch().samples.tolist() for _ in range(12)]
    assert [len(one) for one in expected] == [4, 4, 4, 4, 4, 8, 8, 8, 12, 12, 16, 16]
    loaders = []
    for rank in range(ranks):
        place = {"data_parallel_rank": rank, "data_parallel_size": ranks}
        sampler = CurriculumSampler(Rows(), config, **settings, **place)
        loaders.append(CurriculumDataLoader(Rows(), sampler, num_workers=workers))
    for part in (expected[:7], expected[7:]):
        steps = [loader.steps() for loader in loaders]
        for wanted in part:
            shares = [next(one) for one in steps]
            assert all(len(micro["tokens"]) == 2 for share in shares for micro in share)
            found = [row for share in shares for micro in share for row in micro["tokens"][:, 0]]
            assert found == wanted
        # What was read ahead is forgotten.
        saved = loaders[0].state_dict()
        del steps
        for loader in loaders:
            loader.load_state_dict(saved)


def test_the_length_of_a_sampler_counts_what_it_yields():
    config = DataEfficiencyConfig.of(batch_size=batches("samples", total=60), num_epochs=1)
    sampler = CurriculumSampler(
        Rows(100), config, micro_batch_size=2, gradient_accumulation_steps=8
    )
    loader = CurriculumDataLoader(Rows(100), sampler)
    steps = [*loader.steps()]
    assert (
        len(loader)
        == sum(map(len, steps))
        == sum(sampler.num_micro_batches(n + 1) for n in range(len(steps)))
    )
    assert sum(len(micro["tokens"]) for step in steps for micro in step) >= 100
    assert sampler.samples_before(sampler.num_steps) < 100
    with pytest.raises(ConfigError, match="lists of numbers do not tell where a step ends"):
        next(iter(sampler))


@pytest.mark.parametrize("start", [8, 16, 24])
def test_a_step_has_nearly_as_many_tokens_at_every_length(start):
    """Short of them by less than a row for each of the batch's; without the key by as much as rows are shorter."""
    config, seen = config_of(start), set()
    loader = CurriculumDataLoader(Rows(), sampler_of(config))
    for number, (batch,) in enumerate(loader.steps(), start=1):
        rows, length = batch["tokens"].shape
        assert length == config.length_plans[0].schedule.difficulty(number)
        assert ROWS * (LENGTH - length) < rows * length <= ROWS * LENGTH
        assert len(np.unique(batch["tokens"][:, 0])) == rows
        seen.add(rows)
        if number == 12:
            break
    assert seen == {ROWS * number for number in (8, 4, 2, 1) if number * start <= LENGTH}
    assert rows == ROWS


@pytest.mark.parametrize("accumulation", [1, 2])
def test_ranks_and_micro_batches_share_each_step(accumulation):
    config = config_of()
    whole = sampler_of(config)
    shares = [
        CurriculumDataLoader(
            Rows(),
            sampler_of(config, ranks=2, rank=rank, gradient_accumulation_steps=accumulation),
        ).steps()
        for rank in range(2)
    ]
    for _ in range(12):
        step = whole.next_global_batch()
        parts = [batch["tokens"][:, 0] for share in shares for batch in next(share)]
        assert np.concatenate(parts).tolist() == step.samples.tolist()


def test_a_state_goes_on_and_passes_end_where_samples_do():
    config = config_of(num_epochs=1)
    whole = sampler_of(config, count=100)
    batches = [whole.next_global_batch().samples.tolist() for _ in range(whole.num_steps)]
    # 32, 16, 16, 8, 8, 4 ... rows until 100 are drawn; the last step is filled up from the next pass.
    drawn = [len(batch) for batch in batches]
    assert drawn[0] == 8 * ROWS
    assert sum(drawn[:-1]) < 100 <= sum(drawn)
    assert [whole.samples_before(step + 1) for step in range(len(drawn) + 1)] == [
        sum(drawn[:step]) for step in range(len(drawn) + 1)
    ]
    first, second = sampler_of(config, count=100), sampler_of(config, count=100)
    for _ in range(2):
        first.next_global_batch()
    second.load_state_dict(first.state_dict())
    assert second.next_global_batch().samples.tolist() == batches[2]
    lists = [*sampler_of(config, count=100)]
    assert lists == batches
