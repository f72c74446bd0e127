import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from data_efficiency.config import load_config
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.schedule import CustomSchedule
from tests.json_sections import curriculum_config, length_metric

LENGTH = 32


class Rows(Dataset):
    """Row i holds the number i throughout."""

    def __len__(self):
        return 200

    def __getitem__(self, sample):
        return torch.full((LENGTH,), sample)


class WholeBatches(Rows):
    """The same, read a batch at once, beside the visits it was handed."""

    def get_batch(self, samples, visits):
        return {"tokens": np.repeat(samples[:, None], LENGTH, 1), "visits": visits}


LENGTHS = {"seqlen_truncate": length_metric(1, LENGTH, steps=LENGTH, step_size=1)}
CONFIG = load_config(curriculum_config(LENGTHS, num_epochs=3)).data_efficiency


def make_loader(dataset=None, num_workers=0, accumulation=2):
    dataset = dataset or Rows()
    sampler = CurriculumSampler(
        dataset, CONFIG, micro_batch_size=4, gradient_accumulation_steps=accumulation
    )
    return CurriculumDataLoader(dataset, sampler, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_batch_has_the_samples_and_the_length_of_its_own_step(num_workers):
    loader = make_loader(num_workers=num_workers)
    reference = CurriculumSampler(Rows(), CONFIG, micro_batch_size=8)
    for number, batch in enumerate(loader):
        if number % 2 == 0:
            expected = reference.next_global_batch()
        half = slice(4 * (number % 2), 4 * (number % 2) + 4)
        assert batch[:, 0].tolist() == expected.samples[half].tolist()
        assert batch.shape[1] == expected.difficulties["seqlen_truncate"]
        assert loader.plan.batch.step == expected.step
        assert loader.plan.is_last == (number % 2 == 1)
    assert number + 1 == len(loader) == 2 * 75


class LabelledRows(Rows):
    """The same as inputs and labels."""

    def __getitem__(self, sample):
        return {"tokens": super().__getitem__(sample), "labels": super().__getitem__(sample)}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("action", ["truncate", "reshape"])
def test_no_batch_meets_the_difficulty_of_another_step(action, num_workers):
    def jumps(step):
        return 1 + step * 7919 % LENGTH

    plan = replace(CONFIG.length_plans[0], action=action, schedule=CustomSchedule())
    dataset = LabelledRows()
    sampler = CurriculumSampler(
        dataset, replace(CONFIG, length_plans=(plan,)), micro_batch_size=4, data_parallel_size=2
    )
    sampler.set_custom_schedules({"seqlen_truncate": jumps})
    loader = CurriculumDataLoader(dataset, sampler, num_workers=num_workers)
    for step, batch in enumerate(loader, start=1):
        rows = 4 if action == "truncate" else math.ceil(4 * LENGTH / jumps(step))
        assert tuple(batch["tokens"].shape) == (rows, jumps(step))
        trained = batch["tokens"][batch["labels"] >= 0]
        samples = loader.plan.batch.samples[:4]
        per_row = jumps(step) if action == "truncate" else LENGTH
        assert trained.tolist() == np.repeat(samples, per_row).tolist()
    assert step == len(loader) == 75


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_state_is_that_of_the_last_step_consumed(num_workers):
    whole = [batch.tolist() for batch in make_loader()]
    for num_consumed in (0, 1, 2, 5, 40):
        loader = make_loader(num_workers=num_workers)
        batches = iter(loader)
        for _ in range(num_consumed):
            next(batches)
        saved = loader.state_dict()
        assert saved["step"] == num_consumed // 2
        resumed = make_loader()
        resumed.load_state_dict(saved)
        rest = [batch.tolist() for batch in resumed]
        assert rest == whole[num_consumed // 2 * 2 :]


def test_iterating_again_goes_on_where_consumption_stopped():
    whole = [batch.tolist() for batch in make_loader()]
    loader = make_loader(num_workers=2)
    for number, _ in enumerate(loader):
        if number == 3:
            break
    assert next(iter(loader)).tolist() == whole[4]


def test_datasets_that_read_whole_batches_get_the_visits():
    loader = make_loader(WholeBatches())
    batches = list(loader)
    visits = torch.cat([batch["visits"] for batch in batches])
    assert visits.tolist() == [0] * 200 + [1] * 200 + [2] * 200
    assert [batch["tokens"][:, 0].tolist() for batch in batches] == [
        batch[:, 0].tolist() for batch in make_loader()
    ]


def test_a_post_process_function_replaces_the_declared_action():
    loader = make_loader(num_workers=2)
    states = []

    def halve(batch, state):
        states.append(state)
        return batch[:, : state["current_difficulties"]["seqlen_truncate"] // 2]

    loader.set_post_process(halve)
    batches = [batch for batch, _ in zip(loader, range(6), strict=False)]
    assert [batch.shape[1] for batch in batches[2:]] == [1, 1, 1, 1]
    assert states[4] == {
        "current_difficulties": {"seqlen_truncate": 3},
        "curriculum_step": 3,
        "consumed_samples": 16,
    }


class Pairs(Rows):
    """Rows as pairs without names."""

    def __getitem__(self, sample):
        return super().__getitem__(sample), super().__getitem__(sample).float()


def test_batches_without_names_need_a_declaration():
    loader = make_loader(Pairs())
    with pytest.raises(ValueError, match=r"nothing to cut.*0 \[4, 32\], 1 \[4, 32\]"):
        next(iter(loader))
    loader.sampler.config = replace(loader.sampler.config, sequence_axes={"0": (1,)})
    assert [tuple(part.shape) for part in next(iter(loader))] == [(4, 1), (4, 32)]


def test_a_metric_for_a_post_process_function_needs_one():
    plan = replace(CONFIG.length_plans[0], name="dummy_metric", action="user")
    sampler = CurriculumSampler(Rows(), replace(CONFIG, length_plans=(plan,)), micro_batch_size=4)
    loader = CurriculumDataLoader(Rows(), sampler)
    with pytest.raises(ConfigError, match="'dummy_metric' is for a post-process function"):
        next(iter(loader))
    loader.set_post_process(lambda batch, state: (batch, state["current_difficulties"]))
    assert next(iter(loader))[1] == {"dummy_metric": 2}


def test_nothing_is_drawn_from_global_generators():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(make_loader()))
    assert torch.equal(torch.get_rng_state(), before)


class Stream(IterableDataset):
    """A stream that knows its length."""

    def __iter__(self):
        return iter(range(200))

    def __len__(self):
        return 200


def test_streams_are_refused():
    with pytest.raises(ConfigError, match=r"\(Stream\) cannot be read by sample numbers: give one"):
        make_loader(Stream())
