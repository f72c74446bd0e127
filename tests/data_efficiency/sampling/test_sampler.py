import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_efficiency.config import DataEfficiencyConfig, load_config
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.schedule import CustomSchedule
from tests.json_sections import curriculum_config, length_metric, metric

NUM_SAMPLES = 1000


class Numbers:
    """A dataset of its own sample numbers."""

    def __init__(self, num_samples=NUM_SAMPLES, name="numbers"):
        self.num_samples = num_samples
        self.identity = {"name": name, "num_samples": num_samples}

    def __len__(self):
        return self.num_samples

    def __getitem__(self, sample):
        return sample


def curriculum(index_path, *, total=30, second=None):
    line = {"schedule_type": "fixed_linear"}
    line["schedule_config"] = {"total_curriculum_step": total, "difficulty_step": 10}
    metrics = {
        "rarity": metric(index_path, difficulty_type="value", **line),
        "seqlen_truncate": length_metric(steps=total),
    }
    if second is not None:
        metrics["size"] = metric(second, **line)
    content = curriculum_config(metrics)
    content["data_efficiency"]["seed"] = 5
    return load_config(content).data_efficiency


VALUES = np.random.default_rng(1).integers(1, 101, NUM_SAMPLES)
SIZES = np.random.default_rng(2).integers(1, 51, NUM_SAMPLES)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Folders with the indexes of VALUES and SIZES."""
    folder, identity = tmp_path_factory.mktemp("index"), describe_dataset(Numbers())
    for name, values in (("rarity", VALUES), ("size", SIZES)):
        DifficultyIndex.write(folder / name, values, metric=name, dataset_identity=identity)
    return folder / "rarity", folder / "size"


@pytest.fixture(scope="module")
def index_path(paths):
    return paths[0]


@pytest.fixture(params=["one metric", "two metrics"])
def config(request, paths):
    return curriculum(paths[0], second=paths[1] if request.param == "two metrics" else None)


def draw(sampler, num_steps):
    return [sampler.next_global_batch() for _ in range(num_steps)]


def test_only_admitted_samples_are_drawn(index_path):
    sampler = CurriculumSampler(Numbers(), curriculum(index_path), micro_batch_size=32)
    for batch in draw(sampler, 60):
        limit = batch.difficulties["rarity"]
        assert VALUES[batch.samples].max() <= limit
        assert batch.pool_size == (limit >= VALUES).sum()
    assert batch.difficulties == {"rarity": 100, "seqlen_truncate": 64}


def test_no_sample_twice_within_a_pass_of_its_cluster_and_none_missing(index_path):
    sampler = CurriculumSampler(Numbers(), curriculum(index_path, total=10), micro_batch_size=64)
    batches = draw(sampler, 200)
    samples = np.concatenate([batch.samples for batch in batches])
    visits = np.concatenate([batch.visits for batch in batches])
    assert len(set(zip(samples.tolist(), visits.tolist(), strict=True))) == len(samples)
    # A pass of a cluster that a later one has followed is complete.
    starts = sampler._clusters.starts
    for first, last in zip(starts, starts[1:], strict=False):
        members = sampler._clusters.samples_at(np.arange(first, last))
        in_cluster = np.isin(samples, members)
        for visit in range(visits[in_cluster].max()):
            seen = samples[in_cluster & (visits == visit)]
            assert sorted(seen.tolist()) == sorted(members.tolist())


def test_without_metrics_every_pass_holds_each_sample_once():
    sampler = CurriculumSampler(Numbers(96), micro_batch_size=8)
    for visit in range(3):
        batches = draw(sampler, 12)
        assert sorted(np.concatenate([batch.samples for batch in batches])) == list(range(96))
        assert {int(v) for batch in batches for v in batch.visits} == {visit}


@pytest.mark.parametrize(
    ("ranks", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 1), (8, 1)]
)
def test_ranks_and_micro_batches_partition_the_same_global_batch(config, ranks, accumulation):
    whole = CurriculumSampler(Numbers(), config, micro_batch_size=16)
    expected = [batch.samples.tolist() for batch in draw(whole, 20)]
    parts = [
        iter(
            CurriculumSampler(
                Numbers(),
                config,
                micro_batch_size=16 // ranks // accumulation,
                gradient_accumulation_steps=accumulation,
                data_parallel_rank=rank,
                data_parallel_size=ranks,
            )
        )
        for rank in range(ranks)
    ]
    for batch in expected:
        rows = [sample for part in parts for _ in range(accumulation) for sample in next(part)]
        assert rows == batch


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(("ranks", "num_workers"), [(1, 2), (2, 0), (2, 4)])
def test_workers_of_a_plain_data_loader_change_nothing(config, ranks, num_workers):
    whole = CurriculumSampler(Numbers(), config, micro_batch_size=16)
    expected = [batch.samples.tolist() for batch in draw(whole, 12)]
    loaders = [
        DataLoader(
            Numbers(),
            batch_sampler=CurriculumSampler(
                Numbers(),
                config,
                micro_batch_size=16 // ranks,
                data_parallel_rank=rank,
                data_parallel_size=ranks,
            ),
            num_workers=num_workers,
        )
        for rank in range(ranks)
    ]
    for batch, *parts in zip(expected, *loaders, strict=False):
        assert torch.cat(parts).tolist() == batch


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 50), st.integers(1, 30), st.sampled_from([1, 2, 8]))
def test_a_resumed_sampler_goes_on_as_if_never_stopped(config, before, after, ranks):
    unbroken = CurriculumSampler(Numbers(), config, micro_batch_size=16)
    expected = draw(unbroken, before + after)[before:]
    stopped = CurriculumSampler(Numbers(), config, micro_batch_size=16)
    draw(stopped, before)
    saved = json.loads(json.dumps(stopped.state_dict()))
    resumed = CurriculumSampler(
        Numbers(),
        config,
        micro_batch_size=16 // ranks,
        data_parallel_size=ranks,
        data_parallel_rank=ranks - 1,
    )
    resumed.load_state_dict(saved)
    for left, right in zip(expected, draw(resumed, after), strict=True):
        assert np.array_equal(left.samples, right.samples)
        assert np.array_equal(left.visits, right.visits)
    assert resumed.state_dict() == unbroken.state_dict()


def test_another_seed_gives_another_order():
    first = CurriculumSampler(Numbers(), DataEfficiencyConfig(seed=1), micro_batch_size=64)
    second = CurriculumSampler(Numbers(), DataEfficiencyConfig(seed=2), micro_batch_size=64)
    same = first.next_global_batch().samples == second.next_global_batch().samples
    assert same.sum() < 5


@pytest.mark.parametrize(("drop_last", "expected"), [(False, 7), (True, 6)])
def test_the_length_is_what_iteration_gives(drop_last, expected):
    config = DataEfficiencyConfig(num_epochs=2)
    sampler = CurriculumSampler(
        Numbers(100),
        config,
        micro_batch_size=16,
        gradient_accumulation_steps=2,
        drop_last=drop_last,
    )
    assert sampler.num_steps == expected
    batches = list(sampler)
    assert len(batches) == len(sampler) == 2 * expected
    assert all(len(batch) == 16 for batch in batches)
    assert list(sampler) == []


def test_a_batch_larger_than_the_dataset_takes_several_passes():
    sampler = CurriculumSampler(Numbers(5), micro_batch_size=12)
    batch = sampler.next_global_batch()
    assert sorted(batch.samples[batch.visits == 0].tolist()) == list(range(5))
    assert sorted(batch.samples[batch.visits == 1].tolist()) == list(range(5))
    assert (batch.visits == 2).sum() == 2


def test_custom_schedules():
    lengths = {"seqlen_truncate": length_metric(schedule_type="custom", schedule_config={})}
    config = load_config(curriculum_config(lengths)).data_efficiency
    sampler = CurriculumSampler(Numbers(), config, micro_batch_size=4)
    with pytest.raises(ValueError, match="no metric with schedule_type custom"):
        sampler.set_custom_schedules({"seqlen": lambda step: step})
    sampler.set_custom_schedules({"seqlen_truncate": lambda step: 100 - step})
    assert [batch.difficulties["seqlen_truncate"] for batch in draw(sampler, 3)] == [99, 98, 97]
    with pytest.raises(ValueError, match="before the first batch"):
        sampler.set_custom_schedules({"seqlen_truncate": lambda step: step})


def falling(step):
    return [20, 60, 40, 80][step % 4]


def with_custom_schedule(config, function):
    """The configuration with a custom schedule for `rarity`, and the sampler that follows it."""
    selections = tuple(
        replace(one, schedule=CustomSchedule()) if one.name == "rarity" else one
        for one in config.selections
    )
    config = replace(config, selections=selections)
    sampler = CurriculumSampler(Numbers(), config, micro_batch_size=64)
    sampler.set_custom_schedules({"rarity": function})
    return sampler


def test_a_custom_schedule_that_goes_down_keeps_its_pool_and_resumes(
    paths,
):
    config = curriculum(paths[0], second=paths[1])
    unbroken = with_custom_schedule(config, falling)
    expected = draw(unbroken, 8)
    assert [batch.difficulties["rarity"] for batch in expected] == [falling(s) for s in range(1, 9)]
    highest = [max(falling(earlier) for earlier in range(1, step + 1)) for step in range(1, 9)]
    easiest = np.argsort(SIZES, kind="stable")
    for batch, limit in zip(expected, highest, strict=True):
        small = easiest[: NUM_SAMPLES // 100 * batch.difficulties["size"]]
        assert batch.pool_size == (VALUES[small] <= limit).sum()
    stopped = with_custom_schedule(config, falling)
    draw(stopped, 3)
    resumed = with_custom_schedule(config, falling)
    resumed.load_state_dict(stopped.state_dict())
    for left, right in zip(expected[3:], draw(resumed, 5), strict=True):
        assert np.array_equal(left.samples, right.samples)


def test_a_state_of_another_custom_schedule_is_refused(index_path):
    stopped = with_custom_schedule(curriculum(index_path), falling)
    draw(stopped, 3)
    other = with_custom_schedule(curriculum(index_path), lambda step: 30 + step)
    other.load_state_dict(stopped.state_dict())
    with pytest.raises(ValueError, match="samples to draw from at step 3, now .* custom schedules"):
        other.next_global_batch()


def test_what_cannot_be_sampled_from_is_refused(index_path):
    with pytest.raises(ValueError, match="dataset"):
        CurriculumSampler(Numbers(name="other"), curriculum(index_path), micro_batch_size=4)
    with pytest.raises(
        ConfigError, match=r"\(generator\) has no length: .* __len__ and __getitem__"
    ):
        CurriculumSampler((number for number in range(3)), micro_batch_size=4)
    with pytest.raises(ValueError, match="the dataset is empty"):
        CurriculumSampler(Numbers(0), micro_batch_size=4)
    with pytest.raises(ValueError, match=r"leaves no batch: 3 samples x num_epochs \(2\) .* \(8\)"):
        CurriculumSampler(
            Numbers(3), DataEfficiencyConfig(num_epochs=2), micro_batch_size=8, drop_last=True
        )
    with pytest.raises(ValueError, match="data_parallel_rank is 2: must be at least 0 and below"):
        CurriculumSampler(Numbers(), micro_batch_size=4, data_parallel_rank=2, data_parallel_size=2)


def test_a_step_without_a_place_in_the_clusters(config):
    """As after `step` steps by the schedules, and every cluster is passed through from its start."""
    sampler = CurriculumSampler(Numbers(), config, micro_batch_size=16)
    saved = json.loads(json.dumps(sampler.state_at(20)))
    assert sampler.state.step == 0
    sampler.load_state_dict(saved)
    batch, *later = draw(sampler, 30)
    there = CurriculumSampler(Numbers(), config, micro_batch_size=16)
    draw(there, 20)
    same_step = there.next_global_batch()
    assert batch.difficulties == same_step.difficulties
    assert batch.pool_size == same_step.pool_size
    assert VALUES[batch.samples].max() <= batch.difficulties["rarity"]
    # A cluster smaller than its share of the batch is passed through more than once.
    assert 0 in batch.visits
    assert batch.step == 21
    assert later[-1].step == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed: expected 6, found 5"),
        ({"dataset": "other"}, "dataset: expected 'other'"),
        ({"metrics": {}}, "metrics.rarity"),
    ],
)
def test_a_state_of_another_run_is_refused(index_path, change, message):
    sampler = CurriculumSampler(Numbers(), curriculum(index_path), micro_batch_size=4)
    saved = sampler.state_dict()
    saved["depends_on"] |= change
    with pytest.raises(ValueError, match=f"another run: .*{message}"):
        sampler.load_state_dict(saved)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate_shards_a_sampler_without_ranks(num_workers):
    def share(rank):
        sampler = CurriculumSampler(
            Numbers(96), once(), micro_batch_size=4, gradient_accumulation_steps=2
        )
        loader = DataLoader(Numbers(96), batch_sampler=sampler, num_workers=num_workers)
        return prepared(loader, rank)

    both = [torch.cat(list(share(rank))) for rank in range(2)]
    whole = CurriculumSampler(Numbers(96), once(), micro_batch_size=8)
    assert sorted(torch.cat(both).tolist()) == list(range(96))
    for step in range(12):
        rows = torch.cat([one[4 * step : 4 * step + 4] for one in both])
        assert rows.tolist() == whole.next_global_batch().samples.tolist()


@pytest.mark.parametrize("is_generator", [False, True])
@pytest.mark.parametrize(
    "how", [{"even_batches": False}, {"dispatch_batches": True, "put_on_device": True}]
)
def test_accelerate_does_not_shard_one_ranks_rows_again(is_generator, how):
    sampler = CurriculumSampler(
        Numbers(96), once(), micro_batch_size=4, data_parallel_rank=0, data_parallel_size=2
    )
    loader = DataLoader(
        Numbers(96), batch_sampler=(x for x in sampler) if is_generator else sampler
    )
    with pytest.raises(ConfigError, match="do not prepare the loader"):
        next(iter(prepared(loader, 0, **how)))
    assert len(list(DataLoader(Numbers(96), batch_sampler=sampler))) == 12


def once():
    return DataEfficiencyConfig(num_epochs=1)


def prepared(loader, rank, **how):
    return prepare_data_loader(
        loader, num_processes=2, process_index=rank, device=torch.device("cpu"), **how
    )


@pytest.mark.parametrize("name", ["order.npy", "values.npy"])
def test_an_index_with_a_flipped_bit_is_noticed_before_it_is_used(tmp_path, paths, name):
    def draw(config):
        sampler = CurriculumSampler(Numbers(), config, micro_batch_size=8)
        return sampler.next_global_batch().samples.tolist()

    rarity, size = (shutil.copytree(path, tmp_path / path.name) for path in paths)
    for config in (curriculum(rarity), curriculum(rarity, second=size)):
        expected = draw(config)
        shutil.rmtree(tmp_path / "clusters", ignore_errors=True)
        content = bytearray((rarity / name).read_bytes())
        content[-5] ^= 1
        (rarity / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} was changed after it was written"):
            draw(config)
        content[-5] ^= 1
        (rarity / name).write_bytes(content)
        assert draw(config) == expected


def test_a_disk_that_fills_up_while_clusters_are_prepared_costs_only_their_keeping(
    tmp_path, paths, monkeypatch
):
    def fail(*given):
        raise OSError("no space left")

    settings = replace(curriculum(paths[0], second=paths[1]), data_cluster_path=str(tmp_path))
    monkeypatch.setattr("data_efficiency.sampling.prepared_clusters.write_array", fail)
    held = CurriculumSampler(Numbers(), settings, micro_batch_size=8)
    monkeypatch.undo()
    kept = CurriculumSampler(Numbers(), settings, micro_batch_size=8)
    for _ in range(40):
        found, expected = held.next_global_batch(), kept.next_global_batch()
        assert found.samples.tolist() == expected.samples.tolist()
        assert found.pool_size == expected.pool_size
