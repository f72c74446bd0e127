"""Index files of DeepSpeed, named by the paths of its JSON."""

from itertools import islice

import numpy as np
import pytest

from data_efficiency import plan_run
from data_efficiency.config import load_config
from data_efficiency.deepspeed_format import export_index
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sampler import CurriculumSampler
from tests.data_efficiency.test_plan import LENGTH, MODEL
from tests.json_sections import curriculum_config, metric

IDENTITY = {"name": "a dataset"}
VALUES = np.random.default_rng(2).integers(0, 300, 500)


class Samples(list):
    """The dataset that was analyzed."""

    identity = IDENTITY


@pytest.fixture
def folder(tmp_path):
    """Holds `index`, ours, and `m_*`, DeepSpeed's files of the same difficulties."""
    index = DifficultyIndex.write(tmp_path / "index", VALUES, metric="m", dataset_identity=IDENTITY)
    export_index(index, tmp_path / "deepspeed")
    return tmp_path


def deepspeeds(folder, ending="", **keys):
    """The metric as DeepSpeed's JSON names its files, and other keys."""
    paths = {
        "index_to_sample_path": f"{folder}/deepspeed/m_index_to_sample{ending}",
        "index_to_metric_path": f"{folder}/deepspeed/m_index_to_metric",
    }
    entry = metric(**{"max_difficulty": 300, "least": 30, **paths, **keys})
    del entry["index_path"]
    return entry


def config_of(*metrics):
    named = {f"m{number}": entry for number, entry in enumerate(metrics)}
    return load_config({"train_batch_size": 8, **curriculum_config(named)})


def sampler_of(*metrics, num_samples=500):
    dataset = Samples(range(num_samples))
    return CurriculumSampler(dataset, config_of(*metrics).data_efficiency, micro_batch_size=8)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("value", ""), ("percentile", ""), ("percentile", "_percentile_merged")],
)
def test_they_are_the_index_of_the_same_difficulties(folder, kind, ending):
    keys = {"difficulty_type": kind}
    theirs = sampler_of(deepspeeds(folder, ending, trust_order=True, **keys))
    ours = sampler_of(metric(folder / "index", max_difficulty=300, least=30, **keys))
    assert theirs.identity() == ours.identity()
    for _ in range(30):
        found, expected = theirs.next_global_batch(), ours.next_global_batch()
        assert found.samples.tolist() == expected.samples.tolist()
        assert found.pool_size == expected.pool_size
    plans = [
        plan_run(config_of(entry), model=MODEL, sequence_length=LENGTH, num_steps=20)
        for entry in (
            deepspeeds(folder, ending, trust_order=True, **keys),
            metric(folder / "index", max_difficulty=300, least=30, **keys),
        )
    ]
    assert [pools.tolist() for pools in plans[0].pools] == [x.tolist() for x in plans[1].pools]


def test_two_of_them_share_prepared_clusters_with_ours(folder):
    theirs = sampler_of(*[deepspeeds(folder, trust_order=True)] * 2)
    ours = sampler_of(*[metric(folder / "index", max_difficulty=300, least=30)] * 2)
    assert theirs.next_global_batch().samples.tolist() == ours.next_global_batch().samples.tolist()
    assert len(list((folder / "deepspeed" / "clusters").iterdir())) == 1


def test_a_shuffle_index_undoes_the_shuffle(folder):
    shuffle = np.random.default_rng(4).permutation(500)
    np.save(folder / "shuffle.npy", shuffle)
    shuffled = DifficultyIndex.write(
        folder / "shuffled", VALUES[shuffle], metric="m", dataset_identity=IDENTITY
    )
    export_index(shuffled, folder / "of_shuffled")
    paths = {
        "index_to_sample_path": f"{folder}/of_shuffled/m_index_to_sample",
        "index_to_metric_path": f"{folder}/of_shuffled/m_index_to_metric",
    }
    undone = sampler_of(deepspeeds(folder, shuffle_index=f"{folder}/shuffle.npy", **paths))
    assert undone.identity() == sampler_of(deepspeeds(folder, trust_order=True)).identity()


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({}, ValueError, r'"shuffle_index" of the metric in the JSON.*"trust_order": true'),
        ({"trust_order": True, "shuffle_index": "x.npy"}, ValueError, "give either the shuffle"),
        ({"trust_order": True, "index_to_metric_path": None}, ConfigError, "no index_to_metric_path"),
        ({"trust_order": True, "index_to_metric_path": "gone"}, FileNotFoundError, "gone.idx"),
        ({"trust_order": True, "index_to_sample_path": "gone"}, ConfigError, "gone.idx.* not there"),
        ({"trust_order": True, "index_to_sample_path": "OURS"}, ConfigError, "remove the key"),
        ({"index_to_sample_path": "gone"}, FileNotFoundError, "gone is not a difficulty index"),
    ],
)  # fmt: skip
def test_paths_and_keys_that_do_not_go_together(folder, keys, error, message):
    if keys.get("index_to_sample_path") == "OURS":
        keys = keys | {"index_to_sample_path": f"{folder}/index"}
    with pytest.raises(error, match=message):
        sampler_of(deepspeeds(folder, **keys))


def test_an_index_of_another_number_of_samples_is_refused(folder):
    with pytest.raises(ValueError, match="samples: expected 500, found 400"):
        sampler_of(deepspeeds(folder, trust_order=True), num_samples=400)


def test_an_index_by_url_is_drawn_from_as_the_same_one_here(folder, storage):
    """Whatever is prepared of it lies beside its copy."""
    DifficultyIndex.write(storage / "index", VALUES, metric="m", dataset_identity=IDENTITY)
    batches = []
    for place in (folder / "index", storage / "index"):
        entry = metric(index_path=str(place), max_difficulty=300, least=30)
        batches.append([*islice(sampler_of(entry), 50)])
    assert batches[0] == batches[1]
    assert len(storage.names()) == 3
