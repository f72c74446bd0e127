import json

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from data_efficiency.adapters.stateful_sampler import CurriculumStream, StatefulCurriculumSampler
from data_efficiency.config import Curriculum, DataEfficiencyConfig
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sampler import CurriculumSampler
from tests.data_efficiency.adapters.small_run import NUM_SAMPLES, Rows, configuration

PLAIN = configuration(length=False, dropping=False)


def sampler(rank=0, num_ranks=1, **changes):
    """A sampler of 4 rows a step on each process."""
    settings = {"rows_per_step": 4, "rank": rank, "num_ranks": num_ranks} | changes
    return StatefulCurriculumSampler(Rows(), PLAIN, **settings)


def test_an_iteration_is_a_pass_of_the_samplers_own_order():
    own = sampler()
    passes = [list(own) for _ in range(3)]
    # A pass of 22 samples is filled up to 6 steps of 4 from the next one.
    drawn = sum(passes, [])
    assert [len(one) for one in passes] == [24, 24, 24]
    assert len(own) == 24
    assert set(drawn[:NUM_SAMPLES]) == set(range(NUM_SAMPLES))
    steps = CurriculumSampler(Rows(), micro_batch_size=4)
    expected = [number for _ in range(18) for number in steps.next_global_batch().samples]
    assert drawn == expected
    with pytest.raises(ConfigError, match="pass 4 .* num_epochs .* is 3"):
        next(iter(own))


def test_processes_share_a_step():
    whole = list(sampler(rows_per_step=8))
    parts = [list(sampler(rank, 2)) for rank in (0, 1)]
    steps = [parts[0][first : first + 4] + parts[1][first : first + 4] for first in (0, 4, 8)]
    assert sum(steps, []) == whole


def test_it_goes_on_from_the_middle_of_a_step():
    whole = list(sampler())
    for num_taken in (0, 1, 3, 4, 22, 23, 24):
        stopped = sampler()
        numbers = iter(stopped)
        taken = [next(numbers) for _ in range(num_taken)]
        state = json.loads(json.dumps(stopped.state_dict()))
        resumed = sampler()
        resumed.load_state_dict(state)
        rest = list(resumed)
        assert taken == whole[:num_taken]
        assert rest[: 24 - num_taken] == whole[num_taken:] or num_taken == 24
        assert len(rest) == (24 - num_taken or 24)


def test_another_number_of_processes_between_steps_alone():
    whole = list(sampler(rows_per_step=8))
    stopped = sampler(0, 2)
    numbers = iter(stopped)
    for _ in range(4):
        next(numbers)
    resumed = sampler(rows_per_step=8)
    resumed.load_state_dict(stopped.state_dict())
    assert list(resumed) == whole[8:]
    next(numbers)
    with pytest.raises(ValueError, match="1 samples into a step of 8 on 2 processes"):
        sampler(rows_per_step=8).load_state_dict(stopped.state_dict())


def test_a_step_that_is_not_filled_may_be_left_out():
    assert len(list(sampler(drop_last=True))) == 20


def test_more_than_a_choice_of_samples_is_refused():
    with pytest.raises(ConfigError, match="seqlen_truncate, random_ltd change what a forward sees"):
        StatefulCurriculumSampler(Rows(), configuration(), rows_per_step=4)
    warm_up = DataEfficiencyConfig.of(Curriculum("seqlen", start=8, steps=4))
    with pytest.raises(ConfigError, match="seqlen_truncate change"):
        StatefulCurriculumSampler(Rows(), warm_up, rows_per_step=4)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore")
def test_a_loader_that_reads_ahead_saves_what_was_given_out(num_workers):
    def make():
        return StatefulDataLoader(Rows(), batch_size=2, sampler=sampler(), num_workers=num_workers)

    whole = [batch["input_ids"][:, 0].tolist() for batch in make()]
    stopped = make()
    batches = iter(stopped)
    first = [next(batches)["input_ids"][:, 0].tolist() for _ in range(5)]
    state = stopped.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert first + [batch["input_ids"][:, 0].tolist() for batch in resumed] == whole
    assert len(whole) == 12


@pytest.mark.filterwarnings("ignore")
def test_a_stream_has_the_same_order_and_state():
    def make(num_workers=0):
        stream = CurriculumStream(Rows(), sampler())
        assert len(stream) == 24
        return StatefulDataLoader(stream, batch_size=2, num_workers=num_workers)

    whole = [number for batch in make() for number in batch["input_ids"][:, 0].tolist()]
    assert whole == list(sampler())
    stopped = make()
    batches = iter(stopped)
    for _ in range(5):
        next(batches)
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert [n for batch in resumed for n in batch["input_ids"][:, 0].tolist()] == whole[10:]
    with pytest.raises(ConfigError, match="num_workers must be 0"):
        next(iter(make(num_workers=1)))


def test_a_custom_schedule():
    config = configuration(dropping=False, length=False)
    own = StatefulCurriculumSampler(Rows(), config, rows_per_step=4, custom_schedules={})
    assert list(own) == list(sampler())
    with pytest.raises(ValueError, match="no metric with schedule_type custom"):
        sampler(custom_schedules={"other": lambda step: step})
