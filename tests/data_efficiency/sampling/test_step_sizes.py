"""Numbers of samples a step are those of a slow count; a ramp of lengths keeps the tokens of a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(0, 60),
)
def test_sums_are_those_of_a_slow_count(stretches, budget):
    starts = np.cumsum([1, *(length for length, _ in stretches[:-1])]).tolist()
    numbers = [number for _, number in stretches]
    sizes = StepSizes(starts, numbers)
    slow = [number for length, number in stretches[:-1] for _ in range(length)]
    slow += [numbers[-1]] * 70
    assert [sizes.per_row(step) for step in range(1, 60)] == slow[:59]
    assert [sizes.rows_before(step) for step in range(1, 60)] == [sum(slow[:n]) for n in range(59)]
    steps = sizes.steps_in(budget)
    assert sum(slow[:steps]) <= budget < sum(slow[: steps + 1])


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
