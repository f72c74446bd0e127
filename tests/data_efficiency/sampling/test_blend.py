import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.config import DataEfficiencyConfig, Feedback, Mix, Selection
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.blend import Blend, blend_of, next_parts
from data_efficiency.sampling.mix_course import MixCourse
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.schedule import CustomSchedule, DiscreteSchedule

weight_lists = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)


class Parts:
    """A dataset of parts that are known by their sizes alone."""

    def __init__(self, sizes, weights):
        self.part_sizes, self.part_weights = sizes, weights

    def __len__(self):
        return sum(self.part_sizes)


def constant(weights):
    return MixCourse(Mix(weights=(tuple(weights),), points=(0.0,)))


def make_sampler(parts, config=None, **arguments):
    return CurriculumSampler(parts, config, **({"micro_batch_size": 20} | arguments))


def draw(sampler, num_steps):
    return np.concatenate([sampler.next_global_batch().samples for _ in range(num_steps)])


@given(weight_lists, st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_totals_stay_in_proportion_however_the_draws_are_split(weights, batches):
    share = np.array(weights) / sum(weights)
    drawn = np.zeros(len(weights), np.int64)
    sequence = []
    for num_rows in batches:
        parts = next_parts(constant(share), drawn, num_rows)
        assert len(parts) == num_rows
        drawn += np.bincount(parts, minlength=len(weights))
        sequence += parts.tolist()
        limit = (1 + share * len(weights)) / 2 + 1e-9
        assert (np.abs(drawn - share * drawn.sum()) <= limit).all()
    zero = np.zeros(len(weights), np.int64)
    assert next_parts(constant(share), zero, sum(batches)).tolist() == sequence


def test_proportions_are_exact():
    samples = draw(make_sampler(Parts((1000, 50), (7, 3))), 50)
    assert np.count_nonzero(samples < 1000) == 700
    # 300 draws from 50 samples: each sample 6 times, none oftener.
    assert np.bincount(samples[samples >= 1000] - 1000).tolist() == [6] * 50
    assert len(set(samples[samples < 1000].tolist())) == 700


def test_every_micro_batch_is_blended_alike():
    samples = draw(make_sampler(Parts((1000, 1000), (1, 1))), 1)
    assert [int((samples[i : i + 4] < 1000).sum()) for i in range(0, 20, 4)] == [2] * 5


class TestWithACurriculum:
    """Values 0..9 in turn over both parts; even ones only are admitted at first."""

    @pytest.fixture
    def parts(self):
        return Parts((300, 100), (0.25, 0.75))

    @pytest.fixture
    def config(self, parts, tmp_path):
        identity = {"type": "Parts", "num_samples": 400}
        for name, values in (("a", np.arange(400) % 10), ("b", np.arange(400) % 7)):
            DifficultyIndex.write(tmp_path / name, values, metric=name, dataset_identity=identity)
        return DataEfficiencyConfig(
            selections=tuple(self.metric(tmp_path / name, name) for name in "ab"), num_epochs=100
        )

    def metric(self, path, name):
        return Selection(
            name=name,
            difficulty_type="value",
            min_difficulty=1,
            max_difficulty=9,
            schedule=DiscreteSchedule(difficulties=(3, 6, 9), max_steps=(3, 8), max_difficulty=9),
            index_path=str(path),
        )

    @pytest.mark.parametrize("num_metrics", [1, 2])
    def test_the_pool_is_the_same_and_the_parts_are_in_proportion(self, parts, config, num_metrics):
        config = replace(config, selections=config.selections[:num_metrics])
        plain = Parts(parts.part_sizes, None)
        blended, whole = make_sampler(parts, config), make_sampler(plain, config)
        drawn = []
        for step in range(1, 40):
            batch = blended.next_global_batch()
            assert batch.pool_size == whole.next_global_batch().pool_size
            limit = 3 if step <= 3 else 6 if step <= 8 else 9
            assert (batch.samples % 10).max() <= limit
            drawn += batch.samples.tolist()
            assert abs(np.count_nonzero(np.array(drawn) >= 300) - 0.75 * len(drawn)) <= 1.25
        assert len(set(drawn[-600:])) == 0.25 * 600 + 100

    def test_within_a_part_every_admitted_sample_is_as_likely(self, parts, config):
        config = replace(config, selections=config.selections[:1])
        samples = draw(make_sampler(parts, config), 3000)[10000:]
        counts = np.bincount(samples, minlength=400)
        for part in (slice(0, 300), slice(300, 400)):
            expected = counts[part].mean()
            assert np.abs(counts[part] - expected).max() < 6 * np.sqrt(expected)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 20), st.sampled_from([1, 2, 4]))
    def test_resuming_goes_on_exactly(self, tmp_path_factory, num_steps, num_ranks):
        folder = tmp_path_factory.mktemp("index")
        parts = Parts((300, 100), (0.25, 0.75))
        identity = {"type": "Parts", "num_samples": 400}
        DifficultyIndex.write(
            folder / "a", np.arange(400) % 10, metric="a", dataset_identity=identity
        )
        config = DataEfficiencyConfig(selections=(self.metric(folder / "a", "a"),))
        whole = draw(make_sampler(parts, config), 24)
        sampler = make_sampler(parts, config)
        first = draw(sampler, num_steps) if num_steps else np.zeros(0, np.int64)
        resumed = make_sampler(
            parts, config, micro_batch_size=20 // num_ranks, data_parallel_size=num_ranks
        )
        resumed.load_state_dict(sampler.state_dict())
        rest = draw(resumed, 24 - num_steps)
        assert np.concatenate([first, rest]).tolist() == whole.tolist()

    def test_a_custom_schedule_splits_clusters_as_they_come(self, parts, config):
        fixed = make_sampler(parts, replace(config, selections=config.selections[:1]))
        custom = replace(config.selections[0], schedule=CustomSchedule())
        sampler = make_sampler(parts, replace(config, selections=(custom,)))
        sampler.set_custom_schedules({"a": config.selections[0].schedule.difficulty})
        assert draw(sampler, 20).tolist() == draw(fixed, 20).tolist()

    def test_a_part_without_admitted_samples_is_refused(self, tmp_path):
        parts = Parts((3, 2), (1, 1))
        DifficultyIndex.write(
            tmp_path / "a",
            np.array([1, 1, 1, 9, 9]),
            metric="a",
            dataset_identity={"type": "Parts", "num_samples": 5},
        )
        config = DataEfficiencyConfig(selections=(self.metric(tmp_path / "a", "a"),))
        with pytest.raises(
            ValueError, match="no sample of part 1 of the blend is admitted at step 1"
        ):
            make_sampler(parts, config)


