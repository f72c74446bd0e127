"""Rows of several lengths: each once a pass, one length and equally many tokens a step, on any ranks and after any stop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import ConfigError, Curriculum, DifficultyIndex
from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.sampling.bucketed_rows import BucketedRows
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.step_sizes import StepSizes

LENGTHS = (4, 8, 16)


class Rows:
    """Rows of three lengths that hold their own number; items, so that batches are collated."""

    part_lengths = LENGTHS

    def __init__(self, sizes=(64, 48, 12)):
        self.part_sizes = tuple(sizes)
        self.identity = {"rows": list(sizes)}

    def __len__(self):
        return sum(self.part_sizes)

    def length_of(self, sample):
        return LENGTHS[int(np.searchsorted(np.cumsum(self.part_sizes), sample, "right"))]

    def __getitem__(self, sample):
        return {"tokens": torch.full((self.length_of(sample),), sample)}


def config_of(*parts, seed=1, **keys):
    return DataEfficiencyConfig.of(*parts, length_buckets=keys, seed=seed)


def sampler_of(config, rows=None, *, base=4, ranks=1, rank=0, micro=None):
    micro = micro or base // ranks
    return CurriculumSampler(
        rows or Rows(),
        config,
        micro_batch_size=micro,
        gradient_accumulation_steps=base // ranks // micro,
        data_parallel_rank=rank,
        data_parallel_size=ranks,
    )


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(1, 90), min_size=3, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["uniform", "grow_p2", [1, 2, 3]]),
    st.integers(0, 5),
)
def test_each_row_comes_once_a_pass_and_steps_have_equal_tokens(sizes, base, odds, seed):
    rows = Rows(sizes)
    sampler = sampler_of(config_of(odds=odds, seed=seed), rows, base=base)
    counts, edges = np.zeros(len(rows), int), [0, *np.cumsum(sizes)[:-1]]
    for _ in range(40):
        batch = sampler.next_global_batch()
        lengths = set(map(rows.length_of, batch.samples))
        assert len(lengths) == 1
        assert len(batch.samples) * lengths.pop() == base * LENGTHS[-1]
        np.add.at(counts, batch.samples, 1)
        often, seldom = (one.reduceat(counts, edges) for one in (np.maximum, np.minimum))
        assert (often - seldom).max() <= 1
        assert batch.part_epochs == pytest.approx(np.add.reduceat(counts, edges) / sizes)


@pytest.mark.parametrize("odds", ["uniform", "grow_p2"])
def test_after_as_many_steps_as_a_pass_has_all_rows_are_there(odds):
    """Sizes that are whole steps: one pass has each row once, the next one again, in another order."""
    sampler = sampler_of(config_of(odds=odds))
    passes = []
    for _ in range(2):
        passes.append(np.concatenate([sampler.next_global_batch().samples for _ in range(13)]))
        assert sorted(passes[-1].tolist()) == list(range(124))
    assert passes[0].tolist() != passes[1].tolist()
    assert sampler.samples_before(27) == 248


@pytest.mark.parametrize(("ranks", "workers", "micro"), [(1, 2, 2), (2, 0, 1), (4, 0, None)])
def test_batches_are_the_same_on_any_ranks_and_after_a_stop(ranks, workers, micro):
    config = config_of(odds="grow_linear", num_cycles=2)
    whole = sampler_of(config)
    expected = [whole.next_global_batch().samples.tolist() for _ in range(12)]
    loaders = [
        CurriculumDataLoader(
            Rows(), sampler_of(config, ranks=ranks, rank=rank, micro=micro), num_workers=workers
        )
        for rank in range(ranks)
    ]
    for part in (expected[:5], expected[5:]):
        steps = [loader.steps() for loader in loaders]
        for wanted in part:
            found = [row for one in steps for batch in next(one) for row in batch["tokens"][:, 0]]
            assert found == wanted
        # What was read ahead is forgotten.
        saved = loaders[0].state_dict()
        del steps
        for loader in loaders:
            loader.load_state_dict(saved)


def test_a_state_of_other_buckets_is_refused():
    first, other = sampler_of(config_of()), sampler_of(config_of(odds="grow_p2"))
    first.next_global_batch()
    with pytest.raises(
        ValueError, match="length_buckets.odds: expected 'uniform', found 'grow_p2'"
    ):
        other.load_state_dict(first.state_dict())


def test_a_plain_loader_gets_lists_of_one_length():
    """As `batch_sampler`: any dataset that says its lengths, without a loader of ours."""
    rows = Rows()
    loader = torch.utils.data.DataLoader(rows, batch_sampler=sampler_of(config_of(), rows))
    shapes = {tuple(batch["tokens"].shape) for batch, _ in zip(loader, range(13), strict=False)}
    assert shapes == {(16, 4), (8, 8), (4, 16)}


@pytest.mark.parametrize("order", [None, "ascending"])
def test_metrics_choose_rows_inside_each_bucket(tmp_path, order):
    """Half of each bucket's rows at first, the easy ones; or all of them, sorted in each bucket."""
    rows = Rows()
    values = np.random.default_rng(0).permutation(len(rows))
    DifficultyIndex.write(tmp_path / "m", values, metric="m", dataset_identity=rows.identity)
    pacing = {"order": order} if order else {"start": 50, "steps": 13, "root": 1, "step_size": 50}
    config = config_of(Curriculum("m", index=tmp_path / "m", **pacing))
    sampler = sampler_of(config, rows, base=2)
    plain = sampler_of(config_of(), rows, base=2)
    seen = []
    for _ in range(12):
        batch = sampler.next_global_batch()
        assert len(batch.samples) == len(plain.next_global_batch().samples)
        seen.append(batch.samples)
    if order is None:
        assert values[np.concatenate(seen)].max() < 62
        return
    for bucket, (first, size) in enumerate(zip((0, 64, 112), rows.part_sizes, strict=True)):
        own = [one for one in seen if first <= one[0] < first + size]
        ranks = [values[one].mean() for one in own]
        assert ranks == sorted(ranks), bucket


def test_parts_are_those_of_the_steps():
    config = config_of().with_buckets(LENGTHS, (64, 48, 0))
    sizes = StepSizes.of(config, 4)
    parts = BucketedRows(buckets=config.length_buckets, step_sizes=sizes)
    assert parts.drawn_parts == {0, 1}
    assert parts.targets(64 + 48).tolist() == [64, 48, 0]
    assert parts.ends.tolist() == [64, 112, 112]
    for step in range(1, 30):
        assert parts.parts_of(step, np.zeros(3, int), 5).tolist() == [parts.bucket_at(step)] * 5


class Wrong(Rows):
    """It has more rows than its buckets."""

    def __len__(self):
        return 200


def test_sizes_must_add_up():
    with pytest.raises(ConfigError, match="has 200 samples: they must add up"):
        sampler_of(config_of(), Wrong())
