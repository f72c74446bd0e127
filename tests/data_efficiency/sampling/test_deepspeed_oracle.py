"""The samples that may be drawn at each step, held against what DeepSpeed's own sampler admits.

One process runs DeepSpeed's sampler over every case; where it is wrong, a case of its own says how.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.config import load_config
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.sampling.sampler import CurriculumSampler
from tests.json_sections import curriculum_config, length_metric
from tests.processes import run_python

pytestmark = pytest.mark.full

NUM_SAMPLES = 1050
NUM_STEPS = 40


class Numbered:
    identity = {"name": "numbered", "num_samples": NUM_SAMPLES}

    def __len__(self):
        return NUM_SAMPLES


def schedule(kind, **config):
    return {"schedule_type": kind, "schedule_config": config}


SCHEDULES = {
    "linear": schedule("fixed_linear", total_curriculum_step=25, difficulty_step=2),
    "root": schedule("fixed_root", total_curriculum_step=30, difficulty_step=5, root_degree=2),
    "discrete": schedule("fixed_discrete", difficulty=[10, 12, 40, 100], max_step=[3, 9, 20]),
    "custom": {
        "schedule_type": "custom",
        "custom": [min(100, 9 + step * step // 9) for step in range(1, NUM_STEPS + 1)],
    },
}
LENGTH_ONLY = length_metric() | SCHEDULES["linear"]


def metric(kind, schedule, high=100):
    """A metric that selects samples."""
    return {
        "difficulty_type": kind,
        "clustering_type": "schedule_based",
        "min_difficulty": 10,
        "max_difficulty": high,
        **(SCHEDULES[schedule] if isinstance(schedule, str) else schedule),
    }


def custom(*values):
    """A schedule of these difficulties at steps 1, 2, ..., the last one from then on."""
    return {"schedule_type": "custom", "custom": list(values)}


def agreeing_cases():
    """Name -> metrics, over one and two selecting metrics, both kinds and all schedules."""
    kinds = ("value", "percentile")
    cases = {}
    for kind, schedule in itertools.product(kinds, SCHEDULES):
        cases[f"{kind} {schedule}"] = {"rarity": metric(kind, schedule)}
        cases[f"{kind} {schedule} and a length"] = {
            "seqlen_truncate": LENGTH_ONLY,
            "rarity": metric(kind, schedule),
        }
    for first, second in itertools.product(itertools.product(kinds, SCHEDULES), repeat=2):
        cases[" ".join((*first, "with", *second))] = {
            "rarity": metric(*first),
            "length": metric(*second),
        }
    return cases


FALLING = custom(20, 60, 30, 70, 50, 60, 70)
WRONG_CASES = {
    "falling": {"rarity": metric("value", FALLING)},
    "falling apart": {
        "rarity": metric("value", custom(90, 20)),
        "length": metric("value", custom(20, 90)),
    },
    "remainder": {
        "rarity": metric("percentile", custom(50, 100)),
        "seqlen_truncate": LENGTH_ONLY | {"max_difficulty": 1000},
    },
    "first selects nothing": {
        "rarity": metric("value", custom(0, 50)),
        "length": metric("value", custom(30, 50)),
    },
    "second selects nothing": {
        "rarity": metric("value", custom(50)),
        "length": metric("value", custom(0, 50)),
    },
    "nothing at first": {"rarity": metric("value", custom(0, 50))},
    "stages above the maximum": {
        "rarity": metric(
            "value", schedule("fixed_discrete", difficulty=[10, 60], max_step=[5]), high=50
        )
    },
    "stages that fall from the maximum": {
        "rarity": metric(
            "value", schedule("fixed_discrete", difficulty=[10, 50, 30], max_step=[5, 10]), high=50
        )
    },
}
AGREEING_CASES = agreeing_cases()


@pytest.fixture(scope="module")
def values():
    """Two metrics with many ties and gaps, as vocabulary rarity and length have them."""
    generator = np.random.default_rng(3)
    rarity = np.minimum(generator.lognormal(3, 0.7, NUM_SAMPLES), 100).astype(np.int64) // 3 * 3 + 1
    length = np.minimum(rarity + generator.geometric(0.05, NUM_SAMPLES), 200)
    return {"rarity": rarity, "length": length}


@pytest.fixture(scope="module")
def answers(tmp_path_factory, values):
    """What DeepSpeed's sampler says of all cases."""
    folder = tmp_path_factory.mktemp("peer")
    np.savez(folder / "values.npz", **values)
    (folder / "cases.json").write_text(json.dumps(AGREEING_CASES | WRONG_CASES))
    run_python(Path(__file__).with_name("deepspeed_sampler_peer.py"), folder)
    with np.load(folder / "answers.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def sampler_of(tmp_path_factory, values):
    """A function from a case's metrics to our sampler."""
    folder = tmp_path_factory.mktemp("ours")
    for name, difficulties in values.items():
        DifficultyIndex.write(
            folder / name, difficulties, metric=name, dataset_identity=describe_dataset(Numbered())
        )

    def make(metrics):
        described = {
            name: {key: value for key, value in entry.items() if key != "custom"}
            | ({"index_path": str(folder / name)} if name in values else {})
            for name, entry in metrics.items()
        }
        config = load_config(curriculum_config(described)).data_efficiency
        sampler = CurriculumSampler(Numbered(), config, micro_batch_size=8)
        sampler.set_custom_schedules(
            {
                name: lambda step, listed=entry["custom"]: listed[min(step, len(listed)) - 1]
                for name, entry in metrics.items()
                if "custom" in entry
            }
        )
        return sampler

    return make


def admitted_by(sampler):
    """The step that admits each sample, 0 for never, int [num_samples]."""
    sampler.pool_size(NUM_STEPS)
    clusters = sampler._clusters
    admitted = np.zeros(NUM_SAMPLES, np.int64)
    bounds = zip(clusters.starts, clusters.starts[1:], clusters.admission_steps, strict=False)
    for first, last, step in bounds:
        admitted[clusters.samples_at(np.arange(first, last))] = step if step <= NUM_STEPS else 0
    return admitted


@pytest.mark.parametrize("case", AGREEING_CASES)
def test_the_same_samples_are_admitted_at_each_step(answers, sampler_of, case):
    sampler = sampler_of(AGREEING_CASES[case])
    assert f"{case}/error" not in answers
    assert np.array_equal(admitted_by(sampler), answers[f"{case}/admitted"])
    for step, expected in enumerate(answers[f"{case}/difficulties"].tolist(), start=1):
        assert list(sampler.difficulties(step).values()) == expected


def test_the_cases_are_worth_comparing(answers):
    """Most of them admit in many steps, and two metrics admit less than either alone."""
    num_clusters = [len(np.unique(answers[f"{case}/admitted"])) for case in AGREEING_CASES]
    assert np.median(num_clusters) > 8
    one, other = answers["value linear/admitted"], answers["value root/admitted"]
    both = answers["value linear with value root/admitted"]
    assert (both >= one).sum() > (both == one).sum() > 0
    assert (other > 0).all()


def test_samples_admitted_twice_when_a_schedule_falls_and_rises_again(answers, sampler_of):
    """DeepSpeed adds (30, 70] after (20, 60]: those samples count twice from then on."""
    assert answers["falling/times"].max() > 1
    sampler = sampler_of(WRONG_CASES["falling"])
    assert np.array_equal(admitted_by(sampler), answers["falling/admitted"])
    assert [sampler.difficulties(step)["rarity"] for step in (1, 2, 3, 4)] == [20, 60, 30, 70]


def test_samples_that_no_step_accepted_wholly_are_admitted_by_the_running_maxima(
    answers, sampler_of, values
):
    """DeepSpeed keeps the union of the steps' intersections; here each metric keeps its maximum."""
    admitted = admitted_by(sampler_of(WRONG_CASES["falling apart"]))
    pool = (values["rarity"] <= 90) & (values["length"] <= 90)
    assert np.array_equal(admitted > 0, pool)
    theirs = answers["falling apart/admitted"] > 0
    assert (theirs & ~pool).sum() == 0
    assert (pool & ~theirs).sum() > 100


def test_the_remainder_of_a_percentile_is_admitted_once(answers, sampler_of):
    """DeepSpeed admits the hardest samples again with each change of another metric."""
    assert answers["remainder/times"].max() > 10
    sampler = sampler_of(WRONG_CASES["remainder"])
    assert np.array_equal(admitted_by(sampler), answers["remainder/admitted"])
    assert sampler.pool_size(NUM_STEPS) == NUM_SAMPLES


def test_a_metric_that_selects_nothing_is_an_error(answers, sampler_of, values):
    """DeepSpeed takes what the second metric selects alone, or fails without naming a metric."""
    drawn = answers["first selects nothing/admitted"] == 1
    assert values["rarity"][drawn].min() > 0
    assert "NoneType" in str(answers["second selects nothing/error"])
    assert "a must be a positive integer" in str(answers["nothing at first/error"])
    for case, name in (
        ("first selects nothing", "rarity"),
        ("second selects nothing", "length"),
        ("nothing at first", "rarity"),
    ):
        with pytest.raises(ValueError, match=f"metric '{name}' .* admits no sample at step 1: "):
            sampler_of(WRONG_CASES[case]).next_global_batch()


def test_stages_stop_at_the_maximum(answers, sampler_of, caplog):
    """DeepSpeed lets one stage above the maximum pass, and stays there."""
    assert answers["stages above the maximum/difficulties"].max() == 60
    sampler = sampler_of(WRONG_CASES["stages above the maximum"])
    assert sampler.difficulties(NUM_STEPS) == {"rarity": 50}
    assert "difficulty 60 is above the maximum 50, which is used" in caplog.text


def test_stages_that_fall_from_the_maximum_do_fall(answers, sampler_of, caplog):
    """DeepSpeed asks the schedule no more after its maximum, unless it was resumed in between."""
    case = "stages that fall from the maximum"
    assert answers[f"{case}/difficulties"][-1] == 50
    sampler = sampler_of(WRONG_CASES[case])
    assert sampler.difficulties(NUM_STEPS) == {"rarity": 30}
    assert np.array_equal(admitted_by(sampler), answers[f"{case}/admitted"])
    assert "[10, 50, 30] go down" in caplog.text
