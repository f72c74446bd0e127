"""Batches are a function of (seed, step, values observed in time); a state goes on exactly, read by anybody."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.config import DataEfficiencyConfig, Feedback
from data_efficiency.hashing import hash_numbers
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling import feedback as feedback_module
from data_efficiency.sampling.feedback import FeedbackClusters
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler

SETTINGS = Feedback(policy="high_loss", kept_share=0.5, refresh_steps=4, delay_steps=3)
NUM_SAMPLES, ROWS = 50, 6


class Rows:
    """Samples that are their own numbers, in one part or two."""

    identity = {"name": "rows"}

    def __init__(self, *, weights=None):
        if weights is not None:
            self.part_sizes, self.part_weights = (20, 30), weights

    def __len__(self):
        return NUM_SAMPLES

    def get_batch(self, samples, _visits=None):
        return {"tokens": np.repeat(samples[:, None], 2, 1)}


def sampler_of(settings=SETTINGS, *, ranks=1, rank=0, weights=None, seed=1):
    return CurriculumSampler(
        Rows(weights=weights),
        DataEfficiencyConfig(feedback=settings, seed=seed),
        micro_batch_size=ROWS // ranks,
        data_parallel_rank=rank,
        data_parallel_size=ranks,
    )


def values_of(step, samples, salt=0):
    """Made-up losses, which change from step to step."""
    return (hash_numbers(salt, step, samples) >> np.uint64(40)).astype(np.float64)


def go(sampler, num_steps, salt=0):
    """The batches of some steps, whose values are observed."""
    batches = []
    for _ in range(num_steps):
        batch = sampler.next_global_batch()
        sampler.observe(batch.step, batch.samples, values_of(batch.step, batch.samples, salt))
        batches.append(batch)
    return batches


def by_hand(batches, settings, number, policy):
    """The pool of a round, of whole histories."""
    history = {sample: [] for sample in range(NUM_SAMPLES)}
    for batch in batches:
        if batch.step <= settings.last_known(number):
            values = values_of(batch.step, batch.samples).astype(np.float32)
            for sample, value in zip(batch.samples.tolist(), values.tolist(), strict=True):
                history[sample].append(value)
    least = 2 if policy == "learnability" else 1
    merit = {
        "high_loss": lambda seen: seen[-1],
        "low_loss": lambda seen: -seen[-1],
        "learnability": lambda seen: seen[-2] - seen[-1],
    }[policy]
    ranked = [sample for sample, seen in history.items() if len(seen) >= least]
    best = sorted(ranked, key=lambda sample: (-merit(history[sample]), sample))
    kept = best[: int(np.ceil(settings.kept_share * len(ranked)))]
    return sorted(set(range(NUM_SAMPLES)) - set(ranked) | set(kept))


@pytest.mark.parametrize("policy", ["high_loss", "low_loss", "learnability"])
@pytest.mark.parametrize("delay", [1, 3, 9])
def test_rounds_draw_from_what_a_slow_count_says(policy, delay):
    chosen = replace(SETTINGS, policy=policy, delay_steps=delay)
    sampler = sampler_of(chosen)
    batches = go(sampler, 40)
    sizes = set()
    for number in range(10):
        steps = batches[4 * number : 4 * number + 4]
        drawn = np.concatenate([batch.samples for batch in steps])
        pool = by_hand(batches, chosen, number, policy)
        assert {batch.pool_size for batch in steps} == {len(pool)}
        assert set(drawn.tolist()) <= set(pool)
        # Each once before any comes twice.
        counts = np.bincount(drawn, minlength=NUM_SAMPLES)[pool]
        assert counts.max() - counts.min() <= 1
        sizes.add(len(pool))
    assert len(sizes) > 1


@settings(max_examples=20, deadline=None)
@given(
    cut=st.integers(0, 23),
    ahead=st.integers(0, 2),
    weights=st.sampled_from([None, (1.0, 2.0)]),
    policy=st.sampled_from(["high_loss", "learnability"]),
)
def test_a_state_after_any_step_goes_on_with_the_same_batches(cut, ahead, weights, policy):
    """Through JSON, after batches were drawn ahead, and on other ranks."""
    chosen = replace(SETTINGS, policy=policy)
    whole = go(sampler_of(chosen, weights=weights), 24)
    first = sampler_of(chosen, weights=weights)
    go(first, cut)
    place = first.state
    for _ in range(ahead):
        first.next_global_batch()
    saved = json.loads(json.dumps(first.state_dict(place)))
    for rank in range(2):
        other = sampler_of(chosen, ranks=2, rank=rank, weights=weights)
        other.load_state_dict(saved)
        for own, expected in zip(go(other, 24 - cut), whole[cut:], strict=True):
            assert own.samples.tolist() == expected.samples.tolist()
            assert own.visits.tolist() == expected.visits.tolist()
            assert own.pool_size == expected.pool_size


def test_what_is_observed_too_late_for_a_round_does_not_change_it():
    """Whatever a loader reads ahead, up to the delay."""
    whole = go(sampler_of(), 24)
    late = sampler_of()
    drawn = [late.next_global_batch() for _ in range(3)]
    for step in range(1, 22):
        batch = drawn[step - 1]
        late.observe(step, batch.samples, values_of(step, batch.samples))
        drawn.append(late.next_global_batch())
    for own, expected in zip(drawn, whole, strict=True):
        assert own.samples.tolist() == expected.samples.tolist()
    assert [b.samples.tolist() for b in go(sampler_of(), 24, salt=1)] != [
        b.samples.tolist() for b in whole
    ]


def test_a_step_before_whose_values_are_known_is_an_error():
    sampler = sampler_of()
    for _ in range(4):
        sampler.next_global_batch()
    with pytest.raises(
        ValueError, match="step 5 is drawn by the values of steps up to 2, and those up to 0"
    ):
        sampler.next_global_batch()


def test_parts_of_a_blend_keep_their_weights():
    """Over the whole run: what a round rounds away, the next ones make up for."""
    batches = go(sampler_of(weights=(0.27, 0.73)), 40)
    drawn = np.concatenate([batch.samples for batch in batches])
    assert abs((drawn < 20).sum() - 0.27 * len(drawn)) <= 2
    assert batches[-1].part_epochs == ((drawn < 20).sum() / 20, (drawn >= 20).sum() / 30)


def test_each_round_has_an_order_of_its_own():
    batches = go(sampler_of(replace(SETTINGS, kept_share=1.0)), 8)
    assert {batch.pool_size for batch in batches} == {NUM_SAMPLES}
    first, second = (
        np.concatenate([batch.samples for batch in part]) for part in (batches[:4], batches[4:])
    )
    assert set(first.tolist()) != set(second.tolist())


def test_visits_of_a_sample_are_never_the_same():
    seen = [
        (sample, visit)
        for batch in go(sampler_of(), 40)
        for sample, visit in zip(batch.samples.tolist(), batch.visits.tolist(), strict=True)
    ]
    assert len(set(seen)) == len(seen)


def test_numbers_that_are_not_finite_are_passed_over():
    sampler = sampler_of(replace(SETTINGS, delay_steps=1))
    batches = [sampler.next_global_batch() for _ in range(4)]
    for batch in batches:
        sampler.observe(batch.step, batch.samples, [np.nan, np.inf, 1, 2, 3, 4])
    # Of 24 distinct samples 16 have a value, of which half are left out.
    assert sampler.next_global_batch().pool_size == NUM_SAMPLES - 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, [1], [0.5]), "values of step 2 were observed after those of step 0"),
        ((1, [1, 2], [0.5]), r"step 1: \(1,\) values for \(2,\) samples"),
        ((1, [NUM_SAMPLES], [0.5]), "must be one a sample of the dataset"),
    ],
)
def test_what_cannot_be_observed(arguments, message):
    step, samples, values = arguments
    with pytest.raises(ValueError, match=message):
        sampler_of().observe(step, np.array(samples), values)


def test_a_state_before_its_values_and_one_of_others_are_refused():
    sampler = sampler_of()
    sampler.next_global_batch()
    with pytest.raises(ValueError, match="steps 1 are done, and those of 0 were"):
        sampler.state_dict()
    saved = sampler_of().state_dict()
    with pytest.raises(ValueError, match="feedback.policy: expected 'high_loss', found 'low_loss'"):
        sampler_of(replace(SETTINGS, policy="low_loss")).load_state_dict(saved)
    plain = CurriculumSampler(Rows(), None, micro_batch_size=ROWS)
    with pytest.raises(ValueError, match="nothing follows what is observed"):
        plain.observe(1, np.arange(ROWS), np.zeros(ROWS))


def test_other_data_begin_with_nothing_known():
    sampler = sampler_of()
    sampler.load_state_dict(json.loads(json.dumps(sampler.state_at(9))))
    batches = go(sampler, 4)
    assert [batch.step for batch in batches] == [10, 11, 12, 13]
    assert {batch.pool_size for batch in batches[:3]} == {NUM_SAMPLES}
    assert batches[3].pool_size < NUM_SAMPLES


@pytest.mark.parametrize(("workers", "delay"), [(0, 1), (1, 3), (2, 5)])
def test_a_loader_reads_no_further_ahead_than_declared(workers, delay):
    """The least delay that goes with so many workers, and one less."""

    def loader_of(delay):
        sampler = sampler_of(replace(SETTINGS, delay_steps=delay))
        return CurriculumDataLoader(Rows(), sampler, num_workers=workers)

    expected = [
        batch.samples.tolist() for batch in go(sampler_of(replace(SETTINGS, delay_steps=delay)), 14)
    ]
    loader, seen = loader_of(delay), []
    for (batch,) in loader.steps():
        samples = batch["tokens"][:, 0]
        samples = np.asarray(samples)
        assert loader.plan is not None
        loader.sampler.observe(loader.plan.batch.step, samples, values_of(len(seen) + 1, samples))
        seen.append(samples.tolist())
        if len(seen) == 14:
            break
    assert seen == expected
    if workers:
        with pytest.raises(
            ConfigError, match=f"delay_steps is {delay - 1}, but .*at least {delay}"
        ):
            loader_of(delay - 1)


def test_more_samples_than_values_are_kept_of(monkeypatch):
    monkeypatch.setattr(feedback_module, "MOST_SAMPLES", 9)
    with pytest.raises(ValueError, match="values of at most 9 samples, and the dataset has 10"):
        FeedbackClusters(SETTINGS, (4, 6))