def test_a_state_of_other_weights_is_refused():
    saved = make_sampler(Parts((10, 10), (1, 1))).state_dict()
    make_sampler(Parts((10, 10), (5, 5))).load_state_dict(saved)
    with pytest.raises(ValueError, match="part_weights"):
        make_sampler(Parts((10, 10), (1, 2))).load_state_dict(saved)


def test_a_part_without_samples_is_refused():
    feedback = Feedback(policy="high_loss", kept_share=0.5, refresh_steps=4, delay_steps=1)
    for config in (None, DataEfficiencyConfig(feedback=feedback)):
        with pytest.raises(ValueError, match="part 1 of the blend has no sample: leave it out"):
            make_sampler(Parts((20, 0), (1, 1)), config)


@pytest.mark.parametrize(
    ("sizes", "weights"), [((3, 4), (1, 0)), ((3, 4), (1,)), ((3, 4), (1, float("inf")))]
)
def test_blends_that_make_no_sense(sizes, weights):
    with pytest.raises(ValueError, match="each part needs a weight above 0"):
        blend_of(Parts(sizes, weights))


def test_weights_are_normalized_and_others_are_no_blend():
    assert blend_of(Parts((3, 4), (1, 3))) == Blend(sizes=(3, 4), mix=constant((0.25, 0.75)).mix)
    assert blend_of([1, 2, 3]) is None


class TestAMix:
    """Three parts whose weights change; the last is left out at first, the first at last."""

    parts = Parts((5000, 300, 800), (3, 1, 0.5))
    points, weights = (0, 500, 2000), ((3, 1, 0.5), (1, 1, 1), (0, 1, 3))

    def config(self, *, is_linear):
        return DataEfficiencyConfig(
            mix=Mix(
                weights=tuple(tuple(w / sum(one) for w in one) for one in self.weights),
                points=self.points,
                is_linear=is_linear,
            )
        )

    def shares(self, num_drawn, *, is_linear):
        """By summing the weights of each single draw."""
        mix = self.config(is_linear=is_linear).mix
        at = np.arange(num_drawn) + 0.5
        if is_linear:
            columns = [
                np.interp(at, self.points, column) for column in zip(*mix.weights, strict=True)
            ]
        else:
            point = np.searchsorted(self.points, at, "right") - 1
            columns = np.array(mix.weights)[point].T
        return np.sum(columns, axis=1)

    @pytest.mark.parametrize("is_linear", [True, False])
    def test_shares_are_exact_at_any_step_and_after_any_resume(self, is_linear):
        config = self.config(is_linear=is_linear)
        sampler = make_sampler(self.parts, config)
        drawn = np.zeros(3, int)
        for step in range(150):
            if step % 37 == 36:
                state, ranks = json.loads(json.dumps(sampler.state_dict())), 1 + step % 2
                sampler = make_sampler(
                    self.parts, config, micro_batch_size=20 // ranks, data_parallel_size=ranks
                )
                sampler.load_state_dict(state)
            batch = sampler.next_global_batch()
            drawn += np.bincount(np.searchsorted((5000, 5300), batch.samples, "right"), minlength=3)
            assert np.abs(drawn - self.shares(20 * (step + 1), is_linear=is_linear)).max() <= 2
            np.testing.assert_allclose(batch.part_epochs, drawn / self.parts.part_sizes)
        straight = make_sampler(self.parts, config)
        for _ in range(150):
            last = straight.next_global_batch()
        np.testing.assert_array_equal(last.samples, batch.samples)

    def test_one_point_is_the_blend_without_a_mix(self):
        mix = Mix(weights=((0.75, 0.25),), points=(0.0,))
        parts = Parts((100, 50), (3, 1))
        constant = make_sampler(parts, DataEfficiencyConfig(mix=mix))
        assert draw(constant, 20).tolist() == draw(make_sampler(parts), 20).tolist()
        assert constant.identity() == make_sampler(parts).identity()

    def test_a_state_of_another_mix_is_refused(self):
        state = make_sampler(self.parts, self.config(is_linear=True)).state_dict()
        with pytest.raises(ValueError, match="part_weights"):
            make_sampler(self.parts, self.config(is_linear=False)).load_state_dict(state)

    def test_mixes_of_other_parts_are_refused(self):
        config = self.config(is_linear=True)
        with pytest.raises(ConfigError, match=r"mix begins with the weights \[0.66.*data-path"):
            make_sampler(Parts((10, 10, 10), (1, 1, 1)), config)
        with pytest.raises(ConfigError, match="of the dataset's 2 parts"):
            make_sampler(Parts((10, 10), (1, 1)), config)
        with pytest.raises(ConfigError, match=r"the dataset \(range\) has no part_sizes"):
            make_sampler(range(10), config)
