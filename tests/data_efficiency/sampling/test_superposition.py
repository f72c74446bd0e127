import json

import numpy as np
import pytest
import torch

from data_efficiency.config import DataEfficiencyConfig, SuperpositionConfig, TokenSuperposition
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.loader import CurriculumDataLoader
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.superposition import LABEL_WEIGHTS, superposed

SIZE, LENGTH = 3, 6


def settings(**changes):
    return SuperpositionConfig(bag_size=SIZE, num_steps=4, **changes)


def batch(num_samples=6):
    """Sample n is 100n, 100n + 1, ...: so every number tells its sample and place."""
    windows = 100 * torch.arange(num_samples)[:, None] + torch.arange(LENGTH + 1)
    return {"tokens": windows[:, :-1], "labels": windows[:, 1:]}


def by_hand(bags):
    """Tokens and labels of the first of two rows, place by place."""
    given = batch()
    tokens = [token for sample in given["tokens"][:SIZE].tolist() for token in sample]
    following = [label for sample in given["labels"][:SIZE].tolist() for label in sample]
    inputs, labels = [], []
    for place in range(LENGTH):
        last = (place + 1) * SIZE - 1
        inputs.append(tokens[last - SIZE + 1 : last + 1])
        behind = following[last : last + SIZE]
        labels.append(behind + [-100] * (SIZE - len(behind)))
    return inputs, labels if bags == "both" else [bag[0] for bag in labels]


@pytest.mark.parametrize("bags", ["both", "input"])
def test_bags_are_those_made_by_hand(bags):
    found = superposed(batch(), settings(bags=bags), 0)
    inputs, labels = by_hand(bags)
    assert found["tokens"].shape == (2, LENGTH, SIZE)
    assert found["tokens"][0].tolist() == inputs
    assert found["labels"][0].tolist() == labels
    assert (LABEL_WEIGHTS in found) == (bags == "both")


def test_output_alone_takes_the_tokens_of_the_same_row():
    found = superposed(batch(), settings(bags="output"), 0)
    assert torch.equal(found["tokens"], batch()["tokens"])
    expected = [
        [place + 1 + k if place + k < LENGTH else -100 for k in range(SIZE)]
        for place in range(LENGTH)
    ]
    assert found["labels"][0].tolist() == expected


def test_labels_at_their_own_place_are_moved_first():
    given = batch()
    given["labels"] = given["tokens"]
    found = superposed(given, settings(labels_are_next=False), 0)
    # Within a sample these are its next tokens; its last one has the next sample's first behind it.
    assert found["labels"][0, 0].tolist() == [3, 4, 5]
    assert found["labels"][0, 1].tolist() == [100, 101, 102]
    assert found["labels"][0, -1].tolist() == [-100] * 3


def test_weights_travel_with_the_labels():
    found = superposed(batch(), settings(label_weights="power_law"), 0)
    torch.testing.assert_close(found[LABEL_WEIGHTS], torch.tensor([6 / 11, 3 / 11, 2 / 11]))


def test_labels_at_their_position_become_the_next_tokens_in_plain_steps_too():
    given = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[1, 2, 3]])}
    plain = superposed(given, settings(labels_are_next=False), 10**6)
    assert plain["labels"].tolist() == [[2, 3, -100]]
    assert plain["input_ids"] is given["input_ids"]
    assert superposed(given, settings(), 10**6) is given


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([torch.ones(6, 6)], "batches are of list"),
        ({"tokens": torch.ones(6, 6, dtype=torch.int64)}, "needs tokens"),
        (batch() | {"loss_mask": torch.ones(6, 6)}, "nothing beside them"),
        (batch() | {"labels": torch.ones(6)}, "needs tokens"),
    ],
)
def test_batches_that_bags_would_make_wrong_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        superposed(wrong, settings(), 0)


class Samples(torch.utils.data.Dataset):
    identity = {"name": "samples"}

    def __init__(self, number=100):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, sample):
        window = 100 * sample + np.arange(LENGTH + 1)
        return {"tokens": window[:-1], "labels": window[1:]}


def loaders(num_ranks, micro, accumulation, number=100, **changes):
    line = TokenSuperposition(bag_size=SIZE, steps=2, **changes)
    config = DataEfficiencyConfig.of(line, seed=4, num_epochs=1)
    return [
        CurriculumDataLoader(
            Samples(number),
            CurriculumSampler(
                Samples(number),
                config,
                micro_batch_size=micro,
                gradient_accumulation_steps=accumulation,
                data_parallel_rank=rank,
                data_parallel_size=num_ranks,
            ),
        )
        for rank in range(num_ranks)
    ]


def global_batches(*split):
    """Tokens of each step, the ranks' micro-batches one after the other."""
    steps = zip(*(loader.steps() for loader in loaders(*split)), strict=True)
    return [torch.cat([batch["tokens"] for own in ranks for batch in own]) for ranks in steps]


def test_every_split_reads_the_same_rows_and_no_sample_twice():
    whole = global_batches(1, 4, 1)
    for split in ((1, 2, 2), (2, 2, 1), (2, 1, 2)):
        assert all(map(torch.equal, global_batches(*split), whole))
    assert [tokens.shape for tokens in whole[:3]] == [(4, 6, 3), (4, 6, 3), (4, 6)]
    samples = [sorted(set((tokens.flatten() // 100).tolist())) for tokens in whole]
    assert [len(found) for found in samples[:3]] == [12, 12, 4]
    read = [sample for found in samples for sample in found]
    # 24 in the two steps of bags, then 76 in 19 steps.
    assert len(whole) == 21
    assert sorted(read) == list(range(100))


def test_a_bag_is_whole_within_its_sample():
    (loader,) = loaders(1, 4, 1)
    first = next(iter(loader))["tokens"]
    assert (first % 100 == torch.arange(6).view(2, 3).repeat(3, 1)).all()


def test_a_loader_goes_on_where_it_was():
    expected = global_batches(1, 4, 1)
    for done in (1, 2, 3):
        (first,), (second,) = loaders(1, 4, 1), loaders(1, 4, 1)
        steps = first.steps()
        for _ in range(done):
            next(steps)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        rest = [batches[0]["tokens"] for batches in second.steps()]
        assert all(map(torch.equal, rest, expected[done:]))
        assert len(rest) == len(expected) - done


@pytest.mark.parametrize("number", [9, 12, 13, 24, 25, 27, 28, 100])
def test_steps_are_as_many_as_the_samples_fill(number):
    (loader,) = loaders(1, 4, 1, number)
    assert len(list(loader)) == loader.sampler.num_steps
    before, through = (
        loader.sampler.samples_before(loader.sampler.num_steps + more) for more in (0, 1)
    )
    assert before < number <= through


def test_a_sampler_alone_and_functions_of_the_users_are_refused():
    (loader,) = loaders(1, 4, 1)
    with pytest.raises(ConfigError, match="a sampler alone cannot carry out"):
        next(iter(loader.sampler))
    loader.set_post_process(lambda batch, state: batch)
    with pytest.raises(ConfigError, match="a post-process function of your own is set"):
        next(iter(loader))


def test_output_alone_reads_no_more():
    (loader,) = loaders(1, 4, 1, bags="output")
    batches = list(loader)
    assert [tuple(one["labels"].shape) for one in batches[:3]] == [(4, 6, 3), (4, 6, 3), (4, 6)]
    assert len(batches) == 25
